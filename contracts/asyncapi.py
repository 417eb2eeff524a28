"""The AsyncAPI 3.0 document of the ledger on NATS, made from the registry of events. Pure."""

from inspect import cleandoc
from typing import Any

import msgspec

from contracts.events import BODIES
from contracts.ledger import Body, Envelope

TYPE_PREFIX = "io.cronledger."
"""Before a topic it gives the CloudEvents type: `io.cronledger.run.started.v1`."""

REF_TEMPLATE = "#/components/schemas/{name}"


def asyncapi_document(version: str, prefix: str = "") -> dict[str, Any]:
    """The whole document for a server of this version; the same bytes for the same events.

    `prefix` is that of the installation: before each subject with a dot, before the stream's name with a line.
    """
    topics = sorted(BODIES)
    schemas, payloads = _schemas(topics)
    return {
        "asyncapi": "3.0.0",
        "info": _info(version, f"{prefix}_LEDGER" if prefix else "LEDGER"),
        "defaultContentType": "application/json",
        "channels": {topic: _channel(topic, f"{prefix}." if prefix else "") for topic in topics},
        "operations": {f"publish.{topic}": _operation(topic) for topic in topics},
        "components": {
            "messages": {topic: _message(topic, payloads[topic]) for topic in topics},
            "messageTraits": {"cloudevent": {"headers": _headers()}},
            "schemas": schemas,
        },
    }


def parts_of(topic: str) -> tuple[str, str]:
    """Aggregate and event of a topic: `run.started.v1` gives `run`, `started`."""
    aggregate, event, _ = topic.split(".")
    return aggregate, event


def _info(version: str, js_stream: str) -> dict[str, Any]:
    return {
        "title": "Cronledger ledger",
        "version": version,
        "description": (
            f"Every recorded event, in the order of the log, on the JetStream stream {js_stream}. "
            "Delivery is at least once: tell doubles by `ce-id`. Events older than the stream keeps "
            "are at `GET /ledger`, by position."
        ),
    }


def _schemas(topics: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Schemas by name, and the schema that each topic's messages have."""
    types = [Envelope[BODIES[topic]] for topic in topics]  # type: ignore[valid-type]
    payloads, schemas = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    return dedented(schemas), dict(zip(topics, payloads, strict=True))


def dedented(schemas: dict[str, Any]) -> dict[str, Any]:
    """The schemas, their descriptions without the indentation that docstrings have up to Python 3.12."""
    return {
        name: schema | {"description": cleandoc(schema["description"])} if "description" in schema else schema
        for name, schema in schemas.items()
    }


def _channel(topic: str, before: str) -> dict[str, Any]:
    aggregate, event = parts_of(topic)
    return {
        "address": f"{before}ledger.{aggregate}.{event}.{{id}}",
        "parameters": {"id": {"description": "The id of the stream that the event is on."}},
        "messages": {"event": {"$ref": f"#/components/messages/{topic}"}},
    }


def _operation(topic: str) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{topic}"},
        "messages": [{"$ref": f"#/channels/{topic}/messages/event"}],
    }


def _message(topic: str, payload: dict[str, Any]) -> dict[str, Any]:
    body: type[Body] = BODIES[topic]
    return {
        "name": TYPE_PREFIX + topic,
        "title": body.__name__,
        "summary": " ".join((body.__doc__ or "").split()),
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudevent"}],
        "payload": payload,
    }


def _headers() -> dict[str, Any]:
    described = {
        "ce-specversion": "Always 1.0.",
        "ce-id": "Stream id and version: the same for every delivery of the event.",
        "ce-source": "The server that recorded it.",
        "ce-type": "What happened, with the version of its meaning.",
        "ce-time": "When it happened (RFC 3339, UTC).",
        "ce-subject": "The id of the stream.",
        "ce-datacontenttype": "Always application/json.",
        "Ledger-Position": "Its place in the order of the whole log, growing.",
        "Ledger-Reference": (
            "Only on an event that is too large for NATS: where to get it over HTTP. "
            "The body then has no `data`."
        ),
    }
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": text} for name, text in described.items()},
        "required": [name for name in described if name != "Ledger-Reference"],
    }
