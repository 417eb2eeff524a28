"""The npm package @langchain/langgraph-sdk, driven by Node against a real server: the tests are in tests/node."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
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


def test_the_npm_client(node: str, packages: Path, make_server: Callable[..., Any], tmp_path: Path) -> None:
    # Node looks for packages beside the files, and those in the repository have none.
    work = tmp_path / "node"
    shutil.copytree(TESTS, work)
    (work / "node_modules").symlink_to(packages, target_is_directory=True)
    server = make_server("node", CRONLEDGER_CANCEL_GRACE_S="0.5")
    # One process for all of them: each that `node --test` starts would load the client for seconds.
    files = sorted(path.name for path in work.glob("*.test.mjs"))
    (work / "all.mjs").write_text("".join(f'import "./{name}";\n' for name in files))
    done = subprocess.run(
        [node, "--test-reporter=spec", "all.mjs"],
        cwd=work,
        env={**os.environ, "CRONLEDGER_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{(server.folder / 'server.log').read_text()[-4000:]}"
