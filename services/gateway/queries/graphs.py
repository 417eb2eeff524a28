"""Questions about graphs, states and the store: asked over the bus, answered by a worker's graph child."""

from typing import Any

import msgspec

from contracts.queries import GraphQuery, Query, QueryAnswer, QueryFailed
from contracts.subjects import DEFAULT_POOL, graph_query_subject
from domain.errors import GraphFailed, InvalidField, NotFound, NotSupported, Refused
from services.gateway.parts import GatewayParts
from services.kit.bus import NoResponders
from services.kit.bus.large import ask as ask_bus

MOST_BYTES = 900 * 1024
"""Of a question: it is one message, which may have 1 MB."""
SLACK_S = 5.0
"""What an answer takes beside the time that its question may: the worker's word for it is the better one."""
REFUSALS: dict[str, type[Refused]] = {
    "invalid": InvalidField,
    "not_found": NotFound,
    "unsupported": NotSupported,
    "failed": GraphFailed,
}
_answer_of = msgspec.json.Decoder(QueryAnswer).decode


class GraphsUnavailable(Exception):
    """No worker answers questions about graphs now; it can be tried again."""


async def ask(parts: GatewayParts, query: Query, kind: Any, *, field: str = "body") -> Any:
    """The answer's body as `kind` (`msgspec.Raw` for the bytes of JSON as they are).

    `field` is what is told to be too large when the question is.
    Raises InvalidField, NotFound, NotSupported, GraphFailed, GraphsUnavailable.
    """
    question = msgspec.json.encode(query)
    if len(question) > MOST_BYTES:
        raise InvalidField(f"{field}: {len(question)} bytes of JSON; at most {MOST_BYTES} are allowed here")
    pool = parts.pool_of(query.graph_id) if isinstance(query, GraphQuery) else DEFAULT_POOL
    answer = _answer_of(await _sent(parts, query.VERB, question, pool))
    if answer.failed is not None:
        raise _refusal(answer.failed)
    return msgspec.json.decode(b"null" if answer.body is msgspec.UNSET else answer.body, type=kind)


async def _sent(parts: GatewayParts, verb: str, question: bytes, pool: str) -> bytes:
    if parts.bus is None:
        raise GraphsUnavailable("This server is not connected to any worker.")
    answer_s = parts.settings.question_timeout_s + SLACK_S
    worker = "worker" if pool == DEFAULT_POOL else f"worker of the pool '{pool}'"
    try:
        return await ask_bus(parts.bus, graph_query_subject(verb, pool), question, answer_s)
    except NoResponders:
        raise GraphsUnavailable(f"No {worker} is there to ask its graphs; try again.") from None
    except TimeoutError:
        raise GraphsUnavailable(
            f"No {worker} answered for its graphs in {answer_s:g} s; try again."
        ) from None
    except ConnectionError:
        raise GraphsUnavailable("The bus to the workers is not connected; try again.") from None


def _refusal(failed: QueryFailed) -> Refused:
    return REFUSALS[failed.code](failed.message)
