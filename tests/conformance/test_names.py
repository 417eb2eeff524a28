"""Names say one thing: of the server's classes no two have the same one.

The child is a program of its own that imports nothing of ours.
"""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = ROOT / "services" / "worker" / "child"
PACKAGES = ("contracts", "domain", "projections", "services")


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict[str, list[str]](list)
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for path in files:
        if not path.is_relative_to(CHILD):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 300
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
