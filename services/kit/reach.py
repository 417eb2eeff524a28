"""How far the read models are, for a process that does not project them: read-your-writes across processes."""

from collections.abc import Callable, Sequence

from contracts.subjects import views_position_subject
from services.kit.bus import Bus, Msg, Subscription
from services.kit.lifecycle import Part, Supervised
from services.kit.positions import PositionSignal
from services.kit.reads import Store, read

POLL_S = 0.25
"""How soon a position is found of which nobody has told."""


class Reach:
    """A part: whoever projects tells each position on the bus, and what is lost there is found in the read models.

    `look` gives the position that all of them have passed; it reads `store`.
    """

    name, failing = "views.reach", ""

    def __init__(self, bus: Bus, store: Store, look: Callable[[], int]) -> None:
        self._bus, self._store, self._look = bus, store, look
        self._signal = PositionSignal()
        self._polling = Supervised("views.positions", self._poll)
        self.parts: Sequence[Part] = (self._polling,)
        self._told: Subscription | None = None

    @property
    def started(self) -> bool:
        """True while it listens."""
        return self._polling.started

    async def start(self) -> None:
        """Begin to listen; twice is harmless. Raises ConnectionError."""
        if self._told is None:
            self._told = await self._bus.subscribe(views_position_subject(), self._on_msg)
            await self._polling.start()

    async def stop(self) -> None:
        """Listen no more; safe twice and unstarted."""
        told, self._told = self._told, None
        if told is not None:
            await told.unsubscribe()
        await self._polling.stop()

    async def reached(self, position: int, timeout_s: float = 2.0) -> bool:
        """True once every read model has passed the position, False when the time is over."""
        return await self._signal.wait_for(position, timeout_s)

    async def changed(self, timeout_s: float) -> None:
        """Wait until the read models move, or the time is over."""
        await self._signal.wait_for(self._signal.current + 1, timeout_s)

    async def _on_msg(self, msg: Msg) -> None:
        self._signal.advance(int(msg.data))

    async def _poll(self) -> None:
        # Of no one who waits nothing is asked: an idle gateway reads nothing, but to find that it is well again.
        was_failing = bool(self._polling.failing)
        if was_failing or self._signal.is_waited_for:
            self._signal.advance(await read(self._store, self._look))
        if not was_failing:
            await self._signal.wanted(POLL_S)
