"""Texts to vectors without a model: words are counted into buckets. Good enough to find what shares words."""

import math
import re
from zlib import crc32

DIMS = 256  # the same number stands in langgraph.json


async def embed(texts: list[str]) -> list[list[float]]:
    """A vector of length one for each text; put the call of a real embedding model here."""
    return [vector(text) for text in texts]


def vector(text: str) -> list[float]:
    counts = [0.0] * DIMS
    for word in re.findall(r"\w+", text.lower()):
        counts[crc32(word.encode()) % DIMS] += 1.0
    length = math.hypot(*counts) or 1.0
    return [count / length for count in counts]
