"""Values larger than a message: cut, joined, asked for and answered over a real nats-server."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.kit.bus import Msg, NoResponders, RequestTimeout
from services.kit.bus.embedded import EmbeddedNats
from services.kit.bus.large import MOST_BYTES, Joiner, answer, ask, parts_of
from services.kit.bus.nats import NatsBus

LARGE = bytes(range(256)) * 20 * 1024  # 5 MB, every part different from its reverse


@pytest.fixture
async def buses(nats: EmbeddedNats) -> AsyncIterator[tuple[NatsBus, NatsBus]]:
    asking = await NatsBus.connect(nats.endpoint, "asking")
    answering = await NatsBus.connect(nats.endpoint, "answering")
    yield asking, answering
    await asking.stop()
    await answering.stop()


def joined(*messages: tuple[dict[str, str], bytes]) -> list[bytes]:
    joiner = Joiner()
    return [whole for message in messages if (whole := joiner.feed(*message)) is not None]


@pytest.mark.parametrize("size", [0, 1, MOST_BYTES, MOST_BYTES + 1, 3 * MOST_BYTES])
def test_what_is_cut_is_joined_again(size: int) -> None:
    data = LARGE[:size]
    parts = parts_of(data)
    assert all(len(piece) <= MOST_BYTES for _, piece in parts)
    assert joined(*parts) == [data]


def test_what_fits_into_one_message_has_no_headers() -> None:
    assert parts_of(b"{}") == [({}, b"{}")]


def test_a_value_with_a_lost_part_is_dropped_alone() -> None:
    first, second, third = parts_of(LARGE[: 3 * MOST_BYTES])
    small: tuple[dict[str, str], bytes] = ({}, b"small")
    assert joined(first, third, small) == [b"small"]
    assert joined(second, third, first, second, third) == [LARGE[: 3 * MOST_BYTES]]
    assert joined(first, second, first, second, third) == [LARGE[: 3 * MOST_BYTES]]
    assert joined(first, second, small, third) == [b"small"]


@pytest.mark.parametrize("headers", [{"Part": "x", "Parts": "2"}, {"Part": "1"}, {"Part": "0", "Parts": "2"}])
def test_headers_of_others_make_no_part(headers: dict[str, str]) -> None:
    assert joined((headers, b"whole")) == [b"whole"]


async def sent(bus: NatsBus) -> None:
    """Until the server has what the connection sent before: the client's own `flush` overtakes it."""
    with pytest.raises(NoResponders):
        await bus.request("graphs.nobody", b"", 10)


async def test_large_answer(buses: tuple[NatsBus, NatsBus]) -> None:
    asking, answering = buses

    async def large(msg: Msg) -> None:
        assert msg.data == b"?"
        await answer(msg, LARGE)

    await answering.subscribe("graphs.large", large, "graphs")
    await sent(answering)
    answers = await asyncio.gather(*(ask(asking, "graphs.large", b"?", 10) for _ in range(4)))
    assert all(whole == LARGE for whole in answers)


async def test_nobody_listens(buses: tuple[NatsBus, NatsBus]) -> None:
    began = time.monotonic()
    with pytest.raises(NoResponders):
        await ask(buses[0], "graphs.nobody", b"?", 10)
    assert time.monotonic() - began < 5


async def test_responder_dies_within_its_answer(buses: tuple[NatsBus, NatsBus]) -> None:
    asking, answering = buses

    dead = asyncio.Event()

    async def dying(msg: Msg) -> None:
        headers, piece = parts_of(LARGE)[0]
        await msg.respond(piece, headers)  # it leaves before the connection is closed
        dead.set()
        await asyncio.Future()

    await answering.subscribe("graphs.dying", dying)
    await sent(answering)
    question = asyncio.create_task(ask(asking, "graphs.dying", b"?", 1))
    async with asyncio.timeout(30):
        await dead.wait()
        await answering.client.close()
        with pytest.raises(RequestTimeout):
            await question
        await nobody(asking, "graphs.dying")


async def nobody(bus: NatsBus, subject: str) -> None:
    """Ask until the server has noticed that the connection of whoever listened is gone."""
    while True:
        try:
            await ask(bus, subject, b"?", 0.5)
        except NoResponders:
            return
        except RequestTimeout:
            pass


async def test_every_inbox_is_given_up(buses: tuple[NatsBus, NatsBus]) -> None:
    asking, _ = buses
    before = asking.client.stats["in_msgs"]
    inbox = asking.new_inbox()
    for _ in range(3):
        with pytest.raises(NoResponders):
            await ask(asking, "graphs.nobody", b"?", 10)
    assert asking.client.stats["in_msgs"] == before + 3
    with pytest.raises(NoResponders):
        await asking.request(inbox, b"anyone?", 5)
    assert len(asking.client._subs) == 1  # the client's own, for plain requests


async def test_question_without_a_connection(nats: EmbeddedNats) -> None:
    bus = await NatsBus.connect(nats.endpoint, "closed")
    await bus.stop()
    with pytest.raises(ConnectionError):
        await ask(bus, "graphs.any", b"?", 10)


async def test_unsubscribing_twice_is_harmless(buses: tuple[NatsBus, NatsBus]) -> None:
    async def silent(_: Msg) -> None:
        return

    subscription = await buses[0].subscribe("silent", silent)
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    other = await buses[1].subscribe("silent", silent)
    await buses[1].stop()
    await other.unsubscribe()
