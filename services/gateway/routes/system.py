"""What is not about an object: probes, and the documents that describe the server."""

from importlib.metadata import version
from typing import Annotated, Any

from litestar import Controller, Request, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from contracts.answers.system import Alive, Health, Liveness, ServerInfo
from contracts.asyncapi import asyncapi_document
from services.gateway.handlers import Parts, reads
from services.gateway.openapi import document, merged
from services.kit.probes import told

CheckDb = Annotated[str | None, Parameter(description="anything: ask the log too")]
UNWELL = {
    503: ResponseSpec(Health, description="A part is not well, or not ready yet.", generate_examples=False)
}


class ProbeController(Controller):
    """Probes."""

    path = "/"
    tags = ["system"]

    @reads(["/", "/ok"], summary="Alive")
    async def ok(self, parts: Parts, check_db: CheckDb = None) -> Alive:
        """The server answers; with `check_db` its log does too."""
        if check_db is not None:
            await parts.read(parts.log.head)
        return Alive()

    @reads("/live", summary="The process answers")
    async def live(self) -> Liveness:
        """For whoever restarts a process that hangs."""
        return Liveness()

    @reads(["/health", "/ready"], summary="Whether every part is well", responses=UNWELL)
    async def health(self, parts: Parts) -> Response[Health]:
        """503 when one is not, or not ready yet. A notice, that a node blocks its process say, makes nobody unhealthy."""
        status, body = told(parts.health(), parts.notices())
        return Response(body, status_code=status)


class DescriptionController(Controller):
    """What there is."""

    path = "/"
    tags = ["system"]

    @reads("/info", summary="Version and what is there")
    async def info(self, parts: Parts) -> ServerInfo:
        """What clients ask before they use it."""
        return ServerInfo(version=parts.version, langgraph_py_version=version("langgraph"))

    @reads("/openapi.json", summary="The HTTP endpoints", include_in_schema=False)
    async def openapi(self, parts: Parts, request: Request[Any, Any, Any]) -> dict[str, Any]:
        """The document behind `/docs` (OpenAPI 3.1), with what the project's own application says of itself."""
        return merged(document(request.app), parts.beside(), parts.http.mount_prefix)

    @reads("/asyncapi.json", summary="The events on NATS")
    async def asyncapi(self, parts: Parts) -> dict[str, Any]:
        """What subscribers get (AsyncAPI)."""
        return asyncapi_document(parts.version, parts.settings.nats_prefix)
