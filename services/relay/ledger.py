"""The ledger for subscribers: every event of the log on the stream LEDGER, in order."""

from functools import partial

from contracts.subjects import LEDGER
from services.kit.bus.nats import NatsBus
from services.kit.bus.ordered import OrderedPublisher
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.follower import Follower, each
from services.kit.reads import read
from services.relay.outgoing import outgoing

PAGE = 500
SOURCE = "/cronledger"


class LedgerFeed:
    """Publishes behind the stream's newest message; two of them on one stream are harmless.

    How far it is, the log's cursor says: the stream forgets what is old, or everything with its folder. Only
    what the cursor does not know yet, the last second before a crash, is told by the stream's newest message.
    """

    def __init__(self, log: EventLog, bus: NatsBus, clock: Clock) -> None:
        self._log = log
        self._stream = OrderedPublisher(bus, LEDGER.name, "ledger.>")
        self._published = 0
        self._is_known = False  # that the stream's newest message is the one that we rest on
        self.part = Follower("relay.ledger", log, clock, self._publish)

    async def _publish(self) -> None:
        if not self._is_known:
            newest, _ = await self._stream.resync()
            if newest > await read(self._log, self._log.head):
                newest = 0  # the stream has seen another log: this one was put back from a backup
            self._published = max(newest, await self.part.cursor(), self._published)
        await self.part.keep(self._published)
        raws = await read(self._log, lambda: self._log.read_raw(self._published, PAGE))
        self._is_known = not raws  # until the stream has answered
        if not raws:
            await self.part.rest()
        elif await self._stream.publish(list(each(raws, partial(outgoing, source=SOURCE)))):
            self._published, self._is_known = raws[-1].id, True
