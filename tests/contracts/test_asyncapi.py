"""The ledger's contract with the outside never changes unseen."""

import json
import os
from pathlib import Path
from typing import Any

from contracts.asyncapi import asyncapi_document, parts_of
from contracts.events import BODIES

STORED = Path(__file__).parent / "stored" / "asyncapi.json"


def test_the_document_is_the_stored_one() -> None:
    """A change is a change of contract: look at it, then run with STORE=1 and commit the difference."""
    text = json.dumps(asyncapi_document("0"), indent=1) + "\n"
    if os.environ.get("STORE") == "1":
        STORED.write_text(text)
    assert text == STORED.read_text()


def test_every_topic_has_a_channel_an_operation_and_a_message() -> None:
    document = asyncapi_document("1.2.3")
    assert document["info"]["version"] == "1.2.3"
    assert set(document["channels"]) == set(BODIES)
    assert set(document["components"]["messages"]) == set(BODIES)
    assert {op["channel"]["$ref"] for op in document["operations"].values()} == {
        f"#/channels/{topic}" for topic in BODIES
    }


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi_document("0")
    references = list(_references(document))
    assert len(references) > 3 * len(BODIES)
    for reference in references:
        assert reference.startswith("#/")
        node: Any = document
        for key in reference[2:].split("/"):
            node = node[key]


def test_a_topic_is_aggregate_event_and_version() -> None:
    assert parts_of("run.cancel_requested.v1") == ("run", "cancel_requested")


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
