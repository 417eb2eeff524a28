"""Serves the project's application on a socket that it is given; none of our packages are in this process.

Started as a file, with the project's own interpreter, by `services.custom.process`.
"""

import asyncio
import ctypes
import importlib
import importlib.util
import json
import os
import re
import socket
import sys
import traceback
from typing import Any

GRACE_S = 3


def main() -> None:
    """Serve until a signal comes. What can't be served is told, and ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # die with the server, whatever the application does
    spec = json.loads(sys.argv[1])
    try:
        app = loaded(spec)
    except BaseException as exc:
        told(spec["told"], {"error": "".join(traceback.format_exception_only(exc)).strip()})
        return
    try:
        asyncio.run(serve(app, spec))
    except SystemExit:
        told(spec["told"], {"error": "its lifespan has failed; see above"})


def loaded(spec: dict[str, Any]) -> Any:
    """The application. Raises whatever the project's code does."""
    sys.path[:0] = spec["roots"]
    if importlib.util.find_spec("langgraph_sdk") is not None:
        imported("cronledger_loopback", spec["loopback"]).install()
    path = spec["path"]
    module = imported("cronledger_http_app", path) if path else importlib.import_module(spec["module"])
    app = getattr(module, spec["variable"])
    if not callable(app):
        raise TypeError(f"{spec['variable']} is a {type(app).__name__}, and no ASGI application")
    return app


def imported(name: str, path: str) -> Any:
    """The module of a file. Raises whatever its code does."""
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


async def serve(app: Any, spec: dict[str, Any]) -> None:
    """Serve it, and tell when it does."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        lifespan="auto",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
        # Who asks is told by the server in front.
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1",
        server_header=False,
        date_header=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[socket.socket(fileno=spec["listens"])]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.005)
    if server.started:
        told(spec["told"], {"routes": routes_of(app), "openapi": openapi_of(app)})
    await serving


def routes_of(app: Any) -> list[dict[str, Any]] | None:
    """Which paths it has, as patterns, and by which methods (none: any); None when nobody can tell."""
    routes = getattr(app, "routes", None)
    if not isinstance(routes, list):
        return None
    found = []
    for route in routes:
        pattern = getattr(route, "path_regex", None)  # Starlette, FastAPI
        methods = getattr(route, "methods", None)
        text = pattern.pattern if pattern is not None else litestar_pattern(getattr(route, "path", ""))
        found.append({"pattern": text, "methods": sorted(map(str, methods)) if methods else None})
    return found


def litestar_pattern(path: str) -> str:
    """A path such as `/items/{name:str}` as a pattern."""
    parts = re.split(r"\{[^}]*?(:[^}]*)?\}", path)
    text = ""
    for n, part in enumerate(parts):
        text += re.escape(part or "") if n % 2 == 0 else (".*" if part == ":path" else "[^/]+")
    return f"^{text.rstrip('/')}/?$"


def openapi_of(app: Any) -> Any:
    """Its OpenAPI document; None when it has none."""
    try:
        if callable(made := getattr(app, "openapi", None)):
            return made()
        if (schema := getattr(app, "openapi_schema", None)) is not None:
            return schema.to_schema()
    except Exception:
        traceback.print_exc()
    return None


def told(fd: int, what: dict[str, Any]) -> None:
    """Tell the server, once."""
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(json.dumps(what, default=str).encode())


if __name__ == "__main__":
    main()
