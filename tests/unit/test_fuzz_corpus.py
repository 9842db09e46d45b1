"""Fuzz targets with their seeds and corpus: no exception, no hang, bounded memory, and stable round trips."""

from __future__ import annotations

import json
import logging
import tracemalloc
from importlib import import_module
from typing import Final

import pytest

from tests.fuzz.table import CORPUS, GROUPS, NAMES, RECORD, kept, target_of
from tests.fuzz.target import LONGEST, Finding, Target, must

_FREE: Final = 24 * 1024 * 1024
"""Bytes of memory allowed for every input: buffers of 1 MiB, and models that are built on first use."""
_RATIO: Final = 2_000
"""Further bytes of memory allowed per byte of input."""
_MOST_KEPT: Final = 60


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("syncline").setLevel(logging.CRITICAL)


@pytest.mark.parametrize("name", NAMES)
def test_corpus_inputs_pass(name: str) -> None:
    target = target_of(name)
    for data in (b"", *target.seeds, *(path.read_bytes() for path in kept(name))):
        target.check(data)


@pytest.mark.parametrize("name", NAMES)
def test_corpus_inputs_take_little_memory(name: str) -> None:
    target = target_of(name)
    inputs = (*target.seeds, *(path.read_bytes() for path in kept(name)))
    for data in inputs[:1]:
        target.check(data)  # imports and models of first use do not count for the input
    for data in inputs:
        tracemalloc.start()
        try:
            target.run(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak <= _FREE + _RATIO * len(data), f"{len(data)} bytes took {peak >> 20} MiB"


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(NAMES)
    for name in NAMES:
        paths = kept(name)
        assert len(paths) <= _MOST_KEPT
        assert all(path.stat().st_size <= LONGEST for path in paths)


def test_the_record_covers_every_target() -> None:
    record = json.loads(RECORD.read_text())
    assert set(record["targets"]) == set(NAMES)
    assert all(each["executions"] > 0 and each["findings"] == [] for each in record["targets"].values())


def test_the_table_names_all_targets() -> None:
    for module, names in GROUPS.items():
        assert tuple(each.name for each in import_module(f"tests.fuzz.{module}").TARGETS) == names


def test_a_failing_target_is_detected() -> None:
    target = Target("made-up", lambda data: must(data != b"bad", "it was bad"), ())
    target.check(b"good")
    with pytest.raises(Finding, match="it was bad"):
        target.check(b"bad")
