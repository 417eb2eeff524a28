"""What `cronledger migrate` makes in a PostgreSQL database, and every service looks for at its start."""

from collections.abc import Callable

from services.kit.eventlog.postgres import LEDGER
from services.kit.postgres import migrate
from services.kit.settings import Settings
from services.kit.views.postgres import SCHEMA as VIEWS
from services.worker.graphs_schema import GraphsDatabase

SCHEMAS = (LEDGER, VIEWS)
"""That of the graphs is looked at by workers alone."""


def upgrade(settings: Settings, told: Callable[[str], None]) -> None:
    """Make and upgrade all of them; any number of processes may do so at once. Raises DatabaseProblem."""
    migrate(settings.database_url, SCHEMAS, told)
    if graphs := GraphsDatabase.of(settings):
        graphs.migrate(told)
