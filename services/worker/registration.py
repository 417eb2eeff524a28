"""Each graph of the project has its default assistant."""

from functools import partial

from contracts.ledger import Meta
from domain import assistant as assistants
from domain.assistant import Assistant, RegisterGraph, default_assistant_id
from domain.changes import Changes
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.repository import Aggregates, Repository


async def register(log: EventLog, clock: Clock, command: RegisterGraph, worker: str) -> None:
    """See to it that the graph's default assistant exists and has its name. Twice is harmless."""
    assistant_id = default_assistant_id(command.graph_id)

    def decide(known: Assistant | None) -> Changes:
        return Changes(appends=assistants.appends(assistant_id, known, assistants.decide(known, command)))

    load = partial(Aggregates.assistant_or_none, assistant_id=assistant_id)
    meta = Meta(at=clock.now(), actor="worker", cause=worker, corr=str(assistant_id))
    await Repository(log).carry_out(load, decide, meta)
