"""Webhooks' URLs with the addresses that they lead to, each checked: at creation, and at every hop of a delivery."""

import asyncio
import socket
from ipaddress import ip_address

from contracts.webhooks import UrlPolicy
from domain.errors import InvalidField
from domain.webhook import Address, Destination, check_address, destination_of, is_vouched_for, literal_of

RESOLVE_S = 5.0


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
            answers = await loop.getaddrinfo(found.host, found.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        raise InvalidField(f"webhook: the name {found.host} can't be resolved") from None
    # Without the zone that a link-local address may come with: it is refused anyway.
    texts = dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers)
    return [ip_address(text) for text in texts]
