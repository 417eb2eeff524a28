"""The way back: clients of the SDK that are made without an address reach the server that runs the graph."""

import functools
import os
from typing import Any

import langgraph_sdk
from langgraph_sdk import client

VARIABLE = "CRONLEDGER_URL"


def install() -> None:
    """Let `get_client()` and `get_sync_client()` mean our server, before any code of the project is imported.

    The SDK would look for the reference server in this process, or ask a port where that listens.
    """
    if url := os.environ.get(VARIABLE):
        for name in ("get_client", "get_sync_client"):
            ours = reaching(url, getattr(client, name))
            setattr(client, name, ours)
            setattr(langgraph_sdk, name, ours)


def reaching(home: str, make: Any) -> Any:
    """The function that makes clients, with the server at home as what they reach unless told otherwise."""

    @functools.wraps(make)
    def made(*, url: str | None = None, **options: Any) -> Any:
        return make(url=home if url is None else url, **options)

    return made
