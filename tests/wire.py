"""A way to a server that can be slow, or cut: a proxy of TCP."""

import asyncio

Line = asyncio.Queue[tuple[float, bytes]]
"""What is on its way, and when it arrives; nothing at the end."""


class Wire:
    """Passes bytes both ways, each `delay_s` later; nothing while it is `cut`."""

    def __init__(self, port: int) -> None:
        self._target, self.port = port, 0
        self.delay_s = 0.0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_cut = False

    async def start(self) -> "Wire":
        """Listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Cut all, and listen no more."""
        self.cut()
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection, and take none."""
        self.is_cut = True
        for writer in tuple(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        """Take connections again."""
        self.is_cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # nobody is there
            writer.transport.abort()
            return
        self._open |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            line: Line = asyncio.Queue()
            for passing in (self._take(source, line), self._give(line, sink)):
                task = asyncio.create_task(passing)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _take(self, source: asyncio.StreamReader, line: Line) -> None:
        loop, data = asyncio.get_running_loop(), b"."
        while data:
            try:
                data = await source.read(1 << 16)
            except OSError:
                data = b""
            # Later, not one after the other: a line that is long is not one that is narrow.
            line.put_nowait((loop.time() + self.delay_s, data))

    async def _give(self, line: Line, sink: asyncio.StreamWriter) -> None:
        loop, data = asyncio.get_running_loop(), b"."
        while data:
            # In their order, though the line became shorter meanwhile.
            at_s, data = await line.get()
            await asyncio.sleep(at_s - loop.time())
            sink.write(data)
        sink.close()
        self._open.discard(sink)
