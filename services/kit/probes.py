"""Probes of a process: whether it answers, and whether each part of it is well."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from contracts.answers.system import Health, Liveness
from services.kit.asgi import answer, refuse
from services.kit.lifecycle import Part, health, notices


def told(failing: Mapping[str, str], noted: Mapping[str, str]) -> tuple[int, Health]:
    """Status and body: 503 when a part is not well, or not ready yet. A notice makes nobody unhealthy."""
    well = not any(failing.values())
    services = {name: why or noted.get(name, "ok") for name, why in failing.items()}
    return (200 if well else 503), Health("healthy" if well else "unhealthy", services)


class Probes:
    """An ASGI application of `/live`, `/ready` and `/health` about these parts.

    It is served by the event loop that it tells of: one that hangs gives no answer.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif scope["path"] == "/live":
            await answer(send, 200, msgspec.json.encode(Liveness()))
        elif scope["path"] in ("/ready", "/health"):
            status, body = told(health(self._parts), notices(self._parts))
            await answer(send, status, msgspec.json.encode(body))
        else:
            await refuse(send, 404, "not_found", "there is /live, /ready and /health")
