"""Each edge fails once, now and then, or for a while; afterwards nothing is lost, doubled or forgotten.

A failure names its plans: give them to `lived` to see it again. SEED=n in the environment makes another choice.
"""

import asyncio
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.day import Day, DayClock
from tests.faults.failpoint import EDGES, Failpoints, Plan
from tests.faults.house import House

SEED = int(os.environ.get("SEED", "20261125"))
CALLS = {
    "log.append": 150,
    "log.stored": 150,
    "log.read": 1200,
    "log.cursor": 10,
    "blob.read": 8,
    "lease": 10,
    "view.read": 24,
    "view.write": 1000,
    "view.bug": 2000,
    "bus.publish": 650,
    "bus.answer": 180,
    "bus.ack": 80,
    "child.start": 2,
    "child.frame": 250,
}
"""About how often a day uses each edge."""
DAYS = len(EDGES) // 2
APART = 40
"""Of the long form's days each has calls so far apart that fail, so that together they fail all calls once."""
WHILE_S = 130.0
"""On the day's clock: two instants of a cron of each minute come while the edge fails."""


TOLD_S = 0.3


async def lived(plans: Sequence[Plan], folder: Path) -> tuple[Failpoints, Day]:
    """A day on which these calls failed; all that must hold does."""
    clock = DayClock()
    points = Failpoints(plans, clock, folder / "points")
    house = House(folder, points, clock)
    day = Day(house, clock, points)
    try:
        async with asyncio.timeout(120):
            await day.run()
            wrong = await day.end()
    finally:
        await house.stop()
    assert not wrong, f"SEED={SEED} {plans}\nraised {dict(points.raised)}\n" + "\n".join(day.named(wrong))
    return points, day


async def test_a_day_without_failures(tmp_path: Path) -> None:
    points, _ = await lived([], tmp_path)
    counts = points.counts + points.child_counts()
    # Else some failpoints would prove nothing.
    assert {edge: counts[edge] for edge in EDGES if counts[edge] < CALLS[edge] / 2} == {}


def once(edge: str, salt: str = "") -> Plan:
    """The plan of this seed: one call of the edge."""
    return Plan(edge=edge, first=random.Random(f"{SEED} {edge} {salt}").randint(1, CALLS[edge]))


def for_a_while(edge: str, begins: float = 0.0) -> Plan:
    """The plan of this seed: all calls from one on, in the quarter of the day that begins then."""
    chance = random.Random(f"{SEED} {edge} while")
    return Plan(
        edge=edge, first=1 + int(CALLS[edge] * chance.uniform(begins, begins + 0.25)), lasts_s=WHILE_S
    )


def plans_of(day: int) -> list[Plan]:
    """Two edges fail once, two others for a while, one after the other; in `DAYS` days each edge does both."""
    edges = random.Random(SEED).sample(EDGES, len(EDGES))
    a, b, c, d = (edges[(2 * day + n) % len(edges)] for n in range(4))
    return [once(a), once(b), for_a_while(c), for_a_while(d, 0.5)]


def check_health_told(points: Failpoints, day: Day) -> None:
    """Of what failed for longer than a moment: a leap of the day's clock ends it at once."""
    lasted = {edge: points.lasted_s(edge) for edge in points.raised}
    assert {edge: s for edge, s in lasted.items() if s > TOLD_S and not day.ailing[edge]} == {}, day.ailing


@pytest.mark.parametrize("number", range(DAYS))
async def test_edges_fail_once_and_for_a_while(tmp_path: Path, number: int) -> None:
    check_health_told(*await lived(plans_of(number), tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("edge", EDGES)
async def test_an_edge_fails_for_a_while_and_health_tells(tmp_path: Path, edge: str) -> None:
    check_health_told(*await lived([for_a_while(edge)], tmp_path))


def apart(edge: str) -> int:
    """How far apart the calls are that fail on one day of the long form.

    Never every second one: a server starts two children at once, and would never have both.
    """
    return max(3, min(APART, CALLS[edge]))


@pytest.mark.long
@pytest.mark.parametrize(("edge", "first"), [(e, n + 1) for e in EDGES for n in range(apart(e))])
async def test_each_call_fails_once(tmp_path: Path, edge: str, first: int) -> None:
    await lived([Plan(edge=edge, first=first, every=apart(edge))], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("salt", range(20))
async def test_several_edges_fail_on_one_day(tmp_path: Path, salt: int) -> None:
    await lived([once(edge, str(salt)) for edge in EDGES], tmp_path)
