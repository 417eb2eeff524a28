"""The project file of LangGraph: `langgraph.json`, or `aegra.json`."""

import os
import re
from pathlib import Path
from typing import Any

import msgspec

NAMES = ("aegra.json", "langgraph.json")
VARIABLE = "CRONLEDGER_CONFIG"
BUILD_KEYS = (
    "python_version",
    "pip_config_file",
    "pip_installer",
    "dockerfile_lines",
    "image_distro",
    "base_image",
    "api_version",
    "node_version",
    "keep_pkg_tools",
    "source",
    "ui",
    "ui_config",
)
REFUSED = {
    "auth": "authentication is not supported yet; a server without it would be open to everybody",
    "webhooks": "webhooks are not supported yet",
    "encryption": "encryption is not supported yet",
    "store": "store settings are not supported yet",
    "checkpointer": "checkpointer settings are not supported yet",
    "http": "http settings are not supported yet",
}
SCRIPT = (".js", ".ts", ".mjs", ".mts", ".cjs", ".cts", ".jsx", ".tsx")


class ProjectError(Exception):
    """The project file can't be used; the text names the file and the key."""


class GraphSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where a graph is: a file or a module, and the name in it."""

    variable: str
    path: Path | None = None
    module: str = ""
    description: str | None = None


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project as the server uses it."""

    file: Path
    folder: Path
    graphs: dict[str, GraphSpec]
    roots: tuple[Path, ...] = ()  # importable folders, first wins
    env: dict[str, str] = {}
    notices: tuple[str, ...] = ()


def load_project(path: Path | None, cwd: Path) -> Project:
    """The project of that file, or of the one in `cwd`. Raises ProjectError."""
    file = _find(path, cwd)
    try:
        config = msgspec.json.decode(file.read_bytes())
    except OSError as exc:
        raise ProjectError(f"{file}: {exc.strerror}") from None
    except msgspec.DecodeError as exc:
        raise ProjectError(f"{file}: {exc}") from None
    if not isinstance(config, dict):
        raise ProjectError(f"{file}: must be a JSON object")
    _refuse(file, config)
    folder = file.parent.resolve()
    return Project(
        file=file,
        folder=folder,
        graphs=_graphs(file, folder, config),
        roots=_roots(file, folder, config),
        env=_env(file, folder, config.get("env")),
        notices=_notices(config),
    )


def _find(path: Path | None, cwd: Path) -> Path:
    if path is None and (chosen := os.environ.get(VARIABLE)):
        path = Path(chosen)
    if path is not None:
        path = cwd / path
        if path.is_dir():
            return _find_in(path)
        if not path.is_file():
            raise ProjectError(f"{path}: no such file")
        return path
    return _find_in(cwd)


def _find_in(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    raise ProjectError(f"no langgraph.json in {folder}; name one with --config")


def _refuse(file: Path, config: dict[str, Any]) -> None:
    for key, why in REFUSED.items():
        if config.get(key):
            raise ProjectError(f"{file}: {key}: {why}")


def _notices(config: dict[str, Any]) -> tuple[str, ...]:
    known = {"graphs", "dependencies", "env", "$schema", *REFUSED}
    notices = [f"{key}: for image builds, ignored here" for key in BUILD_KEYS if key in config]
    unknown = sorted(set(config) - known - set(BUILD_KEYS))
    return (*notices, *(f"{key}: unknown, ignored" for key in unknown))


def _graphs(file: Path, folder: Path, config: dict[str, Any]) -> dict[str, GraphSpec]:
    graphs = config.get("graphs")
    if not isinstance(graphs, dict) or not graphs:
        raise ProjectError(f"{file}: graphs: must name at least one graph")
    return {graph_id: _graph(file, folder, graph_id, value) for graph_id, value in graphs.items()}


def _graph(file: Path, folder: Path, graph_id: str, value: Any) -> GraphSpec:
    where = f"{file}: graphs.{graph_id}"
    if not re.fullmatch(r"[\w.-]{1,256}", graph_id):
        raise ProjectError(f"{where}: a graph's name may have letters, digits, '_', '-' and '.'")
    description = None
    if isinstance(value, dict):
        description, value = value.get("description"), value.get("path")
    if not isinstance(value, str):
        raise ProjectError(f"{where}: must be 'file.py:name', 'module:name' or an object with 'path'")
    place, colon, variable = value.rpartition(":")
    if not colon or not place or not variable:
        raise ProjectError(f"{where}: '{value}' names no variable; write 'file.py:name'")
    if place.endswith(SCRIPT):
        raise ProjectError(f"{where}: graphs in JavaScript are not supported")
    if "/" in place or place.endswith(".py"):
        path = (folder / place).resolve()
        if not path.is_file():
            raise ProjectError(f"{where}: {path} is not there")
        return GraphSpec(variable=variable, path=path, description=description)
    return GraphSpec(variable=variable, module=place, description=description)


def _roots(file: Path, folder: Path, config: dict[str, Any]) -> tuple[Path, ...]:
    listed = config.get("dependencies", [])
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise ProjectError(f"{file}: dependencies: must be a list of strings")
    roots: list[Path] = []
    for entry in listed:
        path = (folder / entry).resolve()
        if entry.startswith((".", "/")) and not path.is_dir():
            raise ProjectError(f"{file}: dependencies: {path} is not a folder")
        if path.is_dir():
            roots += [path, path / "src"] if (path / "src").is_dir() else [path]
    return tuple(dict.fromkeys([*roots, folder]))


def _env(file: Path, folder: Path, env: Any) -> dict[str, str]:
    if env is None:
        return {}
    if isinstance(env, dict):
        if not all(isinstance(value, str | int | float) for value in env.values()):
            raise ProjectError(f"{file}: env: values must be strings")
        return {name: str(value) for name, value in env.items()}
    if not isinstance(env, str):
        raise ProjectError(f"{file}: env: must be an object or the path of a .env file")
    path = folder / env
    if not path.is_file():
        raise ProjectError(f"{file}: env: {path} is not there")
    return dict(_env_lines(path.read_text(encoding="utf-8")))


def _env_lines(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = value.partition(" #")[0].rstrip()
        found.append((name.strip(), value))
    return found
