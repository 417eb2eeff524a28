"""The schedule kernel, beside croniter in the same run."""

import resource
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from random import Random
from timeit import repeat

import pytest
from croniter import croniter

from contracts.events import Rule
from domain.schedule import next_after, parse, zone
from domain.timeline import FOREVER, Stretch, Timeline
from services.scheduler.timer import Timer

pytestmark = pytest.mark.bench
TEXTS = (
    "*/5 * * * *",
    "0 * * * *",
    "0 9 * * *",
    "30 2 * * 1-5",
    "0 0 1 * *",
    "15 10 * * mon#1",
    "0 0 29 2 *",
)
START = 1_764_000_000


def each_us(work: Callable[[], object], number: int) -> float:
    return min(repeat(work, number=number, repeat=5)) / number * 1e6


def cold(text: str, start: datetime) -> float:
    """As the known servers call it: parsed at each firing."""
    return float(croniter(text, start).get_next(float))


@pytest.mark.parametrize("name", ["UTC", "America/New_York"])
def test_next(say: Callable[[str, str, str], None], name: str) -> None:
    place = zone(name)
    ours, theirs = [], []
    for text in TEXTS:
        schedule = parse(text)
        ours.append(each_us(partial(next_after, schedule, place, START), 2000))
        theirs.append(each_us(partial(cold, text, datetime.fromtimestamp(START, place.info)), 50))
    mine, other = sorted(ours)[len(ours) // 2], sorted(theirs)[len(theirs) // 2]
    say(f"next, median, {name}", f"{mine:.1f} us (croniter x{other / mine:.0f})", "10 us")


def test_parse(say: Callable[[str, str, str], None]) -> None:
    # Leading blanks make each text a new one: a parsed schedule is kept.
    texts = [" " * n + text for n in range(1, 200) for text in TEXTS]
    began = time.process_time()
    for text in texts:
        parse(text)
    each = (time.process_time() - began) / len(texts) * 1e6
    say("parse, mean", f"{each:.0f} us", "60 us")


def test_a_million_crons(say: Callable[[str, str, str], None]) -> None:
    chance = Random(1)
    zones = ["UTC"] * 6 + ["Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Sydney"]
    texts = [
        f"{chance.choice([0, 0, 0, chance.randrange(60)])} {chance.randrange(24)} * * *" for _ in range(2000)
    ]
    ids = [n.to_bytes(16, "big") for n in range(1_000_000)]
    picked = [(chance.choice(texts), chance.choice(zones)) for _ in ids]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    timer = Timer()
    for cron_id, (text, name) in zip(ids, picked, strict=True):
        rule = Rule(canonical=text, timezone=name)
        timer.hold(cron_id, Timeline((Stretch(START, FOREVER, rule),)), START, 1, 1, 0)
        assert timer.settle(cron_id, START)
    cpu = time.process_time() - began
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(ids)
    say("1,000,000 crons loaded, CPU", f"{cpu:.1f} s", "10 s")
    say("  memory a cron", f"{used:.0f} B", "300 B")
