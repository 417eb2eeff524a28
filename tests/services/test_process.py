"""A process of parts ends in time, with a reason, whatever hangs."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.kit.process import ENDED, HUNG

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import asyncio, sys, time
from services.kit.process import ENDED
from services.kit import lifecycle, process
from services.kit.lifecycle import Step, Whole

assert process.STOP_S < 10
process.STOP_S, lifecycle.STOP_S = 2.5, 1.0

async def nothing(): pass
async def never(): await asyncio.Event().wait()

class Stubborn(Step):
    async def stop(self):
        while True:
            try: await never()
            except asyncio.CancelledError: pass

async def blocks(): time.sleep(100)
async def block_soon(): asyncio.get_running_loop().call_later(0.2, time.sleep, 100)

class Dying(Step):
    async def start(self):
        await super().start()
        def die(): self.started, self.failing = False, "out of luck"
        asyncio.get_running_loop().call_later(0.2, die)

PARTS = {
    "well": [Step("a", nothing)],
    "never_started": [Step("slow", never)],
    "hangs": [Step("a", nothing, lambda: print("a is stopped", flush=True)), Stubborn("b", nothing)],
    "blocks": [Step("a", nothing), Step("b", nothing, lambda: time.sleep(100))],
    "loop_blocks": [Step("a", block_soon)],
    "dies": [Dying("luck", nothing)],
}
if sys.argv[1] == "never_started":
    print("is starting", flush=True)
try:
    asyncio.run(process.run(Whole("test", PARTS[sys.argv[1]]), lambda: "is ready"))
except process.PartEnded as exc:
    sys.stderr.write(f"{exc}\\n")
    sys.exit(ENDED)
"""


def begun(what: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, what],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() in ("is ready\n", "is starting\n")
    return process


@pytest.mark.parametrize(
    ("what", "code", "why"),
    [
        ("well", 0, ""),
        ("never_started", 0, ""),
        ("blocks", HUNG, "b did not stop"),
        ("loop_blocks", HUNG, ""),
    ],
)
def test_signal_ends_it_within_ten_seconds(what: str, code: int, why: str) -> None:
    with begun(what) as process:
        time.sleep(0.5)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT if what == "well" else signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - asked < 20
    assert (process.returncode, why in errors) == (code, True), errors


def test_part_that_does_not_stop_keeps_neither_the_others_nor_the_end() -> None:
    with begun("hangs") as process:
        process.send_signal(signal.SIGTERM)
        told, errors = process.communicate(timeout=60)
    assert process.returncode == HUNG
    assert "b did not stop" in errors
    assert told == "a is stopped\n"


def test_second_signal_ends_it_at_once() -> None:
    with begun("hangs") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_part_that_ends_by_itself_ends_the_process_with_a_reason() -> None:
    with begun("dies") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == ENDED
    assert errors == "luck has ended: out of luck\n"


def test_what_is_there_at_the_start_is_out_of_the_way_of_the_garbage_collector() -> None:
    script = SCRIPT.replace('"is ready"', "str(gc.get_freeze_count())").replace(
        "import asyncio,", "import asyncio, gc,"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "well"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    spared = int(process.stdout.readline())
    process.terminate()
    process.communicate(timeout=10)
    assert spared > 10_000
