"""A sync to each sort of target: a bucket with copies within the service, a bucket with uploads, a file manager."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.s3.upload import PART_SIZE
from syncline.model import Counts, Run
from tests.rig.files import FilesChain, record
from tests.standins.s3 import Asked, S3Server, StoredObject, StoredUpload

COPIED: Final = "copied by the service"
SENT: Final = "sent through the function"
MANAGER: Final = "file manager"
BUCKETS: Final = (COPIED, SENT)
TARGETS: Final = (*BUCKETS, MANAGER)
TARGET: Final = "target"
"""Name of the target bucket."""
ROOT: Final = "/data/"
"""Prefix of the paths at the file manager."""
PARTS: Final = [b"0123456789", b"abcdef"]
"""Parts of a small object whose ETag is not the MD5 of its bytes, ``…-2``."""
LARGE_PARTS: Final = [b"0123456789abcdef" * (PART_SIZE // 16), b"and the rest"]
"""Parts of an object that a function sends in several requests."""
_WRITES: Final = frozenset({"PutObject", "CopyObject", "CreateMultipartUpload", "DeleteObject"})


@dataclass
class Pair:
    """The source of a sync and its target of one sort, with changes by others at both.

    Both services use the chain's clock.
    """

    chain: FilesChain
    sort: str
    source_server: S3Server
    target_server: S3Server

    @property
    def to_manager(self) -> bool:
        return self.sort == MANAGER

    def configure(self, **more: Any) -> None:
        """Apply the sync; ``more`` are fields to add or replace."""
        if not self.to_manager:
            more = {"target": self.chain.endpoint(TARGET, self.target_server.url), **more}
        self.chain.configure(**more)

    # -- the source ----------------------------------------------------------------------------------------------

    @property
    def objects(self) -> dict[str, StoredObject]:
        return self.source_server.objects[self.chain.name]

    def put(
        self,
        key: str,
        content: bytes,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Put an object at the source, a second after the previous change; return its ETag."""
        self.chain.clock.sleep(1)
        headers = {"content-type": "text/plain"} if headers is None else headers
        return self.source_server.put(self.chain.name, key, content, headers, metadata).etag

    def put_parts(
        self,
        key: str,
        parts: Sequence[bytes],
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Put an object at the source as if uploaded in parts; return its ETag."""
        self.put(key, b"".join(parts), headers, metadata)
        stored = self.objects[key]
        stored.etag = etag_of_parts(parts)
        return stored.etag

    def delete(self, key: str) -> None:
        """Delete an object at the source."""
        del self.objects[key]

    # -- the target ----------------------------------------------------------------------------------------------

    @property
    def copies(self) -> dict[str, StoredObject]:
        """Return the objects of the target bucket."""
        return self.target_server.objects[TARGET]

    def found(self) -> dict[str, bytes]:
        """Return the complete content of the target by key."""
        if not self.to_manager:
            return {key: stored.content for key, stored in self.copies.items()}
        files = self.chain.manager.files
        return {path.removeprefix(ROOT): file.content or b"" for path, file in files.items()}

    def theirs(self, key: str, content: bytes) -> None:
        """Store a foreign object at the target; at a file manager with a foreign ``etag``."""
        self.chain.clock.sleep(1)
        if self.to_manager:
            self.chain.manager.put(f"{ROOT}{key}", content, '{"etag":"0123456789abcdef0123456789abcdef"}')
        else:
            self.target_server.put(TARGET, key, content, {"content-type": "text/plain"})

    def remove(self, key: str) -> None:
        """Delete an object at the target, as a foreign client."""
        if self.to_manager:
            del self.chain.manager.files[f"{ROOT}{key}"]
        else:
            del self.copies[key]

    def normalise(self, normalised: Callable[[str], str]) -> None:
        """Map all keys with the same normalised form to one, only at the target."""
        if self.to_manager:
            self.chain.manager.normalise = normalised
        else:
            self.target_server.normalise, self.target_server.normalised_buckets = normalised, {TARGET}

    def writes(self, *keys: str) -> list[str]:
        """Return the requests that changed the target, as operation and key; with ``keys``, only those of these keys."""
        if self.to_manager:
            found = [
                (operation, path.removeprefix(ROOT))
                for operation, path in self.chain.manager.asked
                if operation not in ("get", "permissions")
            ]
        else:
            found = [(each.operation, each.key) for each in self._asked() if each.operation in _WRITES]
        return [f"{operation} {key}" for operation, key in found if not keys or key in keys]

    def reads(self) -> list[str]:
        """Return the keys of the requests for single objects or files of the target."""
        if self.to_manager:
            return [p.removeprefix(ROOT) for operation, p in self.chain.manager.asked if operation == "get"]
        return [each.key for each in self._asked() if each.operation in ("HeadObject", "GetObject")]

    def _asked(self) -> list[Asked]:
        return [each for each in self.target_server.requests if each.bucket == TARGET]

    def intrude(self, key: str, content: bytes) -> None:
        """Store a foreign object at the target just before the next request that writes or deletes ``key``."""
        done = False

        def hook(method: str, bucket: str, asked: str, query: Mapping[str, str]) -> None:
            nonlocal done
            writes = (method in ("PUT", "DELETE") and not query) or (method == "POST" and "uploadId" in query)
            if not done and (bucket, asked) == (TARGET, key) and writes:
                done = True
                self.target_server.put(TARGET, key, content)

        self.target_server.hook = hook


Scan = Callable[..., Run]
"""A function that scans keys of the source, by a full scan or in another way."""


def full_scan(pair: Pair, *_keys: str) -> Run:
    return pair.chain.run()


def events(pair: Pair, *keys: str) -> Run:
    return pair.chain.run_events(*(record(pair.chain.name, key) for key in keys))


def keys_manually(pair: Pair, *keys: str) -> Run:
    return pair.chain.run(*(f"key:{key}" for key in keys))


def prefix_manually(pair: Pair, *_keys: str) -> Run:
    return pair.chain.run("prefix:docs/")


def etag_of_parts(parts: Sequence[bytes]) -> str:
    """Return the ETag that S3 gives an object uploaded in these parts."""
    upload = StoredUpload("", "", {}, {}, parts=dict(enumerate(parts, 1)))
    return upload.completed(sorted(upload.parts), 0.0).etag


def accounted(counts: Counts) -> int:
    """Return the number of keys in the counts of a run."""
    return counts.moved + counts.skipped + counts.left_out + counts.failed + counts.known + counts.conflict
