"""The client of the file manager, with its stand-in."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.clients.file_manager.client import FileContent, FileEvent, FileManager, FilePermissions, parse_event
from syncline.clients.http.client import Http
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.http.retry import HOST_THROTTLE, RetryPolicy
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer
from tests.standins.file_manager import FileManagerServer
from tests.standins.file_manager_wire import Answer, json_answer

TOKEN = "token-of-the-tests"
NAMES = [
    "a b",
    "a+b",
    "a%20b",
    "ä",
    "a\u0308",
    "日本/🎈",
    "a'b\"c<d>&e",
    "x/" + "n" * 1000,
    "../up",
    "tab\tline\nend\r\n",
    "a\x01b",
]
HTML = b"<!doctype html><html><head><title>Sign in</title></head></html>"


@pytest.fixture
def server() -> Iterator[FileManagerServer]:
    with FileManagerServer(token=TOKEN) as server:
        yield server
    HOST_THROTTLE._hosts.clear()


def client(server: FileManagerServer, *tokens: str, gate: Any = None, attempts: int = 1) -> FileManager:
    first, *rest = tokens or (TOKEN,)
    return FileManager(
        server.url,
        lambda: first,
        Http(RetryPolicy(attempts=attempts, base=0.01)),
        gate or nullcontext(),
        renewed=lambda: rest[0] if rest else first,
    )


def content(data: bytes, **metadata: Any) -> FileContent:
    return FileContent(data, len(data), "text/plain", metadata)


def code_of(error: pytest.ExceptionInfo[SynclineError]) -> str:
    return error.value.code.name


class TestFiles:
    @pytest.mark.parametrize("name", NAMES)
    def test_files_with_unusual_names_are_saved_and_deleted(self, server: FileManagerServer, name: str) -> None:
        files = client(server)
        saved = files.save("create", name, content(name.encode(), etag="e"))
        assert server.files.keys() == {name}
        assert server.files[name].content == name.encode()
        assert files.get(name) == saved
        assert files.set_permissions(name, FilePermissions("rw-r-----")).mode == "rw-r-----"
        files.delete(name)
        assert server.files == {}

    @settings(max_examples=30)
    @given(st.binary(max_size=300) | st.sampled_from([b"", b"\r\n", b"\r\n--", b"--syncline"]), st.integers(1, 50))
    def test_content_is_sent_unchanged(self, data: bytes, size: int) -> None:
        chunks = (data[at : at + size] for at in range(0, len(data), size))
        with FileManagerServer() as server:
            files = FileManager(server.url, lambda: None, Http(), nullcontext())
            files.save("create", "streamed", FileContent(chunks, len(data), "x/y", {}))
            files.save("create", "whole", content(data))
            assert server.files["streamed"].content == server.files["whole"].content == data

    def test_a_file_is_saved_with_its_metadata_and_type(self, server: FileManagerServer) -> None:
        files = client(server)
        saved = files.save("create", "a", content(b"1", etag="e", version=None))
        assert (saved.internal_id, saved.size, saved.metadata) == ("id-1", 1, {"etag": "e", "version": None})
        again = files.save("update", "a", content(b"22", etag="f"))
        assert (again.internal_id, again.size) == ("id-1", 2)
        assert server.files["a"].file_type == "text/plain"

    def test_a_truncated_file_has_the_stored_size(self, server: FileManagerServer) -> None:
        """The caller records the file as ours, and verify refuses it."""
        answer = {"operation": "create", "file_path": "a", "internal_id": 1, "size": 1}
        server.misbehave("create", json_answer(answer))
        assert client(server).save("create", "a", content(b"12")).size == 1

    def test_rename_and_move_send_no_bytes(self, server: FileManagerServer) -> None:
        server.put("d/a", b"content")
        files = client(server)
        files.rename("d/a", "d/b")
        files.rename("d/b", "e/b")
        assert server.files["e/b"].content == b"content"
        assert server.operations == {"rename": 1, "move": 1}
        assert server.received == 0
        with pytest.raises(SynclineError) as error:
            files.rename("d/a", "d/c")
        assert code_of(error) == "NOT_FOUND"

    def test_a_missing_file_is_none_or_not_found(self, server: FileManagerServer) -> None:
        files = client(server)
        assert files.get("a") is None
        assert files.permissions("a") is None
        files.delete("a")
        with pytest.raises(SynclineError) as error:
            files.set_permissions("a", FilePermissions("rw-r--r--"))
        assert code_of(error) == "NOT_FOUND"

    def test_content_of_another_size_than_announced_is_refused(self, server: FileManagerServer) -> None:
        for size in (2, 4):
            with pytest.raises(SynclineError) as error:
                client(server).save("create", "a", FileContent(iter([b"abc"]), size, "x/y", {}))
            assert code_of(error) == "SOURCE_CHANGED"
        assert server.files == {}

    def test_large_content_is_streamed(self, server: FileManagerServer) -> None:
        data = random.Random(1).randbytes(1 << 20)
        client(server).save("create", "large", FileContent((data for _ in range(40)), 40 << 20, "x/y", {}))
        stored = server.files["large"]
        assert (stored.size, stored.content) == (40 << 20, None)

    def test_concurrent_requests_are_limited_by_the_gate(self) -> None:
        with FileManagerServer(delay=0.01) as server, ThreadPoolExecutor(16) as pool:
            files = FileManager(server.url, lambda: None, Http(), threading.BoundedSemaphore(3))
            list(pool.map(lambda n: files.save("create", str(n), content(b"x")), range(40)))
            assert server.peak == 3


class TestPermissions:
    def test_permissions_are_read_and_set(self, server: FileManagerServer) -> None:
        server.put("a", b"", permissions="rw-------")
        files = client(server)
        assert files.permissions("a") == FilePermissions("rw-------", "root", "root")
        assert files.set_permissions("a", FilePermissions("rwxr-x---", "ann", None)) == FilePermissions(
            "rwxr-x---", "ann", "root"
        )
        with pytest.raises(SynclineError) as error:
            files.set_permissions("a", FilePermissions("everything"))
        assert code_of(error) == "REFUSED"


class TestEvents:
    def test_events_can_be_read_repeatedly(self, server: FileManagerServer) -> None:
        server.events = [
            {"event_type": "create", "file_path": "a", "new_path": None, "metadata": {}, "timestamp": "t"},
            {"event_type": "move", "file_path": "a", "new_path": "b/a"},
            {"event_type": "change_permission", "file_path": "a", "metadata": {"new_permissions": "rw-r--r--"}},
            {"event_type": "explode", "file_path": "a"},
            {"event_type": "rename", "file_path": "a"},
            "nonsense",
        ]
        files = client(server)
        for _ in range(2):
            invalid: list[InvalidEntry] = []
            assert files.events(on_invalid=invalid.append) == [
                FileEvent("create", "a", None, None, "t"),
                FileEvent("move", "a", "b/a", None, ""),
                FileEvent("change_permission", "a", None, "rw-r--r--", ""),
            ]
            assert [each.error.code.name for each in invalid] == ["ENTRY_INVALID"] * 3
            assert [each.name for each in invalid] == ["a", "a", None]
            assert invalid[2].label == f"entry 6 of the events of {files.host}"

    @given(
        st.dictionaries(
            st.sampled_from(["event_type", "file_path", "new_path", "metadata"]),
            st.none()
            | st.integers()
            | st.sampled_from(["create", "move", "a"])
            | st.dictionaries(st.text(), st.text()),
        )
        | st.integers()
    )
    def test_any_event_is_read_or_refused(self, value: Any) -> None:
        try:
            parse_event(value)
        except SynclineError as error:
            assert error.code.name == "MESSAGE_INVALID"  # noqa: PT017 - both are allowed


class TestOtherOperations:
    def test_a_report_is_sent_and_the_health_checked(self, server: FileManagerServer) -> None:
        files = client(server)
        files.report({"run": "r", "moved": 3})
        assert server.reports == [{"run": "r", "moved": 3}]
        files.check()

    def test_a_renewed_token_is_used_at_once(self, server: FileManagerServer) -> None:
        client(server, "old", TOKEN).check()
        with pytest.raises(SynclineError) as error:
            client(server, "old").check()
        assert code_of(error) == "UNAUTHORIZED"
        assert "old" not in str(error.value)


class TestMisbehaviour:
    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (json_answer({"error": "too large"}, 413), "TOO_LARGE"),
            (Answer(429, b"{}", headers=(("Retry-After", "0"),)), "THROTTLED"),
            (Answer(503, HTML, "text/html"), "SERVER_ERROR"),
            (Answer(200, HTML, "text/html"), "BAD_ANSWER"),
            (Answer(404, HTML, "text/html"), "NOT_FOUND"),
            (Answer(200, b'{"internal_id": "id-1", "file_pa'), "BAD_ANSWER"),
            (Answer(200, json.dumps({"internal_id": "id"}).encode(), cut=8), "UNREACHABLE"),
            (Answer(200, b"", drop=True), "UNREACHABLE"),
            (json_answer([]), "BAD_ANSWER"),
            (json_answer({"operation": "create", "file_path": "other", "internal_id": 1}), "BAD_ANSWER"),
            (json_answer({"operation": "create", "file_path": "a"}), "BAD_ANSWER"),
            (json_answer({"operation": "create", "file_path": "a", "internal_id": 1, "status": "error"}), "REFUSED"),
        ],
    )
    def test_each_fault_has_a_code(self, server: FileManagerServer, answer: Answer, code: str) -> None:
        server.misbehave("create", answer)
        with pytest.raises(SynclineError) as error:
            client(server).save("create", "a", content(b"x"))
        assert code_of(error) == code
        server.misbehave("get", replace_operation(answer))
        if answer.body != HTML or answer.status != 404:
            with pytest.raises(SynclineError):
                client(server).get("a")

    def test_a_404_in_html_does_not_mean_an_absent_file(self, server: FileManagerServer) -> None:
        server.put("a", b"x")
        server.misbehave("get", Answer(404, HTML, "text/html"))
        with pytest.raises(SynclineError) as error:
            client(server).get("a")
        assert code_of(error) == "NOT_FOUND"

    @pytest.mark.parametrize("operation", ["create", "get"])
    def test_only_a_write_reports_a_different_file(self, server: FileManagerServer, operation: str) -> None:
        server.misbehave(operation, json_answer({"error": "conflict"}, 409))
        with pytest.raises(SynclineError) as error:
            client(server).save("create", "a", content(b"x")) if operation == "create" else client(server).get("a")
        assert (code_of(error) == "FILE_DIFFERS") is (operation == "create")

    def test_throttled_requests_are_retried(self, server: FileManagerServer) -> None:
        server.misbehave("create", Answer(429, b"{}", headers=(("Retry-After", "0"),)), times=2)
        client(server, attempts=4).save("create", "a", content(b"x"))
        assert server.operations["create"] == 3

    def test_a_request_without_a_response_ends_at_the_deadline(self) -> None:
        with ScriptedServer() as hanging:
            hanging.on("GET", "/", Reply(200, b"{}", delay=1.0))
            files = FileManager(
                hanging.url, lambda: None, Http(RetryPolicy(attempts=1, deadline=0.2, clock=lambda: 0.0)), nullcontext()
            )
            with pytest.raises(SynclineError, match=r"the function.s time was over") as error:
                files.check()
        assert code_of(error) == "TIME_SHORT"


def replace_operation(answer: Answer) -> Answer:
    return Answer(
        answer.status,
        answer.body.replace(b'"create"', b'"get"').replace(b'"a"', b'"b"'),
        answer.content_type,
        answer.headers,
        answer.cut,
        answer.hang,
        answer.drop,
    )
