"""Every refusal has its status and its own code."""

from domain.errors import Refused
from services.gateway.problems import CODES, STATUSES


def refusals(cls: type[Refused] = Refused) -> set[type[Refused]]:
    return {cls}.union(*(refusals(child) for child in cls.__subclasses__()))


def test_every_refusal_is_in_the_table() -> None:
    assert refusals() <= set(STATUSES)
    assert all(400 <= STATUSES[cls] < 500 for cls in refusals())


def test_codes_are_told_apart() -> None:
    codes = [cls.code for cls in refusals()] + list(CODES.values())
    assert len(codes) == len(set(codes))
    assert set(STATUSES) == refusals() | set(CODES)
