"""Pauses between attempts, by the library's strategies: also where a loop or a queue counts the attempts itself."""

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base

_nobodys = Retrying()


def pause_s(strategy: wait_base, attempt: int) -> float:
    """How long to wait behind the failed attempt of that number, from 1 on."""
    state = RetryCallState(_nobodys, None, (), {})
    state.attempt_number = attempt
    return strategy(state)
