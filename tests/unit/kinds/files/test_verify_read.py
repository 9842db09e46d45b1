"""Files that are read one by one at a file manager: their verification and their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from syncline.kinds.files.records import UNSTATED, PreviousRecord, Record, RemovedRecord, Row, Task
from syncline.kinds.files.targets import TargetFile
from syncline.kinds.files.verify import PERMISSIONS_SET, FileVerification
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item
from tests.unit.kinds.files.transfer_world import sync_of

MADE = Record("e", 4, 7, "v-1", internal_id="id-1")
EXISTING = TargetFile("v-1", "e", 4, "id-1")


@dataclass
class _Manager:
    """A file manager and records. ``changes`` and ``gone`` were written to the records, after the time ``after``."""

    files: dict[str, TargetFile] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Row | None] = field(default_factory=dict)
    gone: dict[str, Row] = field(default_factory=dict)
    after: int = -1
    is_listed: bool = False
    name: str = "the manager"

    def listed(self, paths: Sequence[str]) -> dict[str, TargetFile]:  # noqa: ARG002 - as the real one
        return {}

    def stat(self, path: str) -> TargetFile | None:
        return self.files.get(path)

    def mode(self, path: str) -> str:
        return self.modes[path]

    def write(self, changes: Mapping[str, Row | None], gone: Mapping[str, Row], *, after: int) -> int:
        self.after = after
        self.changes |= changes
        self.gone |= gone
        return after + 1

    def verified(self, task: Task, key: str = "a") -> Completed | Unfinished | Failure:
        return self.verified_together({key: task})[key]

    def verified_together(self, tasks: Mapping[str, Task]) -> dict[str, Completed | Unfinished | Failure]:
        items = [task.on(Item("g", key, "e", None, 4)) for key, task in tasks.items()]
        verify = FileVerification(sync_of(manager=True), self, self, StepContext(lambda: 60.0), 1)  # type: ignore[arg-type]
        answers = {answer.item.name: answer for answer in verify.items(items)}
        assert answers.keys() == tasks.keys()
        return answers


def made_by(answer: Completed | Unfinished | Failure) -> Record:
    assert isinstance(answer, Completed), answer
    made = Task.of(answer.item).record
    assert made is not None
    return made


def code(answer: Completed | Unfinished | Failure) -> str:
    assert isinstance(answer, Failure), answer
    return answer.error.code.name


@pytest.mark.parametrize(
    ("made", "existing"),
    [
        (MADE, EXISTING),
        (MADE, replace(EXISTING, size=None)),
        (replace(MADE, target=UNSTATED), replace(EXISTING, version="v-2")),
        (replace(MADE, internal_id=""), replace(EXISTING, internal_id="id-2")),
        (MADE, replace(EXISTING, internal_id="")),
    ],
)
def test_the_record_has_the_version_at_the_target(made: Record, existing: TargetFile) -> None:
    world = _Manager({"a": existing})
    answer = world.verified(Task(record=made, seq="05", written=7))
    record = made_by(answer)
    assert record == replace(made, target=existing.version, internal_id=existing.internal_id or made.internal_id)
    assert Task.of(answer.item) == Task(record=record, seq="05", written=7)
    assert world.after == 7, "the record of the transfer must not replace it"
    assert (world.changes, world.gone) == ({"a": record.to_row()}, {})


@pytest.mark.parametrize(
    "existing",
    [None, replace(EXISTING, version="v-2"), replace(EXISTING, size=5), replace(EXISTING, version="v-2", size=None)],
)
def test_any_other_file_fails(existing: TargetFile | None) -> None:
    world = _Manager({} if existing is None else {"a": existing})
    assert code(world.verified(Task(record=MADE))) == "NOT_ARRIVED"
    assert (world.changes, world.gone) == ({}, {})


@pytest.mark.parametrize("operation", ["put", "permit"])
def test_permissions_that_were_set_are_read(operation: str) -> None:
    made = replace(MADE, mode="rw-r--r--")
    world = _Manager({"a": EXISTING}, {"a": "rw-r--r--"})
    answer = world.verified(Task(operation, record=made))
    assert isinstance(answer, Completed)
    assert answer.note == (PERMISSIONS_SET if operation == "permit" else "")
    world.modes["a"] = "rwxrwxrwx"
    assert code(world.verified(Task(operation, record=made))) == "NOT_ARRIVED"


@pytest.mark.parametrize("seq", ["", "05"])
@pytest.mark.parametrize("previous", [None, PreviousRecord("a", MADE)])
def test_the_record_of_a_removed_file(seq: str, previous: PreviousRecord | None) -> None:
    world = _Manager()
    answer = world.verified(Task("remove", seq=seq, previous=previous))
    assert isinstance(answer, Completed)
    assert answer.note == ""
    if seq or previous:
        assert (world.changes, world.gone) == ({}, {"a": RemovedRecord(seq, previous).to_row()})
    else:
        assert (world.changes, world.gone) == ({"a": None}, {})


def test_a_removal_fails_while_the_file_exists() -> None:
    world = _Manager({"a": EXISTING})
    assert code(world.verified(Task("remove"))) == "NOT_ARRIVED"
    assert (world.changes, world.gone) == ({}, {})


@pytest.mark.parametrize("gone", ["", "05"])
def test_a_rename_forgets_the_old_name(gone: str) -> None:
    world = _Manager({"a": EXISTING})
    assert made_by(world.verified(Task("rename", origin="old", origin_seq=gone, record=MADE))) == MADE
    assert world.changes == {"a": MADE.to_row()} | ({} if gone else {"old": None})
    assert world.gone == ({"old": RemovedRecord(gone).to_row()} if gone else {})


@pytest.mark.parametrize(
    ("operation", "other"), [("rename", Task(record=replace(MADE, target="v-2"))), ("put", Task("remove"))]
)
def test_a_file_renamed_to_another_case_may_state_its_old_path(operation: str, other: Task) -> None:
    """The other key has its own file, or none."""
    files = {"a": replace(EXISTING, path="A")} | (
        {} if other.record is None else {"A": replace(EXISTING, version="v-2")}
    )
    answers = _Manager(files).verified_together({"a": Task(operation, origin="b", record=MADE), "A": other})
    assert all(isinstance(answer, Completed) for answer in answers.values()), answers


@pytest.mark.parametrize("operation", ["put", "remove"])
def test_a_path_stored_in_another_case_is_a_collision(operation: str) -> None:
    world = _Manager({"a": replace(EXISTING, version="v-2", path="A")})
    answer = world.verified(Task(operation, record=None if operation == "remove" else MADE))
    assert code(answer) == "PATH_COLLIDES"
    assert isinstance(answer, Failure)
    assert "'A'" in answer.error.what
