"""Commands from HTTP: carried out one at a time on their object, and shown before they are answered."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from domain.changes import Changes
from services.gateway.envelope import Caller
from services.gateway.parts import GatewayParts
from services.repository import Aggregates

T = TypeVar("T")
SHOWN_S = 5.0
"""For so long an answer waits for the read models: another projector has taken over by then from one that died."""


async def act(
    parts: GatewayParts,
    caller: Caller,
    key: Hashable,
    load: Callable[[Aggregates], T],
    decide: Callable[[T], Changes],
) -> int | None:
    """Carry out what `decide` makes of what `load` looked up; the position, None = nothing was to be done.

    When it returns, the read models show it; or they are behind, and it is stored all the same (`fold.row`).
    """
    async with parts.locks.hold(key):
        position = await parts.repository.carry_out(load, decide, caller.meta(parts))
    if position is not None:
        await parts.reached(position, SHOWN_S)
    return position
