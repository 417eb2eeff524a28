"""What a person at a terminal gets wrong is told in one sentence that they can act on, never by a traceback."""

import codecs
import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("module", ["services.worker", "services.scheduler"])
def test_the_services_by_themselves(tmp_path: Path, module: str) -> None:
    missing: list[Any] = [tmp_path / "none"] + [tmp_path / "none.json"] * (module == "services.worker")
    done = subprocess.run(
        [sys.executable, "-m", module, *missing], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "none" in done.stderr
