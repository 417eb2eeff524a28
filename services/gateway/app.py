"""The application: routes, what is injected, errors, CORS."""

import re
from typing import Any

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide

from services.gateway.bodies import GatewayRequest, JsonBody
from services.gateway.envelope import RequestEnvelope, caller, canonical_ids
from services.gateway.openapi import ASSETS, openapi_config, page_assets
from services.gateway.parts import GatewayParts
from services.gateway.problems import problem
from services.gateway.routes import (
    assistants,
    backfills,
    crons,
    deliveries,
    ledger,
    mcp,
    runs,
    states,
    store,
    streams,
    system,
    threads,
)

EXPOSED = ["x-pagination-total", "x-pagination-next", "content-location", "location", "x-request-id"]


ROUTES: dict[str, tuple[Any, ...]] = {
    "runs": (
        crons.CronController,
        crons.ThreadCronController,
        runs.RunController,
        runs.ThreadRunController,
        backfills.BackfillController,
    ),
    "webhooks": (deliveries.DeliveryController,),
    "threads": (threads.ThreadController, states.StateController, streams.StreamController),
    "assistants": (assistants.AssistantController,),
    "store": (store.StoreController,),
    "mcp": (mcp.McpController,),
    "meta": (system.DescriptionController,),
}
"""What `http.disable_...` of the project file leaves out; probes and the ledger always stay."""


def build_app(parts: GatewayParts) -> RequestEnvelope:
    """The ASGI application over these parts."""
    off = parts.http.disabled
    app = Litestar(
        route_handlers=[
            system.ProbeController,
            ledger.LedgerController,
            *(route for group, routes in ROUTES.items() if group not in off for route in routes),
            *(() if "meta" in off else (page_assets(),)),
        ],
        dependencies={
            "parts": Provide(lambda: parts, use_cache=True, sync_to_thread=False),
            "caller": Provide(caller, sync_to_thread=False),
        },
        request_class=GatewayRequest,
        dto=JsonBody,
        return_dto=None,
        before_request=canonical_ids,
        exception_handlers={Exception: problem},
        cors_config=cors_of(parts),
        request_max_body_size=parts.settings.max_body_mb << 20,
        openapi_config=None if "meta" in off else openapi_config(parts.version),
        # Errors are answered by `problem`, which logs what must be looked at.
        logging_config=None,
        debug=False,
    )
    # Around everything: what is not found has an id too.
    return RequestEnvelope(app)


def cors_of(parts: GatewayParts) -> CORSConfig:
    """Which web pages may call: as the project says, else as whoever operates the server does."""
    said = parts.http.cors
    if said is None:
        origins = parts.settings.cors_origins.split(",")
        return CORSConfig(allow_origins=origins, expose_headers=EXPOSED, max_age=600)
    return CORSConfig(
        # The framework takes no origin at all for every origin.
        allow_origins=said.allow_origins or ["null"],
        allow_origin_regex=said.allow_origin_regex,
        allow_methods=list(said.allow_methods),  # type: ignore[arg-type]  # it is told as the client sends it
        allow_headers=list(said.allow_headers),
        allow_credentials=said.allow_credentials,
        expose_headers=[*EXPOSED, *said.expose_headers],
        max_age=said.max_age,
    )


def paths_of(app: RequestEnvelope) -> list[str]:
    """The paths that the application has, as patterns."""
    inner: Any = app.app
    found = []
    for route in inner.routes:
        pieces = (re.escape(one) if isinstance(one, str) else "[^/]+" for one in route.path_components)
        found.append(
            "^/" + "/".join(pieces) + "(/.*)?$" if route.path == ASSETS else "^/" + "/".join(pieces) + "/?$"
        )
    return found


__all__ = ["GatewayParts", "build_app", "paths_of"]
