"""One delivery on its way through the worker: the record that every step reads and fills in."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal, Protocol
from uuid import UUID

import msgspec

from domain.run import Run
from services.worker.feed import Feed
from services.worker.graph_child import Loss
from services.worker.seen import Seen


class QueueMessage(Protocol):
    """A message of the run queue, ours until it is acknowledged or its wait is over."""

    @property
    def data(self) -> bytes:
        """The body."""
        ...

    async def ack(self) -> None:
        """It is dealt with: away with it."""
        ...

    async def nak(self, delay_s: float = 0.0) -> None:
        """Deliver it again, not before `delay_s`."""
        ...

    async def in_progress(self) -> None:
        """We are at it: the wait starts again."""
        ...

    async def term(self, reason: str) -> None:
        """It can never be dealt with: away with it, and say why."""
        ...


class Stop(msgspec.Struct, frozen=True):
    """Why a running graph is to end. Who asks for the stop says why; nobody is asked afterwards.

    `cancel` (by `action`) and `timeout` end the run; after `void` somebody else has it, after `given_up` nobody has:
    then there is nothing to settle.
    """

    kind: Literal["cancel", "timeout", "void", "given_up"]
    reason: str = ""
    action: Literal["interrupt", "rollback"] = "interrupt"

    @property
    def settles(self) -> bool:
        """True when the stop leads to an outcome."""
        return self.kind in ("cancel", "timeout")


class Done(msgspec.Struct, frozen=True):
    """The delivery needs nothing more."""


class Later(msgspec.Struct, frozen=True):
    """The delivery is to come again, not before `delay_s`."""

    delay_s: float


class Elsewhere(msgspec.Struct, frozen=True):
    """The run is one for the workers of another pool."""

    pool: str


Verdict = Done | Later | Elsewhere


@dataclass
class Job:
    """A delivery, the run that it names, and how far it has come.

    `verdict` is None while there is work; once set, all that is left is to release the delivery.
    """

    delivery: QueueMessage
    run_id: UUID
    run: Run | None = None
    corr: str = ""
    began_ms: int = 0  # of the attempt, as the log has it
    token: int = 0  # the fence of the attempt: a position of the log that every later claim is behind
    loss: Loss | None = None  # why the attempt of this worker is void and another is due
    seen: Seen | None = None  # by whoever followed the attempts before
    feed: Feed | None = None
    stop: Stop | None = None
    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)
    verdict: Verdict | None = None

    def ask_stop(self, stop: Stop) -> None:
        """Let the graph end. The first reason stays, unless a later one says that there is nothing to settle."""
        if self.stop is None or (self.stop.settles and not stop.settles):
            self.stop = stop
        self.stop_asked.set()

    @property
    def rolls_back(self) -> bool:
        """True when the run is to be undone."""
        asked = self.stop is not None and self.stop.kind == "cancel" and self.stop.action == "rollback"
        return asked or (self.run is not None and self.run.cancel == "rollback")

    @property
    def attempt(self) -> int:
        """The attempt that this worker has claimed, 0 before the claim."""
        return self.run.attempt if self.run else 0
