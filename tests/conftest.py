"""A real server per test: `cronledger up` as a process, on a free port, in a temporary folder."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.postgres import Postgres, postgres_of_session

REPOSITORY = Path(__file__).parents[1]
PROJECTS = Path(__file__).parent / "projects"
GRAPHS = '''
    """Graphs for the tests: they count, wait, raise and pause."""
    import asyncio
    import operator
    import os
    from typing import Annotated, Any, TypedDict

    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import interrupt


    class State(TypedDict, total=False):
        count: Annotated[int, operator.add]
        asked: dict[str, Any]
        seen: dict[str, Any]
        wait_s: float


    async def add(state: State, config: RunnableConfig) -> State:
        await asyncio.sleep(state.get("wait_s") or 0)
        configurable = config["configurable"]
        names = ("cron_id", "graph_id", "run_id", "thread_id", "assistant_id", "user_id", "k")
        return {"count": 1, "seen": {name: configurable.get(name) for name in names}}


    def boom(state: State) -> State:
        raise ValueError("boom")


    def ask(state: State) -> State:
        return {"asked": {"answer": interrupt("may I?")}}


    def one(node) -> StateGraph:
        builder = StateGraph(State)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        builder.add_edge("node", END)
        return builder


    counter = one(add).compile()
    failing = one(boom).compile()
    asking = one(ask).compile()

    steps = StateGraph(State)
    steps.add_node("first", add)
    steps.add_node("second", add)
    steps.add_edge(START, "first")
    steps.add_edge("first", "second")
    two_steps = steps.compile()


    class Trail(TypedDict, total=False):
        wait_s: float
        trail: Annotated[list[Any], operator.add]


    def step(number: int):
        async def run(state: Trail) -> Trail:
            await asyncio.sleep(state.get("wait_s") or 0)
            return {"trail": [[number, os.getpid()]]}

        return run


    walk = StateGraph(Trail)
    for number in range(8):
        walk.add_node(f"step{number}", step(number))
        walk.add_edge(f"step{number - 1}" if number else START, f"step{number}")
    stepping = walk.compile()
'''
CONFIG = """
    {"dependencies": ["."], "graphs": {
        "counter": "./graphs.py:counter", "failing": "./graphs.py:failing",
        "asking": "./graphs.py:asking", "two_steps": "./graphs.py:two_steps",
        "stepping": "./graphs.py:stepping"}}
"""


LONGEST = ("tests/faults", "tests/flows", "tests/services")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: no worker is left with one at the end."""
    items.sort(
        key=lambda item: next((n for n, f in enumerate(LONGEST) if item.nodeid.startswith(f)), len(LONGEST))
    )


class Server:
    """A `cronledger up` that can be killed and started again on the same folder."""

    def __init__(self, folder: Path, environment: dict[str, str], project: str = "") -> None:
        self.folder = folder
        self.data = folder / "data"
        self.environment = {"CRONLEDGER_SECONDS": "first", "CRONLEDGER_LOG_LEVEL": "warning"} | environment
        self.url = ""
        self.process: subprocess.Popen[str] | None = None
        if project:
            shutil.copytree(PROJECTS / project, folder / "project")
            return
        (folder / "project").mkdir()
        (folder / "project" / "graphs.py").write_text(dedent(GRAPHS))
        (folder / "project" / "langgraph.json").write_text(dedent(CONFIG))

    def start(self) -> "Server":
        """Start it and wait until it is ready."""
        config = self.folder / "project" / "langgraph.json"
        arguments = ["up", "--config", str(config), "--data", str(self.data), "--port", "0"]
        with (self.folder / "server.log").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services", *arguments],
                cwd=REPOSITORY,
                env={**os.environ, **self.environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # a signal may be sent to its whole group
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if " is ready on " in line:
                self.url = line.rsplit(" ", 1)[1].strip()
                return self
        log = (self.folder / "server.log").read_text()
        raise AssertionError(f"the server did not start: {log[-4000:]}")

    def kill(self) -> None:
        """SIGKILL, no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._end(signal.SIGTERM)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the command line on the same folder."""
        return subprocess.run(
            [sys.executable, "-m", "services", *arguments, "--data", str(self.data)],
            cwd=REPOSITORY,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            assert process.stdout is not None
            with process.stdout:
                process.send_signal(number)
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise


Make = Callable[..., Server]


def servers_in(base: Path) -> Iterator[Make]:
    """Start servers with extra environment, on a project of `tests/projects` if one is named; stopped at the end."""
    servers: list[Server] = []

    def make(project: str = "", **environment: str) -> Server:
        folder = base / f"server{len(servers)}"
        folder.mkdir()
        server = Server(folder, environment, project)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that all tests of a process share."""
    yield from postgres_of_session()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """An empty database of its own."""
    return postgres.url_of(postgres.database())


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a server on that database: the tests that ask for it run on both."""
    if request.param == "sqlite":
        return {}
    postgres: Postgres = request.getfixturevalue("postgres")
    url = postgres.url_of(postgres.database())
    # Imported here: most tests need no PostgreSQL, and each process of pytest would wait for its driver.
    from services.kit.settings import Settings
    from services.schemas import upgrade

    upgrade(Settings(database_url=url), lambda _: None)
    return {"CRONLEDGER_DATABASE_URL": url}


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Make]:
    """Servers of one test."""
    yield from servers_in(tmp_path)


@pytest.fixture(scope="module")
def make_shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Servers that the tests of a module share: a start costs more than most tests."""
    yield from servers_in(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def server(make_server: Make) -> Server:
    """A server with the defaults (and schedules with seconds)."""
    return make_server()
