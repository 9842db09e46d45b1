"""The published schemas describe what `report`, `history` and `status` print with ``--json``, for syncs of all kinds."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest

from scripts.output_schemas import FILES
from syncline.cli.summary import OUTPUT_VERSION, exit_code
from syncline.clients.replicas.instances import Instance
from syncline.config.file import read_syncs
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.kinds.tokens.wiring import StoredListings
from syncline.model import Outcome, Result, Scope, Trigger
from syncline.store.table import Database
from syncline.store.tokens import InstanceLists
from tests.rig.run_ids import made_run_id
from tests.unit.cli.cli_stack import GOOD, ROOT, Stack, conflict, failed, moved
from tests.unit.cli.test_cli_known import finish

WITH_RUNS: Final = [name for name, kind in KINDS.items() if kind.has_runs]
Check = Callable[[str, dict[str, Any]], None]


def strict(schema: Any) -> Any:
    """Return a schema that refuses keys that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema and "additionalProperties" not in schema else {}
    return {name: strict(value) for name, value in schema.items()} | closed


@pytest.fixture
def check() -> Check:
    """Return a check of an output against its published schema, which also refuses keys that the schema lacks."""

    def checked(name: str, value: dict[str, Any]) -> None:
        schema = json.loads((ROOT / FILES[name]).read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(strict(schema)).validate(value)
        assert value["version"] == OUTPUT_VERSION

    return checked


def put_example(stack: Stack, kind: str) -> str:
    """Store the example of a kind in the table, and return the name of its sync."""
    file = next(iter(sorted((ROOT / "examples").glob(f"{kind}-*.yaml"))))
    [sync, *_] = read_syncs(file).syncs.values()
    stack.target.state.put_sync(sync.name, sync.model_dump_json())
    return sync.name


@pytest.mark.parametrize("kind", WITH_RUNS)
def test_outputs_of_a_kind_with_runs_match_their_schemas(stack: Stack, check: Check, kind: str) -> None:
    name = put_example(stack, kind)
    for outcome in Outcome:
        result = Result("a", outcome.value, outcome, GOOD, None, 5, "NOT_FOUND", "it is not there", 7)
        run = stack.finish(stack.begin(name), result, replace(moved(), lag=3))
        check("report", stack.json("report", run.id, code=exit_code(run)))
    stack.finish(stack.begin(name), conflict(), failed(), moved())
    check("report", stack.json("report", name, code=1))
    stack.begin(name, trigger=Trigger.SCHEDULE)
    check("report", stack.json("report", name))
    check("history", stack.json("history", name))
    check("status", stack.json("status", name))
    check("status", stack.json("status"))


def test_known_failures_match_the_schema(applied: Stack, check: Check) -> None:
    unread = failed(group="*", name="*", code="FORBIDDEN")
    finish(applied, failed(), unread)
    finish(applied, unread)
    report = applied.json("report", "prod", code=1)
    assert report["known"]
    check("report", report)
    applied.target.state.begin_run("prod", made_run_id(500), Trigger.MANUAL, Scope.of(["mirror/team/app"]))
    report = applied.json("report", "prod")
    assert report["run"]["scope"] == ["mirror/team/app"]
    check("report", report)


def test_a_sync_that_never_ran_matches_the_schema(applied: Stack, check: Check) -> None:
    check("history", applied.json("history", "prod"))
    check("status", applied.json("status"))
    applied.run("pause", "prod")
    applied.add_dead_letters("mirror/team/app", sync="gone")
    check("status", applied.json("status"))


def test_a_sync_of_tokens_matches_the_schema(stack: Stack, check: Check) -> None:
    name = put_example(stack, "tokens")
    check("status", stack.json("status"))
    listings = StoredListings(InstanceLists(Database(stack.target.table), time.time))
    listings.listed(name, [Instance("nginx-0", "10.0.0.7", 8443, source="one")], time.time())
    listings.not_listed(name, SynclineError("UNREACHABLE", "the API of one refuses connections"))
    check("status", stack.json("status", name))


def test_a_schema_refuses_an_output_of_another_version(applied: Stack, check: Check) -> None:
    value = copy.deepcopy(applied.json("history", "prod"))
    value["version"] = OUTPUT_VERSION + 1
    with pytest.raises(jsonschema.ValidationError):
        check("history", value)
