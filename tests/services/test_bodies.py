"""Bodies of requests: what is made of a NUL, which PostgreSQL keeps in no text."""

import json
from typing import Any

import msgspec
import pytest

from domain.errors import InvalidField
from services.gateway.bodies import decoded

ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("a\0b", "a\ufffdb"),
        ("\0\0", "\ufffd\ufffd"),
        ("\\\0", "\\\ufffd"),
        ("\\u0000", "\\u0000"),  # six characters, none of them a NUL
        ("\\\\u0000\0", "\\\\u0000\ufffd"),
        ({"k\0": [1, {"x": "\0"}], "n": 1e300}, {"k\ufffd": [1, {"x": "\ufffd"}], "n": 1e300}),
    ],
)
def test_a_nul_is_replaced(given: Any, told: Any) -> None:
    assert decoded(ANY, json.dumps(given).encode()) == told


@pytest.mark.parametrize("data", [b'"a\0"', b'"\\ud800"', b'"\\u000"', b'"\\\\\\u0000'])
def test_what_is_no_json_stays_none(data: bytes) -> None:
    with pytest.raises(InvalidField):
        decoded(ANY, data)
