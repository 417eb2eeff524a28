"""Answers of what stands in front of the framework."""

from typing import Any

import msgspec

from contracts.answers.system import Problem


async def refuse(send: Any, status: int, code: str, why: str) -> None:
    """Answer a request with the problem, as the framework's routes do."""
    await answer(send, status, msgspec.json.encode(Problem(why, code, why)))


async def answer(send: Any, status: int, body: bytes) -> None:
    """Answer a request with JSON."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
