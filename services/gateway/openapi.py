"""The OpenAPI document, made from the table of routes and the structs of their bodies. Pure."""

import re
from typing import Any

import msgspec

from contracts.asyncapi import dedented
from services.gateway.http import Route

TEMPLATE = "#/components/schemas/{name}"


def openapi_document(routes: list[Route], version: str) -> dict[str, Any]:
    """The whole document (OpenAPI 3.1)."""
    bodies = list(dict.fromkeys(route.body for route in routes if route.body is not None))
    references, found = msgspec.json.schema_components(bodies, ref_template=TEMPLATE)
    body_of = dict(zip(bodies, references, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, body_of)
    schemas = dedented(found)
    schemas["Problem"] = {
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {"type": "string", "description": "what is wrong, with the field in front"},
            "error": {"type": "string", "description": "a short, stable code"},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cronledger", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(route: Route, body_of: dict[Any, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in route.query.items()
    ]
    success: dict[str, Any] = {"description": "done"}
    if route.status != 204:
        success["content"] = {"application/json": {"schema": {}}}
    problem = {"application/json": {"schema": {"$ref": TEMPLATE.format(name="Problem")}}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "tags": [route.tag],
        "operationId": route.handle.__name__ + "_" + re.sub(r"\W+", "_", route.path).strip("_"),
        "parameters": parameters,
        "responses": {
            str(route.status): success,
            "4XX": {"description": "refused; nothing was written", "content": problem},
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body_of[route.body]}}}
    return operation
