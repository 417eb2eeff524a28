"""Stands between a server and its graph child: `child_proxy.py FOLDER` and the child's own arguments.

A start ends at once, or the child dies at a frame, when FOLDER has a plan for it. Standard library only.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

LENGTH = 4


class Edge:
    """An edge that all processes of the folder count together."""

    def __init__(self, folder: Path, name: str) -> None:
        self._over = folder / "over"
        self._count = os.open(folder / f"{name}.count", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        path = folder / name
        self._plan: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}

    def fails(self) -> bool:
        """Count one use; whether it is one that the plan names."""
        os.write(self._count, b".")
        past = os.fstat(self._count).st_size - self._plan.get("first", 1 << 62)
        if past < 0 or self._over.exists():
            return False
        every = self._plan["every"]
        return (past % every if every else past) < self._plan["many"]


def exactly(source: socket.socket, size: int) -> bytes:
    """So many bytes, b'' at the end."""
    data = bytearray()
    while len(data) < size:
        part = source.recv(min(1 << 20, size - len(data)))
        if not part:
            return b""
        data += part
    return bytes(data)


def carry(
    source: socket.socket, target: socket.socket, frames: Edge, child: "subprocess.Popen[bytes]"
) -> None:
    """Carry frames until one side is gone."""
    try:
        while head := exactly(source, LENGTH):
            size = int.from_bytes(head, "big")
            body = exactly(source, size)
            if frames.fails():
                child.kill()
                return
            target.sendall(head + body)
    except OSError:
        pass
    finally:
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def main(folder: Path, arguments: list[str]) -> int:
    """Start the child and stand between; its exit code."""
    if Edge(folder, "child.start").fails():
        return 1
    at = next(n for n, argument in enumerate(arguments) if argument.isdecimal())
    server = socket.socket(fileno=int(arguments[at]))
    ours, theirs = socket.socketpair()
    arguments[at] = str(theirs.fileno())
    child = subprocess.Popen([sys.executable, *arguments], pass_fds=(theirs.fileno(),))
    theirs.close()
    frames = Edge(folder, "child.frame")
    for source, target in ((server, ours), (ours, server)):
        threading.Thread(target=carry, args=(source, target, frames, child), daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    os._exit(main(Path(sys.argv[1]), sys.argv[2:]))
