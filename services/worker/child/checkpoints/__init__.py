"""The checkpoints: LangGraph's saver of either database, with a fence and a way back.

Fence: each attempt at a run claims its thread with a token; a write is compared with the thread's newest token in
its own transaction, so that whoever comes late is refused, however long it was held up, and nobody else is.
Way back: what a run changes at checkpoints that it did not make (a resumed run adds its writes to the checkpoint
at which it paused) is kept aside before its first change, so that a rollback can put it back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointMetadata

from ..refusals import NotFound

RUN: ContextVar[str] = ContextVar("cronledger_run", default="")
"""The run on whose behalf the code runs, in its nodes' threads too."""
CLAIM: ContextVar[tuple[str, int] | None] = ContextVar("cronledger_claim", default=None)
"""The thread that this run has claimed, and with which token."""
LATE = "a later attempt has the thread"
Claim = tuple[str, int] | None
Place = tuple[str, str, str]
"""Of a checkpoint: thread, namespace, id."""
T = TypeVar("T")


class Fenced(Exception):
    """A claim or a write was refused, because a later attempt has the thread or it was forgotten."""


class Unreachable(Exception):
    """The database does not answer: how a run would have gone on is not known."""


class Saver(BaseCheckpointSaver[Any]):
    """The saver of every run that is not temporary; a subclass knows the database.

    What it does is named by what the worker asks; everything of it is safe from whoever cancels the run meanwhile.
    """

    def remember(self) -> None:
        """Begin to; for the constructor."""
        # Per run: checkpoints that it made, or whose writes are kept already.
        self._known: dict[str, set[Place]] = {}
        # Runs whose thread was empty when they began: nothing there can be anybody else's.
        self._first: set[str] = set()
        # Writes that are under way, also for a run that was cancelled meanwhile.
        self._pending: dict[str, set[asyncio.Future[Any]]] = {}

    # --- what LangGraph calls ---------------------------------------------------------------------

    async def aput(
        self, config: Any, checkpoint: Any, metadata: CheckpointMetadata, new_versions: Any
    ) -> Any:
        """Save a checkpoint, as one of the current run's. Raises Fenced, Unreachable."""
        run_id, conf = RUN.get(), config["configurable"]
        if run_id:
            # Set here: LangGraph loses the config's metadata on some paths, and a client's may say otherwise.
            metadata = {**metadata, "run_id": run_id}
            if run_id not in self._first:
                known = self._known.setdefault(run_id, set())
                known.add((str(conf["thread_id"]), conf["checkpoint_ns"], checkpoint["id"]))
        put = partial(super().aput, config, checkpoint, metadata, new_versions)
        return await self.shielded(self.written(claim_of(conf["thread_id"]), put))

    async def aput_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task wrote; before a run's first at a checkpoint of others, keep what is there."""
        run_id, conf = RUN.get(), config["configurable"]
        if run_id and run_id not in self._first:
            await self._keep_before_first(run_id, conf)
        put = partial(super().aput_writes, config, writes, task_id, task_path)
        await self.shielded(self.written(claim_of(conf["thread_id"]), put))

    # --- what the worker asks ---------------------------------------------------------------------

    async def claim(self, thread_id: str, token: int) -> None:
        """Take the thread for an attempt, before it reads anything of it. Raises Fenced."""
        await self.taken(thread_id, token)
        CLAIM.set((thread_id, token))

    async def begin(self, thread_id: str, run_id: str) -> None:
        """Forget what was kept for earlier runs of the thread: this one builds on what they left."""
        if not await self.is_used(thread_id, run_id):
            self._first.add(run_id)

    async def newest_run(self, thread_id: str) -> Any:
        """The run that made the thread's newest checkpoint; None without one."""
        raise NotImplementedError

    async def settled(self, run_id: str) -> None:
        """Wait for the writes of a run that are under way: its end must not be told before."""
        while pending := self._pending.get(run_id):
            await asyncio.wait(pending)

    def ended(self, run_id: str) -> None:
        """Drop what this process remembers of a run."""
        self._pending.pop(run_id, None)
        self._known.pop(run_id, None)
        self._first.discard(run_id)

    async def rollback(self, thread_id: str, run_id: str, token: int) -> None:
        """Bring the thread's checkpoints to what they were before the run; twice is harmless. Raises Fenced."""
        self.ended(run_id)
        await self.undo(thread_id, run_id, token)

    async def must_have(self, thread_id: str, points: Iterable[tuple[str, str]]) -> None:
        """Raises NotFound unless the thread has each of these checkpoints (namespace, id)."""
        for namespace, checkpoint_id in points:
            at = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
            if await self.aget_tuple({"configurable": at}) is None:
                raise NotFound(f"checkpoint_id: the thread has no checkpoint '{checkpoint_id[:100]}'")

    async def forget(self, thread_id: str, token: int, *, fence: bool) -> None:
        """Remove everything of a thread, its claim too: who comes late has none. Twice is harmless.

        Nothing is done when somebody has claimed it with a later token: the id has a new life already. With
        `fence` the claim is the token's, so that nobody who claimed it before comes back.
        """
        raise NotImplementedError

    async def copy(self, thread_id: str, to_thread_id: str) -> None:
        """Copy a thread's checkpoints to a new thread; twice is harmless."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of the database."""
        raise NotImplementedError

    # --- what a database does -----------------------------------------------------------------------

    async def written(self, claim: Claim, write: Callable[[], Awaitable[T]]) -> T:
        """The write's result; with a claim it is refused to whoever has lost it. Raises Fenced, Unreachable."""
        raise NotImplementedError

    async def taken(self, thread_id: str, token: int) -> None:
        """Note the claim, unless there is a later one. Raises Fenced."""
        raise NotImplementedError

    async def is_used(self, thread_id: str, run_id: str) -> bool:
        """Whether the thread has checkpoints; what is kept for other runs of it is dropped."""
        raise NotImplementedError

    async def undo(self, thread_id: str, run_id: str, token: int) -> None:
        """Claim the thread and put back what is kept. Raises Fenced."""
        raise NotImplementedError

    async def keep(self, run_id: str, at: Place, claim: Claim) -> None:
        """Keep the writes at a checkpoint, if it is none of the run's own. Raises Fenced."""
        raise NotImplementedError

    # --- how ----------------------------------------------------------------------------------------

    async def _keep_before_first(self, run_id: str, conf: dict[str, Any]) -> None:
        at = (str(conf["thread_id"]), str(conf["checkpoint_ns"]), str(conf["checkpoint_id"]))
        if at not in self._known.setdefault(run_id, set()):
            await self.shielded(self.keep(run_id, at, claim_of(at[0])))
            self._known.setdefault(run_id, set()).add(at)

    async def shielded(self, writing: Coroutine[Any, Any, T]) -> T:
        """It goes on when the run is cancelled: half done, it would hold the database."""
        task, run_id = asyncio.ensure_future(writing), RUN.get()
        pending = self._pending.setdefault(run_id, set())
        pending.add(task)
        task.add_done_callback(pending.discard)
        task.add_done_callback(_look)
        return await asyncio.shield(task)


def claim_of(thread_id: Any) -> Claim:
    """The run's claim, if it is of that thread: a node may run other graphs on threads of its own."""
    claim = CLAIM.get()
    return claim if claim is not None and claim[0] == str(thread_id) else None


def _look(task: "asyncio.Future[Any]") -> None:
    """Take notice of its error: a run that was cancelled does not."""
    if not task.cancelled():
        task.exception()
