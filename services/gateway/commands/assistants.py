"""Assistants: made, changed, given another version, deleted with what depends on them."""

from collections.abc import Callable
from uuid import UUID, uuid4

from contracts.api import AssistantCreate
from contracts.events import AssistantDeleted
from domain import assistant as assistants
from domain.assistant import (
    Assistant,
    AssistantCommand,
    ChooseVersion,
    CreateAssistant,
    DeleteAssistant,
    version_of,
)
from domain.assistant_fields import create_of
from domain.changes import Changes
from domain.cron import Cron, DeleteCron
from services.gateway.commands import endings
from services.gateway.commands.execution import SHOWN_S, act
from services.gateway.envelope import Caller, uuid_of
from services.gateway.parts import GatewayParts
from services.gateway.queries.assistants import check_graph
from services.gateway.queries.filters import SQL, THREADS, Filter
from services.gateway.queries.search import keys_of
from services.repository import Aggregates


async def create(parts: GatewayParts, caller: Caller, body: AssistantCreate) -> UUID:
    """The id of the assistant that is there now. Raises AssistantNotFound (of the graph), AlreadyExists, Refused."""
    assistant_id = uuid4() if body.assistant_id is None else uuid_of("assistant_id", body.assistant_id)
    command, keep = create_of(body, assistant_id, caller.user_id), body.if_exists == "do_nothing"
    check_graph(parts, body.graph_id)

    def load(log: Aggregates) -> tuple[Assistant | None, int]:
        known = log.assistant_or_none(assistant_id)
        return known, 0 if known else log.former(assistant_id, AssistantDeleted)

    position = await act(
        parts, caller, assistant_id, load, lambda found: _created(command, *found, keep=keep)
    )
    if position is None:
        # It exists, perhaps since a moment ago, and is not shown yet.
        await parts.reached(await parts.read(parts.log.head), SHOWN_S)
    return assistant_id


async def change(parts: GatewayParts, caller: Caller, text: str, command: AssistantCommand) -> UUID:
    """Carry out the change; the id of the assistant. Raises AssistantNotFound, InvalidField."""
    return await _changed(parts, caller, text, lambda _, __: command)


async def choose(parts: GatewayParts, caller: Caller, text: str, number: int) -> UUID:
    """Put a version into force; the id of the assistant. Raises AssistantNotFound, AssistantVersionNotFound."""

    def command(log: Aggregates, assistant_id: UUID) -> ChooseVersion:
        return ChooseVersion(number=number, said=version_of(number, log.stream(assistant_id)))

    return await _changed(parts, caller, text, command)


async def delete(parts: GatewayParts, caller: Caller, text: str, *, with_threads: bool) -> None:
    """End it with its crons, and stop its runs. It goes last, so that after a crash it can be asked for again.

    Raises AssistantNotFound, DefaultAssistant.
    """
    assistant = await parts.repository.load(lambda log: log.assistant(text))
    assistants.decide(assistant, DeleteAssistant())  # refused before anything has ended
    assistant_id, ending = assistant.assistant_id, DeleteCron(reason="assistant_deleted")
    if with_threads:
        for thread_id in await keys_of(parts.views, _threads_of(assistant_id)):
            await endings.delete_thread(parts, caller, UUID(bytes=thread_id))
    await _stop_runs(parts, caller, assistant_id)

    def load(log: Aggregates) -> tuple[Assistant, list[Cron]]:
        found = log.assistant(str(assistant_id))
        return found, endings.crons_of(parts, log, "assistant", assistant_id)

    def decide(found: tuple[Assistant, list[Cron]]) -> Changes:
        known, theirs = found
        ended = endings.ended_crons(theirs, ending, parts.clock.now())
        return ended + _decided(known, DeleteAssistant())

    await act(parts, caller, assistant_id, load, decide)
    await _stop_runs(parts, caller, assistant_id)  # those that its crons began meanwhile


async def _changed(
    parts: GatewayParts, caller: Caller, text: str, command: Callable[[Aggregates, UUID], AssistantCommand]
) -> UUID:
    known = await parts.repository.load(lambda log: log.assistant(text))
    assistant_id = known.assistant_id

    def load(log: Aggregates) -> tuple[Assistant, AssistantCommand]:
        return log.assistant(str(assistant_id)), command(log, assistant_id)

    await act(parts, caller, assistant_id, load, lambda found: _decided(*found))
    return assistant_id


def _created(command: CreateAssistant, known: Assistant | None, former: int, *, keep: bool) -> Changes:
    if known is not None and keep:
        return Changes()
    events = assistants.decide(known, command)
    return Changes(appends=assistants.appends(command.assistant_id, known, events, former=former))


def _decided(assistant: Assistant, command: AssistantCommand) -> Changes:
    events = assistants.decide(assistant, command)
    return Changes(appends=assistants.appends(assistant.assistant_id, assistant, events))


def _threads_of(assistant_id: UUID) -> Filter:
    wanted = Filter(THREADS)
    wanted.metadata({"assistant_id": str(assistant_id)})
    wanted.equal("temporary", 0)
    return wanted


async def _stop_runs(parts: GatewayParts, caller: Caller, assistant_id: UUID) -> None:
    query = SQL["active_runs_of_assistant"]
    for row in await parts.read(lambda: parts.views.all(query, (assistant_id.bytes,))):
        thread_id, run_id = UUID(bytes=row["thread_id"]), UUID(bytes=row["run_id"])
        await endings.stop_run(parts, caller, thread_id, run_id, "assistant deleted")
