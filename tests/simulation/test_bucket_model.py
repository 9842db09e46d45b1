"""The bucket model against the real client with the strict stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.s3.client import Bucket, honours_conditions
from syncline.clients.s3.events import events_in
from syncline.clients.s3.head import IF_ABSENT, ObjectHead, WriteCondition
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.clients.s3.upload import PART_SIZE
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models.bucket import SimBucket
from tests.simulation.models.bucket_server import BucketServer, Write
from tests.simulation.network import Calls, Faults, Network
from tests.standins.s3 import ACCESS, SECRET, S3Server

NAMES = ["a b", "a+b", "a%20b", "ä", "日本/🎈", "a'b\"c<d>&e", "a=1&b=2?c#d", "~tilde!*()"]
LIKE = ObjectHead(
    "",
    7,
    "text/plain",
    metadata={"Owner": "me", "note": "für"},
    headers={"cache-control": "max-age=60", "content-encoding": "gzip"},
)


@dataclass
class System:
    """Two buckets of one service. ``configure`` changes a setting of the service, ``set`` puts an object as a foreign writer."""

    one: Bucket
    two: Bucket
    set: Callable[[str, bytes], object]
    configure: Callable[[str, Any], None]


def network(machine: Machine) -> Network:
    return Network(Calls(machine, Process(machine, "p"), Faults(off=True)), Http())


def model() -> tuple[BucketServer, SimBucket]:
    """Return a bucket in memory and a client of it, without faults."""
    machine = Machine(1)
    server = BucketServer(machine, "one")
    return server, SimBucket(server, network(machine))


def model_system() -> System:
    server, one = model()
    other = BucketServer(server.machine, "two", same_service=server)
    servers = (server, other)
    names = {"honours_conditions": "ignores_conditions", "largest_page": "page_size"}

    def configure(name: str, value: Any) -> None:
        for each in servers:
            setattr(each, names.get(name, name), not value if name == "honours_conditions" else value)

    return System(one, SimBucket(other, one.network), server.set, configure)


@pytest.fixture(params=["model", "stand-in"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    if request.param == "model":
        yield model_system()
        return
    with S3Server("one", "two") as server:
        server.largest_page = 4

        def bucket(name: str) -> Bucket:
            keys = AccessKeys(ACCESS, SECRET)
            return Bucket(Endpoint.parse(server.url), name, lambda: keys, Http(RetryPolicy(attempts=1)))

        yield System(
            bucket("one"),
            bucket("two"),
            lambda key, content: server.put("one", key, content),
            lambda name, value: setattr(server, name, value),
        )


def code(function: Callable[[], object]) -> str:
    """Return the code of the error that a call raises, "" if it succeeds."""
    try:
        function()
    except SynclineError as error:
        return error.code.name
    return ""


def head_of(bucket: Bucket, key: str) -> ObjectHead:
    head = bucket.head(key)
    assert head is not None
    return head


def keys(bucket: Bucket, prefix: str = "", **options: Any) -> list[str]:
    return [each.key for page in bucket.pages(prefix, **options) for each in page.objects]


class TestConformance:
    def test_keys_may_have_any_characters(self, system: System) -> None:
        for name in NAMES:
            system.one.put(name, name.encode())
        assert keys(system.one) == sorted(NAMES)
        for name in NAMES:
            assert system.one.read(name, 1000)[1] == name.encode()
            system.two.copy(system.one, name, name, head_of(system.one, name))
            system.one.delete(name)
        assert (keys(system.one), keys(system.two)) == ([], sorted(NAMES))

    def test_objects_are_listed_in_pages(self, system: System) -> None:
        for number in range(9):
            system.one.put(f"d{number % 3}/k{number}", b"x" * number)
        found = list(system.one.pages())
        assert [len(page.objects) for page in found] == [4, 4, 1]
        assert [each.size for each in found[0].objects] == [0, 3, 6, 1]
        assert [page.token is None for page in found] == [False, False, True]
        assert keys(system.one, "d1/") == ["d1/k1", "d1/k4", "d1/k7"]
        assert keys(system.one, after="d1/k4") == ["d1/k7", "d2/k2", "d2/k5", "d2/k8"]
        assert keys(system.one, "d2/", after="d1/k4") == ["d2/k2", "d2/k5", "d2/k8"]
        page = system.one.page(limit=2)
        assert [each.key for each in page.objects] == ["d0/k0", "d0/k3"]
        page = system.one.page(token=page.token, limit=2)
        assert [each.key for each in page.objects] == ["d0/k6", "d1/k1"]
        assert code(lambda: system.one.page(limit=0)) == "REFUSED"

    def test_a_delimiter_groups_keys(self, system: System) -> None:
        for key in ("a", "b/1", "b/2", "c/1/x", "c/2", "d", "e/1", "f"):
            system.one.put(key, b"")
        page = system.one.page(delimiter="/")
        assert ([each.key for each in page.objects], page.prefixes) == (["a", "d"], ("b/", "c/"))
        rest = system.one.page(delimiter="/", token=page.token)
        assert ([each.key for each in rest.objects], rest.prefixes, rest.token) == (["f"], ("e/",), None)
        page = system.one.page("c/", delimiter="/", after="c/1/")
        assert ([each.key for each in page.objects], page.prefixes) == (["c/2"], ())

    def test_later_pages_show_later_changes(self, system: System) -> None:
        for key in "acegi":
            system.one.put(key, b"")
        pages = system.one.pages()
        first = [each.key for each in next(pages).objects]
        for key in "bh":
            system.set(key, b"")
        system.one.delete("i")
        assert (first, [each.key for page in pages for each in page.objects]) == (["a", "c", "e", "g"], ["h"])

    def test_a_head_has_the_attributes_of_an_object(self, system: System) -> None:
        etag = system.one.put("key", b"content", LIKE)
        head = head_of(system.one, "key")
        assert (head.etag, head.size, head.content_type, head.version) == (etag, 7, "text/plain", None)
        assert head.metadata == {"owner": "me", "note": "=?UTF-8?B?ZsO8cg==?="}
        assert head.headers == LIKE.headers
        assert head.modified == int(head.modified) > 1_700_000_000
        listed = system.one.page().objects[0]
        assert (listed.etag, listed.size, int(listed.modified)) == (etag, 7, int(head.modified))
        system.one.put("plain", b"")
        assert head_of(system.one, "plain").content_type == "binary/octet-stream"

    def test_an_absent_object_is_not_found(self, system: System) -> None:
        one = system.one
        assert (one.head("absent"), one.head("absent", confirm=False)) == (None, None)
        absent: list[Callable[[], object]] = [
            lambda: one.open("absent"),
            lambda: one.open("absent", etag="e"),
            lambda: one.read("absent", 10),
            lambda: one.grants("absent"),
            lambda: one.copy(system.two, "absent", "key", ObjectHead("e", 1)),
            lambda: one.copy(system.two, "absent", "key", ObjectHead("e", 1), condition=IF_ABSENT),
        ]
        assert [code(each) for each in absent] == ["NOT_FOUND"] * 6
        assert [
            code(lambda: one.delete("absent")),
            code(lambda: one.delete("absent", condition=WriteCondition("e"))),
        ] == [
            "",
            "",
        ]

    def test_ranges_are_read(self, system: System) -> None:
        one = system.one
        etag = one.put("key", b"0123456789")
        with one.open("key", start=2, end=5, etag=etag) as stream:
            assert (stream.head.size, stream.head.etag, stream.read(100), stream.read(1)) == (3, etag, b"234", b"")
        with one.open("key", start=7) as stream:
            assert b"".join(stream.chunks(2)) == b"789"
        with one.open("key", start=5, end=100) as stream:
            assert (stream.head.size, b"".join(stream.chunks(100))) == (5, b"56789")
        assert code(lambda: one.open("key", start=10)) == "REFUSED"
        assert code(lambda: one.open("key", end=0)) == "REFUSED"
        assert code(lambda: one.open("key", etag="0" * 32)) == "SOURCE_CHANGED"
        assert code(lambda: one.read("key", 9)) == "TOO_LARGE"
        assert one.read("key", 10, etag=etag)[1] == b"0123456789"

    def test_a_stream_keeps_the_content_of_its_request(self, system: System) -> None:
        system.one.put("key", b"old")
        with system.one.open("key") as stream:
            assert stream.read(1) == b"o"
            system.set("key", b"new and longer")
            assert b"".join(stream.chunks(10)) == b"ld"

    def test_a_put_obeys_its_condition(self, system: System) -> None:
        one = system.one
        etag = one.put("key", b"1", condition=IF_ABSENT)
        assert code(lambda: one.put("key", b"2", condition=IF_ABSENT)) == "TARGET_CHANGED"
        assert code(lambda: one.put("key", b"2", condition=WriteCondition("0" * 32))) == "TARGET_CHANGED"
        assert code(lambda: one.put("other", b"2", condition=WriteCondition(etag))) == "TARGET_CHANGED"
        assert one.put("key", b"2", condition=WriteCondition(etag)) != etag
        assert honours_conditions(lambda at: one.put("key", b"2", condition=at))
        assert keys(one) == ["key"]

    def test_a_deletion_obeys_its_condition(self, system: System) -> None:
        etag = system.one.put("key", b"1")
        assert code(lambda: system.one.delete("key", condition=WriteCondition("0" * 32))) == "TARGET_CHANGED"
        assert code(lambda: system.one.delete("key", condition=IF_ABSENT)) == "REFUSED"
        system.one.delete("key", condition=WriteCondition(etag))
        assert system.one.head("key") is None

    def test_a_copy_keeps_attributes_and_obeys_conditions(self, system: System) -> None:
        one, two = system.one, system.two
        etag = one.put("a b", b"content", LIKE)
        head = head_of(one, "a b")
        assert two.copy(one, "a b", "key", head, condition=IF_ABSENT) == etag
        copied = head_of(two, "key")
        assert (copied.content_type, copied.metadata, copied.headers) == ("text/plain", head.metadata, head.headers)
        assert code(lambda: two.copy(one, "a b", "key", head, condition=IF_ABSENT)) == "TARGET_CHANGED"
        assert honours_conditions(lambda at: two.copy(one, "a b", "key", head, condition=at))
        assert code(lambda: one.copy(one, "a b", "a b", head)) == "REFUSED"
        one.put("a b", b"changed")
        assert code(lambda: two.copy(one, "a b", "key", head)) == "SOURCE_CHANGED"
        assert code(lambda: two.copy(one, "a b", "new", head, condition=IF_ABSENT)) == "SOURCE_CHANGED"
        one.delete("a b")
        assert code(lambda: two.copy(one, "a b", "key", head, condition=WriteCondition(etag))) == "NOT_FOUND"

    def test_a_copy_keeps_the_redirect(self, system: System) -> None:
        redirect = {"x-amz-website-redirect-location": "/there"}
        system.one.put("key", b"", ObjectHead("", 0, headers=redirect))
        system.two.copy(system.one, "key", "key", head_of(system.one, "key"))
        assert head_of(system.two, "key").headers == redirect

    def test_a_service_may_ignore_conditions(self, system: System) -> None:
        system.configure("honours_conditions", False)
        system.one.put("key", b"1")
        assert not honours_conditions(lambda at: system.one.put("key", b"1", condition=at))
        head = head_of(system.one, "key")
        assert not honours_conditions(lambda at: system.two.copy(system.one, "key", "key", head, condition=at))
        system.one.put("key", b"2", condition=WriteCondition("0" * 32))
        head = ObjectHead("0" * 32, 1)
        assert code(lambda: system.two.copy(system.one, "key", "x", head, condition=IF_ABSENT)) == "SOURCE_CHANGED"
        system.one.delete("key", condition=WriteCondition("0" * 32))
        assert keys(system.one) == []

    def test_a_multipart_upload_is_resumed_and_completed(self, system: System) -> None:
        system.configure("smallest_part", 1)
        begun = system.one.begin_upload("key", LIKE)
        system.one.put("source", b"0123456789")
        source = system.one.copy_source("source", head_of(system.one, "source"))
        again = system.one.resume_upload("key", begun.upload_id)
        first = begun.put(1, b"first, ")
        copied = again.copy(2, source, 3, 6)
        assert again.parts() == {1: (first, 7), 2: (copied, 3)}
        assert code(lambda: again.copy(3, source, 5, 11)) == "REFUSED"
        assert code(lambda: again.put(0, b"")) == "REFUSED"
        assert system.one.head("key") is None
        assert code(lambda: again.complete(condition=WriteCondition("e"))) == "TARGET_CHANGED"
        etag = again.complete(condition=IF_ABSENT)
        assert etag.endswith("-2")
        head, content = system.one.read("key", 100)
        assert (head.etag, content, head.headers, head.content_type) == (
            etag,
            b"first, 345",
            LIKE.headers,
            "text/plain",
        )
        assert code(again.complete) == "UPLOAD_LOST"
        assert code(lambda: again.put(1, b"")) == "UPLOAD_LOST"
        again.abort()

    def test_invalid_parts_are_refused(self, system: System) -> None:
        upload = system.one.begin_upload("key")
        assert code(upload.complete) == "REFUSED"
        etags = {number: upload.put(number, b"small") for number in (1, 2)}
        assert code(lambda: upload.complete(etags)) == "REFUSED"
        assert code(lambda: upload.complete({1: "0" * 32})) == "REFUSED"
        assert code(lambda: upload.complete({3: etags[1]})) == "REFUSED"
        assert code(lambda: upload.copy(3, system.one.copy_source("absent", ObjectHead("e", 1)), 0, 1)) == "NOT_FOUND"
        assert code(system.one.resume_upload("other", upload.upload_id).parts) == "UPLOAD_LOST"
        upload.abort()
        assert code(upload.parts) == "UPLOAD_LOST"

    def test_parts_are_listed_in_pages(self, system: System) -> None:
        system.configure("parts_page", 2)
        upload = system.one.begin_upload("key")
        for number in (1, 2, 4, 7, 9):
            upload.put(number, b"x" * number)
        assert {number: size for number, (_, size) in upload.parts().items()} == {1: 1, 2: 2, 4: 4, 7: 7, 9: 9}

    def test_streams_are_put_in_one_or_many_parts(self, system: System) -> None:
        one = system.one
        one.put_stream("small", iter([b"a", b"", b"b"]), LIKE, condition=IF_ABSENT)
        assert one.read("small", 10)[1] == b"ab"
        etag = one.put_stream("large", [bytes(PART_SIZE - 1), bytes(5)], LIKE)
        assert (etag[-2:], head_of(one, "large").size) == ("-2", PART_SIZE + 4)
        assert code(lambda: one.put_stream("large", [bytes(PART_SIZE + 1)], condition=IF_ABSENT)) == "TARGET_CHANGED"
        one.put_stream("empty", [])
        assert head_of(one, "empty").size == 0

    def test_the_owner_has_full_control(self, system: System) -> None:
        system.one.put("key", b"")
        grants = system.one.grants("key")
        assert (grants.owner, grants.of_owner, grants.of_known, grants.of_all) == (
            "owner",
            frozenset({"FULL_CONTROL"}),
            frozenset(),
            frozenset(),
        )

    def test_the_limits_of_an_object_are_enforced(self, system: System) -> None:
        assert code(lambda: system.one.put("k" * 1025, b"")) == "REFUSED"
        assert code(lambda: system.one.put("k", b"", ObjectHead("", 0, metadata={"m": "x" * 2048}))) == "REFUSED"
        system.one.put("k", b"1234")
        system.configure("largest_copy", 3)
        assert code(lambda: system.two.copy(system.one, "k", "k", head_of(system.one, "k"))) == "REFUSED"

    def test_each_call_makes_the_same_number_of_requests(self, system: System) -> None:
        made = system.one.network.http if isinstance(system.one, SimBucket) else system.one._requests._http
        before = made.requests_made
        for key in "abcde":
            system.one.put(key, key.encode())
        list(system.one.pages())
        system.one.head("a")
        system.one.head("absent")
        system.one.head("absent", confirm=False)
        system.one.copy(system.one, "a", "z", head_of(system.one, "a"))
        code(lambda: system.one.copy(system.one, "a", "z", ObjectHead("e", 1), condition=IF_ABSENT))
        upload = system.one.begin_upload("u")
        upload.put(1, b"x")
        upload.complete()
        assert made.requests_made - before == 5 + 2 + 1 + 2 + 1 + 2 + 2 + 1 + 1 + 2


class TestBucketServer:
    def test_writes_are_recorded_and_notified(self) -> None:
        server, one = model()
        bodies: list[dict[str, Any]] = []
        server.on_event = bodies.append
        etag = one.put("a b/ä", b"1")
        new = server.set("a b/ä", b"2")
        one.copy(one, "a b/ä", "c", head_of(one, "a b/ä"))
        server.remove("c")
        server.remove("absent")
        one.delete("absent")
        assert server.writes == [
            Write("put", "a b/ä", None, etag, "client"),
            Write("put", "a b/ä", etag, new, "outside"),
            Write("copy", "c", None, new, "client"),
            Write("delete", "c", new, None, "outside"),
        ]
        assert server.objects() == {"a b/ä": (new, b"2")}
        events = [event for body in bodies for event in events_in(body)]
        etags = [record["s3"]["object"].get("eTag") for body in bodies for record in body["Records"]]
        assert [(each.key, each.name, stated) for each, stated in zip(events, etags, strict=True)] == [
            ("a b/ä", "ObjectCreated:Put", etag),
            ("a b/ä", "ObjectCreated:Put", new),
            ("c", "ObjectCreated:Copy", new),
            ("c", "ObjectRemoved:Delete", None),
        ]
        assert sorted(str(each.order) for each in events) == [each.order for each in events]
        assert bodies[0]["Records"][0]["s3"]["object"]["key"] == "a+b/%C3%A4"

    def test_earlier_versions_are_kept(self) -> None:
        server, one = model()
        server.versioned = True
        old = server.set("key", b"old")
        head = head_of(one, "key")
        server.set("key", b"new")
        assert head.version is not None
        assert one.head("key", version=head.version) == head
        with one.open("key", version=head.version) as stream:
            assert stream.read(10) == b"old"
        assert one.copy(one, "key", "copy", head) == old
        server.remove("key")
        assert one.head("key") is None
        assert one.head("key", version=head.version) == head
        assert one.head("key", version="other") is None

    def test_listings_may_be_cut_empty_or_endless(self) -> None:
        server, one = model()
        for key in "abcdef":
            server.set(key, b"")
        server.listing_cut = 5
        assert keys(one) == list("abcde")
        server.listing_cut = 2
        assert one.page("").token is None
        server.listing_cut, server.empty_listing = 0, True
        assert keys(one) == []
        server.empty_listing, server.endless = False, True
        assert code(lambda: keys(one)) == "LISTING_INCOMPLETE"

    def test_listings_may_be_stale(self) -> None:
        server, one = model()
        server.set("a", b"old")
        server.machine.now += 10
        server.stale_listing = 5
        server.set("b", b"")
        server.set("a", b"newer")
        assert [(each.key, each.size) for each in one.page().objects] == [("a", 3)]
        server.remove("a")
        assert code(lambda: one.head("a")) == "BAD_ANSWER"  # it is listed
        server.machine.now += 5
        assert keys(one) == ["b"]

    def test_writes_may_be_discarded_or_damaged(self) -> None:
        server, one = model()
        server.put_and_forget = True
        one.put("a", b"content")
        assert (server.objects(), server.writes, one.head("a")) == ({}, [], None)
        server.put_and_forget, server.wrong_bytes = False, True
        etag = one.put("a", b"content")
        assert server.objects()["a"] == (etag, b"contenu")
        server.wrong_bytes, server.lost_bytes = False, True
        assert one.copy(one, "a", "b", head_of(one, "a")) == server.objects()["b"][0]
        assert server.objects()["b"][1] == b"conten"

    def test_an_absent_bucket_fails_each_call(self) -> None:
        server, one = model()
        server.absent = True
        calls: list[Callable[[], object]] = [one.page, lambda: one.head("x"), lambda: one.put("x", b"")]
        calls += [lambda: one.open("x"), lambda: one.delete("x"), lambda: one.begin_upload("x")]
        assert [code(each) for each in calls] == ["BUCKET_ABSENT"] * 6
        assert one.head("x", confirm=False) is None

    def test_archived_and_public_objects(self) -> None:
        server, one = model()
        server.set("cold", b"x", storage_class="GLACIER")
        server.set("open", b"0123456789", public=True)
        assert code(lambda: one.open("cold")) == "OBJECT_ARCHIVED"
        assert head_of(one, "cold").size == 1
        assert one.grants("open").of_all == {"READ"}
        server.no_grants = server.short_reads = True
        assert code(lambda: one.grants("open")) == "REFUSED"
        with one.open("open") as stream:
            assert b"".join(stream.chunks(10)) == b"0123456789"

    def test_a_request_is_repeated_after_a_lost_answer(self) -> None:
        codes = set()
        for seed in range(200):
            machine = Machine(seed)
            server = BucketServer(machine, "one")
            calls = Calls(machine, Process(machine, "p"), Faults(broken=0.5))
            one = SimBucket(server, Network(calls, Http()))
            codes.add((code(partial(one.put, "key", b"1", condition=IF_ABSENT)), "key" in server.objects()))
        lost = {(name, kept) for name in ("UNREACHABLE", "SERVER_ERROR") for kept in (False, True)}
        assert codes == lost | {("", True), ("TARGET_CHANGED", True)}

    def test_other_tasks_run_between_the_chunks_of_a_stream(self) -> None:
        server, one = model()
        machine, process = server.machine, one.network.calls.process
        server.set("key", b"0123456789" * 10)
        read: list[bytes] = []

        def reader() -> None:
            with one.open("key") as stream:
                for chunk in stream.chunks(10):
                    read.append(chunk)
                    if len(read) == 3:
                        process.machine.spawn(machine.outside, "other", lambda: server.remove("key"))

        task = machine.spawn(process, "reader", reader)
        machine.run()
        assert (task.error, b"".join(read), server.objects()) == (None, b"0123456789" * 10, {})
        assert one.network.http.requests_made == 1  # all chunks belong to one request
