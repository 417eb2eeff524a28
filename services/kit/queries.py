"""The SQL of a store: one file beside the code that runs it, a named and commented query per block."""

import re
from pathlib import Path

NAME = re.compile(r"-- name: (\w+)")


def named(path: Path) -> dict[str, str]:
    """Name -> SQL of every block of the file: `-- name: x`, comments, the query.

    Read when the code that holds it is imported, as the SQL is part of it: a name that stands there twice,
    or has no query, keeps the process from starting. Raises ValueError.
    """
    blocks: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := NAME.fullmatch(line.strip()):
            if match[1] in blocks:
                raise ValueError(f"{path.name}: the name {match[1]} stands there twice")
            lines = blocks[match[1]] = []
        elif line.strip() and not line.lstrip().startswith("--"):
            lines.append(line.strip())
    if empty := [name for name, text in blocks.items() if not text]:
        raise ValueError(f"{path.name}: no query under {', '.join(empty)}")
    return {name: " ".join(text).removesuffix(";") for name, text in blocks.items()}
