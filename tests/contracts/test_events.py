"""The bytes of every event ever written must be readable for ever, and mean the same."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from contracts.codec import EventCodec, UnknownTopic, pack
from contracts.events import BODIES
from contracts.ledger import INLINE_LIMIT, Body, Meta, Payload

GOLDEN = Path(__file__).parent / "golden"
META = Meta(at=datetime(2026, 11, 24, 9, 30, 0, 5, tzinfo=UTC), actor="alice", cause="c", corr="r")


def example(kind: Any, name: str = "") -> Any:
    """A value of a field's type that is not its default."""
    info = msgspec.inspect.type_info(kind) if not isinstance(kind, msgspec.inspect.Type) else kind
    match info:
        case msgspec.inspect.UnionType(types=types):
            return example(next(t for t in types if not isinstance(t, msgspec.inspect.NoneType)), name)
        case msgspec.inspect.UUIDType():
            return UUID(int=sum(map(ord, name)))
        case msgspec.inspect.DateTimeType():
            return datetime(2026, 11, 24, 9, tzinfo=UTC)
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 7
        case msgspec.inspect.FloatType():
            return 1.5
        case msgspec.inspect.LiteralType(values=values):
            return max(map(str, values))
        case msgspec.inspect.DictType():
            return {"k": [1]}
        case msgspec.inspect.VarTupleType(item_type=item):
            return (example(item, name),)
        case msgspec.inspect.StructType(cls=cls) if cls is Payload:
            return pack({"x": 1})[0]
        case msgspec.inspect.StructType(cls=cls):
            return full(cls)
        case _:
            return name


def full(cls: type[Any]) -> Any:
    """A struct with every field set."""
    return cls(**{f.name: example(f.type, f.name) for f in msgspec.structs.fields(cls)})


def topic_of(golden: Path) -> str:
    """`run.started.v1+2.json` holds the second shape of `run.started.v1`: the one with the fields added since."""
    return golden.stem.partition("+")[0]


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_golden_bytes(golden: Path) -> None:
    stored = golden.read_bytes().rstrip(b"\n")
    meta, body = EventCodec().decode(topic_of(golden), stored)
    assert meta == META
    assert topic_of(golden) == type(body).TOPIC
    # What was written once is read in full: new fields may only have come with defaults.
    _, again = EventCodec().encode(body, meta)
    assert msgspec.json.decode(again) == msgspec.json.decode(stored)


@pytest.mark.parametrize("topic", sorted(BODIES))
def test_every_field_is_golden(topic: str) -> None:
    newest = max(
        (path for path in GOLDEN.glob("*.json") if topic_of(path) == topic), key=lambda path: path.stem
    )
    _, today = EventCodec().encode(full(BODIES[topic]), META)
    written, wanted = msgspec.json.decode(newest.read_bytes()), msgspec.json.decode(today)
    assert written["data"].keys() == wanted["data"].keys(), f"keep the new shape as {topic}+N.json"


def test_nothing_golden_is_forgotten() -> None:
    assert {topic_of(path) for path in GOLDEN.glob("*.json")} == set(BODIES)


def test_unknown_topic() -> None:
    with pytest.raises(UnknownTopic):
        EventCodec().decode("cron.invented.v1", b"{}")


class Old(Body, frozen=True, kw_only=True):
    TOPIC = "thing.done.v1"
    seconds: float


class Newer(Body, frozen=True, kw_only=True):
    TOPIC = "thing.done.v2"
    ms: int


class Newest(Body, frozen=True, kw_only=True):
    TOPIC = "thing.done.v3"
    us: int


def upcast(change: Callable[[Any], Body]) -> Callable[[Body], Body]:
    return change


def test_upcasters_form_a_chain() -> None:
    codec = EventCodec(
        {cls.TOPIC: cls for cls in (Old, Newer, Newest)},
        {
            "thing.done.v1": ("thing.done.v2", upcast(lambda old: Newer(ms=round(old.seconds * 1000)))),
            "thing.done.v2": ("thing.done.v3", upcast(lambda newer: Newest(us=newer.ms * 1000))),
        },
    )
    topic, data = codec.encode(Old(seconds=1.5), META)
    assert codec.decode(topic, data)[1] == Newest(us=1_500_000)
    assert codec.topics_of(Newest) == {"thing.done.v1", "thing.done.v2", "thing.done.v3"}


def test_payloads_go_by_digest_when_they_are_large() -> None:
    at_limit, none = pack("x" * (INLINE_LIMIT - 2))
    assert none == ()
    assert at_limit.sha256 == ""
    beyond, [blob] = pack("x" * (INLINE_LIMIT - 1))
    assert (beyond.sha256, beyond.size) == (blob.sha256, len(blob.data))
    assert beyond.inline is msgspec.UNSET
