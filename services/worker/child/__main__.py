"""Starts the child: `[python, "-P", .../child/__main__.py, fd, project folder, name]`."""

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import traceback

NAME = "cronledger_child"
"""A name of its own: under `services.worker.child` it would hide a project's `services`."""


NEEDED = {
    "langgraph": "langgraph",
    "langgraph.checkpoint.sqlite": "langgraph-checkpoint-sqlite",
    "langgraph_sdk": "langgraph-sdk",
    "aiosqlite": "aiosqlite",
    "orjson": "orjson",
}
"""Module -> package. What runs graphs may be another environment than the server's, with the project's packages."""


def wanting() -> str:
    """Why this interpreter can't run graphs, '' when it can."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it need not be the one that the server was installed for
        return (
            f"it is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.11 is the oldest that will do"
        )
    missing = [package for module, package in NEEDED.items() if not is_there(module)]
    return (
        f"it lacks {', '.join(missing)}; install them with: {sys.executable} -m pip install {' '.join(missing)}"
        if missing
        else ""
    )


def is_there(module: str) -> bool:
    """Whether it can be imported; only the packages around it are."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def refuse(connection: int, why: str) -> None:
    """Tell the worker, in the frame of `server`, which can't be imported."""
    text = f"{sys.executable} can't run graphs: {why}"
    frame = json.dumps({"type": "load_failed", "graph_id": "", "error": text}).encode()
    os.write(connection, len(frame).to_bytes(4, "big") + frame)


def make_known() -> None:
    """Let `cronledger_child` mean the folder of this file, which is on no import path."""
    folder = pathlib.Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # die with the worker, even when a graph blocks everything
    gc.disable()  # imports leave no garbage, and to look for it takes a tenth of their time; on again when ready
    try:
        if why := wanting():
            refuse(int(sys.argv[1]), why)
        else:
            make_known()
            importlib.import_module(f"{NAME}.server").run(int(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not by sys.exit: a blocking node in a thread would be waited for
