"""The project file of LangGraph: `langgraph.json`, or `aegra.json`."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from dotenv import dotenv_values

from contracts.webhooks import MOST_URL, PLAIN_FIELDS, UrlPolicy, WebhookSettings
from services.kit.http import GROUPS, AppSource, CorsSettings, HeaderChoice, HttpSettings
from services.kit.mendable import Mendable

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
    "encryption": "encryption is not supported yet",
    "checkpointer": "checkpointer settings are not supported yet",
}
WITHOUT_EFFECT = {
    "logging_headers": "headers of requests are not logged, so this has no effect",
    "middleware_order": "there is no authentication yet, so this has no effect",
}
TEMPLATE = re.compile(r"\$\{\{\s*env\.(\w+)\s*\}\}")
HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
OWN_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "content-type",
        "connection",
        "transfer-encoding",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
)
SCRIPT = (".js", ".ts", ".mjs", ".mts", ".cjs", ".cts", ".jsx", ".tsx")
Minutes = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
T = TypeVar("T")


class ProjectError(Mendable):
    """The project file can't be used; the text names the file and the key."""


class GraphSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where a graph is: a file or a module, and the name in it."""

    variable: str
    path: Path | None = None
    module: str = ""
    description: str | None = None


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the project says of its store, in the form of `contracts.frames.StoreSettings`; None = nothing.

    `embed` in the index is the absolute path of a file and a name in it (`/p/file.py:name`), a module and a
    name (`module:name`), or a model of a provider (`openai:text-embedding-3-small`).
    """

    index: dict[str, Any] | None = None
    ttl: dict[str, Any] | None = None


class _StoreIndex(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    dims: Annotated[int, msgspec.Meta(ge=1)]
    embed: str
    fields: Annotated[list[Text], msgspec.Meta(min_length=1)] | None = None


class _StoreTtl(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    refresh_on_read: bool | None = None
    default_ttl: Minutes | None = None
    sweep_interval_minutes: Minutes | None = None


class _WebhookUrl(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    require_https: bool = True
    allowed_domains: list[Annotated[str, msgspec.Meta(pattern=r"^(\*\.)?[a-z0-9_.:-]+$")]] = []
    allowed_ports: list[Annotated[int, msgspec.Meta(ge=1, le=65535)]] = []
    max_url_length: Annotated[int, msgspec.Meta(ge=1, le=MOST_URL)] = 2048
    disable_loopback: bool = True
    disable_private_ips: bool = False


class _Webhooks(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    env_prefix: Annotated[str, msgspec.Meta(min_length=1)] = "LG_WEBHOOK_"
    url: _WebhookUrl | None = None
    headers: dict[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], str] = {}
    allowed_fields: list[str] | None = None


class _Http(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    app: str | None = None
    cors: CorsSettings | None = None
    configurable_headers: HeaderChoice = HeaderChoice()
    logging_headers: HeaderChoice | None = None
    mount_prefix: Annotated[str, msgspec.Meta(pattern=r"^(/[A-Za-z0-9_.~-]+)+/?$")] | None = None
    enable_custom_route_auth: bool = False
    middleware_order: Literal["auth_first", "middleware_first"] | None = None
    disable_assistants: bool = False
    disable_threads: bool = False
    disable_runs: bool = False
    disable_store: bool = False
    disable_meta: bool = False
    disable_webhooks: bool = False
    disable_mcp: bool = False
    disable_a2a: bool = False  # there is none
    disable_ui: bool = False  # nor that


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project as the server uses it."""

    file: Path
    folder: Path
    graphs: dict[str, GraphSpec]
    roots: tuple[Path, ...] = ()  # importable folders, first wins
    env: dict[str, str] = {}
    store: StoreConfig = StoreConfig()
    webhooks: WebhookSettings = WebhookSettings()
    http: HttpSettings = HttpSettings()
    notices: tuple[str, ...] = ()


def without_project(cwd: Path) -> Project:
    """That of a process for which no file was named: no graphs, and the defaults of everything else."""
    return Project(file=cwd, folder=cwd, graphs={})


def load_project(path: Path | None, cwd: Path) -> Project:
    """The project of that file, or of the one in `cwd`. Raises ProjectError."""
    file = _find(path, cwd)
    try:
        # With or without a byte order mark. Not msgspec's decoder: this one tells line and column.
        config = json.loads(file.read_text("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise ProjectError(f"{file}: is not UTF-8: {exc.reason} at byte {exc.start}") from None
    except json.JSONDecodeError as exc:
        raise ProjectError(f"{file}: line {exc.lineno}, column {exc.colno}: {exc.msg}") from None
    except RecursionError:
        raise ProjectError(f"{file}: is nested too deeply") from None
    if not isinstance(config, dict):
        raise ProjectError(f"{file}: must be a JSON object")
    _refuse(file, config)
    folder = file.parent.resolve()
    env = _env(file, folder, config.get("env"))
    return Project(
        file=file,
        folder=folder,
        graphs=_graphs(file, folder, config),
        roots=_roots(file, folder, config),
        env=env,
        store=_store(file, folder, config.get("store")),
        webhooks=_webhooks(file, config, {**os.environ, **env}),
        http=_http(file, folder, config),
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
    known = {"graphs", "dependencies", "env", "store", "webhooks", "http", "$schema", *REFUSED}
    notices = [f"{key}: for image builds, ignored here" for key in BUILD_KEYS if key in config]
    http = config.get("http") or {}
    notices += [f"http.{key}: {why}" for key, why in WITHOUT_EFFECT.items() if http.get(key)]
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
    place, variable = _named(where, value)
    if place.endswith(SCRIPT):
        raise ProjectError(f"{where}: graphs in JavaScript are not supported")
    path = _file(where, folder, place)
    return GraphSpec(variable=variable, path=path, module="" if path else place, description=description)


def _named(where: str, value: str) -> tuple[str, str]:
    """A file or module, and the name in it."""
    place, colon, variable = value.rpartition(":")
    if not colon or not place or not variable:
        raise ProjectError(f"{where}: '{value}' names no variable; write 'file.py:name'")
    return place, variable


def _file(where: str, folder: Path, place: str) -> Path | None:
    """The file that is meant; None when it is a module."""
    if "/" not in place and not place.endswith(".py"):
        return None
    path = (folder / place).resolve()
    if not path.is_file():
        raise ProjectError(f"{where}: {path} is not there")
    return path


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
    try:
        found = dotenv_values(path, encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ProjectError(f"{file}: env: {path} is not UTF-8: {exc.reason} at byte {exc.start}") from None
    except OSError as exc:
        raise ProjectError(f"{file}: env: {path} can't be read: {exc.strerror}") from None
    return {name: value for name, value in found.items() if value is not None}


def _store(file: Path, folder: Path, store: Any) -> StoreConfig:
    where = f"{file}: store"
    if store is None:
        return StoreConfig()
    if not isinstance(store, dict):
        raise ProjectError(f"{where}: must be an object")
    if store.get("path") is not None:
        raise ProjectError(f"{where}.path: a store of one's own is not supported")
    if unknown := sorted(set(store) - {"index", "ttl", "path"}):
        raise ProjectError(f"{where}.{unknown[0]}: unknown; a store may have 'index' and 'ttl'")
    index = _section(f"{where}.index", store.get("index"), _StoreIndex)
    ttl = _section(f"{where}.ttl", store.get("ttl"), _StoreTtl)
    if index is not None:
        index.embed = _embed(f"{where}.index.embed", folder, index.embed)
    return StoreConfig(index=_plain(index), ttl=_plain(ttl))


def _webhooks(file: Path, config: dict[str, Any], env: Mapping[str, str]) -> WebhookSettings:
    http = _section(f"{file}: http", config.get("http"), _Http) or _Http()
    said = _section(f"{file}: webhooks", config.get("webhooks"), _Webhooks) or _Webhooks()
    for name in said.allowed_fields or ():
        if name not in PLAIN_FIELDS:
            raise ProjectError(
                f"{file}: webhooks.allowed_fields: '{name}' is none of {', '.join(PLAIN_FIELDS)}"
            )
    headers = {
        name: _header(f"{file}: webhooks.headers.{name}", text, said.env_prefix, env)
        for name, text in said.headers.items()
    }
    return WebhookSettings(
        url=UrlPolicy() if said.url is None else msgspec.convert(msgspec.to_builtins(said.url), UrlPolicy),
        headers=headers,
        allowed_fields=None if said.allowed_fields is None else tuple(said.allowed_fields),
        enabled=not http.disable_webhooks,
    )


def _http(file: Path, folder: Path, config: dict[str, Any]) -> HttpSettings:
    said = _section(f"{file}: http", config.get("http"), _Http) or _Http()
    if said.enable_custom_route_auth:
        raise ProjectError(f"{file}: http.enable_custom_route_auth: {REFUSED['auth']}")
    return HttpSettings(
        app=None if said.app is None else _app(f"{file}: http.app", folder, said.app),
        cors=said.cors,
        configurable_headers=said.configurable_headers,
        mount_prefix=(said.mount_prefix or "").rstrip("/"),
        disabled=frozenset(group for group in GROUPS if getattr(said, f"disable_{group}")),
    )


def _app(where: str, folder: Path, value: str) -> AppSource:
    place, variable = _named(where, value)
    path = _file(where, folder, place)
    return AppSource(variable=variable, path=path, module="" if path else place)


def _header(where: str, text: str, prefix: str, env: Mapping[str, str]) -> str:
    """The value of a header, with what the environment has put in; only variables that are meant for it."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not name.startswith(prefix):
            raise ProjectError(
                f"{where}: only variables that begin with {prefix} can stand there, not {name}"
            )
        if name not in env:
            raise ProjectError(f"{where}: the variable {name} is not set")
        return env[name]

    if where.rpartition(".")[2].lower() in OWN_HEADERS:
        raise ProjectError(f"{where}: is set by the server itself")
    filled = TEMPLATE.sub(value, text)
    if "${{" in filled or not HEADER_VALUE.fullmatch(filled):
        raise ProjectError(f"{where}: must be printable ASCII, and a variable is written ${{{{ env.NAME }}}}")
    return filled


def _section(where: str, value: Any, kind: type[T]) -> T | None:
    if value is None:
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise ProjectError(f"{where}: {exc}") from None


def _plain(section: Any) -> dict[str, Any] | None:
    plain: dict[str, Any] | None = None if section is None else msgspec.to_builtins(section)
    return plain or None


def _embed(where: str, folder: Path, value: str) -> str:
    place, colon, name = value.rpartition(":")
    if not colon or not place or not name:
        raise ProjectError(f"{where}: '{value}' must be 'file.py:name', 'module:name' or 'provider:model'")
    path = _file(where, folder, place)
    return value if path is None else f"{path}:{name}"
