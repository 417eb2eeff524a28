"""What `cronledger migrate` makes in a PostgreSQL database, and every service looks for at its start."""

from services.kit.eventlog.postgres import LEDGER
from services.kit.views.postgres import SCHEMA as VIEWS

SCHEMAS = (LEDGER, VIEWS)
