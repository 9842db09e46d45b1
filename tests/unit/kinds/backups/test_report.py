"""The message of a commit."""

from __future__ import annotations

from syncline.kinds.backups.report import Change, Tally, commit_message


def test_the_message_lists_clusters_and_changes() -> None:
    changes = [Change("a", None, "1"), Change("b", "1", "2"), Change("c", "1", None), Change("d", None, "1")]
    changed = ("production-west", "production-east")
    files = {"production-east": 245, "production-west": 189, "staging": 67}
    assert commit_message("backups", "b1", 1752358018.9, files, changed, Tally.of(changes)) == (
        "Automated backup sync - 2025-07-12 22:06:58 UTC\n\n"
        "Clusters processed: 2\n- production-east: 245 files\n- production-west: 189 files\n\n"
        "Total files: 501\nChanges: 2 new, 1 modified, 1 deleted\n\n"
        "Syncline-Sync: backups\nSyncline-Batch: b1\n"
    )
