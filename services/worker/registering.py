"""Each graph of the project has its default assistant."""

from contracts.ledger import Meta, Transaction
from domain import assistant as assistants
from domain.assistant import RegisterGraph, assistant_of, default_assistant_id
from domain.changes import Changes
from services.kit.clock import Clock
from services.kit.commands import execute
from services.kit.eventlog import EventLog


async def register(log: EventLog, clock: Clock, command: RegisterGraph, worker: str) -> None:
    """See to it that the graph's default assistant exists and has its name. Twice is harmless."""
    assistant_id = default_assistant_id(command.graph_id)

    async def decide() -> Transaction | None:
        known = assistant_of(assistant_id, log.newest([assistant_id]).get(assistant_id))
        events = assistants.decide(known, command)
        changes = Changes(appends=assistants.appends(assistant_id, known, events))
        return changes.by(Meta(at=clock.now(), actor="worker", cause=worker, corr=str(assistant_id)))

    await execute(log, decide)
