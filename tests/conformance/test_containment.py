"""Containment as PostgreSQL's `@>` has it: of the function, and of the facets that find the rows."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.facets import KEPT_CHARS, LARGE, MOST, facets, kept, needed
from services.kit.views.sqlite import json_contains
from tests.containment import CONTAINMENT


def text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@pytest.mark.parametrize(("has", "wanted", "contains"), CONTAINMENT, ids=str)
def test_function(has: Any, wanted: Any, contains: bool) -> None:
    assert json_contains(text(has), text(wanted)) is contains


def test_nothing_contains_nothing() -> None:
    assert not json_contains(None, "{}")


def agree(has: Any, wanted: Any) -> None:
    own, (those, exact) = facets(text(has)), needed(wanted)
    contains = json_contains(text(has), text(wanted))
    if contains:
        assert those <= own
    if exact and those <= own:
        assert contains


@pytest.mark.parametrize(("has", "wanted", "contains"), CONTAINMENT, ids=str)
def test_facets(has: Any, wanted: Any, contains: bool) -> None:
    agree(has, wanted)


names = st.sampled_from(["a", "b", "[{", '"'])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from([0.0, 1.0, 1.5, "", "a", "1", "[{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, values, max_size=3), st.dictionaries(names, values, max_size=2))
def test_facets_find_whatever_the_function_does(has: Any, wanted: Any) -> None:
    agree(has, wanted)


def test_large_objects_have_one_facet() -> None:
    assert len(facets(text({str(n): n for n in range(MOST)}))) == MOST
    assert facets(text({str(n): n for n in range(MOST + 1)})) == {LARGE}
    deep: dict[str, Any] = {}
    for _ in range(900):  # a body may be nested so deeply; the projector must not end by it
        deep = {"a": deep}
    assert facets(text(deep)) == {LARGE}


def test_large_texts_are_not_kept() -> None:
    before = kept.cache_info().currsize
    for n in range(10):
        assert (
            facets(text({"n": n, "large": "x" * KEPT_CHARS}))
            == needed({"n": n, "large": "x" * KEPT_CHARS})[0]
        )
    assert kept.cache_info().currsize == before
