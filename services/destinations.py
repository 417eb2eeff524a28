"""Webhooks' URLs with the addresses that they lead to, each checked: at creation, and at every hop of a delivery."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

from contracts.webhooks import UrlPolicy
from domain.errors import InvalidField
from domain.webhook import Address, Destination, check_address, destination_of, is_vouched_for, literal_of

RESOLVE_S = 5.0
# Of their own: a name server that hangs keeps its thread for longer than we wait, and no read of a store may lack one.
_resolvers = ThreadPoolExecutor(64, "resolver")


async def resolved(url: str, policy: UrlPolicy) -> tuple[Destination, list[Address]]:
    """Where the URL leads: whoever connects does so to one of these addresses, and never asks for the name again.

    Raises InvalidField when one of them is not allowed, or when the name leads nowhere.
    """
    found = destination_of(url, policy)
    literal = literal_of(found.host)
    addresses = [literal] if literal is not None else await _addresses(found)
    if not is_vouched_for(found.host, policy):
        for address in addresses:
            check_address(address, policy)
    return found, addresses


async def _addresses(found: Destination) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_S):
            answers = await loop.run_in_executor(_resolvers, lookup, found.host, found.port)
    except (OSError, UnicodeError, TimeoutError):
        raise InvalidField(f"webhook: the name {found.host} can't be resolved") from None
    # Without the zone that a link-local address may come with: it is refused anyway.
    texts = dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers)
    return [ip_address(text) for text in texts]


def lookup(host: str, port: int) -> list[Any]:
    """The addresses of a name as the system gives them; it blocks. Raises OSError, UnicodeError."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
