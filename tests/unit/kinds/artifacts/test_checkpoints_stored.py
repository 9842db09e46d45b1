"""Storage of checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from syncline.kinds.artifacts import checkpoints
from syncline.kinds.artifacts.checkpoints import Checkpoint, Checkpoints
from syncline.kinds.facts import ProcessFacts

CHECKPOINT: Final = Checkpoint("layer.tar", 7, {"given": 3}, None, "", {"a": b"\x00"}, {}, {"a": 1}, {})


@pytest.fixture
def memory() -> ProcessFacts:
    return ProcessFacts()


def test_another_function_loads_and_removes_a_checkpoint(memory: ProcessFacts) -> None:
    assert Checkpoints(memory, "app:v1").save(CHECKPOINT)
    assert Checkpoints(memory, "app:v1").load() == CHECKPOINT
    assert Checkpoints(memory, "app:v1", "another archive").load() is None
    assert Checkpoints(memory, "app:v2").load() is None
    Checkpoints(memory, "app:v1").forget()
    assert Checkpoints(memory, "app:v1").load() is None


def test_a_function_removes_its_own_checkpoint(memory: ProcessFacts) -> None:
    checkpoints_of_image = Checkpoints(memory, "app:v1")
    assert checkpoints_of_image.load() is None
    assert checkpoints_of_image.save(CHECKPOINT)
    checkpoints_of_image.forget()
    assert checkpoints_of_image.load() is None


def test_a_too_large_checkpoint_keeps_the_previous_one(memory: ProcessFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints_of_image = Checkpoints(memory, "app:v1")
    assert checkpoints_of_image.save(CHECKPOINT)
    monkeypatch.setattr(checkpoints, "LARGEST", 100)
    assert not checkpoints_of_image.save(replace(CHECKPOINT, member="other"))
    assert checkpoints_of_image.load() == CHECKPOINT


@pytest.mark.parametrize(("inside", "read"), [(None, 3), ({"mark": {"given": 5, "left": 0}}, 5), ({"mark": None}, 0)])
def test_position_in_the_archive(inside: dict[str, Any] | None, read: int) -> None:
    under = {"given": 1, "left": 2}
    start = {"given": 3, "under": None, "left": 0}
    assert replace(CHECKPOINT, start=start, inside=inside).read == read
    assert replace(CHECKPOINT, start={**start, "under": under}).read == 4
    assert replace(CHECKPOINT, start={"given": 3, "under": under}).read == 1
