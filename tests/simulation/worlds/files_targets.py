"""The targets of files: what a bucket and a file manager have, whose it is, and what Syncline may do to it."""

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

RACE: Final = 30.0
"""Seconds within which a change by others may be met unseen, where the service takes no conditions."""
_PLAIN: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MODES: Final = {"100640": "rw-r-----", "33188": "rw-r--r--"}
"""Modes as rclone writes them (octal) and as s3fs does (decimal)."""


@dataclass(frozen=True, slots=True)
class About:
    """What an object has besides its bytes, in a form that can be compared."""

    content_type: str
    headers: tuple[tuple[str, str], ...]
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, head: ObjectHead) -> About:
        content_type = "" if head.content_type in _PLAIN else head.content_type
        return cls(content_type, tuple(sorted(head.headers.items())), tuple(sorted(head.metadata.items())))


@dataclass(slots=True)
class Past:
    """All that a key of the source has been.

    ``changed`` is when it was written last, ``since`` when it came, ``gone`` when it was deleted last, ``changes`` how
    often it was written or deleted.
    """

    versions: list[StoredObject] = field(default_factory=list)
    changed: float = 0.0
    since: float = 0.0
    gone: float = 0.0
    changes: int = 0

    def had(self, content: bytes, about: About | None = None) -> bool:
        """Return True if the key had these bytes at some moment, and with them ``about``."""
        return any(
            each.content == content and (about is None or About.of(each.head()) == about) for each in self.versions
        )

    def had_etag(self, etag: str) -> bool:
        return any(each.etag == etag for each in self.versions)


class Rules(Protocol):
    """What the configuration allows, and what the source is and was."""

    machine: Machine
    overwrite: bool
    past: defaultdict[str, Past]
    default_mode: str
    by_metadata: bool

    def key_of(self, path: str) -> str | None:
        """Return the key of a path at the target, None if the sync has nothing to do with the path."""
        ...

    def path_of(self, key: str) -> str: ...

    def source_object(self, key: str) -> StoredObject | None: ...

    def accuse(self, what: str) -> None:
        """Note a violation."""
        ...

    def removed(self, path: str, *, renamed: bool) -> None:
        """Judge the number of removals, of which this is the latest."""
        ...


class Judge:
    """Judges every change of a target at the moment at which it happens."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.touched: dict[str, float] = {}
        """When somebody else changed a path last."""
        self.damaged: set[str] = set()
        """Paths whose service keeps other bytes of the same number, and tells nobody."""
        self.came = 0
        """Files that became ours, one that was removed and came again more than once."""
        self.written: set[str] = set()
        """Paths that Syncline has written, and those at which it may have found its own by comparing."""

    @property
    def now(self) -> float:
        return self.rules.machine.now

    def raced(self, path: str) -> bool:
        """Return True if somebody changed the path so lately that Syncline may not know."""
        return self.now - self.touched.get(path, 0.0) < RACE

    def key(self, path: str, what: str) -> str:
        """Return the key of a path that Syncline changes."""
        key = self.rules.key_of(path)
        if key is None:
            self.rules.accuse(f"{what} {path!r}, which the sync does not select")
            return ""
        return key

    def gone(self, path: str, *, ours: bool, may_race: bool, renamed: bool) -> None:
        """Judge that a path is no longer at the target."""
        key, rules = self.key(path, "removes"), self.rules
        if not ours and not (may_race and self.raced(path)):
            rules.accuse(f"removes {path!r}, which is foreign")
        if rules.source_object(key) is not None and self.now - rules.past[key].since > RACE:
            rules.accuse(f"removes {path!r}, which the source still has")
        rules.removed(path, renamed=renamed)

    def replaced(self, path: str, *, ours: bool, may_race: bool) -> None:
        """Judge that Syncline writes where something is."""
        if not ours and not self.rules.overwrite and not (may_race and self.raced(path)):
            self.rules.accuse(f"overwrites {path!r}, which is foreign")


class BucketJudge(Judge):
    """A bucket as a target. An object is ours if its ETag is one that we wrote there, or one that the source had."""

    def __init__(self, server: BucketServer, rules: Rules) -> None:
        super().__init__(rules)
        self.server = server
        self.etags: defaultdict[str, set[str]] = defaultdict(set)
        self.damaged_etags: set[str] = set()
        server.on_write = self._happens

    def paths(self) -> list[str]:
        return list(self.server.objects())

    def size(self, path: str) -> int | None:
        stored = self.server.stored(path)
        return None if stored is None else len(stored.content)

    def ours(self, path: str) -> bool:
        """Return True if Syncline may rightly take the object for its own."""
        stored = self.server.stored(path)
        return stored is not None and self._is_ours(path, stored.etag)

    def _is_ours(self, path: str, etag: str) -> bool:
        key = self.rules.key_of(path)
        return etag in self.etags[path] or (key is not None and self.rules.past[key].had_etag(etag))

    def _happens(self, write: Write, old: StoredObject | None, new: StoredObject | None) -> None:
        path, server, rules = write.key, self.server, self.rules
        if new is not None and (write.by == "client" or self._is_ours(path, new.etag)):
            self.written.add(path)
            self.came += old is None or not self._is_ours(path, old.etag)
        if write.by != "client":
            self.touched[path] = self.now
            return
        may_race = server.ignores_conditions
        if new is None:
            assert old is not None
            self.gone(path, ours=self._is_ours(path, old.etag), may_race=may_race, renamed=self._is_renamed(path, old))
            return
        key = self.key(path, "writes")
        if old is not None:
            self.replaced(path, ours=self._is_ours(path, old.etag), may_race=may_race)
        self.etags[path].add(new.etag)
        if server.wrong_bytes:
            self.damaged_etags.add(new.etag)
        if new.etag in self.damaged_etags:  # also by a copy of what was damaged
            self.damaged.add(path)
        else:
            self.damaged.discard(path)
        spoilt = server.lost_bytes or new.etag in self.damaged_etags
        if not spoilt and not rules.past[key].had(new.content, About.of(new.head())):
            rules.accuse(f"writes {path!r} with bytes or headers that the source never had there: {new}")

    def _is_renamed(self, path: str, old: StoredObject) -> bool:
        """Return True if the target has the object at another path, where the source has it, or had it a moment ago.

        The service may have damaged the copy.
        """
        for other, (etag, _) in self.server.objects().items():
            key, damaged = self.rules.key_of(other), etag in self.damaged_etags
            if other == path or key is None or (etag != old.etag and not damaged):
                continue
            there, past = self.rules.source_object(key), self.rules.past[key]
            if there is None and self.now - past.gone < RACE:
                there = past.versions[-1]
            if there is not None and (there.etag == old.etag or (damaged and etag == old.etag)):
                return True
        return False

    def differs(self, key: str, stored: StoredObject) -> str | None:
        """Return how the target differs from an object of the source, None if it does not."""
        path = self.rules.path_of(key)
        there = self.server.stored(path)
        if there is None:
            return "is absent"
        if there.content != stored.content:
            return "has other bytes"
        if About.of(there.head()) != About.of(stored.head()):
            return f"has other headers: {About.of(there.head())}, not {About.of(stored.head())}"
        return None


class ManagerJudge(Judge):
    """A file manager as a target. A file is ours if ID, size and metadata are those that we left there."""

    def __init__(self, server: FileManagerServer, rules: Rules) -> None:
        super().__init__(rules)
        self.server = server
        self.versions: defaultdict[str, set[tuple[str, int, str]]] = defaultdict(set)
        self.short: set[tuple[str, int, str]] = set()
        """Versions of files that were kept short: ours only if the answer said so, and reached Syncline."""
        server.on_write = self._happens

    def paths(self) -> list[str]:
        return list(self.server.files())

    def size(self, path: str) -> int | None:
        stored = self.server.files().get(path)
        return None if stored is None else len(stored.content)

    def ours(self, path: str) -> bool:
        """Return True if Syncline may rightly take the file for its own."""
        stored = self.server.files().get(path)
        return stored is not None and self._is_ours(path, stored) and _version(stored) not in self.short

    def _is_ours(self, path: str, stored: StoredFile) -> bool:
        return _version(stored) in self.versions[path]

    def _happens(self, write: FileWrite, old: StoredFile | None, new: StoredFile | None) -> None:
        path = write.path
        if write.by != "client":
            self.touched[path] = self.now
            return
        if write.op == "delete":
            assert old is not None
            self.gone(path, ours=self._is_ours(path, old), may_race=True, renamed=False)
            return
        assert new is not None
        if write.op == "permissions":
            assert old is not None
            self._permitted(path, old, new)
            return
        if write.new_path is not None:
            assert old is not None
            self.gone(path, ours=self._is_ours(path, old), may_race=True, renamed=True)
            path = write.new_path
        elif old is not None:
            self.replaced(path, ours=self._is_ours(path, old), may_race=True)
        key = self.key(path, "writes")
        self.written.add(path)
        self.came += write.new_path is not None or old is None or not self._is_ours(path, old)
        self.versions[path].add(_version(new))
        if self.server.wrong_bytes:
            self.short.add(_version(new))
        raced = write.new_path is not None and self.raced(write.path)
        if not self.server.wrong_bytes and not raced and not self.rules.past[key].had(new.content):
            self.rules.accuse(f"{write.op}s {path!r} with bytes that the source never had there")

    def _permitted(self, path: str, old: StoredFile, new: StoredFile) -> None:
        """Judge new permissions of a file."""
        key = self.key(path, "sets permissions of")
        self.replaced(path, ours=self._is_ours(path, old), may_race=True)
        modes = {self.rules.default_mode, *(self.mode_of(each.head()) for each in self.rules.past[key].versions)}
        if new.permissions not in modes:
            self.rules.accuse(f"makes {path!r} {new.permissions}, which the source never had there")

    def mode_of(self, head: ObjectHead) -> str:
        """Return the permissions of an object of the source."""
        return mode_of(head.metadata, self.rules.default_mode) if self.rules.by_metadata else self.rules.default_mode

    def differs(self, key: str, stored: StoredObject) -> str | None:
        """Return how the target differs from an object of the source, None if it does not."""
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
