"""The table of mutation tests names existing modules and tests, each module once, and matches the record."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mutation.table import ROWS, TESTS

_RECORD = Path(__file__).parents[1] / "simulation" / "records" / "mutation.json"


def test_modules_and_tests_exist() -> None:
    root = Path(__file__).parents[2]
    for row in ROWS:
        for path in (*row.paths, *(TESTS / name for name in row.tests)):
            assert (root / path).exists(), f"{path} is in tests/mutation/table.py and does not exist"


def test_each_module_has_one_row() -> None:
    modules = [module for row in ROWS for module in row.modules]
    assert len(modules) == len(set(modules))


def test_the_record_matches_the_table() -> None:
    modules = {module for row in ROWS for module in row.modules}
    for module, figures in json.loads(_RECORD.read_text()).items():
        assert module in modules, module
        assert figures["killed"] + figures["survived"] <= figures["mutants"], module
