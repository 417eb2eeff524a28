"""Reads of a store, off the event loop when one would hold it up."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Store(Protocol):
    """What is read synchronously. `is_near`: a point read costs less than a thread hop (some 50 us)."""

    @property
    def is_near(self) -> bool:
        """True for a file in this machine's cache, False for whatever a network or a slow disk is before."""
        ...


async def read(stores: Store | tuple[Store, ...], function: Callable[[], T]) -> T:
    """What the function comes to, which may read these stores: here when all are near, in a thread otherwise.

    What it reads it must read through connections of its own thread, as ours do.
    """
    near = stores if isinstance(stores, tuple) else (stores,)
    return function() if all(store.is_near for store in near) else await asyncio.to_thread(function)
