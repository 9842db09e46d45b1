"""The totals of one sync, for tests; the console reads those of all syncs at once."""

from syncline.store.table import Database
from syncline.store.totals import Totals, totals_from


def read_totals(database: Database, sync: str) -> Totals:
    """Return the totals of a sync."""
    return totals_from(database.get(f"SYNC#{sync}", "TOTALS") or {})
