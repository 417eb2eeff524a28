"""`make demo`: the whole way of a cron through the real SDK, on the embedded default.

Starts a server in a temporary folder, creates a thread and a cron for it, watches two firings, prints how late
they were, the run's output and its ledger, and stops everything again. Exit code 0 = all of it worked.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from langgraph_sdk import get_client

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent


def say(text: str = "") -> None:
    print(text, flush=True)


def start(data: Path) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    command = [sys.executable, "-m", "services", "up", "--config", str(HERE / "langgraph.json")]
    process = subprocess.Popen(
        [*command, "--data", str(data), "--port", "0"],
        cwd=REPOSITORY,
        env={**os.environ, "CRONLEDGER_SECONDS": "first", "CRONLEDGER_LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if " is ready on " in line:
            return process, line.rsplit(" ", 1)[1].strip()
    raise SystemExit(f"the server did not start (exit code {process.wait()})")


async def firings(client: Any, thread_id: str, count: int) -> list[dict[str, Any]]:
    """The first scheduled runs of the thread, oldest first, once they have succeeded."""
    async with asyncio.timeout(60):
        while True:
            runs = await client.runs.list(thread_id, limit=100)
            done = [r for r in runs if r["metadata"].get("scheduled_for") and r["status"] == "success"]
            if len(done) >= count:
                return sorted(done, key=lambda run: run["metadata"]["scheduled_for"])[:count]
            await asyncio.sleep(0.1)


async def tour(url: str) -> None:
    client = get_client(url=url)
    thread = await client.threads.create(metadata={"topic": "demo"})
    thread_id = thread["thread_id"]
    say(f"thread   {thread_id}")

    # Six fields, seconds first: allowed by CRONLEDGER_SECONDS, so that the demo need not wait for a minute.
    cron: Any = await client.crons.create_for_thread(
        thread_id, assistant_id="greeter", schedule="*/2 * * * * *", input={"name": "demo"}
    )
    say(f"cron     {cron['cron_id']}  {cron['schedule']}  next {cron['next_run_date']}")
    say(f"first run, at creation: {cron['run_id']} ({cron['status']})")
    say()

    runs = await firings(client, thread_id, 2)
    for run in runs:
        due = datetime.fromisoformat(run["metadata"]["scheduled_for"])
        late_ms = (datetime.fromisoformat(run["created_at"]) - due).total_seconds() * 1000
        say(f"due {due:%H:%M:%S}  fired {late_ms:6.2f} ms later  run {run['run_id']}  {run['status']}")
    say()

    state: Any = await client.threads.get_state(thread_id)
    say(f"output of the last run: {runs[-1]['output']}")
    say(f"state of the thread:    {state['values']}")
    say()

    say("ledger of that run:")
    entries: Any = await client.http.get(f"/threads/{thread_id}/runs/{runs[-1]['run_id']}/ledger")
    for entry in entries:
        say(f"  {entry['position']:>5}  {entry['at']}  {entry['actor']:<10} {entry['type']}")
    say()

    paused: Any = await client.crons.update(cron["cron_id"], enabled=False)
    say(f"paused   enabled={paused['enabled']}")
    await client.crons.delete(cron["cron_id"])
    say("deleted; the ledger of the cron still tells all of it:")
    for entry in await client.http.get(f"/runs/crons/{cron['cron_id']}/ledger"):
        if entry["type"].startswith("cron."):
            say(f"  {entry['position']:>5}  {entry['at']}  {entry['actor']:<10} {entry['type']}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="cronledger-demo-") as folder:
        server, url = start(Path(folder) / "data")
        say(f"server   {url}   (docs: {url}/docs)")
        try:
            asyncio.run(tour(url))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
