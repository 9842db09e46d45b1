"""Checks of writes to the target of files, a bucket or a file manager, when they happen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from syncline.clients.s3.head import ObjectHead
from tests.simulation.machine import Machine
from tests.simulation.models.bucket_server import BucketServer, StoredObject, Write
from tests.simulation.models.file_manager import FileManagerServer, FileWrite, StoredFile

RACE_WINDOW: Final = 30.0
"""Seconds within which Syncline may miss a foreign change, if the service has no conditional writes."""
_PLAIN: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MODES: Final = {"100640": "rw-r-----", "33188": "rw-r--r--"}
"""Modes as rclone writes them (octal) and as s3fs does (decimal)."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """The content type, headers and metadata of an object, in a form that can be compared."""

    content_type: str
    headers: tuple[tuple[str, str], ...]
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, head: ObjectHead) -> Attributes:
        content_type = "" if head.content_type in _PLAIN else head.content_type
        return cls(content_type, tuple(sorted(head.headers.items())), tuple(sorted(head.metadata.items())))


@dataclass(slots=True)
class KeyHistory:
    """The history of a key of the source.

    ``versions`` are all objects that it had, ``changes`` is the number of writes and deletions. ``changed`` is the time
    of the last write, ``created`` that of the last write without an object before it, ``deleted`` that of the last
    deletion.
    """

    versions: list[StoredObject] = field(default_factory=list)
    changed: float = 0.0
    created: float = 0.0
    deleted: float = 0.0
    changes: int = 0

    def had(self, content: bytes, attributes: Attributes | None = None) -> bool:
        """Return True if the key ever had these bytes, together with ``attributes`` if given."""
        return any(
            each.content == content and (attributes is None or Attributes.of(each.head()) == attributes)
            for each in self.versions
        )

    def had_etag(self, etag: str) -> bool:
        return any(each.etag == etag for each in self.versions)


class Rules(Protocol):
    """The configuration of a sync, the history of its source, and the sink of its violations."""

    machine: Machine
    overwrite: bool
    history: defaultdict[str, KeyHistory]
    default_mode: str
    by_metadata: bool

    def key_of(self, path: str) -> str | None:
        """Return the key of a path at the target, None if the sync does not cover the path."""
        ...

    def path_of(self, key: str) -> str: ...

    def source_object(self, key: str) -> StoredObject | None: ...

    def violated(self, what: str) -> None:
        """Record a violation."""
        ...

    def check_removal(self, path: str, *, renamed: bool) -> None:
        """Count a removal, and check that the count is within the limits."""
        ...


class Judge:
    """The common part of the judges, which check every change of a target when it happens."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.foreign_changes: dict[str, float] = {}
        """The time of the last foreign change of each path."""
        self.damaged: set[str] = set()
        """Paths at which the service keeps other bytes of the same number, without an error."""
        self.files_owned = 0
        """The number of files that became ours. A file that was removed and came back counts again."""
        self.written: set[str] = set()
        """Paths that Syncline has written, or at which it may have adopted a file."""

    @property
    def now(self) -> float:
        return self.rules.machine.now

    def raced(self, path: str) -> bool:
        """Return True if a foreign writer changed the path so recently that Syncline may not know."""
        return self.now - self.foreign_changes.get(path, 0.0) < RACE_WINDOW

    def key(self, path: str, what: str) -> str:
        """Return the key of a path that Syncline changes. It is a violation if the sync does not select it."""
        key = self.rules.key_of(path)
        if key is None:
            self.rules.violated(f"{what} {path!r}, which the sync does not select")
            return ""
        return key

    def check_removed(self, path: str, *, ours: bool, may_race: bool, renamed: bool) -> None:
        """Check that Syncline was allowed to remove a file. ``may_race`` if the service has no conditional writes."""
        key, rules = self.key(path, "removes"), self.rules
        if not ours and not (may_race and self.raced(path)):
            rules.violated(f"removes {path!r}, which is foreign")
        if rules.source_object(key) is not None and self.now - rules.history[key].created > RACE_WINDOW:
            rules.violated(f"removes {path!r}, which the source still has")
        rules.check_removal(path, renamed=renamed)

    def check_replaced(self, path: str, *, ours: bool, may_race: bool) -> None:
        """Check that Syncline was allowed to replace a file."""
        if not ours and not self.rules.overwrite and not (may_race and self.raced(path)):
            self.rules.violated(f"overwrites {path!r}, which is foreign")


class BucketJudge(Judge):
    """The judge of a bucket. An object is ours if Syncline wrote its ETag there, or if the source ever had it."""

    def __init__(self, server: BucketServer, rules: Rules) -> None:
        super().__init__(rules)
        self.server = server
        self.etags: defaultdict[str, set[str]] = defaultdict(set)
        self.damaged_etags: set[str] = set()
        server.on_write = self._changed

    def paths(self) -> list[str]:
        return list(self.server.objects())

    def size(self, path: str) -> int | None:
        stored = self.server.stored(path)
        return None if stored is None else len(stored.content)

    def ours(self, path: str) -> bool:
        """Return True if Syncline may treat the object as its own."""
        stored = self.server.stored(path)
        return stored is not None and self._is_ours(path, stored.etag)

    def _is_ours(self, path: str, etag: str) -> bool:
        key = self.rules.key_of(path)
        return etag in self.etags[path] or (key is not None and self.rules.history[key].had_etag(etag))

    def _changed(self, write: Write, old: StoredObject | None, new: StoredObject | None) -> None:
        path, server, rules = write.key, self.server, self.rules
        if new is not None and (write.by == "client" or self._is_ours(path, new.etag)):
            self.written.add(path)
            self.files_owned += old is None or not self._is_ours(path, old.etag)
        if write.by != "client":
            self.foreign_changes[path] = self.now
            return
        may_race = server.ignores_conditions
        if new is None:
            assert old is not None
            renamed = self._is_renamed(path, old)
            self.check_removed(path, ours=self._is_ours(path, old.etag), may_race=may_race, renamed=renamed)
            return
        key = self.key(path, "writes")
        if old is not None:
            self.check_replaced(path, ours=self._is_ours(path, old.etag), may_race=may_race)
        self.etags[path].add(new.etag)
        if server.wrong_bytes:
            self.damaged_etags.add(new.etag)
        if new.etag in self.damaged_etags:  # also by the copy of a damaged object
            self.damaged.add(path)
        else:
            self.damaged.discard(path)
        damaged = server.lost_bytes or new.etag in self.damaged_etags
        if not damaged and not rules.history[key].had(new.content, Attributes.of(new.head())):
            rules.violated(f"writes {path!r} with bytes or headers that the source never had there: {new}")

    def _is_renamed(self, path: str, old: StoredObject) -> bool:
        """Return True if the target has the object at another path, as the source has it or had it within ``RACE_WINDOW``.

        The service may have damaged the copy.
        """
        for other, (etag, _) in self.server.objects().items():
            key, damaged = self.rules.key_of(other), etag in self.damaged_etags
            if other == path or key is None or (etag != old.etag and not damaged):
                continue
            there, history = self.rules.source_object(key), self.rules.history[key]
            if there is None and self.now - history.deleted < RACE_WINDOW:
                there = history.versions[-1]
            if there is not None and (there.etag == old.etag or (damaged and etag == old.etag)):
                return True
        return False

    def difference(self, key: str, stored: StoredObject) -> str | None:
        """Return how the target differs from an object of the source, None if they are equal."""
        path = self.rules.path_of(key)
        there = self.server.stored(path)
        if there is None:
            return "is absent"
        if there.content != stored.content:
            return "has other bytes"
        if Attributes.of(there.head()) != Attributes.of(stored.head()):
            return f"has other headers: {Attributes.of(there.head())}, not {Attributes.of(stored.head())}"
        return None


class ManagerJudge(Judge):
    """The judge of a file manager. A file is ours if Syncline left its ID, size and metadata."""

    def __init__(self, server: FileManagerServer, rules: Rules) -> None:
        super().__init__(rules)
        self.server = server
        self.versions: defaultdict[str, set[tuple[str, int, str]]] = defaultdict(set)
        self.truncated: set[tuple[str, int, str]] = set()
        """Versions that the server truncated. They are ours only if Syncline received an answer with their size."""
        server.on_write = self._changed

    def paths(self) -> list[str]:
        return list(self.server.files())

    def size(self, path: str) -> int | None:
        stored = self.server.files().get(path)
        return None if stored is None else len(stored.content)

    def ours(self, path: str) -> bool:
        """Return True if Syncline may treat the file as its own."""
        stored = self.server.files().get(path)
        return stored is not None and self._is_ours(path, stored) and _version(stored) not in self.truncated

    def _is_ours(self, path: str, stored: StoredFile) -> bool:
        return _version(stored) in self.versions[path]

    def _changed(self, write: FileWrite, old: StoredFile | None, new: StoredFile | None) -> None:
        path = write.path
        if write.by != "client":
            self.foreign_changes[path] = self.now
            return
        if write.op == "delete":
            assert old is not None
            self.check_removed(path, ours=self._is_ours(path, old), may_race=True, renamed=False)
            return
        assert new is not None
        if write.op == "permissions":
            assert old is not None
            self._check_permissions(path, old, new)
            return
        if write.new_path is not None:
            assert old is not None
            self.check_removed(path, ours=self._is_ours(path, old), may_race=True, renamed=True)
            path = write.new_path
        elif old is not None:
            self.check_replaced(path, ours=self._is_ours(path, old), may_race=True)
        key = self.key(path, "writes")
        self.written.add(path)
        self.files_owned += write.new_path is not None or old is None or not self._is_ours(path, old)
        self.versions[path].add(_version(new))
        if self.server.wrong_bytes:
            self.truncated.add(_version(new))
        raced = write.new_path is not None and self.raced(write.path)
        if not self.server.wrong_bytes and not raced and not self.rules.history[key].had(new.content):
            self.rules.violated(f"{write.op}s {path!r} with bytes that the source never had there")

    def _check_permissions(self, path: str, old: StoredFile, new: StoredFile) -> None:
        """Check new permissions of a file."""
        key = self.key(path, "sets permissions of")
        self.check_replaced(path, ours=self._is_ours(path, old), may_race=True)
        modes = {self.rules.default_mode, *(self.mode_of(each.head()) for each in self.rules.history[key].versions)}
        if new.permissions not in modes:
            self.rules.violated(f"sets permissions {new.permissions} of {path!r}, which the source never had there")

    def mode_of(self, head: ObjectHead) -> str:
        """Return the permissions that the file of a source object should have."""
        return mode_of(head.metadata, self.rules.default_mode) if self.rules.by_metadata else self.rules.default_mode

    def difference(self, key: str, stored: StoredObject) -> str | None:
        """Return how the target differs from an object of the source, None if they are equal."""
        path = self.rules.path_of(key)
        there = self.server.files().get(path)
        if there is None:
            return "is absent"
        if there.content != stored.content:
            return "has other bytes"
        if there.permissions != self.mode_of(stored.head()):
            return f"has permissions {there.permissions}, not {self.mode_of(stored.head())}"
        return None


def mode_of(metadata: Mapping[str, str], default: str) -> str:
    """Return the permissions that the metadata of an object states."""
    return metadata.get("permissions") or _MODES.get(metadata.get("mode", ""), default)


def _version(stored: StoredFile) -> tuple[str, int, str]:
    return stored.internal_id, len(stored.content), json.dumps(dict(stored.metadata), sort_keys=True)
