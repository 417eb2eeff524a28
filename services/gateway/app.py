"""The application: routes, what is injected, errors, CORS."""

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.types import ASGIApp

from services.gateway.bodies import GatewayRequest, JsonBody
from services.gateway.envelope import RequestEnvelope, caller, canonical_ids
from services.gateway.openapi import openapi_config, page_assets
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


def build_app(parts: GatewayParts, *, with_mcp: bool = True) -> ASGIApp:
    """The ASGI application over these parts."""
    app = Litestar(
        route_handlers=[
            crons.CronController,
            crons.ThreadCronController,
            runs.RunController,
            runs.ThreadRunController,
            backfills.BackfillController,
            deliveries.DeliveryController,
            threads.ThreadController,
            states.StateController,
            streams.StreamController,
            assistants.AssistantController,
            store.StoreController,
            ledger.LedgerController,
            system.SystemController,
            page_assets(),
            *([mcp.McpController] if with_mcp else []),
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
        cors_config=CORSConfig(
            allow_origins=parts.settings.cors_origins.split(","), expose_headers=EXPOSED, max_age=600
        ),
        request_max_body_size=parts.settings.max_body_mb << 20,
        openapi_config=openapi_config(parts.version),
        # Errors are answered by `problem`, which logs what must be looked at.
        logging_config=None,
        debug=False,
    )
    # Around everything: what is not found has an id too.
    return RequestEnvelope(app)


__all__ = ["GatewayParts", "build_app"]
