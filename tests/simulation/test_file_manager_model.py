"""The file manager model against the real client with the stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from syncline.clients.file_manager.client import FileContent, FileEvent, FileManager, FilePermissions
from syncline.clients.http.client import Http
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.http.retry import RetryPolicy
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models.file_manager import FileManagerServer, FileWrite, SimFileManager
from tests.simulation.network import Calls, Faults, Network
from tests.standins import file_manager as standin

NAMES = ["a b", "a+b", "a%20b", "ä", "日本/🎈", "a'b\"c<d>&e", "../up", "tab\tline\nend\r\n"]


@dataclass
class System:
    """A file manager with a client. ``contents`` returns its files, ``set`` saves one as a foreign writer."""

    files: FileManager
    contents: Callable[[], dict[str, bytes | None]]
    set: Callable[[str, bytes], object]
    events: list[Any]
    reports: list[dict[str, Any]]
    http: Http


def model(faults: Faults | None = None, seed: int = 1) -> tuple[FileManagerServer, SimFileManager]:
    machine = Machine(seed)
    server = FileManagerServer(machine)
    calls = Calls(machine, Process(machine, "p"), faults or Faults(off=True))
    return server, SimFileManager(server, Network(calls, Http()))


@pytest.fixture(params=["model", "stand-in"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    if request.param == "model":
        server, files = model()

        def contents() -> dict[str, bytes | None]:
            return {path: stored.content for path, stored in server.files().items()}

        yield System(files, contents, server.set, server.events, server.reports, files.network.http)
        return
    with standin.FileManagerServer() as other:
        http = Http(RetryPolicy(attempts=1))
        real = FileManager(other.url, lambda: None, http, nullcontext())
        yield System(
            real,
            lambda: {path: stored.content for path, stored in sorted(other.files.items())},
            other.put,
            other.events,
            other.reports,
            http,
        )


def code(function: Callable[[], object]) -> str:
    """Return the code of the error that a call raises, "" if it succeeds."""
    try:
        function()
    except SynclineError as error:
        return error.code.name
    return ""


def content(data: bytes, **metadata: Any) -> FileContent:
    return FileContent(data, len(data), "text/plain", metadata)


class TestConformance:
    def test_paths_may_have_any_characters(self, system: System) -> None:
        for name in NAMES:
            saved = system.files.save("create", name, content(name.encode(), etag="e"))
            assert system.files.get(name) == saved
        assert system.contents() == {name: name.encode() for name in sorted(NAMES)}
        for name in NAMES:
            system.files.delete(name)
        assert system.contents() == {}

    def test_a_file_is_created_updated_and_deleted(self, system: System) -> None:
        files = system.files
        assert files.get("a/b") is None
        created = files.save("create", "a/b", content(b"first", etag="1", more={"x": [1, None]}))
        assert (created.path, created.size, created.metadata) == ("a/b", 5, {"etag": "1", "more": {"x": [1, None]}})
        updated = files.save("update", "a/b", content(b"second", etag="2"))
        assert (updated.internal_id, updated.size, updated.metadata) == (created.internal_id, 6, {"etag": "2"})
        files.delete("a/b")
        files.delete("a/b")
        again = files.save("create", "a/b", content(b""))
        assert (again.internal_id != created.internal_id, again.size) == (True, 0)

    def test_invalid_saves_are_refused(self, system: System) -> None:
        files = system.files
        assert code(lambda: files.save("update", "a", content(b"x"))) == "NOT_FOUND"
        system.set("a", b"theirs")
        assert code(lambda: files.save("create", "a", content(b"x"))) == "FILE_DIFFERS"
        assert code(lambda: files.save("rename", "a", content(b"x"))) == "REFUSED"
        assert code(lambda: files.save("update", "a", FileContent(b"x", 2, "", {}))) == "REFUSED"
        assert code(lambda: files.save("create", "", content(b"x"))) == "REFUSED"
        assert system.contents() == {"a": b"theirs"}

    def test_a_stream_is_saved(self, system: System) -> None:
        chunks = [b"a" * 1000, b"", b"b" * 10]
        saved = system.files.save("create", "a", FileContent(iter(chunks), 1010, "text/plain", {}))
        assert (saved.size, system.contents()) == (1010, {"a": b"".join(chunks)})

    def test_a_stream_of_another_size_is_not_saved(self, system: System) -> None:
        for size in (1, 9):
            stream = FileContent(iter([b"12", b"34"]), size, "", {})
            assert code(partial(system.files.save, "create", "a", stream)) == "SOURCE_CHANGED"
        assert system.contents() == {}

    def test_a_failing_stream_is_not_saved(self, system: System) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"12"
            raise SynclineError("TOO_SLOW", "the source is slow")

        assert code(lambda: system.files.save("create", "a", FileContent(chunks(), 4, "", {}))) == "TOO_SLOW"
        assert system.contents() == {}

    def test_a_rename_keeps_everything_but_the_path(self, system: System) -> None:
        files = system.files
        created = files.save("create", "a/b", content(b"x", etag="1"))
        files.set_permissions("a/b", FilePermissions("rwxr-x---", "me", "us"))
        for path, new_path in (("a/b", "a/c"), ("a/c", "d")):
            renamed = files.rename(path, new_path)
            assert (renamed.internal_id, renamed.path, renamed.metadata) == (created.internal_id, path, {"etag": "1"})
        assert files.permissions("d") == FilePermissions("rwxr-x---", "me", "us")
        assert system.contents() == {"d": b"x"}

    def test_invalid_renames_are_refused(self, system: System) -> None:
        system.set("a", b"1")
        system.set("b", b"2")
        renames = [("c", "d"), ("c", "a"), ("a", "b"), ("a", "a"), ("a", ""), ("", "c")]
        codes = [code(partial(system.files.rename, *each)) for each in renames]
        assert codes == ["NOT_FOUND", "NOT_FOUND", "FILE_DIFFERS", "FILE_DIFFERS", "REFUSED", "REFUSED"]
        assert system.contents() == {"a": b"1", "b": b"2"}

    def test_permissions_are_read_and_set(self, system: System) -> None:
        files = system.files
        assert files.permissions("a") is None
        assert code(lambda: files.set_permissions("a", FilePermissions("rw-r--r--"))) == "NOT_FOUND"
        files.save("create", "a", content(b"x"))
        assert files.permissions("a") == FilePermissions("rw-------", "root", "root")
        assert files.set_permissions("a", FilePermissions("rw-r--r--")) == FilePermissions("rw-r--r--", "root", "root")
        assert files.set_permissions("a", FilePermissions(None, "me")) == FilePermissions("rw-r--r--", "me", "root")
        assert files.set_permissions("a", FilePermissions(None)) == FilePermissions("rw-r--r--", "me", "root")
        assert code(lambda: files.set_permissions("a", FilePermissions("0644"))) == "REFUSED"
        files.save("update", "a", content(b"new"))
        assert files.permissions("a") == FilePermissions("rw-r--r--", "me", "root")

    def test_the_last_events_are_read(self, system: System) -> None:
        assert system.files.events() == []
        event = {"event_type": "rename", "file_path": "a", "new_path": "b", "metadata": {}, "timestamp": "T"}
        changed = {"event_type": "change_permission", "file_path": "a", "metadata": {"new_permissions": "rwsr--r--"}}
        system.events += [event, changed, {"event_type": "melt", "file_path": "a"}]
        assert code(system.files.events) == "ENTRY_INVALID"
        invalid: list[InvalidEntry] = []
        for _ in range(2):  # reading does not consume events
            assert system.files.events(100, invalid.append) == [
                FileEvent("rename", "a", "b", None, "T"),
                FileEvent("change_permission", "a", None, "rwxr--r--", ""),
            ]
        assert [each.name for each in invalid] == ["a", "a"]
        system.events.clear()
        system.events += [{"event_type": "create", "file_path": f"f{number}"} for number in range(100)]
        assert len(system.files.events(1000)) == 100
        assert [len(system.files.events(count)) for count in (-1, 3)] == [1, 3]

    def test_reports_are_received(self, system: System) -> None:
        system.files.check()
        system.files.report({"run": "r", "files": [1, 2]})
        assert system.reports == [{"run": "r", "files": [1, 2]}]

    def test_each_call_is_one_request(self, system: System) -> None:
        files = system.files
        files.save("create", "a", content(b"x"))
        files.get("a")
        files.rename("a", "b")
        files.permissions("b")
        files.set_permissions("b", FilePermissions("rw-r--r--"))
        files.delete("b")
        files.events()
        files.report({})
        files.check()
        assert system.http.requests_made == 9


class TestFileManagerServer:
    def test_writes_are_recorded(self) -> None:
        server, files = model()
        files.save("create", "a", content(b"1"))
        one = server.files()["a"].digest
        server.set("a", b"2")
        two = server.files()["a"].digest
        files.rename("a", "d/b")
        files.set_permissions("d/b", FilePermissions("rw-r--r--"))
        files.set_permissions("d/b", FilePermissions("rw-r--r--"))
        server.set_mode("d/b", "rwx------")
        server.remove("d/b")
        server.remove("d/b")
        files.delete("d/b")
        assert server.writes == [
            FileWrite("create", "a", None, one, "client"),
            FileWrite("update", "a", one, two, "outside"),
            FileWrite("move", "a", two, two, "client", "d/b"),
            FileWrite("permissions", "d/b", "rw------- root:root", "rw-r--r-- root:root", "client"),
            FileWrite("permissions", "d/b", "rw-r--r-- root:root", "rwx------ root:root", "outside"),
            FileWrite("delete", "d/b", two, None, "outside"),
        ]

    def test_changes_may_make_events(self) -> None:
        server, files = model()
        posted: list[dict[str, Any]] = []
        server.publishes, server.on_event = True, posted.append
        server.set("a", b"1")
        server.set_mode("a", "rw-rw-rw-")
        files.rename("a", "b")
        server.remove("b")
        assert [(each.kind, each.path, each.new_path, each.permissions) for each in files.events()] == [
            ("create", "a", None, None),
            ("change_permission", "a", None, "rw-rw-rw-"),
            ("rename", "a", "b", None),
            ("delete", "b", None, None),
        ]
        assert posted == server.events
        assert [each.kind for each in files.events(2)] == ["rename", "delete"]

    def test_saves_may_be_discarded_or_truncated(self) -> None:
        server, files = model()
        server.put_and_forget = True
        assert files.save("create", "a", content(b"12")).size == 2
        assert (server.files(), server.writes, files.get("a")) == ({}, [], None)
        server.put_and_forget, server.wrong_bytes = False, True
        assert files.save("create", "a", content(b"12")).size == 2
        saved = files.get("a")
        assert saved is not None
        assert (saved.size, server.files()["a"].content) == (1, b"1")
        server.reports_kept_size = True
        assert files.save("update", "a", content(b"12")).size == 1
        server.ignores_permissions = True
        assert files.set_permissions("a", FilePermissions("rw-r--r--")).mode == "rw-r--r--"
        assert files.permissions("a") == FilePermissions("rw-------", "root", "root")

    def test_a_server_may_overwrite_files(self) -> None:
        server, files = model()
        server.overwrites = True
        files.save("update", "a", content(b"1"))
        files.save("create", "b", content(b"2"))
        files.save("create", "b", content(b"3"))
        files.rename("a", "b")
        assert [(path, stored.content) for path, stored in server.files().items()] == [("b", b"1")]

    def test_a_request_is_repeated_after_a_lost_answer(self) -> None:
        found = set()
        for seed in range(200):
            server, files = model(Faults(broken=0.5), seed)
            found.add((code(partial(files.save, "create", "a", content(b"1"))), bool(server.files())))
        lost = {(name, kept) for name in ("UNREACHABLE", "SERVER_ERROR") for kept in (False, True)}
        assert found == lost | {("", True), ("FILE_DIFFERS", True)}
