"""What a person at a terminal gets wrong is told in one sentence that they can act on, never by a traceback."""

import codecs
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

COMMAND = Path(sys.executable).parent / "cronledger"
GRAPH = """
from langgraph.graph import START, MessagesState, StateGraph
graph = StateGraph(MessagesState).add_node("n", lambda s: {}).add_edge(START, "n").compile()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "graph.py").write_text(GRAPH)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"agent": "./graph.py:graph"}}))
    return tmp_path


def told(folder: Path, *arguments: str, **variables: str) -> str:
    """What it says when it refuses: one line on standard error."""
    done = ran(folder, *arguments, **variables)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    [*_, last] = done.stderr.strip().splitlines()
    assert last.startswith("cronledger"), done.stderr
    return last


def ran(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CRONLEDGER_")}
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env={**environment, "CRONLEDGER_PORT": "0", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version(tmp_path: Path) -> None:
    assert ran(tmp_path, "--version").stdout.startswith("cronledger 0.")


def test_a_port_that_is_taken_is_told_before_graphs_load(project: Path) -> None:
    (project / "graph.py").write_text("raise SystemExit('it was loaded')")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = told(project, "up", "--port", port)
    assert f"127.0.0.1:{port}: Address already in use" in line
    assert "--port" in line


def test_an_address_that_is_not_ours(project: Path) -> None:
    assert "192.0.2.1:0: Cannot assign" in told(project, "up", "--host", "192.0.2.1")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CRONLEDGER_PORT", "http", "CRONLEDGER_PORT=http: expected `int`"),
        ("CRONLEDGER_PORT", "70000", "CRONLEDGER_PORT=70000: expected `int` <= 65535"),
        ("CRONLEDGER_LEASE_S", "0", "CRONLEDGER_LEASE_S=0: expected `float` > 0.0"),
        ("CRONLEDGER_FIRST_RUN", "later", "CRONLEDGER_FIRST_RUN=later: invalid enum value"),
        ("CRONLEDGER_NATS_SERVER", "/no/nats", "CRONLEDGER_NATS_SERVER=/no/nats: there is no such file"),
        ("CRONLEDGER_NATS_SERVER", __file__, "it is no program that can be started"),
        ("CRONLEDGER_NATS_SERVER", "/bin/false", "/bin/false ended with 1"),
        ("CRONLEDGER_GRAPH_PYTHON", "/no/python", "/no/python can't run the graphs"),
        ("CRONLEDGER_GRAPH_PYTHON", "/bin/true", "/bin/true can't run the graphs"),
        ("CRONLEDGER_CONFIG", "missing.json", "missing.json: no such file"),
    ],
)
def test_variables_by_their_name(project: Path, variable: str, value: str, words: str) -> None:
    assert words in told(project, "up", **{variable: value})


def test_an_option_by_its_name(project: Path) -> None:
    assert "--port=70000: expected `int` <= 65535" in told(project, "up", "--port", "70000")


def test_unknown_variables_are_warned_of_with_the_nearest(project: Path) -> None:
    done = ran(project, "up", CRONLEDGER_PROT="1", CRONLEDGER_XYZZY="1", CRONLEDGER_NATS_SERVER="/no/nats")
    assert "settings.unknown variable=CRONLEDGER_PROT nearest=CRONLEDGER_PORT" in done.stderr
    assert 'settings.unknown variable=CRONLEDGER_XYZZY nearest=""\n' in done.stderr
    assert "variable=CRONLEDGER_NATS_SERVER" not in done.stderr


def test_an_interpreter_without_the_packages(project: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    line = told(project, "up", CRONLEDGER_GRAPH_PYTHON=str(bare / "bin" / "python"))
    assert f"{bare}/bin/python can't run graphs: it lacks langgraph, langgraph-checkpoint-sqlite" in line
    assert "-m pip install langgraph langgraph-checkpoint-sqlite" in line


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_an_instant_that_is_none(project: Path, option: str) -> None:
    line = told(project, "audit", option, "yesterday")
    assert f"argument {option}: 'yesterday' is no instant; write 2026-03-01" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit"], "no ledger here"),
        (["audit", "--after", "x"], "argument --after"),
        (["replay", "--until", "yesterday", "--into", "x.db"], "argument --until: 'yesterday' is no instant"),
        (["crons", "list"], "no ledger here"),
        (["up", "--config", "nowhere"], "nowhere: no such file"),
        (["up", "--data", "graph.py"], "graph.py/run: Not a directory"),
        (["up", "--data", "/proc/cronledger"], "/proc/cronledger"),
        (["upp"], "invalid choice: 'upp'"),
    ],
)
def test_arguments(project: Path, arguments: list[str], words: str) -> None:
    assert words in told(project, *arguments)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"graphs": {\n  "agent" "./graph.py:graph"}}', "langgraph.json: line 2, column 11:"),
        (codecs.BOM_UTF16_LE + "{}".encode("utf-16-le"), "langgraph.json: is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "must be a JSON object"),
        (b'{"graphs": {"agent": "./gone.py:graph"}}', "gone.py is not there"),
        (b'{"graphs": {"agent": "./graph.py:grahp"}}', "grahp"),
        (b'{"graphs": {"agent": "./graph.py:graph"}, "env": "missing.env"}', "missing.env is not there"),
    ],
)
def test_project_files(project: Path, content: bytes, words: str) -> None:
    (project / "langgraph.json").write_bytes(content)
    assert words in told(project, "up")


def test_a_byte_order_mark_is_no_fault(project: Path) -> None:
    file = project / "langgraph.json"
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert "/no/nats" in told(project, "up", CRONLEDGER_NATS_SERVER="/no/nats")  # it came as far as that


@pytest.mark.parametrize("name", ["ledger.db", "checkpoints.db", "store.db"])
def test_a_damaged_database_is_named(project: Path, name: str) -> None:
    data = project / ".cronledger"
    data.mkdir()
    (data / name).write_bytes(b"this was a database" * 1000)
    assert f"{name}: file is not a database" in told(project, "up")


def test_a_ledger_of_a_newer_version(project: Path) -> None:
    data = project / ".cronledger"
    data.mkdir()
    with sqlite3.connect(data / "ledger.db") as db:
        db.execute("PRAGMA user_version=9999")
    db.close()
    assert "written by a newer version" in told(project, "up")


@pytest.mark.parametrize("service", ["gateway", "worker", "scheduler", "relay", "sender"])
def test_the_services_by_themselves(tmp_path: Path, service: str) -> None:
    missing: list[Any] = ["--data", tmp_path / "none"]
    missing += ["--config", tmp_path / "none.json"] * (service in ("gateway", "worker", "sender"))
    done = subprocess.run(
        [sys.executable, "-m", "services", service, *missing],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "none" in done.stderr


# --- a running server ---------------------------------------------------------------------------------


def test_crons_of_a_running_server(make_server: Any, tmp_path: Path) -> None:
    server = make_server()

    def say(verb: str, *arguments: str) -> str:
        done = ran(tmp_path, "crons", verb, *arguments, CRONLEDGER_URL=server.url)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    made = say("create", "--assistant", "counter", "--schedule", "0 9 * * mon-fri", "--note", "for the board",
               "--timezone", "Europe/Berlin", "--input", '{"wait_s": 0}', "--metadata", '{"team": "a"}',
               "--end-time", "2090-01-01", "--disabled", "--max-runs", "5", "--jitter-seconds", "60",
               "--pause-after-failures", "2", "--catch-up", "all", "--start-time", "2020-01-01",
               "--overlap", "buffer_all")  # fmt: skip
    cron_id = made.partition(":")[0]
    assert made.splitlines() == [f"{cron_id}: At 09:00, Monday through Friday, Europe/Berlin", "paused"]
    resumed = say("resume", cron_id, "--note", "it may", "--catch-up", "latest")
    assert resumed.startswith(f"{cron_id}: active, next ")
    run = say("trigger", cron_id, "--key-idempotency", "k", "--note", "by hand", "--force")
    assert run.startswith("run ")
    again = json.loads(say("trigger", cron_id, "--key-idempotency", "k", "--json"))
    assert again["run_id"] in run
    own = json.loads(say("trigger", cron_id, "--input", '{"wait_s": 0.01}', "--json"))
    assert own["input"] == {"wait_s": 0.01}
    paused = say("pause", cron_id, "--note", "too expensive", "--until", "2030-01-01")
    assert paused == f"{cron_id}: paused until 2030-01-01T00:00:00+00:00: too expensive\n"
    told = say("show", cron_id).splitlines()
    assert told[:9] == [
        "At 09:00, Monday through Friday, Europe/Berlin (0 9 * * mon-fri)",
        f"cron {cron_id}, each run on a thread of its own",
        "paused until 2030-01-01T00:00:00+00:00: too expensive",
        "fired 2, skipped 0, missed 0",
        "while an earlier run is not over: buffer_all",
        "from 2020-01-01T00:00:00+00:00 on",
        "each fires up to 60 s after it is due",
        "0 of 5 runs",
        "it pauses itself after 2 failures in a row; 0 now",
    ]
    assert any("trigger, by hand" in line and "fired" in line for line in told)
    assert any("2030-01-01T09:00:00+01:00" in line for line in told)  # the first after the pause
    whole = json.loads(say("show", cron_id, "--json"))
    assert whole["metadata"] == {"team": "a"}
    assert whole["ledger"]["overlap"] == "buffer_all"
    assert whole["end_time"] == "2090-01-01T00:00:00+00:00"
    assert len(say("upcoming", cron_id, "--limit", "3").splitlines()) == 4
    say("resume", cron_id)
    assert "\nnext\n" in say("show", cron_id)
    on_thread = httpx.post(f"{server.url}/threads", json={}).json()["thread_id"]
    other = say("create", "--assistant", "counter", "--schedule", "0 0 1 1 *", "--thread", on_thread)
    assert "its first run is " in other
    [head, first, second] = say("list").splitlines()
    assert head.startswith("cron ")
    assert cron_id in first
    assert on_thread in second
    assert [one["cron_id"] for one in json.loads(say("list", "--json"))] == [cron_id, other[:36]]
    told = server.command("audit", "--cron", cron_id).stdout.splitlines()
    assert any("cron.paused.v1" in line and '{"note":"too expensive"' in line for line in told)
    assert any("run.requested.v1" in line and '{"note":"by hand","kind":"trigger"' in line for line in told)
    assert len({line.index(cron_id) for line in told if "  cron." in line}) == 1  # a column
    span = ("--start", "2026-01-05", "--end", "2026-01-07")
    assert say("backfill", cron_id, *span, "--dry-run").startswith("2 to run, 2026-01-05T08:00:00+00:00 to ")
    assert (
        "2 of 2, 0 skipped, finished"
        in say("backfill", cron_id, *span, "--note", "holidays").splitlines()[-1]
    )
    assert say("backfill", cron_id, *span) == "0 to run; 2 have had a run\n"
    filling = json.loads(
        say("backfill", cron_id, "--start", "2025-01-01", "--end", "2026-01-01", "--no-wait", "--json")
    )
    over = say("cancel-backfill", cron_id, filling["backfill_id"])
    assert over.endswith("cancelled\n")
    assert say("delete", cron_id) == f"{cron_id}: deleted\n"
    at = ("--url", server.url)
    assert "Cron not found" in told_of(tmp_path, "delete", cron_id, *at)
    assert "schedule: " in told_of(
        tmp_path, "create", "--assistant", "counter", "--schedule", "61 * * * *", *at
    )
    assert "not a UUID" in told_of(tmp_path, "show", "x", *at)
    assert "limit" in told_of(tmp_path, "upcoming", cron_id, "--limit", "0", *at)


def told_of(folder: Path, verb: str, *arguments: str) -> str:
    return told(folder, "crons", verb, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "--assistant", "a", "--schedule", "* * * * *", "--input", "[]"], "is no JSON object"),
        (["create", "--assistant", "a", "--schedule", "* * * * *", "--metadata", "{"], "is no JSON object"),
        (["create", "--assistant", "a", "--schedule", "* * * * *", "--end-time", "soon"], "is no instant"),
        (["create", "--schedule", "* * * * *"], "--assistant"),
        (["create", "--assistant", "a", "--schedule", "* * * * *", "--overlap", "x"], "--overlap"),
        (["create", "--assistant", "a", "--schedule", "* * * * *", "--thread", "x"], "x: not a UUID"),
        (["pause", "x"], "x: not a UUID"),
        (["list", "--url", "http://127.0.0.1:9"], "http://127.0.0.1:9: can't be asked"),
        (["list", "--url", "nowhere"], "nowhere: no address of a server"),
        (["list", "--url", "http://[::1"], "no address of a server"),
        (["list", "--url", "http://a", "--data", "."], "not allowed with argument"),
        (["list", "--url", "http://127.0.0.1:9", "--key", "a\nb"], "--key: must be printable"),
        (["list", "--json"], "--json and --key: only with --url"),
    ],
)
def test_what_a_command_for_a_server_refuses(tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in told(tmp_path, "crons", *arguments)


@contextmanager
def answering(status: int, body: bytes, seen: list[str]) -> Iterator[str]:
    """Somebody else's server."""

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers.get("x-api-key", ""))
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    other = HTTPServer(("127.0.0.1", 0), Answering)
    serving = threading.Thread(target=other.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{other.server_port}"
    finally:
        other.shutdown()
        serving.join()
        other.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b'{"detail": "it broke"}', "answered 500: it broke"),
        (502, b"<html>", "answered 502; is it a Cronledger server?"),
        (401, b'{"detail": "no such key"}', "no such key"),
        (307, b"", "answered 307; is it a Cronledger server?"),
        (200, b"<html>", "that is no answer of a Cronledger server"),
        (200, b'[{"cron_id": 5}]', "that is no answer of a Cronledger server"),
        (200, b"[" * 100_000, "that is no answer of a Cronledger server"),
    ],
)
def test_a_server_that_fails_or_is_none_of_ours(tmp_path: Path, status: int, body: bytes, words: str) -> None:
    seen = list[str]()
    with answering(status, body, seen) as url:
        assert words in told(tmp_path, "crons", "list", "--url", url, CRONLEDGER_KEY="secret")
    assert seen == ["secret"]


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        line = told(tmp_path, "crons", "list", "--url", url, "--timeout", "0.2")
    assert "no answer within 0.2 s; it may have happened all the same" in line
