"""The sender of webhooks: follows the log for ends of runs that somebody wants to hear of, and posts."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from tenacity import wait_exponential, wait_random
from tenacity.wait import wait_combine

from contracts.events import DeliveryFailed, RedeliveryRequested, WebhookRequested
from contracts.ledger import Meta, Recorded
from contracts.webhooks import WebhookSettings
from domain import delivery as deliveries
from domain.delivery import Attempted, WebhookDelivery
from domain.webhook import host_of
from services.kit.clock import Clock
from services.kit.eventlog import EventLog
from services.kit.follower import POLL_S, Follower, Tail
from services.kit.lifecycle import FAULTS, Background, Whole
from services.kit.logs import Log
from services.kit.queries import named
from services.kit.reads import read
from services.kit.retries import pause_s
from services.kit.settings import Settings
from services.kit.tenure import Tenure
from services.kit.views import Views
from services.repository import Repository
from services.webhooks.post import Post, Reply
from services.webhooks.queue import SendQueue
from services.webhooks.report import report
from services.webhooks.signature import Signer

SQL = named(Path(__file__).with_name("queries.sql"))
PAGE = 500
AGAIN_S = 5.0
MOST_PAUSE_S = 3600.0
LEASE = "webhooks.sender"
log_ = Log("webhooks")


class Sender(Whole):
    """Posts what is due, and records what came of each attempt before it forgets it.

    An attempt whose outcome is not stored is made again: a receiver tells doubles by the id. Of several senders
    on one log the one that holds the lease posts; another one takes over when it has ended.
    """

    def __init__(
        self,
        log: EventLog,
        views: Views,
        clock: Clock,
        settings: Settings,
        webhooks: WebhookSettings,
        version: str,
    ) -> None:
        """Raises SettingsError for secrets that are none."""
        self._ledger, self._views, self._clock = log, views, clock
        self._repository = Repository(log)
        self._fields = webhooks.allowed_fields
        self._signer = Signer(settings.webhook_secrets)
        self._post = Post(webhooks.url, webhooks.headers, f"cronledger/{version}")
        first_s = settings.webhook_retry_s
        # 5 s, 15 s, 45 s, ... an hour; a fifth of it at random, lest a receiver that is back meets all at once.
        grown = wait_exponential(multiplier=first_s / 3, exp_base=3, max=MOST_PAUSE_S)
        self._pause = wait_combine(grown, wait_random(0, first_s / 5))
        self._queue = SendQueue()
        self._tail = Tail(log, "delivery.")
        self._is_loaded = False
        self._tenure = Tenure(log, clock, LEASE, settings.lease_s)
        self._loop = Follower("webhooks.sender", log, clock, self._step, most_s=AGAIN_S)
        self._sending = Background("webhooks.attempts")
        super().__init__("webhooks", (self._sending, self._loop))

    async def stop(self) -> None:
        """End; what is being posted has a moment to come to its end, and is posted again if it does not."""
        await super().stop()
        await self._tenure.release()

    # --- the loop ---------------------------------------------------------------------------------

    async def _step(self) -> None:
        if not self._is_loaded:
            await self._load()
        await self._tail.follow(self._take)
        is_ours = await self._tenure.is_ours()
        while is_ours and (taken := self._queue.take(self._clock.wall_s())) is not None:
            self._sending.spawn(self._attempt(*taken))
        # Whoever has no place although it is due waits for one: the end of an attempt is news.
        pause_s = max(0.0, self._queue.next_s - self._clock.wall_s()) if is_ours else POLL_S
        await self._loop.rest(min(pause_s, self._tenure.pause_s))

    async def _load(self) -> None:
        """Take over what is pending from the read model; twice is harmless."""
        await self._tail.reached(self._views, "deliveries")
        last: tuple[int, bytes] = (0, b"")
        while rows := await read(self._views, lambda: self._views.all(SQL["pending"], (*last, PAGE))):  # noqa: B023
            for row in rows:
                self._queue.add(UUID(bytes=row["delivery_id"]), row["host"], row["next_at"] / 1_000_000)
            last = rows[-1]["requested_at"], rows[-1]["delivery_id"]
        self._is_loaded = True

    async def _take(self, events: Sequence[Recorded]) -> None:
        hosts = await read(self._ledger, lambda: list(map(self._host, events)))
        for recorded, host in zip(events, hosts, strict=True):
            self._apply(recorded, host)

    def _host(self, recorded: Recorded) -> str:
        first = recorded if recorded.version == 1 else self._ledger.stream(recorded.stream_id)[0]
        assert isinstance(first.body, WebhookRequested)
        return host_of(first.body.url)

    def _apply(self, recorded: Recorded, host: str) -> None:
        match recorded.body:
            case WebhookRequested() | RedeliveryRequested():
                self._queue.add(recorded.stream_id, host, 0.0)
            case DeliveryFailed() as body:
                self._queue.add(recorded.stream_id, host, body.retry_at.timestamp())
            case _:
                self._queue.remove(recorded.stream_id)

    # --- an attempt -------------------------------------------------------------------------------

    async def _attempt(self, delivery_id: UUID, host: str) -> None:
        """Post it and record what came of it. Whatever raises, it has its turn again."""
        try:
            delivery = await self._repository.load(lambda log: log.delivery(delivery_id))
            if delivery is None or delivery.state != "pending":
                return
            answer = await self._posted(delivery)
            await self._record(delivery, answer)
        except Exception as exc:
            log_.error("webhooks.attempt_failed", exc, delivery=delivery_id)
            self._queue.add(delivery_id, host, self._clock.wall_s() + AGAIN_S)
        finally:
            self._queue.done(delivery_id)
            self._loop.wake()

    async def _posted(self, delivery: WebhookDelivery) -> Reply:
        now = self._clock.now()
        try:
            body = await read(self._ledger, lambda: self._body(delivery.request.run_id, now))
        except FAULTS as exc:
            log_.error("webhooks.unreadable", exc, delivery=delivery.delivery_id)
            return Reply(None, f"its run can't be read: {type(exc).__name__}", refused=True)
        signed = self._signer.headers(str(delivery.delivery_id), int(now.timestamp()), body)
        return await self._post.send(delivery.request.url, body, signed)

    def _body(self, run_id: UUID, now: datetime) -> bytes:
        return report(self._ledger.stream(run_id), self._ledger.blob, now, self._fields)

    async def _record(self, delivery: WebhookDelivery, answer: Reply) -> None:
        attempt, delivery_id = delivery.attempts + 1, delivery.delivery_id
        command = Attempted(
            attempt=attempt,
            status=answer.status,
            why=answer.why,
            pause=timedelta(seconds=pause_s(self._pause, attempt)),
            asked=answer.retry_after,
            final=answer.refused,
        )
        now = self._clock.now()

        meta = Meta(at=now, actor="webhooks", cause=str(delivery_id), corr=str(delivery.request.run_id))
        await self._repository.carry_out(
            lambda log: log.delivery(delivery_id), lambda found: deliveries.decide(found, command, now), meta
        )
        log_.info(
            "webhooks.attempted", delivery=delivery_id, attempt=attempt, status=answer.status, why=answer.why
        )
