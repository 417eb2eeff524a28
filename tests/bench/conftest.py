"""Benches print a figure beside its bar; they never fail on it: machines differ, ratios are what counts."""

from collections.abc import Callable

import pytest

Say = Callable[[str, str, str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line: what, measured, bar."""

    def line(what: str, measured: str, bar: str) -> None:
        with capsys.disabled():
            print(f"\n  {what:<58} {measured:>24}   bar {bar}", end="")

    return line
