"""The streams as they must be: made when they are missing, mended upwards, refused when they are somebody else's."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from contracts.subjects import StreamSpec
from services.kit.bus.nats import NatsBus
from services.kit.lifecycle import Part, Supervised
from services.kit.logs import Log
from services.kit.mendable import Mendable

log_ = Log("bus")
PATIENCE_S = 30.0
"""A cluster of three that has lost a leader answers with 503 for up to 8 s."""
PEERS_S = 10.0
"""How long the other servers of a cluster are waited for, before streams are made on fewer of them."""
SPREAD_S = 30.0
"""How often these are looked at again: whether there are enough servers by now."""
PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
MOST_REPLICAS = 3
NOT_NOW = frozenset({10007, 10008, 10009, 10118, 10122})
"""Error codes of a JetStream without a leader, for the cluster or for the stream; whatever is 503 beside is lasting."""
FEW_PEERS = frozenset({10005, 10074})
NO_STREAM, TAKEN, OVERLAP = 10059, 10058, 10065
LIMITS = ("max_age", "max_bytes", "max_msgs", "duplicate_window")
KINDS = ("retention", "storage", "persist_mode")
NOT_OURS = ("mirror", "sources", "sealed")
Config = dict[str, Any]


class StreamDiffers(Mendable):
    """A stream of that name exists and is of another kind; it must be looked at by a person."""


class Streams:
    """The streams as they must be: made at the start, and again for a server that came back without them."""

    name, failing = "bus.streams", ""

    def __init__(self, bus: NatsBus, specs: Sequence[StreamSpec], replicas: int = 1) -> None:
        """`replicas` as `NatsServer` has it: 0 = as many as the cluster has servers, at most 3."""
        self._bus, self._specs, self._replicas = bus, specs, replicas
        self._again, self._few = asyncio.Event(), tuple[str, ...]()
        self._loop = Supervised("bus.streams.loop", self._ensure)
        self.parts: Sequence[Part] = (self._loop,)
        self._leave: Callable[[], None] = lambda: None

    @property
    def started(self) -> bool:
        """True while it looks after them."""
        return self._loop.started

    @property
    def notice(self) -> str:
        """Which of them would be lost with too few servers of a cluster."""
        few = ", ".join(self._few)
        return f"on fewer servers than they should be, for now: {few}" if few else ""

    async def start(self) -> None:
        """Make what is missing. Raises StreamDiffers, ConnectionError."""
        if self.started:
            return
        await self._made()
        self._leave = self._bus.on_reconnect(self._again.set)
        await self._loop.start()

    async def stop(self) -> None:
        """Look after them no more; safe twice and unstarted."""
        self._leave()
        await self._loop.stop()

    async def _ensure(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SPREAD_S if self._few else None):
                await self._again.wait()
        self._again.clear()  # before the work: what happens meanwhile is looked at once more
        try:
            await self._made()
        except BaseException:
            self._again.set()
            raise

    async def _made(self) -> None:
        few = await ensure_streams(self._bus, self._specs, self._replicas)
        if few != self._few:
            log_.warning("bus.fewer_replicas", streams=", ".join(few) or "none any more")
        self._few = few


async def ensure_streams(bus: NatsBus, specs: Sequence[StreamSpec], replicas: int = 1) -> tuple[str, ...]:
    """Create what is missing, raise limits that are too low; never delete what somebody may miss.

    The names of those that have fewer replicas than they should, because their cluster has fewer servers at the
    moment. Several processes may do it at once. Raises StreamDiffers, ConnectionError.
    """
    peers_until = time.monotonic() + PEERS_S
    streams = [_Stream(bus, spec, replicas) for spec in specs]
    for stream in streams:
        await stream.ensure(peers_until)
    return tuple(stream.name for stream in streams if stream.is_on_few)


class _Stream:
    """One of them, on the way to be as it must be."""

    def __init__(self, bus: NatsBus, spec: StreamSpec, replicas: int) -> None:
        self._bus, self._spec = bus, spec
        self._is_given, self.is_on_few = replicas > 0, False
        self._is_clustered = bool(bus.info.get("cluster"))
        self._replicas = replicas or (MOST_REPLICAS if self._is_clustered else 1)
        if spec.storage == "memory":
            self._replicas = 1
        self.name = bus.js_stream(spec.name)

    async def ensure(self, peers_until: float) -> None:
        """Wait so long for servers that it should have. Raises StreamDiffers, ConnectionError."""
        async for _ in _patiently():
            # Asked first: creating what exists counts its reserved bytes a second time, and may be refused for it.
            present = await self._api("INFO")
            if present.get("config") is not None:
                await self._mend(present["config"])
                return
            error = present.get("error", {})
            if error.get("err_code") != NO_STREAM:
                raise self._refused(error)
            error = (await self._api("CREATE", self._config())).get("error")
            if error is None:
                return
            if error.get("err_code") in FEW_PEERS:
                self._fewer(error, waits=time.monotonic() < peers_until)
            elif error.get("err_code") != TAKEN:  # somebody else made it meanwhile, and not quite the same
                raise self._refused(error)
        raise ConnectionError(f"stream {self.name}: it can neither be made nor read")

    def _fewer(self, error: Config, *, waits: bool) -> None:
        """Go on with one server less, if that is ours to choose. Raises StreamDiffers."""
        if self._is_given or self._replicas == 1:
            raise self._refused(error)
        if not waits:
            self._replicas, self.is_on_few = self._replicas - 1, True

    async def _mend(self, present: Config) -> None:
        wanted = self._config()
        if self._spec.is_passing and any(_value(present, kind) != _value(wanted, kind) for kind in KINDS):
            await self._replace(wanted)
            return
        self._check(present, wanted)
        changes = self._changes(present, wanted)
        if not changes:
            return
        error = (await self._api("UPDATE", {**present, **changes})).get("error")
        if error is not None and error.get("err_code") in FEW_PEERS and not self._is_given:
            del changes["num_replicas"]  # as many as there were
            error = (await self._api("UPDATE", {**present, **changes})).get("error") if changes else None
            self.is_on_few = True
        if error is not None:
            raise self._refused(error)

    def _check(self, present: Config, wanted: Config) -> None:
        """Raises StreamDiffers for what can't be changed, or is not ours to change."""
        for kind in KINDS:
            if _value(present, kind) != _value(wanted, kind):
                raise StreamDiffers(
                    f"stream {self.name} has {kind} '{_value(present, kind)}' where '{_value(wanted, kind)}' is needed; "
                    "if it is not Cronledger's, set CRONLEDGER_NATS_PREFIX, else move its messages and delete it"
                )
        for name in NOT_OURS:
            if present.get(name):
                raise StreamDiffers(
                    f"stream {self.name} is no plain stream ({name}); set CRONLEDGER_NATS_PREFIX"
                )
        ours = {_root(subject) for subject in wanted["subjects"]}
        others = [subject for subject in present.get("subjects") or () if _root(subject) not in ours]
        if others:
            raise StreamDiffers(
                f"stream {self.name} has the subjects {', '.join(others)}: it is somebody else's; "
                "set CRONLEDGER_NATS_PREFIX"
            )
        has = int(present.get("num_replicas", 1))
        if self._is_given and has > self._replicas:
            raise StreamDiffers(
                f"stream {self.name} has {has} replicas, and CRONLEDGER_NATS_REPLICAS={self._replicas} would give up "
                "some of them; set it to 0, or let `nats stream edit` do it first"
            )

    def _changes(self, present: Config, wanted: Config) -> Config:
        """What is to be otherwise. A limit is raised and never lowered: whoever raised it needs it so."""
        changes: Config = {}
        for name, value in wanted.items():
            has = present.get(name)
            if name in KINDS or name == "name":
                continue
            if name in LIMITS:
                if _limit(has) < _limit(value):
                    changes[name] = value
            elif name == "num_replicas":
                if int(has or 1) < value:
                    changes[name] = value
            elif name == "subjects":
                if not set(value) <= set(has or ()):
                    changes[name] = value
            elif has != value and (value or has):
                changes[name] = value
        return changes

    async def _replace(self, config: Config) -> None:
        await self._api("DELETE")
        await asyncio.sleep(0.05)  # made anew at once, a stream of that name can have old messages again
        error = (await self._api("CREATE", config)).get("error")
        if error is not None and error.get("err_code") != TAKEN:
            raise self._refused(error)

    async def _api(self, call: str, body: Config | None = None) -> Config:
        """The answer, when there is one that will last. Raises ConnectionError."""
        why = ""
        async for _ in _patiently():
            try:
                answer = await self._bus.api(f"STREAM.{call}.{self.name}", body)
            except (ConnectionError, TimeoutError) as exc:
                why = str(exc)
            else:
                error = answer.get("error", {})
                if error.get("err_code") not in NOT_NOW:
                    return answer
                why = str(error.get("description"))
        raise ConnectionError(f"JetStream does not answer STREAM.{call}.{self.name}: {why}")

    def _refused(self, error: Mapping[str, Any]) -> StreamDiffers:
        text = str(error.get("description"))
        if error.get("err_code") == OVERLAP:
            text += "; set CRONLEDGER_NATS_PREFIX"
        if error.get("err_code") in FEW_PEERS and self._is_given:
            text = (
                f"NATS has no room for {self._replicas} replicas on as many servers of one cluster ({text}); see "
                "CRONLEDGER_NATS_REPLICAS"
            )
        return StreamDiffers(f"stream {self.name}: {text}")

    def _config(self) -> Config:
        spec = self._spec
        return {
            "name": self.name,
            "subjects": [self._bus.subject(subject) for subject in spec.subjects],
            "retention": spec.retention,
            "storage": spec.storage,
            "discard": spec.discard,
            "max_age": int(spec.max_age_s * 1e9),
            "max_bytes": spec.max_bytes,
            "max_msgs": spec.max_msgs,
            "max_msgs_per_subject": spec.max_msgs_per_subject,
            "discard_new_per_subject": spec.discard_new_per_subject,
            "allow_direct": spec.allow_direct,
            "allow_atomic": spec.allow_atomic,
            "deny_delete": spec.deny_delete,
            "deny_purge": spec.deny_purge,
            "no_ack": spec.no_ack,
            "duplicate_window": int(min(120, spec.max_age_s or 120) * 1e9),
            "num_replicas": self._replicas,
            # Not where there may be replicas one day: it is refused beside them, and can't be changed.
            **({"persist_mode": "async"} if spec.persist_async and not self._is_clustered else {}),
        }


async def _patiently() -> AsyncIterator[None]:
    """Another try, and another, with pauses between, until there was patience enough."""
    until, pause_s = time.monotonic() + PATIENCE_S, PAUSE_S
    while time.monotonic() < until:
        yield
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s + PAUSE_S, LONGEST_PAUSE_S)


def _value(config: Config, kind: str) -> str:
    return str(config.get(kind) or "default")


def _limit(value: int | None) -> float:
    """As a number that can be compared: 0 and -1 are no limit."""
    return value if value is not None and value > 0 else float("inf")


def _root(subject: str) -> str:
    """What the subjects of one stream of ours begin with: the prefix of the installation, if it has one."""
    return subject.partition(".")[0]
