"""The relay: what the log says, on NATS. Everything on NATS can be made again from the log by it."""

from services.kit.bus.nats import NatsBus
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.lifecycle import Whole
from services.kit.views import Views
from services.relay.ledger import LedgerFeed
from services.relay.turns import Turns


class Relay(Whole):
    """Two followers: the ledger for subscribers, the turns of runs for workers. Any number of relays may run."""

    def __init__(self, log: EventLog, views: Views, bus: NatsBus, clock: Clock) -> None:
        super().__init__("relay", (LedgerFeed(log, bus, clock).part, Turns(log, views, bus, clock).part))
