"""/threads/{thread_id}/commands, stream/events and stream: the event streaming protocol, and all runs of a thread."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, Request, Response, WebSocket, websocket
from litestar.params import Parameter

from contracts.answers.protocol import CommandDone, CommandRejected
from contracts.answers.system import Problem
from contracts.api import EventSubscription, ProtocolCommand
from domain.errors import InvalidField
from services.gateway.commands import protocol as commands
from services.gateway.handlers import By, Parts, posts, reads
from services.gateway.queries.search import thread_row
from services.gateway.routes.runs import EVENTS, LastEvent
from services.gateway.streams import answer
from services.gateway.streams.frames import tape_mark_of, tape_modes_of
from services.gateway.streams.protocol import choice_of, since_of
from services.gateway.streams.socket import serve
from services.gateway.streams.tape import Tape

TapeModes = Annotated[
    str | None,
    Parameter(
        description="`run_modes` (all events of runs), `lifecycle`, `state_update`: several with commas"
    ),
]


async def as_given(_: Request[Any, Any, Any]) -> None:
    """The thread's id is looked at by the command itself: clients of the protocol read its answers alone."""


def no_command(_: Request[Any, Any, Any], exc: InvalidField) -> Response[CommandRejected]:
    """The answer to what is no command at all."""
    return Response(CommandRejected(None, "invalid_argument", str(exc), detail=str(exc)), status_code=400)


def no_subscription(_: Request[Any, Any, Any], exc: InvalidField) -> Response[Problem]:
    """The answer to a body that names no channels, as clients of the protocol expect it."""
    return Response(Problem(str(exc), exc.code, str(exc)), status_code=400)


class StreamController(Controller):
    """What is streamed of a thread."""

    path = "/threads/{thread_id:str}"
    tags = ["streams"]

    @posts(
        "/commands",
        summary="A command of the event streaming protocol",
        before_request=as_given,
        exception_handlers={InvalidField: no_command},
    )
    async def send_command(
        self, parts: Parts, caller: By, thread_id: str, data: ProtocolCommand
    ) -> CommandDone | CommandRejected:
        """`run.start` or `input.respond`; what is wrong with one is told in the answer, whose status is 200."""
        return await commands.answer(parts, caller, thread_id, data)

    @posts(
        "/stream/events",
        summary="Events of a thread by the event streaming protocol",
        responses=EVENTS,
        exception_handlers={InvalidField: no_subscription},
    )
    async def stream_events(self, parts: Parts, thread_id: UUID, data: EventSubscription) -> Response[bytes]:
        """What there is of all runs of the thread, and what comes; it does not end, and the thread need not be there."""
        choice, since = choice_of(data), since_of(data)
        return answer.protocol(Tape(parts, thread_id), choice, since)

    @websocket("/stream/events")
    async def connect(self, socket: WebSocket[Any, Any, Any], parts: Parts, thread_id: str) -> None:
        """The same over one connection: commands and subscriptions come, answers and events go."""
        await serve(socket, parts, thread_id)

    @reads("/stream", summary="Stream all runs of a thread", responses=EVENTS)
    async def stream_thread(
        self,
        parts: Parts,
        thread_id: UUID,
        stream_modes: TapeModes = None,
        stream_mode: TapeModes = None,
        last_event_id: LastEvent = None,
    ) -> Response[bytes]:
        """From now on, or behind the event that the client saw last; it does not end."""
        modes, since = tape_modes_of(stream_modes or stream_mode), tape_mark_of(last_event_id)
        await parts.read(lambda: thread_row(parts, thread_id))
        return answer.thread(parts, Tape(parts, thread_id, is_whole=since is not None), modes, since)
