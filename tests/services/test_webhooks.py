"""Parts of the sender: names that change, secrets, whose turn it is, what is told."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from contracts.codec import EventCodec, pack
from contracts.events import RunRequested, RunSucceeded, WebhookRequested
from contracts.ledger import Append, Meta, Recorded, Transaction
from contracts.webhooks import UrlPolicy, WebhookSettings
from domain import run as runs
from domain.delivery import Attempted, Redeliver, WebhookDelivery, decide, delivery_of
from domain.errors import InvalidField
from domain.identity import delivery_id_of
from domain.run import run_of
from services.destinations import resolved
from services.kit.clock import SystemClock
from services.kit.eventlog import LogUnavailable
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.settings import Settings, SettingsError
from services.kit.views.sqlite import SqliteViews
from services.projector.projector import Projector
from services.webhooks.post import Post
from services.webhooks.queue import SendQueue
from services.webhooks.report import report
from services.webhooks.sender import Sender
from services.webhooks.signature import Signer
from tests.receiver import Receiver

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LOCAL = UrlPolicy(disable_loopback=False)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = await Receiver().start()
    yield found
    await found.stop()


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let every name lead to these addresses, one after another; which names were asked for."""
    asked: list[str] = []
    coming = iter(answers)

    def lookup(host: str, port: int) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(coming)]

    monkeypatch.setattr("services.destinations.lookup", lookup)
    return asked


async def test_a_name_with_one_forbidden_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["93.184.216.34", "169.254.169.254"], ["10.0.0.1"], ["10.0.0.1"])
    with pytest.raises(InvalidField, match="metadata"):
        await resolved("https://hook.example/", UrlPolicy())
    with pytest.raises(InvalidField, match="private"):
        await resolved("https://hook.example/", UrlPolicy(disable_private_ips=True))
    vouched = UrlPolicy(disable_private_ips=True, allowed_domains=("hook.example",))
    assert str((await resolved("https://hook.example/", vouched))[1][0]) == "10.0.0.1"


async def test_a_name_is_asked_for_once_a_hop(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    """Whoever gives another address the second time is never asked a second time."""
    # Resolved anew by whoever connects, it would lead to where nobody listens.
    asked = names(monkeypatch, ["127.0.0.1"], ["127.0.0.9"])
    answer = await Post(LOCAL, {}, "test").send(f"http://rebind.example:{receiver.port}/ok", b"{}", {})
    assert answer.status == 200
    assert asked == ["rebind.example"]
    assert receiver.got[0].headers["host"] == f"rebind.example:{receiver.port}"


async def test_a_name_that_turns_forbidden_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    names(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    url = f"http://rebind.example:{receiver.port}/ok"
    await resolved(url, UrlPolicy())  # at creation it was elsewhere
    answer = await Post(UrlPolicy(), {}, "test").send(url, b"{}", {})
    assert (answer.status, answer.refused) == (None, True)
    assert "loopback" in answer.why
    assert receiver.got == []


async def test_a_name_server_that_hangs_keeps_nobody_from_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr("services.destinations.lookup", lambda *_: release.wait(30))
    monkeypatch.setattr("services.destinations.RESOLVE_S", 0.1)
    post = Post(UrlPolicy(), {}, "test")
    answers = await asyncio.gather(*(post.send(f"http://n{n}.example/", b"{}", {}) for n in range(40)))
    assert {answer.why for answer in answers[:1]} == {"the name n0.example can't be resolved"}
    assert not any(answer.refused for answer in answers)  # another time it may be there
    async with asyncio.timeout(5):
        await asyncio.to_thread(lambda: None)
    release.set()


async def test_a_receiver_that_hangs(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    monkeypatch.setattr("services.webhooks.post.ANSWER_S", 0.2)
    answer = await Post(LOCAL, {}, "test").send(receiver.url("/hang"), b"{}", {})
    assert (answer.status, answer.refused) == (None, False)


@pytest.mark.parametrize(
    "secrets", ["abc", "whsec_", "whsec_not base64", "whsec_YWJj", "whsec_" + "A" * 400, "whsec_é"]
)
def test_a_secret_that_is_none_is_told_without_it(secrets: str) -> None:
    with pytest.raises(SettingsError, match="CRONLEDGER_WEBHOOK_SECRETS") as refused:
        Signer(secrets)
    assert "YWJj" not in str(refused.value)


def test_hosts_have_their_turns() -> None:
    line = SendQueue(per_host=2, at_once=3)
    slow = [uuid4() for _ in range(5)]
    for delivery_id in slow:
        line.add(delivery_id, "slow", 1.0)
    quick = uuid4()
    line.add(quick, "quick", 1.0)
    assert line.take(0.5) is None
    taken = [line.take(1.0) for _ in range(3)]
    assert {found[1] for found in taken if found} == {"slow", "quick"}
    assert line.take(1.0) is None
    assert len(line) == 6
    line.done(quick)
    assert line.take(1.0) is None  # both places of the slow one are taken
    line.done(slow[0])
    assert line.take(1.0) == (slow[2], "slow")


def test_one_is_in_the_line_once_and_never_sent_twice_at_a_time() -> None:
    line, delivery_id = SendQueue(), uuid4()
    line.add(delivery_id, "a", 5.0)
    line.add(delivery_id, "a", 1.0)
    assert line.next_s == 1.0
    assert line.take(1.0) == (delivery_id, "a")
    line.add(delivery_id, "a", 0.0)  # asked for again while it is sent
    assert line.take(9.0) is None
    line.done(delivery_id)
    assert line.take(9.0) is None
    assert line.take(10.0) == (delivery_id, "a")
    line.done(delivery_id)
    line.add(delivery_id, "a", 20.0)
    line.remove(delivery_id)
    assert line.next_s == float("inf")
    assert len(line) == 0


def recorded(version: int, body: Any, at: datetime = NOW) -> Recorded:
    return Recorded(version, UUID(int=1), version, body.TOPIC, Meta(at=at, actor="a"), body)


def asked() -> WebhookDelivery:
    ids: dict[str, Any] = {"run_id": UUID(int=2), "thread_id": UUID(int=3)}
    found = delivery_of(UUID(int=1), [recorded(1, WebhookRequested(**ids, url="http://a.example/"))])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("status", "final", "event"),
    [
        (200, False, "delivery.delivered.v1"),
        (299, False, "delivery.delivered.v1"),
        (304, False, "delivery.abandoned.v1"),
        (400, False, "delivery.abandoned.v1"),
        (408, False, "delivery.failed.v1"),
        (425, False, "delivery.failed.v1"),
        (429, False, "delivery.failed.v1"),
        (500, False, "delivery.failed.v1"),
        (None, False, "delivery.failed.v1"),
        (None, True, "delivery.abandoned.v1"),
    ],
)
def test_what_an_answer_comes_to(status: int | None, final: bool, event: str) -> None:
    done = Attempted(attempt=1, status=status, why="", pause=timedelta(seconds=5), final=final)
    [append] = decide(asked(), done, NOW).appends
    assert event == append.bodies[0].TOPIC
    assert decide(asked(), Attempted(attempt=2, status=200, why="", pause=timedelta()), NOW).appends == ()


def test_a_day_of_attempts_then_it_is_abandoned_and_can_be_asked_for_again() -> None:
    delivery = asked()
    done = Attempted(attempt=1, status=503, why="it said 503", pause=timedelta(hours=1))
    late = NOW + timedelta(hours=23, minutes=1)
    [append] = decide(delivery, done, late).appends
    assert append.bodies[0].TOPIC == "delivery.abandoned.v1"
    patient = Attempted(attempt=1, status=429, why="", pause=timedelta(seconds=5), asked=timedelta(days=300))
    [append] = decide(delivery, patient, NOW).appends
    body: Any = append.bodies[0]
    assert body.retry_at == NOW + timedelta(hours=6)
    [append] = decide(delivery, Redeliver(), late).appends
    assert append.bodies[0].TOPIC == "delivery.asked_again.v1"


def test_what_is_told_is_without_the_caller_and_only_what_may_leave() -> None:
    kwargs = {
        "input": {"q": 1},
        "config": {"configurable": {"k": 1, "cron_id": "c", "langgraph_auth_user_id": "u"}},
        "context": {"k": 2, "langgraph_auth_permissions": ["x"]},
    }
    ids: dict[str, Any] = {"thread_id": UUID(int=3)}
    requested = RunRequested(
        **ids, assistant_id=UUID(int=4), graph_id="g", user_id="someone", kwargs=pack(kwargs)[0]
    )
    events = [recorded(1, requested), recorded(2, RunSucceeded(**ids, output=pack({"a": 1})[0]))]
    whole = report(events, lambda _: None, NOW, None)
    assert b"langgraph_auth" not in whole
    assert b"someone" not in whole
    assert b'"configurable":{"k":1,"cron_id":"c"}' in whole
    assert report(events, lambda _: None, NOW, ("run_id", "status")) == (
        b'{"run_id":"00000000-0000-0000-0000-000000000001","status":"success"}'
    )


# --- the sender on a log of its own --------------------------------------------------------------------


class FailingLog(SqliteLog):
    """A log whose appends fail as often as the test says; `lost`: they are stored, and nobody hears of it."""

    failures, lost = 0, False

    async def append(self, tx: Transaction) -> int:
        if not self.failures:
            return await super().append(tx)
        self.failures -= 1
        if self.lost:
            await super().append(tx)
        raise LogUnavailable("as the test says")


class House:
    """A log, its read models, and senders on it."""

    def __init__(self, folder: Path) -> None:
        self.log = FailingLog(folder / "ledger.db", EventCodec())
        self.projector = Projector(self.log, folder / "views.db")
        self.views = SqliteViews(folder / "views.db")
        self.settings = Settings(webhook_retry_s=0.1, lease_s=1.0)

    async def sender(self) -> Sender:
        found = Sender(self.log, self.views, SystemClock(), self.settings, WebhookSettings(url=LOCAL), "test")
        await found.start()
        return found

    async def ended(self, url: str) -> UUID:
        """A run that has ended, and the delivery that tells of it."""
        run_id, ids = uuid4(), {"thread_id": uuid4()}
        requested = RunRequested(
            thread_id=ids["thread_id"],
            assistant_id=uuid4(),
            graph_id="g",
            user_id="u",
            kwargs=pack({})[0],
            webhook=url,
        )
        run = run_of(run_id, [recorded(1, requested)])
        assert run is not None
        over = runs.appends(run, [RunSucceeded(thread_id=ids["thread_id"])])
        first = Append(run_id, 0, (requested,))
        meta = Meta(at=datetime.now(UTC), actor="test")
        await self.log.append(Transaction(meta=meta, appends=(first,)))
        await self.log.append(Transaction(meta=meta, appends=over))
        return delivery_id_of(run_id)

    def topics(self, delivery_id: UUID) -> list[str]:
        return [found.topic for found in self.log.stream(delivery_id)]

    async def until(self, delivery_id: UUID, topic: str) -> None:
        async with asyncio.timeout(20):
            while self.topics(delivery_id)[-1:] != [topic]:  # noqa: ASYNC110 - nothing else tells it
                await asyncio.sleep(0.02)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr("services.webhooks.sender.AGAIN_S", 0.1)
    house = House(tmp_path)
    await house.log.start()
    await house.projector.start()
    yield house
    await house.projector.stop()
    house.views.close()
    await house.log.stop()


DELIVERED = "delivery.delivered.v1"


@pytest.mark.parametrize("lost", [False, True])
async def test_an_outcome_that_is_not_stored_is_found_out_again(
    house: House, receiver: Receiver, *, lost: bool
) -> None:
    sender = await house.sender()
    delivery_id = await house.ended(receiver.url("/ok"))
    house.log.failures, house.log.lost = 1, lost
    await house.until(delivery_id, DELIVERED)
    await asyncio.sleep(0.5)
    assert house.topics(delivery_id) == ["delivery.requested.v1", DELIVERED]
    assert {got.id for got in receiver.got} == {str(delivery_id)}
    assert len(receiver.got) == (1 if lost else 2)
    await sender.stop()


async def test_what_waits_when_a_sender_ends_is_sent_by_another_one(house: House, receiver: Receiver) -> None:
    first, second = await house.sender(), await house.sender()
    await house.until(await house.ended(receiver.url("/ok/one")), DELIVERED)
    hanging = await house.ended(receiver.url("/hang"))
    await receiver.until(lambda: receiver.of("/hang"))
    await first.stop()
    await second.stop()
    assert house.topics(hanging) == ["delivery.requested.v1"]
    third = await house.sender()  # the lease was given back, so nothing is waited for
    await receiver.until(lambda: len(receiver.of("/hang")) == 2, 5)
    await house.until(await house.ended(receiver.url("/ok/two")), DELIVERED)
    assert len(receiver.of("/ok/one")) == 1
    await receiver.stop()  # or the third would wait for what hangs, too
    await third.stop()


async def test_one_takes_over_when_the_other_is_silent(house: House, receiver: Receiver) -> None:
    first, second = await house.sender(), await house.sender()
    await house.until(await house.ended(receiver.url("/ok/one")), DELIVERED)
    holder = first if first._tenure.held else second
    holder._queue.take = lambda now_s: None  # type: ignore[method-assign]  # it hangs
    holder._tenure._ask_at_s = float("inf")
    await house.until(await house.ended(receiver.url("/ok/two")), DELIVERED)
    await first.stop()
    await second.stop()


async def test_a_run_that_can_not_be_read_is_told_as_that(house: House, receiver: Receiver) -> None:
    run_id, thread_id = uuid4(), uuid4()
    told = WebhookRequested(run_id=run_id, thread_id=thread_id, url=receiver.url("/ok"))
    delivery_id = delivery_id_of(run_id)
    meta = Meta(at=datetime.now(UTC), actor="test")
    await house.log.append(Transaction(meta=meta, appends=(Append(delivery_id, 0, (told,)),)))
    sender = await house.sender()
    await house.until(delivery_id, "delivery.abandoned.v1")
    assert receiver.got == []
    await house.until(await house.ended(receiver.url("/ok")), DELIVERED)
    await sender.stop()
