"""Planted faults in the kind ``images``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from syncline.clients.registry import client as registry_client
from syncline.errors import SynclineError
from syncline.kinds.images import compare, transfer, verify
from syncline.kinds.images import repositories as selected
from syncline.kinds.kind import Completed
from syncline.model import Outcome, Result
from tests.simulation.planted_faults.registry import planted_fault, replaced

WORLDS: Final = ("images",)


@planted_fault
def skip_image_verification() -> Iterator[None]:
    """Report images as verified without asking the target."""

    def verify_all(_self: Any, items: Any, _context: Any) -> Any:
        return [Completed(item) for item in items]

    with patch.object(verify.ImageVerification, "verify", verify_all):
        yield


@planted_fault
def count_equal_tags_as_moved() -> Iterator[None]:
    """Count a tag as moved although the transfer found it equal and wrote nothing."""
    with patch.object(transfer, "FOUND_EQUAL", "nothing"):
        yield


@planted_fault
def overwrite_a_changed_tag() -> Iterator[None]:
    """Replace a tag that changed between the check and the put."""

    def put_tag(old: Any) -> Any:
        def changed(self: Any, repository: str, tag: str, manifest: Any, seen: Any, *, overwrite: bool = False) -> Any:
            del overwrite
            return old(self, repository, tag, manifest, seen, overwrite=True)

        return changed

    with replaced(registry_client.Registry, "put_tag", put_tag):
        yield


@planted_fault
def overwrite_foreign_images() -> Iterator[None]:
    """Replace a foreign image under a tag without permission."""
    with (
        patch.object(transfer, "is_replaceable", lambda *_, **__: True),
        patch.object(compare, "is_replaceable", lambda *_, **__: True),
    ):
        yield


@planted_fault
def treat_any_tag_as_equal() -> Iterator[None]:
    """Treat a tag that exists at the target as equal, whatever its digest."""

    def page(old: Any) -> Any:
        def changed(self: Any, both: Any, cursor: str, compared: Any, incomplete: Any) -> Any:
            equal = [
                replace(i, target=i.source) if i.target is not None and i.source is not None else i for i in compared
            ]
            return old(self, both, cursor, equal, incomplete)

        return changed

    with replaced(compare.TagComparison, "_page", page):
        yield


@planted_fault
def accept_an_empty_listing() -> Iterator[None]:
    """Accept a catalog without any repository as complete."""

    def repositories(old: Any) -> Any:
        def changed(self: Any, scope: Any, invalid: Any, context: Any) -> Any:
            try:
                return old(self, scope, invalid, context)
            except SynclineError as error:
                if error.code.name != "LISTING_INCOMPLETE":
                    raise
                return []

        return changed

    with replaced(selected.SelectedRepositories, "of", repositories):
        yield


@planted_fault
def accept_an_unknown_repository() -> Iterator[None]:
    """Report a repository that was named by an operator and does not exist as in sync."""
    with patch.object(compare.TagComparison, "_check_listed", lambda *_: None):
        yield


@planted_fault
def report_conflicts_as_moved() -> Iterator[None]:
    """Report a conflict as moved."""

    def conflict(item: Any, reason: str = "") -> Any:
        return Result(item.group, item.name, Outcome.MOVED, item.source, item.source, 0, reason=reason or None)

    with patch.object(transfer, "conflict", conflict), patch.object(compare, "conflict", conflict):
        yield
