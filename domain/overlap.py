"""What an occurrence does while an earlier run of its cron is not over, and the multitask strategy that says the same."""

from typing import NamedTuple

import msgspec

from contracts.api import Strategy
from contracts.events import Overlap
from domain.errors import InvalidField

STRATEGIES: dict[Overlap, Strategy] = {
    "skip": "reject",
    "buffer_all": "enqueue",
    "buffer_one": "enqueue",
    "cancel_other": "interrupt",
    "terminate_other": "rollback",
}
"""Of a lane, the thread's or the cron's; `allow` has none. Of two that are of one strategy the first is its synonym."""


class Together(NamedTuple):
    """Both as a cron has them, in step; without a strategy nobody has said one, or it would mean nothing."""

    overlap: Overlap
    strategy: Strategy | None


def agreed(overlap: Overlap | None, strategy: Strategy | None, *, on_thread: bool) -> Together:
    """What a cron has that is created with these; None: nothing is said of it.

    A strategy alone says all of a thread's cron. Of another one it says nothing, as in the reference server: each run
    has a thread of its own. Raises InvalidField, naming `overlap`, when they do not match.
    """
    if overlap is None:
        return Together(_synonym(strategy or "enqueue") if on_thread else "allow", strategy)
    if on_thread and overlap == "allow":
        raise InvalidField("overlap: 'allow' is for crons without a thread: a thread has one run at a time")
    same = STRATEGIES.get(overlap)
    if strategy not in (None, same):
        means = "no multitask_strategy" if same is None else f"multitask_strategy '{same}'"
        raise InvalidField(f"overlap: '{overlap}' means {means}, not '{strategy}'")
    return Together(overlap, same)


def had(overlap: Overlap | None, strategy: Strategy | None, *, on_thread: bool) -> Together:
    """What a cron has, of which nothing may be recorded but its strategy."""
    said = agreed(None, strategy, on_thread=on_thread)
    return said if overlap is None else Together(overlap, strategy)


def changed(
    now: Together,
    overlap: Overlap | None | msgspec.UnsetType,
    strategy: Strategy | msgspec.UnsetType,
    *,
    on_thread: bool,
) -> Together:
    """What a cron has when one of them is changed, or both; None: back to what it is by default.

    Raises InvalidField, naming `overlap`, when they do not match.
    """
    if overlap is not msgspec.UNSET:
        if strategy is not msgspec.UNSET:
            return agreed(overlap, strategy, on_thread=on_thread)
        return agreed(overlap or ("buffer_all" if on_thread else "allow"), None, on_thread=on_thread)
    if strategy is msgspec.UNSET:
        return now
    if now.overlap == "allow" or STRATEGIES[now.overlap] == strategy:
        return Together(now.overlap, strategy)
    return Together(_synonym(strategy), strategy)


def _synonym(strategy: Strategy) -> Overlap:
    return next(overlap for overlap, same in STRATEGIES.items() if same == strategy)
