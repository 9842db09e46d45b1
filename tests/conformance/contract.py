"""The parts of the S3 protocol that syncs rely on, each tried through the product's client.

A check returns a few words about what the server did: "yes" if it is as in AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final
from urllib.parse import urlsplit

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.s3.checksums import CRC64NVME, crc64nvme
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import IF_ABSENT, ObjectHead, WriteCondition
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.clients.s3.upload import PART_SIZE
from syncline.errors import SynclineError
from tests.standins.rclone import ACCESS, SECRET
from tests.standins.s3_store import StoredUpload, md5

YES: Final = "yes"
LIKE: Final = ObjectHead(
    "", 0, "text/csv", metadata={"owner": "me"}, headers={"cache-control": "max-age=60", "content-language": "de"}
)
ODD_KEYS: Final = {
    "space": "a b",
    "plus": "a+b",
    "percent": "a%20b",
    "signs": "a?b#c&d=e;f",
    "accents": "Über/é",
    "emoji": "🙂",
    "newline": "a\nb",
    "trailing slash": "folder/",
    "double slash": "a//b",
    "leading slash": "/a",
    "dots": "a/../b",
    "file and folder": "file/and-folder",
}


@dataclass
class Client:
    """Buckets of one server; each check gets new ones."""

    url: str
    numbers: Iterator[int] = field(default_factory=count)

    def named(self, name: str, secret: str = SECRET, *, virtual: bool = False) -> Bucket:
        port = urlsplit(self.url).port
        endpoint = Endpoint.parse(f"http://localhost:{port}" if virtual else self.url)
        http = Http(RetryPolicy(attempts=1))
        return Bucket(endpoint, name, lambda: AccessKeys(ACCESS, secret), http, path_style=not virtual)

    def bucket(self) -> Bucket:
        """Return a new bucket."""
        bucket = self.named(f"conformance{next(self.numbers):04}")
        bucket.put("", b"")
        return bucket


def code(call: Callable[[], object]) -> str:
    """Return the code of a call's failure, "" if it does not fail."""
    try:
        call()
    except SynclineError as error:
        return error.code.name
    return ""


def keys_of(bucket: Bucket, prefix: str = "") -> list[str]:
    return [each.key for page in bucket.pages(prefix) for each in page.objects]


def order(client: Client) -> str:
    bucket, keys = client.bucket(), ["a-b", "a/b", "a0", "B", "b", "z~", "ä", "ﬀ", "🙂"]
    for key in keys:
        bucket.put(key, b"x")
    found = keys_of(bucket)
    if found == sorted(keys, key=str.encode):
        return YES
    return "keys are missing" if set(found) != set(keys) else "not by UTF-8 bytes"


def paging(client: Client) -> str:
    bucket, keys = client.bucket(), [f"folder/{number:02}" for number in range(7)]
    for key in keys:
        bucket.put(key, b"x")
    found: list[str] = []
    token: str | None = None
    for _ in range(10):
        page = bucket.page("folder/", token=token, limit=3)
        found += [each.key for each in page.objects]
        token = page.token
        if token is None:
            break
    after = [each.key for each in bucket.page("folder/", after=keys[3]).objects]
    folders = bucket.page(delimiter="/").prefixes
    faults = [
        name
        for name, fault in (
            ("pages", found != keys),
            ("start-after", after != keys[4:]),
            ("delimiter", folders != ("folder/",)),
        )
        if fault
    ]
    return f"wrong: {', '.join(faults)}" if faults else YES


def odd_keys(client: Client) -> str:
    bucket, faults = client.bucket(), []
    bucket.put("file", b"x")
    for name, key in ODD_KEYS.items():
        if (
            code(partial(bucket.put, key, key.encode()))
            or key not in keys_of(bucket)
            or code(partial(bucket.read, key, 100))
            or bucket.read(key, 100)[1] != key.encode()
        ):
            faults.append(name)
    return f"not: {', '.join(faults)}" if faults else YES


def put_etag(client: Client) -> str:
    bucket = client.bucket()
    etag = bucket.put("a", b"content", LIKE)
    head = bucket.head("a")
    listed = next(iter(bucket.page().objects))
    if head is None or etag != head.etag or listed.etag != etag:
        return "PUT, HEAD and listing differ"
    return YES if etag == md5(b"content") else "another hash"


def headers(client: Client) -> str:
    bucket = client.bucket()
    bucket.put("a", b"content", LIKE)
    head = bucket.head("a")
    assert head is not None
    lost = [name for name, value in LIKE.headers.items() if head.headers.get(name) != value]
    lost += [] if head.content_type == LIKE.content_type else ["content-type"]
    lost += [] if dict(head.metadata) == dict(LIKE.metadata) else ["metadata"]
    return f"loses {', '.join(lost)}" if lost else YES


def in_parts(bucket: Bucket, key: str, *, checksum: bool = False, condition: WriteCondition | None = None) -> str:
    upload = bucket.begin_upload(key, LIKE, checksum=checksum)
    etags = {1: upload.put(1, bytes(PART_SIZE)), 2: upload.put(2, b"rest")}
    return upload.complete(etags, condition=condition)


def multipart(client: Client) -> str:
    bucket = client.bucket()
    etag = in_parts(bucket, "a")
    wanted = StoredUpload("", "", {}, {}, parts={1: bytes(PART_SIZE), 2: b"rest"}).completed((1, 2), 0.0).etag
    head = bucket.head("a")
    if head is None or head.size != PART_SIZE + 4:
        return "wrong bytes"
    return YES if etag == wanted == head.etag else "another ETag" if etag == head.etag else "HEAD has another ETag"


def resumed(client: Client) -> str:
    bucket = client.bucket()
    begun = bucket.begin_upload("a")
    etag = begun.put(1, bytes(PART_SIZE))
    again = bucket.resume_upload("a", begun.upload_id)
    if again.parts() != {1: (etag, PART_SIZE)}:
        return "the list of parts differs"
    again.abort()
    lost = code(again.parts)
    return YES if lost == "UPLOAD_LOST" else f"after the abort: {lost or 'no error'}"


def _conditional(client: Client, write: Callable[[Bucket, WriteCondition], object], *, absent: bool = True) -> str:
    """Return the answer for a write that IF_ABSENT (with ``absent``), a wrong and the right ETag condition."""
    bucket = client.bucket()
    theirs = bucket.put("a", b"theirs")
    conditions = [*([("If-None-Match", IF_ABSENT)] if absent else []), ("If-Match", WriteCondition(md5(b"other")))]
    faults = []
    for name, condition in conditions:
        refused = code(partial(write, bucket, condition))
        head = bucket.head("a", confirm=False)
        if head is None or head.etag != theirs:
            faults.append(f"{name} ignored")
            theirs = bucket.put("a", b"theirs")
        elif refused != "TARGET_CHANGED":
            faults.append(f"{name}: {refused or 'no error'}")
    if refused := code(lambda: write(bucket, WriteCondition(theirs))):
        faults.append(f"a right If-Match: {refused}")
    return ", ".join(faults) or YES


def conditional_put(client: Client) -> str:
    return _conditional(client, lambda bucket, condition: bucket.put("a", b"ours", condition=condition))


def conditional_complete(client: Client) -> str:
    return _conditional(client, lambda bucket, condition: in_parts(bucket, "a", condition=condition))


def conditional_delete(client: Client) -> str:
    return _conditional(client, lambda bucket, condition: bucket.delete("a", condition=condition), absent=False)


def conditional_copy(client: Client) -> str:
    def write(bucket: Bucket, condition: WriteCondition) -> object:
        bucket.put("source", b"ours")
        head = bucket.head("source")
        assert head is not None
        return bucket.copy(bucket, "source", "a", head, condition=condition)

    return _conditional(client, write)


def copy(client: Client) -> str:
    bucket, other = client.bucket(), client.bucket()
    etag = bucket.put("a b+c", b"content", LIKE)
    head = bucket.head("a b+c")
    assert head is not None
    copied = other.copy(bucket, "a b+c", "copy", head)
    there = other.head("copy")
    if there is None or copied != etag != there.etag:
        return "another ETag"
    if dict(there.metadata) != dict(LIKE.metadata) or there.content_type != LIKE.content_type:
        return "loses headers"
    changed = code(lambda: other.copy(bucket, "a b+c", "copy", ObjectHead(md5(b"other"), 7)))
    return YES if changed == "SOURCE_CHANGED" else f"a changed source: {changed or 'copied'}"


def ranges(client: Client) -> str:
    bucket = client.bucket()
    etag = bucket.put("a", b"0123456789")
    for start, end in ((3, None), (3, 7)):
        with bucket.open("a", etag=etag, start=start, end=end) as stream:
            if b"".join(stream.chunks(100)) != b"0123456789"[start:end]:
                return "wrong bytes"
    changed = code(lambda: bucket.read("a", 100, etag=md5(b"other")))
    return YES if changed == "SOURCE_CHANGED" else f"If-Match of a read: {changed or 'ignored'}"


def checksum_default(client: Client) -> str:
    bucket = client.bucket()
    etag = bucket.put("a", b"content")
    return YES if bucket.checksums("a", etag) == {CRC64NVME: crc64nvme(b"content")} else "none"


def checksum_put(client: Client) -> str:
    bucket = client.bucket()
    try:
        etag = bucket.put("a", b"content", checksum=True)
    except SynclineError as error:
        return f"refused: {error.code.name}"
    found = bucket.checksums("a", etag)
    if found != {CRC64NVME: crc64nvme(b"content")}:
        return "not stored" if not found else f"another: {found}"
    wrong = bucket.checksums("a", md5(b"other"))
    return YES if not wrong else "stated of a replaced object"


def checksum_parts(client: Client) -> str:
    bucket = client.bucket()
    try:
        etag = in_parts(bucket, "a", checksum=True)
    except SynclineError as error:
        return f"refused: {error.code.name}"
    found = bucket.checksums("a", etag)
    if found != {CRC64NVME: crc64nvme(bytes(PART_SIZE) + b"rest")}:
        return "not stored" if not found else f"another: {found}"
    upload = bucket.begin_upload("b", checksum=True)
    etags = {1: upload.put(1, b"only")}
    damaged = code(lambda: upload.complete(etags, expected=crc64nvme(b"other")))
    return YES if damaged == "DIGEST_MISMATCH" else "parts have no checksums"


def virtual_style(client: Client) -> str:
    bucket = client.bucket()
    bucket.put("a b/ü", b"content")
    other = client.named(bucket.name, virtual=True)
    try:
        return YES if other.read("a b/ü", 100)[1] == b"content" and keys_of(other) == ["a b/ü"] else "wrong"
    except SynclineError as error:
        return f"no ({error.code.name})"


def errors(client: Client) -> str:
    bucket = client.bucket()
    bucket.put("a", b"content")
    wanted: dict[str, tuple[str, Callable[[], object]]] = {
        "missing key": ("NOT_FOUND", lambda: bucket.read("missing", 10)),
        "missing bucket": ("BUCKET_ABSENT", lambda: client.named("conformance-missing").page()),
        "wrong secret": ("UNAUTHORIZED", lambda: client.named(bucket.name, "wrong").page()),
        "missing upload": ("UPLOAD_LOST", lambda: bucket.resume_upload("a", "no-upload").put(1, b"x")),
        "deletion of a missing key": ("", lambda: bucket.delete("missing")),
    }
    found = {name: (wish, code(call)) for name, (wish, call) in wanted.items()}
    faults = [f"{name}: {got or 'no error'}" for name, (wish, got) in found.items() if got != wish]
    return ", ".join(faults) or YES


CHECKS: Final[dict[str, Callable[[Client], str]]] = {
    "listing in the order of UTF-8 bytes": order,
    "pages, start-after and folders": paging,
    "odd keys": odd_keys,
    "ETag of a PUT is its MD5": put_etag,
    "headers and metadata": headers,
    "ETag of a multipart upload": multipart,
    "list and abort of parts": resumed,
    "conditional PUT": conditional_put,
    "conditional completion of an upload": conditional_complete,
    "conditional DELETE": conditional_delete,
    "conditional copy": conditional_copy,
    "copy, if the source is unchanged": copy,
    "ranges, and reads with If-Match": ranges,
    "CRC64NVME of every object": checksum_default,
    "CRC64NVME of a PUT that has one": checksum_put,
    "full-object CRC64NVME of an upload": checksum_parts,
    "buckets in the host name": virtual_style,
    "error codes": errors,
}
"""The checks by their names in the table."""
