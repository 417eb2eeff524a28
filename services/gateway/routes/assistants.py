"""/assistants: create, read, change, choose a version, delete, search, and what their graphs look like."""

from typing import Annotated

from litestar import Controller, Response
from litestar.params import Parameter

from contracts import queries as questions
from contracts.answers.assistants import (
    AssistantAnswer,
    AssistantVersionAnswer,
    GraphDrawing,
    GraphSchemas,
    SubgraphSchemas,
)
from contracts.api import (
    AssistantCount,
    AssistantCreate,
    AssistantLatest,
    AssistantPatch,
    AssistantSearch,
    AssistantVersions,
)
from domain.assistant_fields import update_of
from domain.errors import InvalidField
from services.gateway.commands import assistants as commands
from services.gateway.handlers import By, Parts, deletes, encoded, many, patches, posts, reads
from services.gateway.queries import assistants as queries
from services.gateway.queries.search import count

DEEPEST = 1000
ONE = "/{assistant_id:str}"
WithThreads = Annotated[bool, Parameter(description="whether its threads are deleted too")]
Xray = Annotated[str, Parameter(description="`true`, or a depth: with the graphs inside", examples=[])]
Recurse = Annotated[bool, Parameter(description="whether the graphs inside those are shown too")]


class AssistantController(Controller):
    """Graphs with a configuration, in versions."""

    path = "/assistants"
    tags = ["assistants"]

    @posts(summary="Create an assistant")
    async def create_assistant(self, parts: Parts, caller: By, data: AssistantCreate) -> AssistantAnswer:
        """A graph with a configuration."""
        assistant_id = await commands.create(parts, caller, data)
        return await parts.read(lambda: queries.just_made(parts, assistant_id))

    @posts("/search", summary="Search assistants")
    async def search_assistants(self, parts: Parts, data: AssistantSearch) -> Response[list[AssistantAnswer]]:
        """With `select` an object has the named keys only."""
        found, headers = await queries.matching(parts, data)
        return await many(parts, found, headers)

    @posts("/count", summary="Count assistants")
    async def count_assistants(self, parts: Parts, data: AssistantCount) -> int:
        """How many match."""
        return await count(parts.views, queries.filter_of(parts, data))

    @reads(ONE, summary="Get an assistant")
    async def get_assistant(self, parts: Parts, assistant_id: str) -> AssistantAnswer:
        """By its id, or the default one by the name of its graph."""
        return await parts.read(lambda: queries.by_name(parts, assistant_id))

    @patches(ONE, summary="Make a new version of an assistant")
    async def update_assistant(
        self, parts: Parts, caller: By, assistant_id: str, data: AssistantPatch
    ) -> AssistantAnswer:
        """One that names no field makes no version."""
        command = update_of(data)
        if data.graph_id is not None:
            queries.check_graph(parts, data.graph_id)
        changed = await commands.change(parts, caller, assistant_id, command)
        return await parts.read(lambda: queries.by_name(parts, str(changed)))

    @deletes(ONE, summary="Delete an assistant")
    async def delete_assistant(
        self, parts: Parts, caller: By, assistant_id: str, delete_threads: WithThreads = False
    ) -> None:
        """Its crons end, its runs are stopped."""
        await commands.delete(parts, caller, assistant_id, with_threads=delete_threads)

    @posts(ONE + "/versions", summary="The versions of an assistant")
    async def list_versions(
        self, parts: Parts, assistant_id: str, data: AssistantVersions
    ) -> Response[list[AssistantVersionAnswer]]:
        """Newest first."""
        found, headers = await queries.versions(parts, assistant_id, data)
        return await many(parts, found, headers)

    @posts(ONE + "/latest", summary="Put a version of an assistant into force")
    async def choose_version(
        self, parts: Parts, caller: By, assistant_id: str, data: AssistantLatest
    ) -> AssistantAnswer:
        """The one that is in force already changes nothing."""
        changed = await commands.choose(parts, caller, assistant_id, data.version)
        return await parts.read(lambda: queries.by_name(parts, str(changed)))

    @reads(ONE + "/graph", summary="Draw its graph")
    async def get_graph(self, parts: Parts, assistant_id: str, xray: Xray = "") -> Response[GraphDrawing]:
        """Nodes and edges."""
        depth = _depth(xray)
        return encoded(await queries.look(parts, assistant_id, questions.Drawing, xray=depth))

    @reads(ONE + "/schemas", summary="Schemas of its graph")
    async def get_schemas(self, parts: Parts, assistant_id: str) -> Response[GraphSchemas]:
        """JSON schemas of what goes in, what comes out, its state, configuration and context."""
        return encoded(await queries.look(parts, assistant_id, questions.Schemas))

    @reads(ONE + "/subgraphs", summary="Schemas of the graphs inside")
    async def get_subgraphs(
        self, parts: Parts, assistant_id: str, recurse: Recurse = False
    ) -> Response[SubgraphSchemas]:
        """By namespace."""
        return encoded(await queries.look(parts, assistant_id, questions.Subgraphs, recurse=recurse))

    @reads(ONE + "/subgraphs/{namespace:str}", summary="Schemas of one graph inside")
    async def get_subgraph(
        self, parts: Parts, assistant_id: str, namespace: str, recurse: Recurse = False
    ) -> Response[SubgraphSchemas]:
        """By namespace; with `recurse` of those inside it too."""
        kind, only = questions.Subgraphs, {"namespace": namespace, "recurse": recurse}
        return encoded(await queries.look(parts, assistant_id, kind, **only))


def _depth(text: str) -> bool | int:
    """How deep to look into the graphs inside. Raises InvalidField."""
    if text.lower() in ("", "true", "false"):
        return text.lower() == "true"
    if text.isascii() and text.isdigit() and 1 <= int(text[:18]) <= DEEPEST:
        return int(text[:18])  # here 1 is a depth, not a yes
    raise InvalidField(f"xray: must be true, false or a depth from 1 to {DEEPEST}")
