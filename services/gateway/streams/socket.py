"""The event streaming protocol over a WebSocket: commands and subscriptions come, answers and events go."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import msgspec
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from contracts.answers.protocol import CommandDone, CommandRejected
from contracts.api import EventSubscription, ProtocolCommand
from domain.errors import InvalidField
from services.gateway.bodies import decoded, readable
from services.gateway.commands import protocol as commands
from services.gateway.commands.protocol import Answer
from services.gateway.envelope import UNWELCOME, Caller, is_welcome
from services.gateway.parts import GatewayParts
from services.gateway.streams.protocol import (
    ChannelChoice,
    ProtocolEvent,
    Shape,
    choice_of,
    natural,
    since_of,
)
from services.gateway.streams.tape import Tape
from services.kit.commands import Conflict
from services.kit.eventlog import LogUnavailable
from services.kit.ids import parse_uuid
from services.kit.lifecycle import ended
from services.kit.logs import Log

QUIET_S, COUNT_S = 0.02, 0.5
"""What is there is counted until nothing comes for so long; of a run that streams on, for so long at most."""
TAKEN_S = 60.0
"""A client that has not taken a message in that time is cut off, and comes back."""
TAPE_S = 5.0
MOST_CHOICES = 200
"""Different ones that a connection may have subscribed to."""
FORBIDDEN, REFUSED, RESTART = 4403, 4422, 1012
"""Close codes: 4000 and the status that HTTP would have, and what lets clients come back."""
log_ = Log("gateway")
_commands = msgspec.json.Decoder(ProtocolCommand)
_encode = msgspec.json.Encoder().encode


async def serve(socket: WebSocket[Any, Any, Any], parts: GatewayParts, thread: str) -> None:
    """Serve a client until it goes, or the server stops."""
    await socket.accept()
    if not is_welcome(socket):  # browsers let every page connect, and leave it to the server to look who asks
        await socket.close(FORBIDDEN, UNWELCOME)
        return
    thread_id = parse_uuid(thread)
    if thread_id is None:
        await socket.close(REFUSED, "thread_id: must be a UUID")
        return
    conversation = Conversation(socket, parts, thread_id)
    try:
        await conversation.go_on()
    finally:
        await conversation.close()


class Conversation:
    """One connection. Each event is sent once, however many subscriptions want it.

    A new subscription makes the tape begin anew; what one of the others was told already is left out.
    """

    def __init__(self, socket: WebSocket[Any, Any, Any], parts: GatewayParts, thread_id: UUID) -> None:
        self._socket, self._parts, self._thread_id = socket, parts, thread_id
        self._caller = Caller(str(uuid4()))
        self._choices: dict[str, tuple[ChannelChoice, int]] = {}  # and what number it has everything up to
        self._told: dict[ChannelChoice, int] = {}  # up to which number whoever wants that was told
        self._since, self._at = 0, 0  # the latter: how far the telling has come
        self._telling: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Tell nothing any more."""
        telling, self._telling = self._telling, None
        if telling is not None:
            await ended(telling)

    async def go_on(self) -> None:
        """Answer what comes."""
        while True:
            receiving = asyncio.create_task(self._socket.receive_data("text"))
            waits: set[asyncio.Task[Any]] = {receiving} | ({self._telling} if self._telling else set())
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    await self._over()
                    return
                text = receiving.result()
            except WebSocketDisconnect:
                return
            finally:
                receiving.cancel()
            await self._send(_encode(await self._answer(text)))
            if self._telling is None and self._choices:
                self._telling = asyncio.create_task(self._tell())

    async def _over(self) -> None:
        """The telling has come to its end: the server stops, or the client took nothing."""
        assert self._telling is not None
        if (exc := self._telling.exception()) is not None:
            log_.warning("gateway.client_cut_off", error=exc)
        await self._socket.close(RESTART)

    async def _answer(self, text: Any) -> Answer:
        try:
            command = decoded(_commands, str(text).encode())
        except (InvalidField, UnicodeEncodeError) as exc:
            return CommandRejected(None, "invalid_argument", str(exc))
        params = command.params or {}
        try:
            match command.method:
                case "subscription.subscribe":
                    return CommandDone(command.id, await self._subscribe(params))
                case "subscription.unsubscribe":
                    return self._unsubscribe(command.id, params)
                case "subscription.reconnect":
                    return await self._reconnect(command.id, params)
                case _:
                    return await commands.answer(self._parts, self._caller, str(self._thread_id), command)
        except InvalidField as exc:
            return CommandRejected(command.id, "invalid_argument", str(exc))
        except (Conflict, LogUnavailable) as exc:
            return CommandRejected(command.id, "unknown_error", str(exc))

    # --- subscriptions ----------------------------------------------------------------------------------

    async def _subscribe(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            given = msgspec.convert(params, EventSubscription)
            choice, since = choice_of(given), since_of(given)
        except msgspec.ValidationError as exc:
            raise InvalidField(readable(str(exc))) from None
        if len(self._told) + len(self._choices) >= MOST_CHOICES:
            raise InvalidField(f"channels: at most {MOST_CHOICES} subscriptions are allowed on a connection")
        await self._stop()
        subscription_id = str(uuid4())
        self._choices[subscription_id] = (choice, since)
        count = sum(
            event.seq > since and choice.has(event) and self._is_new(event) for event in await self._there()
        )
        return {"subscription_id": subscription_id, "replayed_events": count}

    def _unsubscribe(self, command_id: int, params: dict[str, Any]) -> Answer:
        known = self._choices.pop(str(params.get("subscription_id")), None)
        if known is None:
            return CommandRejected(
                command_id, "no_such_subscription", "subscription_id: there is no such subscription"
            )
        self._note(known[0])
        return CommandDone(command_id, {})

    async def _reconnect(self, command_id: int, params: dict[str, Any]) -> Answer:
        since = natural(params.get("since"))
        if since is None:
            raise InvalidField("since: must be the number of an event")
        await self._stop()
        there = await self._there()
        least = there[0].seq if there else 0
        if since < least:
            return CommandRejected(
                command_id,
                "resume_gap",
                f"since: what follows {since} is not kept any more",
                since=since,
                min_available_seq=least,
            )
        self._since = since
        return CommandDone(command_id, {"replayed_events": sum(event.seq > since for event in there)})

    async def _stop(self) -> None:
        """Stop the telling; it begins anew behind the answer."""
        await self.close()
        for choice, _ in self._choices.values():
            self._note(choice)
        self._at = 0

    def _note(self, choice: ChannelChoice) -> None:
        self._told[choice] = max(self._at, self._told.get(choice, 0))

    async def _there(self) -> list[ProtocolEvent]:
        """What there is on the tape already, without what is in the events."""
        tape, shape, found = Tape(self._parts, self._thread_id), Shape(), list[ProtocolEvent]()
        clock = self._parts.clock
        until_s = clock.monotonic_s() + COUNT_S
        try:
            while (steps := await tape.next(QUIET_S)) and clock.monotonic_s() < until_s:
                for step in steps:
                    found += [msgspec.structs.replace(event, text=b"") for event in shape.of(step)]
        finally:
            tape.close()
        return found

    # --- telling ----------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        tape, shape = Tape(self._parts, self._thread_id), Shape()
        try:
            while not tape.is_cut_off:
                for step in await tape.next(TAPE_S):
                    for event in shape.of(step):
                        if self._is_new(event) and self._is_wanted(event):
                            await self._send(event.text)
                        self._at = event.seq
        finally:
            tape.close()

    def _is_wanted(self, event: ProtocolEvent) -> bool:
        return any(event.seq > since and choice.has(event) for choice, since in self._choices.values())

    def _is_new(self, event: ProtocolEvent) -> bool:
        """Whether it was told to nobody here."""
        if event.seq <= self._since:
            return False
        return not any(event.seq <= at and choice.has(event) for choice, at in self._told.items())

    async def _send(self, text: bytes) -> None:
        async with asyncio.timeout(TAKEN_S):
            await self._socket.send_data(text.decode(), "text")
