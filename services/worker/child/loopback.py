"""The way back: clients of the SDK that are made without an address reach the server that runs the graph."""

import asyncio
import functools
import os
from collections.abc import Callable
from typing import Any

import langgraph_sdk
from langgraph_sdk import client

VARIABLE = "CRONLEDGER_URL"
WAITS = frozenset({"wait", "join", "stream"})
"""What requests end in that are answered when a run has ended."""


def install() -> None:
    """Let `get_client()` and `get_sync_client()` mean our server, before any code of the project is imported.

    The SDK would look for the reference server in this process, or ask a port where that listens. To be called in
    the loop that runs the graphs, where there is one.
    """
    if url := os.environ.get(VARIABLE):
        check = blocking_of(_running())
        _replace("get_client", reaching(url, client.get_client))
        _replace("get_sync_client", careful(reaching(url, client.get_sync_client), check))


def _replace(name: str, function: Any) -> None:
    for module in (client, langgraph_sdk):
        setattr(module, name, function)


def reaching(home: str, make: Any) -> Any:
    """The function that makes clients, with the server at home as what they reach unless told otherwise."""

    @functools.wraps(make)
    def made(*, url: str | None = None, **options: Any) -> Any:
        return make(url=home if url is None else url, **options)

    return made


def careful(make: Any, check: Callable[[Any], None]) -> Any:
    """The function that makes clients, of which those without an address look at each request before they send it."""

    @functools.wraps(make)
    def made(*, url: str | None = None, **options: Any) -> Any:
        ours = make(url=url, **options)
        if url is None:
            ours.http.client.event_hooks["request"].append(check)
        return ours

    return made


def blocking_of(loop: Any) -> Callable[[Any], None]:
    """Refuses to wait for a run in the loop that may have to run it: neither would ever end."""

    def check(request: Any) -> None:
        if loop is not None and _running() is loop and request.url.path.rpartition("/")[2] in WAITS:
            raise RuntimeError(
                "get_sync_client() waits for a run in an async node: all runs of this process, perhaps that one"
                " too, would wait with it; use get_client() and await it"
            )

    return check


def _running() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
