"""A process of parts: it runs until a signal comes, and ends in time whatever hangs."""

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

from services.kit.lifecycle import Whole, ended
from services.kit.mendable import EDGES, sentence

ENDED = 70
"""Exit code when a part ended by itself (EX_SOFTWARE)."""
HUNG = 71
"""Exit code when the parts could not be stopped in time."""
STOP_S = 9.5
YOUNG = 5_000
"""New objects after which the garbage collector looks at these, in place of 700."""
T = TypeVar("T")


class PartEnded(Exception):
    """A part has ended though nobody stopped it: the process must end. The text says which, and why."""


class Shutdown:
    """What signals ask for: the first one for an end in order, within ten seconds; the second one for one at once."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self.asked = asyncio.Event()

    def listen(self) -> None:
        """Let SIGINT and SIGTERM ask for it."""
        # Not the loop's own handlers: a loop that hangs would not call them.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def begin(self) -> None:
        """From now on the process has ten seconds; twice is harmless."""
        if not self._begun:
            self._begun = True
            hard = threading.Timer(STOP_S, self._end_hard)
            hard.daemon = True
            hard.start()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._begun:
            os._exit(128 + number)
        self.begin()
        self._loop.call_soon_threadsafe(self.asked.set)

    def _end_hard(self) -> None:
        where = ", ".join(self._whole.stopping) or "what hangs"
        os.write(2, f"cronledger: {where} did not stop in time; ended all the same\n".encode())
        os._exit(HUNG)


def command(work: Callable[[], object]) -> int:
    """Do what a person asked for; the exit code: 0, 1 = refused or not started, ENDED, 130 = interrupted."""
    try:
        work()
    except BrokenPipeError:
        # Somebody closed our output (`| head`): nothing is wrong. Keep the interpreter's last flush quiet.
        sys.stderr.close()
    except EDGES as exc:
        sys.stderr.write(f"cronledger: {sentence(exc)}\n")
        return 1
    except PartEnded as exc:
        sys.stderr.write(f"cronledger: {exc}\n")
        return ENDED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


async def run(whole: Whole, ready: Callable[[], str]) -> None:
    """Start it, say the line that `ready` gives, and stop it when a signal comes.

    Raises what a start raises, and PartEnded. Ends the process with HUNG when it can't be stopped.
    """
    ending = Shutdown(whole)
    ending.listen()
    try:
        await _unless(ending.asked, whole.start())
        if not ending.asked.is_set():
            spare_the_present()
            sys.stdout.write(ready() + "\n")
            sys.stdout.flush()
            why = await _unless(ending.asked, whole.ended())
            if why is not None:
                raise PartEnded(why)
    finally:
        ending.begin()
        await whole.stop()


def spare_the_present() -> None:
    """Let the garbage collector look no more at what is there now, modules above all.

    They are 100,000 objects, and each of its full rounds blocks the event loop for 100 ms while it walks them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes of the work; None when the event came first, and the work was given up."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(asked.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    await ended(waiting)
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
    return None if working.cancelled() else working.result()
