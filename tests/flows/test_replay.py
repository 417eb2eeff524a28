"""`cronledger replay`, beside a server that goes on, and on a folder that nobody has."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import REPOSITORY, Make, Server
from tests.postgres import binaries


def replay(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services", "replay", *arguments, "--data", str(data)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def cron(client: httpx.Client, **fields: Any) -> str:
    answer = client.post("/runs/crons", json={"assistant_id": "counter", **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["cron_id"])


class Reader:
    """A client that reads the same objects again and again."""

    def __init__(self, url: str, paths: list[str]) -> None:
        self.statuses: Counter[int] = Counter()
        self._url, self._paths = url, paths
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        with httpx.Client(base_url=self._url) as client:
            while not self._stop.wait(0.01):
                for path in self._paths:
                    self.statuses[client.get(path).status_code] += 1


@pytest.fixture(scope="module")
def busy(make_shared_server: Make) -> Server:
    """A server with some thousand events, and a cron that fires each second."""
    server = make_shared_server(CRONLEDGER_CRONS_PER_USER="0", CRONLEDGER_FIRST_RUN="scheduled")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        server.kept = cron(client, schedule="0 0 1 1 *", enabled=False)  # type: ignore[attr-defined]
        cron(client, schedule="* * * * * *")
        asyncio.run(threads(server.url, 1500))
    return server


async def threads(url: str, count: int) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(count // 50):
            made = await asyncio.gather(*(client.post("/threads", json={}) for _ in range(50)))
            assert all(answer.status_code == 200 for answer in made)


def test_no_reader_meets_a_rebuild(busy: Server) -> None:
    path = f"/runs/crons/{busy.kept}"  # type: ignore[attr-defined]
    with Reader(busy.url, [path, f"{path}/ledger"]) as reader:
        for _ in range(3):
            rebuilt = replay(busy.data)
            assert rebuilt.returncode == 0, rebuilt.stderr
            assert "rebuilt all read models up to position" in rebuilt.stdout
    assert reader.statuses.keys() == {200}, reader.statuses
    assert reader.statuses[200] > 100
    assert httpx.get(f"{busy.url}/health").json()["status"] == "healthy"
    verified = replay(busy.data, "--verify")
    assert verified.returncode == 0, verified.stdout


def test_one_read_model_and_an_unknown_one(busy: Server) -> None:
    assert "rebuilt threads, runs up to" in replay(busy.data, "--only", "threads", "--only", "runs").stdout
    unknown = replay(busy.data, "--only", "nosuch")
    assert unknown.returncode == 1
    assert "unknown read models: nosuch; there are crons, " in unknown.stderr


def test_the_past_is_built_into_a_file_of_its_own(busy: Server, tmp_path: Path) -> None:
    past = tmp_path / "past.db"
    assert "needs --into" in replay(busy.data, "--until", "10").stderr
    built = replay(busy.data, "--until", "10", "--into", str(past))
    assert built.stdout == f"built {past} as of position 10\n", built.stderr
    with closing(sqlite3.connect(past)) as db:
        assert {row[0] for row in db.execute("SELECT pos FROM tracking")} == {10}
    assert replay(busy.data, "--until", "10", "--into", str(past)).returncode == 1
    nothing = replay(busy.data, "--until", "2020-01-01T00:00:00", "--into", str(tmp_path / "old.db"))
    assert nothing.stdout.endswith("as of position 0\n")
    assert "'x' is no instant" in replay(busy.data, "--until", "x", "--into", "y").stderr


def test_clean_stop_leaves_one_file_each_and_a_copy_is_a_backup(make_server: Make, tmp_path: Path) -> None:
    server = make_server()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        cron_id = cron(client, schedule="0 0 1 1 *")
        thread_id = client.post("/threads", json={}).json()["thread_id"]
        client.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "counter", "input": {}})
        client.get(f"/threads/{thread_id}/state")
    server.stop()
    databases = {file.name for file in server.data.glob("*.db*") if file.suffix != ".setup"}
    assert databases == {"ledger.db", "views.db", "checkpoints.db", "store.db"}
    backup = tmp_path / "backup"
    backup.mkdir()
    shutil.copy(server.data / "ledger.db", backup)
    rebuilt = replay(backup)
    assert rebuilt.returncode == 0, rebuilt.stderr
    with closing(sqlite3.connect(backup / "views.db")) as db:
        assert [row[0].hex() for row in db.execute("SELECT cron_id FROM crons")] == [cron_id.replace("-", "")]
    assert replay(backup, "--verify").returncode == 0
    (backup / "views.db").write_bytes(b"what is left of it" * 1000)
    damaged = replay(backup, "--verify")
    assert (damaged.returncode, damaged.stderr) == (1, "cronledger: file is not a database\n")
    assert replay(backup, "--only", "threads").returncode == 0
    assert replay(backup, "--verify").returncode == 0


def kept(server: Server, file: Path) -> None:
    """The ledger of a server that is stopped, as a backup."""
    if url := server.environment.get("CRONLEDGER_DATABASE_URL"):
        subprocess.run([binaries() / "pg_dump", "-n", "ledger", "-Fc", "-f", file, url], check=True)
    else:
        shutil.copy(server.data / "ledger.db", file)


def put_back(server: Server, file: Path) -> None:
    """The ledger alone: the checkpoints stay as they are."""
    if url := server.environment.get("CRONLEDGER_DATABASE_URL"):
        subprocess.run([binaries() / "pg_restore", "--clean", "-d", url, file], check=True)
    else:
        shutil.copy(file, server.data / "ledger.db")


def test_restored_ledger_runs_on_threads_whose_checkpoints_are_newer(
    make_server: Make, database: dict[str, str], tmp_path: Path
) -> None:
    server = make_server(**database)
    body = {"assistant_id": "counter", "input": {}}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        thread_id = client.post("/threads", json={}).json()["thread_id"]
    server.stop()
    kept(server, tmp_path / "backup")
    server.start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(5):
            client.post(f"/threads/{thread_id}/runs/wait", json=body)
    server.stop()
    put_back(server, tmp_path / "backup")
    server.start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        client.post(f"/threads/{thread_id}/runs/wait", json=body).raise_for_status()
        [run] = client.get(f"/threads/{thread_id}/runs").json()
        told = client.get(f"/threads/{thread_id}/runs/{run['run_id']}/ledger").json()
    assert run["status"] == "success"
    assert [event["type"] for event in told].count("run.started.v1") == 1
