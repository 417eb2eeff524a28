"""The owner of the read models towards other processes: tells how far they are, builds them anew when it is asked."""

from collections.abc import Sequence

import msgspec

from contracts.rebuild import RebuildAsked, RebuildTold
from contracts.subjects import rebuild_subject, views_position_subject
from services.kit.bus import Bus, Msg, Subscription
from services.kit.lifecycle import Part, Supervised
from services.projector.projector import Projector, RebuildBusy

IDLE_S = 60.0


class Door:
    """A part that answers on the bus."""

    name, failing = "projector.door", ""

    def __init__(self, projector: Projector, bus: Bus) -> None:
        self._projector, self._bus = projector, bus
        self._subscription: Subscription | None = None
        self._told_position = 0
        self._telling = Supervised("projector.positions", self._tell)
        self.parts: Sequence[Part] = (self._telling,)

    @property
    def started(self) -> bool:
        """True while it answers."""
        return self._subscription is not None

    async def start(self) -> None:
        """Begin to answer; twice is harmless. Raises ConnectionError."""
        if self._subscription is None:
            self._subscription = await self._bus.subscribe(rebuild_subject(), self._on_msg)
            await self._telling.start()

    async def stop(self) -> None:
        """Answer no more; safe twice and unstarted."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()
            await self._telling.stop()

    async def _tell(self) -> None:
        if await self._projector.reached(self._told_position + 1, IDLE_S):
            position = self._projector.signal.current
            await self._bus.publish(views_position_subject(), str(position).encode())
            self._told_position = position

    async def _on_msg(self, msg: Msg) -> None:
        try:
            told = self._told(msgspec.json.decode(msg.data, type=RebuildAsked))
        except (RebuildBusy, ValueError) as exc:
            told = RebuildTold(0, ended=True, failed=str(exc))
        await msg.respond(msgspec.json.encode(told))

    def _told(self, asked: RebuildAsked) -> RebuildTold:
        if not asked.number:
            return self._projector.rebuild(asked.names)
        told = self._projector.rebuilding
        if told.number != asked.number:
            return RebuildTold(
                asked.number, ended=True, failed="the server was restarted meanwhile; ask again"
            )
        return told
