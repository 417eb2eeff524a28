"""The npm package @langchain/langgraph-sdk, driven by Node against a real server: the tests are in tests/node."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1] / "node"
OLDEST = 20
INSTALL = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
OFFLINE = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ENOTCACHED", "ENOTFOUND", "ETIMEDOUT")


@pytest.fixture
def node() -> str:
    """The program, if it is there and new enough."""
    program = shutil.which("node")
    if program is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip().removeprefix("v").split(".")[0]) < OLDEST:
        pytest.skip(f"needs node {OLDEST} or newer, found {version.strip()}")
    return program


@pytest.fixture
def packages(node: str, pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """The `node_modules` that package.json asks for, installed once per content of it."""
    wanted = (TESTS / "package.json").read_bytes()
    cache: Any = pytestconfig.cache
    kept: Path = cache.mkdir("node") / hashlib.sha256(wanted).hexdigest()[:16]
    if not kept.exists():
        _install(tmp_path / "install", wanted)
        try:
            shutil.move(tmp_path / "install", kept)
        except FileExistsError:
            pass  # another run was faster
    return kept / "node_modules"


def _install(folder: Path, wanted: bytes) -> None:
    folder.mkdir()
    (folder / "package.json").write_bytes(wanted)
    npm = shutil.which("npm")
    assert npm is not None
    done = subprocess.run(
        [npm, *INSTALL], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode and any(code in done.stderr for code in OFFLINE):
        pytest.skip("npm reaches no registry, and the packages are not cached")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def work(packages: Path, tmp_path: Path) -> Path:
    """The tests in a folder that has the packages: Node looks for them beside the files."""
    folder = tmp_path / "node"
    shutil.copytree(TESTS, folder)
    (folder / "node_modules").symlink_to(packages, target_is_directory=True)
    return folder


@pytest.mark.parametrize(
    ("sdk", "tests"),
    [
        pytest.param("@langchain/langgraph-sdk", "*", id="today"),
        pytest.param("former-sdk", "[rst][uth]*", id="former", marks=pytest.mark.long),
    ],
)
def test_the_npm_client(
    node: str, work: Path, make_server: Callable[..., Any], database: dict[str, str], sdk: str, tests: str
) -> None:
    """The client of today, and the one of a greater number that was withdrawn; of its tests, runs, streams, threads."""
    server = make_server("node", CRONLEDGER_CANCEL_GRACE_S="0.5", **database)
    # One process for all of them: each that `node --test` starts would load the client for seconds.
    files = sorted(path.name for path in work.glob(f"{tests}.test.mjs"))
    (work / "all.mjs").write_text("".join(f'import "./{name}";\n' for name in files))
    with running(node, work, "all.mjs", CRONLEDGER_URL=server.url, CRONLEDGER_SDK=sdk) as process:
        process.wait(timeout=300)
        assert process.returncode == 0, f"{(work / 'told').read_text()}\n{log_of(server)}"


def test_the_hook_of_react(
    node: str, work: Path, make_server: Callable[..., Any], database: dict[str, str]
) -> None:
    """Pages and streams reach the server by a wire that they can cut, and may ask for a restart behind it."""
    server = make_server("streaming", **database)
    target, restart = work / "target", work / "restart"
    target.write_text(server.url.rpartition(":")[2])
    files = sorted(path.name for path in (work / "react").glob("*.mjs") if path.stem != "harness")
    (work / "all.mjs").write_text("".join(f'import "./react/{name}";\n' for name in files))
    with running(node, work, "all.mjs", TARGET=str(target), RESTART=str(restart)) as process:
        until = time.monotonic() + 240
        while process.poll() is None:
            assert time.monotonic() < until, (work / "told").read_text()
            if restart.exists():
                server.stop()
                target.write_text(server.start().url.rpartition(":")[2])
                restart.unlink()
            time.sleep(0.05)
        assert process.returncode == 0, f"{(work / 'told').read_text()}\n{log_of(server)}"


@contextmanager
def running(node: str, work: Path, file: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Node with that file; what it tells goes into the file `told`."""
    with (work / "told").open("w") as told:
        process = subprocess.Popen(
            [node, "--test-reporter=spec", file],
            cwd=work,
            env={**os.environ, **environment},
            stdout=told,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def log_of(server: Any) -> str:
    """The end of what the server logged."""
    return str((server.folder / "server.log").read_text()[-4000:])
