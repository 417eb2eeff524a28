"""The project's own application: a lifespan, routes that block, stream, fail and die, a WebSocket."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from langgraph_sdk import get_client
from pydantic import BaseModel

STARTED: list[int] = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    STARTED.append(os.getpid())
    yield


app = FastAPI(lifespan=lifespan)


class Note(BaseModel):
    text: str


class Problem(BaseModel):
    """Not what the server calls so."""

    why: str


@app.get("/own")
async def own() -> dict[str, list[int]]:
    return {"started": STARTED}


@app.post("/own/notes", responses={418: {"model": Problem}})
async def note(note: Note) -> Note:
    return note


@app.get("/own/absent")
async def absent() -> None:
    raise HTTPException(404, "no such thing of mine")


@app.get("/threads")
async def threads() -> str:
    return "mine"


@app.get("/ok")
async def ok() -> str:
    return "mine"


@app.post("/own/upload")
async def upload(request: Request) -> dict[str, int]:
    sizes = [len(piece) async for piece in request.stream()]
    return {"bytes": sum(sizes), "pieces": len(sizes)}


@app.get("/own/ticks")
async def ticks() -> StreamingResponse:
    async def told() -> AsyncIterator[bytes]:
        for n in range(3):
            yield b"data: %d\n\n" % n
            await asyncio.sleep(0.3)

    return StreamingResponse(told(), media_type="text/event-stream")


@app.get("/own/block")
async def block(seconds: float = 30) -> str:
    time.sleep(seconds)  # noqa: ASYNC251 - what must not be done
    return "awake"


@app.get("/own/die")
async def die() -> None:
    os._exit(3)


@app.get("/own/headers")
async def headers(request: Request) -> dict[str, str]:
    return dict(request.headers)


@app.get("/own/runs")
async def runs() -> int:
    async with get_client() as client:
        return len(await client.assistants.search())


@app.websocket("/own/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept("chat" if "chat" in socket.scope["subprotocols"] else None)
    while (text := await socket.receive_text()) != "bye":
        await socket.send_text(text.upper())
    await socket.close(4001, "bye")


@app.websocket("/own/refused")
async def refused(socket: WebSocket) -> None:
    await socket.close(4003)
