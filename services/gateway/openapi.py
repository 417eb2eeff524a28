"""The OpenAPI document and the page that shows it: made by the framework, completed by what holds everywhere."""

import json
from functools import cache
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import msgspec
from litestar import HttpMethod, Litestar, Request, Router
from litestar.datastructures import ResponseHeader
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Tag
from litestar.static_files import create_static_files_router
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from contracts import answers, api, mcp
from contracts.answers.system import Problem
from contracts.asyncapi import dedented
from services.gateway.streams.frames import MEDIA_TYPE

ASSETS = "/docs/assets"
POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
"""The page asks this server for everything, and nobody else."""
TAGS = {
    "crons": "Schedules, and what became of each of their occurrences",
    "threads": "Conversations and their states",
    "streams": "What happens on a thread, as it happens: the event streaming protocol, and all of its runs",
    "runs": "Runs of graphs: on a thread, or with one of their own",
    "assistants": "Graphs with a configuration, in versions",
    "store": "The long-term memory that graphs and clients share",
    "webhooks": "Who is told of the ends of runs",
    "ledger": "What happened: every event",
    "mcp": "Assistants as tools of the Model Context Protocol",
    "system": "Probes and descriptions",
}
ERRORS = {
    400: "Fields exclude each other, or what is needed is absent.",
    404: "There is no such object.",
    409: "Somebody else was quicker, the id is taken, or the thread or the cron is busy.",
    413: "The body or the answer is too large.",
    422: "A field has a value that it may not have.",
    429: "There are too many already.",
    503: "Something that is needed is not there for the moment: try again.",
}
PARAMETERS = {
    "assistant_id": "Id of an assistant, or the name of a graph for its default assistant",
    "backfill_id": "Id of a backfill",
    "checkpoint_id": "Id of a checkpoint",
    "cron_id": "Id of a cron",
    "delivery_id": "Id of a delivery",
    "namespace": "Where the graph inside is: names of nodes, joined by `|`",
    "run_id": "Id of a run",
    "thread_id": "Id of a thread",
}
CRON = {
    "assistant_id": "agent",
    "schedule": "0 9 * * mon-fri",
    "timezone": "Europe/Berlin",
    "input": {"topic": "news"},
}
RUN = {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "Good morning"}]}}
EXAMPLES: dict[str, Any] = {
    "create_thread_cron": CRON,
    "create_cron": {**CRON, "on_run_completed": "keep", "overlap": "skip"},
    "preview_schedule": {"schedule": "0 9 * * mon-fri", "timezone": "Europe/Berlin", "limit": 5},
    "update_cron": {"enabled": False},
    "search_crons": {"metadata": {"team": "support"}, "sort_by": "next_run_date", "limit": 20},
    "create_thread": {"metadata": {"team": "support"}},
    "search_threads": {"status": "interrupted", "extract": {"last": "values.messages[-1].content"}},
    "create_run": RUN,
    "create_run_and_stream": {**RUN, "stream_mode": ["updates", "messages-tuple"]},
    "create_run_and_wait": RUN,
    "create_assistant": {"graph_id": "agent", "name": "Brief", "context": {"tone": "brief"}},
    "update_state": {"values": {"topic": "weather"}, "as_node": "plan"},
    "send_command": {"id": 1, "method": "run.start", "params": RUN},
    "stream_events": {"channels": ["values", "messages", "lifecycle", "input"]},
    "send_message": {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
    "put_item": {"namespace": ["users", "ada"], "key": "likes", "value": {"colour": "green"}},
}
JSON = "application/json"
SENT = {
    "type": "object",
    "title": "Server-sent event",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["event", "data"],
}
"""One event of a stream; its `data` is JSON."""
BAD_REQUEST = HTTPStatus.BAD_REQUEST.description
"""What the framework says of its own."""
TEMPLATE = "#/components/schemas/{name}"


class _Page(SwaggerRenderPlugin):
    """The framework's page, over the completed document."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return super().render(request, document(request.app))


def openapi_config(version: str) -> OpenAPIConfig:
    """How the framework describes the server."""
    page = _Page(
        path="/",
        favicon="<link rel='icon' href='data:,'>",  # none: the framework's own lies on somebody else's server
        js_url=f"{ASSETS}/swagger-ui-bundle.js",
        css_url=f"{ASSETS}/swagger-ui.css",
        standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
    )
    policy = ResponseHeader(name="Content-Security-Policy", value=POLICY, documentation_only=False)
    return OpenAPIConfig(
        title="Cronledger",
        version=version,
        description="An event-sourced server for scheduled LangGraph agents.",
        path="/docs",
        openapi_router=Router("/docs", route_handlers=[], response_headers=[policy], include_in_schema=False),
        render_plugins=[page],
        tags=[Tag(name, text) for name, text in TAGS.items()],
        use_handler_docstrings=True,
        operation_id_creator=_operation_id,
    )


def _operation_id(
    handler: HTTPRouteHandler, method: Method, path: list[str | PathParameterDefinition]
) -> str:
    """The handler's name; with the last word of its path where it has several."""
    said = [handler.handler_name]
    if len(handler.paths) > 1:
        words = [str(part) for part in path if isinstance(part, str) and part]
        said.append(words[-1] if words else "root")
    return "_".join([*said, "head"] if method == HttpMethod.HEAD else said)


def page_assets() -> Router:
    """The files of the page, from the package that is installed with us."""
    spec = find_spec("swagger_ui")  # not imported: it would bring a web framework's worth of its own
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).with_name("static")
    return create_static_files_router(ASSETS, directories=[folder], include_in_schema=False)


@cache
def document(app: Litestar) -> dict[str, Any]:
    """The whole document: GET stands for HEAD too, and each operation says how it refuses."""
    described = app.openapi_schema.to_schema()
    schemas = described["components"]["schemas"]
    schemas.update(_structs(schemas.keys() | {Problem.__name__, mcp.RpcMessage.__name__}))
    for path, item in described["paths"].items():
        item.pop("head", None)
        for method, operation in item.items():
            _complete(operation, schemas)
            _refusals(operation, method, path)
    return described


def merged(ours: dict[str, Any], theirs: dict[str, Any] | None, prefix: str) -> dict[str, Any]:
    """The document with the paths of the project's own application, which come before ours of the same name.

    Its components keep their names, save for those that mean something else here: they get another one.
    """
    if prefix:
        ours = {**ours, "servers": [{"url": prefix}]}
    if not theirs:
        return ours
    text = json.dumps(theirs)
    components: dict[str, Any] = dict(ours.get("components", {}))
    for kind, known in (theirs.get("components") or {}).items():
        for name in known.keys() & components.get(kind, {}).keys():
            text = text.replace(f'"#/components/{kind}/{name}"', f'"#/components/{kind}/Custom{name}"')
    renamed = json.loads(text)
    for kind, known in (renamed.get("components") or {}).items():
        mine = components.get(kind, {})
        components[kind] = mine | {f"Custom{name}" if name in mine else name: v for name, v in known.items()}
    tags = [*ours.get("tags", []), *renamed.get("tags", [])]
    paths = {**ours["paths"], **renamed.get("paths", {})}
    return {**ours, "paths": paths, "components": components, "tags": tags}


def _structs(names: set[str]) -> dict[str, Any]:
    """Schemas of bodies and answers as their decoder has them; the framework's leave out some bounds."""
    modules = [
        api,
        mcp,
        *(import_module(f"{answers.__name__}.{m.name}") for m in iter_modules(answers.__path__)),
    ]
    structs = {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if name in names and isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }
    _, found = msgspec.json.schema_components(structs.values(), ref_template=TEMPLATE)
    return dedented(found)


def _complete(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Say what parameters and answers are, show an example, and leave out what `select` may leave out."""
    for parameter in operation.get("parameters", ()):
        parameter.setdefault("description", PARAMETERS.get(parameter["name"], ""))
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            if answer["description"] == HTTPStatus(int(status)).description:
                answer["description"] = operation["description"]
            if (stream := answer.get("content", {}).get(MEDIA_TYPE)) is not None:
                stream["schema"] = SENT
            if _selects(operation, schemas):
                _optional(answer, schemas)
    example = EXAMPLES.get(operation["operationId"])
    if example is not None:
        operation["requestBody"]["content"][JSON]["example"] = example


def _selects(operation: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Whether whoever asks can choose the keys of the answer."""
    if any(parameter["name"] == "select" for parameter in operation.get("parameters", ())):
        return True
    body = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("schema", {})
    named = schemas.get(body.get("$ref", "").rpartition("/")[2], {})
    return "select" in named.get("properties", {})


def _optional(answer: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Let no key of the objects in the answer be required."""
    items = answer["content"][JSON]["schema"].get("items", {})
    name = items.get("$ref", "").rpartition("/")[2]
    if name:
        part = f"{name}Part"
        schemas[part] = {**schemas[name], "title": part}
        schemas[part].pop("required", None)
        items["$ref"] = TEMPLATE.format(name=part)


def _refusals(operation: dict[str, Any], method: str, path: str) -> None:
    """Say how the operation may refuse; what the framework would answer is never answered here."""
    if operation["responses"].get("400", {}).get("description") == BAD_REQUEST:
        del operation["responses"]["400"]
    content = {JSON: {"schema": {"$ref": TEMPLATE.format(name=Problem.__name__)}}}
    for status in _statuses(method, path, has_body="requestBody" in operation):
        said = {"description": ERRORS[status], "content": content}
        operation["responses"].setdefault(str(status), said)


def _statuses(method: str, path: str, *, has_body: bool) -> list[int]:
    writes = method != "get"
    found = [422]
    if has_body:
        found += [400, 413]
    if "{" in path or writes:
        found += [404]
    if writes:
        found += [409, 429]
    return sorted([*found, 503])
