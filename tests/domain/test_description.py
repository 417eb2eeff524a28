"""Schedules in words: right, or the schedule itself."""

import random
from collections import defaultdict

import pytest

from domain.description import description
from domain.errors import InvalidSchedule
from domain.schedule import occurrences, parse, zone

WORDS = {
    "* * * * *": "Every minute",
    "*/5 * * * *": "Every 5 minutes",
    "*/10 * * * * *": "Every 10 seconds",
    "@hourly": "Every hour",
    "0 */1 * * *": "Every hour",
    "30 */2 * * *": "At 30 minutes past the hour, every 2 hours",
    "5/15 * * * *": "At 5, 20, 35, and 50 minutes past the hour",
    "*/7 * * * *": "At 0, 7, 14, 21, 28, 35, 42, 49, and 56 minutes past the hour",
    "0 9 * * mon-fri": "At 09:00, Monday through Friday",
    "0 9 * * 1-5": "At 09:00, Monday through Friday",
    "30 0 9 * * *": "At 09:00:30",
    "@daily": "At 00:00",
    "0 0 * * 7": "At 00:00, only on Sunday",
    "0 12 * * fri-mon": "At 12:00, only on Sunday, Monday, Friday, and Saturday",
    "0 22-2 * * *": "At 00:00, 01:00, 02:00, 22:00 and 23:00",
    "0 9-17 * * 1-5": "At 0 minutes past the hour, between 09:00 and 17:59, Monday through Friday",
    "*/15 9-17 * * 1-5": "Every 15 minutes, between 09:00 and 17:59, Monday through Friday",
    "15,45 9 * * *": "At 15 and 45 minutes past the hour, at 09:00",
    "0 9 ? * *": "At 09:00",
    "0 9 1,15 * *": "At 09:00, on day 1 and 15 of the month",
    "0 9 1 * mon": "At 09:00, on day 1 of the month, or on Monday",
    "0 0 1-7 * 1": "At 00:00, between day 1 and 7 of the month, or on Monday",
    "0 0 L * *": "At 00:00, on the last day of the month",
    "0 9 L * 1": "At 09:00, on the last day of the month, or on Monday",
    "0 0 * * 5#3": "At 00:00, on the third Friday of the month",
    "0 0 * * L5": "At 00:00, on the last Friday of the month",
    "0 9 * jan,jul *": "At 09:00, only in January and July",
    "0 0 1 */3 *": "At 00:00, on day 1 of the month, only in January, April, July, and October",
    "59 23 31 12 *": "At 23:59, on day 31 of the month, only in December",
    "@yearly": "At 00:00, on day 1 of the month, only in January",
    # "And", where all words there are would say "or":
    "0 9 */2 * 1": "On the schedule 0 9 */2 * 1",
    "0 9 1 * */2": "On the schedule 0 9 1 * */2",
    # Several special days, of which all words there are would tell one:
    "0 0 * * 1,3,5#2": "On the schedule 0 0 * * 1,3,5#2",
    "0 9 15,L * *": "On the schedule 0 9 15,L * *",
    "0 9 L * 2L": "On the schedule 0 9 L * 2L",
}


@pytest.mark.parametrize("text", WORDS)
def test_words(text: str) -> None:
    assert description(parse(text, seconds=True), "Europe/Berlin") == f"{WORDS[text]}, Europe/Berlin"
    assert description(parse(text, seconds=True), None) == f"{WORDS[text]}, UTC"


def field(chance: random.Random, low: int, high: int) -> str:
    pick = chance.random()
    first, last = sorted(chance.sample(range(low, high + 1), 2))
    if pick < 0.3:
        return "*"
    if pick < 0.45:
        return f"*/{chance.randint(1, high)}"
    if pick < 0.6:
        return f"{first}-{last}"
    if pick < 0.7:
        return f"{first}-{last}/{chance.randint(1, 5)}"
    return ",".join(map(str, chance.sample(range(low, high + 1), chance.randint(1, 3))))


def schedule_of(chance: random.Random) -> str:
    day = chance.choice([field(chance, 1, 31), field(chance, 1, 31), "L"])
    special = [f"{chance.randint(0, 6)}#{chance.randint(1, 5)}", f"{chance.randint(0, 6)}L"]
    weekday = chance.choice([field(chance, 0, 6), field(chance, 0, 6), *special])
    return " ".join([field(chance, 0, 59), field(chance, 0, 23), day, field(chance, 1, 12), weekday])


def test_two_schedules_with_the_same_words_mean_the_same() -> None:
    chance, said = random.Random(7), defaultdict[str, set[str]](set)
    for text in ["* */18 * * *", "* 0,18 * * *", *(schedule_of(chance) for _ in range(8_000))]:
        try:
            schedule = parse(text)
        except InvalidSchedule:
            continue  # it would never fire
        said[description(schedule, None)].add(schedule.canonical)
    alike = [texts for texts in said.values() if len(texts) > 1]
    assert alike
    for texts in alike:
        due = {tuple(occurrences(parse(text), zone(None), 1_800_000_000, limit=50)) for text in texts}
        assert len(due) == 1, texts
