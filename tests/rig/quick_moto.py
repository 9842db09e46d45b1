"""Optimizations that make moto fast enough for thousands of tests, with the same responses.

moto sorts the whole table for each query, and its server lists its own folder for each request.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from moto import backends
from moto.dynamodb.models.table import Table

_QUERY: Final = Table.query
_MODULES: Final = tuple(backends.list_of_moto_modules())
_INDEX: Final = 6
"""Position of the index's name among the arguments after the key."""


def install() -> None:
    """Make every query without an index read only its partition, and cache the list of moto's modules."""
    Table.query = _query  # type: ignore[method-assign]
    backends.list_of_moto_modules = lambda: _MODULES


def _query(self: Table, hash_key: Any, *arguments: Any, **options: Any) -> Any:
    index = options["index_name"] if "index_name" in options else arguments[_INDEX]
    if index is not None or not self.range_key_attr:
        return _QUERY(self, hash_key, *arguments, **options)
    partition = copy.copy(self)
    partition.items = {hash_key: self.items[hash_key]} if hash_key in self.items else {}  # type: ignore[assignment]
    return _QUERY(partition, hash_key, *arguments, **options)
