"""Our top-level names, kept for the user's project."""

import types
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

OURS = frozenset({"contracts", "domain", "projections", "services"})


class ProjectNamesFirst:
    """Resolves our top-level names among the project's folders alone, so that neither hides the other."""

    def __init__(self, roots: list[str]) -> None:
        self.roots = roots

    def find_spec(
        self, name: str, path: Any = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in OURS:
            return None
        spec = PathFinder.find_spec(name, self.roots if path is None else path, target)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec
