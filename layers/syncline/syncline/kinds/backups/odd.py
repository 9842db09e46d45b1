"""Odd entries of a bucket's listing: each is a failed item of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from syncline.clients.http.listings import Odd
from syncline.kinds.backups.removals import refused
from syncline.model import Item, Result


def results_of(odd: Iterable[Odd], group: str, takes: Callable[[str], bool]) -> dict[str, Result]:
    """Return the results of odd entries by key, or by place if they have no key; what ``takes`` leaves out is none."""
    return {
        each.name or each.label: refused(Item(group, each.name or each.label), each.error)
        for each in odd
        if each.name is None or takes(each.name)
    }
