"""A chain from an S3 server to a file manager, and the invariants after every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.kinds.files.config import FilesSync
from syncline.model import Result, Run
from syncline.store.files import FileRecords
from tests.rig.chain import Chain
from tests.standins.file_manager import FileManagerServer
from tests.standins.rclone import ACCESS, SECRET, Rclone
from tests.standins.s3 import S3Server

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNC: Final = "shop-files"
MODE: Final = "rw-r--r--"
_SECRETS: Final = {"S3_ACCESS": ACCESS, "S3_SECRET": SECRET, "FILES_TOKEN": "token-of-the-tests"}


class FilesChain(Chain):
    """A bucket, a file manager and the steps between them; `url` is the address of the source, the server's by default."""

    effects = ("/saveToDisk", "/updatePermissions", "/reportResults", "/target")

    def __init__(
        self,
        rclone: Rclone | S3Server,
        name: str,
        manager: FileManagerServer,
        seed: int = 1,
        url: str = "",
        table: Table | None = None,
    ) -> None:
        super().__init__(SYNC, _SECRETS, seed, table)
        self.rclone = rclone
        self.name = name
        self.manager = manager
        self.url = url or rclone.url
        self.bucket = self.bucket_called(name)

    def bucket_called(self, name: str) -> Bucket:
        """Return a client for the tests themselves."""
        return Bucket(Endpoint.parse(self.url), name, lambda: AccessKeys(ACCESS, SECRET), Http())

    def make_bucket(self, name: str) -> None:
        if isinstance(self.rclone, S3Server):
            self.rclone.objects.setdefault(name, {})
            return
        # rclone notices a new folder only after a while, so ask it to create the bucket: PUT without a key.
        self.bucket_called(name).put("", b"")

    def endpoint(self, name: str, url: str = "") -> dict[str, Any]:
        """Return the configuration of a bucket, by default of the source's service."""
        auth = {"access_key": "env:S3_ACCESS", "secret_key": "env:S3_SECRET"}
        return {"bucket": name, "endpoint": url or self.url, "auth": auth}

    def configure(self, **more: Any) -> None:
        """Apply a sync of the complete bucket to the file manager; ``more`` adds or replaces fields."""
        self._config = {"kind": "files", "source": self.endpoint(self.name), "target": self._target(), **more}
        self._applied = self.apply(self._config)

    def configure_with_events(self, **more: Any) -> None:
        """Apply the sync as `configure` does, with a target whose events every full scan reads."""
        self.configure(target={**self._target(), "events": True}, **more)

    def _target(self) -> dict[str, Any]:
        return {"file_manager": self.manager.url, "token": "env:FILES_TOKEN", "prefix": "/data/", "requests": 4}

    @property
    def records(self) -> FileRecords:
        """Return the records of the configured sync at its target."""
        assert isinstance(self._applied, FilesSync)
        return FileRecords(self.database, self.sync, self._applied.target_id(), self.clock.time)

    def lose_table(self) -> None:
        """Delete every item of the table, and apply the latest configuration again."""
        for item in self.table.scan()["Items"]:
            self.table.delete_item(Key={"pk": item["pk"], "sk": item["sk"]})
        self.apply(self._config)

    def upload(self, key: str, content: bytes, **metadata: str) -> str:
        """Put an object into the bucket; return its ETag."""
        return self.bucket.put(key, content, ObjectHead("", len(content), "text/plain", metadata=metadata))

    def run_events(self, *bodies: Any) -> Run:
        """Post events, and execute the run that they cause."""
        self.post(*bodies)
        self.pump.run()
        return self.latest()

    def key_of(self, result: Result) -> str:
        return result.name

    def ended(self, run: Run, key: str) -> str:
        """Return the outcome of a key in a run: its code, else its outcome, or "equal" if it has no result."""
        result = self.results(run).get(key)
        return "equal" if result is None else result.code or result.outcome.value

    def objects(self) -> dict[str, bytes]:
        """Return the content of the bucket."""
        return {
            each.key: self.bucket.read(each.key, 1 << 30)[1] for page in self.bucket.pages() for each in page.objects
        }

    def check(self, *, besides: Mapping[str, bytes] | None = None, modes: Mapping[str, str] | None = None) -> Run:
        """Check that every byte and permission is at the file manager, every record is correct, and the run has ended.

        ``besides`` are additional paths at the file manager; ``modes`` are permissions other than the default.
        """
        run = self.check_ended()
        wanted = {f"/data/{key}": content for key, content in self.objects().items()}
        assert {path: file.content for path, file in self.manager.files.items()} == wanted | dict(besides or {})
        for path in wanted:
            assert self.manager.files[path].permissions == (modes or {}).get(path, MODE), path
        assert self.known() == {path.removeprefix("/data/") for path in wanted}
        return run

    def known(self) -> set[str]:
        """Return the keys of the files that the sync's records count as present at the target."""
        return {key for key, _ in self.records.scan()}


class FilesWorld:
    """An S3 server that one chain after another uses; each has a separate bucket and file manager."""

    def __init__(self, rclone: Rclone | S3Server) -> None:
        self.rclone = rclone
        self._number = 0

    @contextmanager
    def chain(self, seed: int = 1, service: str = "") -> Iterator[FilesChain]:
        """Yield a new chain; ``service`` is the address of a source service other than rclone."""
        self._number += 1
        name = f"source{self._number:05}"
        with FileManagerServer(token=_SECRETS["FILES_TOKEN"]) as manager:
            chain = FilesChain(self.rclone, name, manager, seed, service)
            chain.make_bucket(name)
            yield chain


def record(
    bucket: str, key: str, name: str = "ObjectCreated:Put", sequencer: str = "0055AED6DCD90281E5"
) -> dict[str, Any]:
    """Return a notification in S3's format."""
    about = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "sequencer": sequencer}}
    return {"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": about}]}
