"""Starts the child: `[python, "-P", .../child/__main__.py, fd, project folder, name]`."""

import ctypes
import gc
import importlib
import importlib.util
import os
import pathlib
import sys
import traceback

NAME = "cronledger_child"
"""A name of its own: under `services.worker.child` it would hide a project's `services`."""


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
        make_known()
        importlib.import_module(f"{NAME}.serving").run(int(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not by sys.exit: a blocking node in a thread would be waited for
