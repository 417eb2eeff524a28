"""Which run it was that took a graph process along. Pure."""

from collections.abc import Collection


class Suspicion:
    """The runs that were in a process when it crashed: each of them goes on alone until it is known who it was."""

    def __init__(self) -> None:
        self._groups: dict[str, frozenset[str]] = {}

    def __bool__(self) -> bool:
        """True while anybody is suspected."""
        return bool(self._groups)

    def falls_on(self, run_id: str) -> bool:
        """Whether the run has to be alone."""
        return run_id in self._groups

    def crashed(self, runs: Collection[str]) -> bool:
        """A process crashed with these runs; True when it is known by whom: by the only one."""
        together = frozenset(runs)
        if len(together) == 1:
            [culprit] = together
            for innocent in self._groups.get(culprit, together):
                self.cleared(innocent)
        for run_id in together:
            self._groups[run_id] = together
        return len(together) == 1

    def cleared(self, run_id: str) -> None:
        """It is over, or it was not this one. Twice is harmless."""
        self._groups.pop(run_id, None)
