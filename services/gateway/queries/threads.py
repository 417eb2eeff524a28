"""Threads that are looked for: by id, by what they have, and what is picked out of them."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args
from uuid import UUID

import msgspec

from contracts.answers.threads import ThreadAnswer
from contracts.api import ThreadCount, ThreadSearch, ThreadSelect
from domain.errors import InvalidField
from projections import threads as thread_rows
from services.gateway.answers import threads as answers
from services.gateway.answers.values import decoded
from services.gateway.parts import GatewayParts
from services.gateway.queries import fold
from services.gateway.queries.filters import SQL, THREADS, Filter
from services.gateway.queries.search import Page, page, row_query, rows_of, search, thread_row
from services.kit.ids import parse_uuid

MOST_IDS = 10_000
MOST_PATHS = 10
PATH = re.compile(r"(values|metadata|config|interrupts)((?:\.[^.\[\]]+|\[-?[0-9]{1,6}\])*)")
STEP = re.compile(r"\.([^.\[\]]+)|\[(-?[0-9]+)\]")
Path = list[str | int]


def by_id(parts: GatewayParts, thread_id: UUID) -> ThreadAnswer:
    """The thread. Raises ThreadNotFound."""
    return answers.thread(thread_row(parts, thread_id), parts.log.blob)


def just_made(parts: GatewayParts, thread_id: UUID) -> ThreadAnswer:
    """The same of one that the read models may not have come to. Raises ThreadNotFound."""
    row = fold.row(parts, thread_rows, "threads", thread_id) or thread_row(parts, thread_id)
    return answers.thread(row, parts.log.blob)


async def matching(parts: GatewayParts, wanted: ThreadSearch) -> tuple[Iterator[Any], dict[str, str]]:
    """The threads of a page in their order, and its pagination headers. Raises InvalidField."""
    paths = _paths(wanted.extract or {})
    keys, headers = await search(parts.views, filter_of(wanted), _page(wanted))
    looks_in = {path[0] for path in paths.values()} | set(wanted.select or ["values"])
    query = row_query(THREADS) if "values" in looks_in else SQL["thread_without_values"]
    rows = rows_of(parts.views, query, keys)
    shown = (_picked(answers.thread(row, parts.log.blob), wanted.select, paths) for row in rows)
    return shown, headers


def filter_of(wanted: ThreadCount) -> Filter:
    """What is to be met. Raises InvalidField."""
    found = Filter(THREADS)
    if wanted.ids is not None:
        found.one_of(_ids(wanted.ids))
    found.metadata(wanted.metadata)
    if wanted.values:
        # Values are payloads: the inline form is one level deeper. Large ones (by digest) do not match.
        found.holds("values", {"inline": wanted.values})
    found.equal("status", wanted.status)
    return found


def _page(wanted: ThreadSearch) -> Page:
    return page(wanted.limit, wanted.offset, wanted.sort_by or "updated_at", wanted.sort_order)


def _ids(texts: Sequence[str]) -> list[bytes]:
    if len(texts) > MOST_IDS:
        raise InvalidField(f"ids: at most {MOST_IDS} are allowed")
    ids = [value.bytes for text in texts if (value := parse_uuid(text)) is not None]
    if len(ids) < len(texts):
        raise InvalidField("ids: every one must be a UUID")
    return ids


def _picked(shown: ThreadAnswer, names: Sequence[str] | None, paths: dict[str, Path]) -> Any:
    """The thread with these keys only, and with what the paths lead to."""
    if paths:
        extracted = {alias: _at(shown, path) for alias, path in paths.items()}
        shown = msgspec.structs.replace(shown, extracted=extracted)
    if not names:
        return shown
    return {name: getattr(shown, name) for name in [*names, *(["extracted"] if paths else [])]}


def _paths(extract: dict[str, str]) -> dict[str, Path]:
    if len(extract) > MOST_PATHS:
        raise InvalidField(f"extract: at most {MOST_PATHS} paths are allowed")
    found: dict[str, Path] = {}
    for alias, path in extract.items():
        match = PATH.fullmatch(path)
        if match is None:
            raise InvalidField(
                f"extract.{alias}: '{path[:100]}' is not a path such as 'values.messages[-1].content'"
            )
        if not alias.isidentifier() or alias in get_args(ThreadSelect):
            raise InvalidField(f"extract: '{alias[:100]}' may not be an alias")
        steps: Path = [match[1]]
        steps += [key or int(index) for key, index in STEP.findall(match[2])]
        found[alias] = steps
    return found


def _at(shown: ThreadAnswer, path: Path) -> Any:
    value = decoded(getattr(shown, str(path[0])))
    for step in path[1:]:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
