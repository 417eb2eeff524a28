"""Schedules against the golden file: examples made by a brute-force oracle."""

import csv
from datetime import datetime
from pathlib import Path

import pytest

from domain.schedule import next_after, parse, zone

LINES = (Path(__file__).parent / "dst_cases.csv").read_text().splitlines()
CASES = list(csv.DictReader(LINES))


def epoch(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']}-{case['category']}")
def test_next_three(case: dict[str, str]) -> None:
    schedule, place = parse(case["schedule"], seconds=True), zone(case["timezone"])
    at, found = epoch(case["start_utc"]), []
    for _ in range(3):
        following = next_after(schedule, place, at)
        assert following is not None
        found.append(at := following)
    assert found == [epoch(text) for text in case["next_utc"].split(";")]
