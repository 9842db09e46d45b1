"""Structured log lines and metrics, without secrets."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from syncline.model import EVERYTHING, LAG_BOUNDS, Counts, Lags, Outcome, Result, Run, RunStatus, Trigger
from syncline.secrets import register
from syncline.telemetry import log_batch_end, log_operation, log_run_end, logger, record_health, record_sync_health

PLANTED = "s3cret/with+odd=chars"


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that returns the lines printed since its last call, as JSON."""

    class Stdout:
        """The current ``sys.stdout``, which pytest replaces between set-up and test."""

        def write(self, text: str) -> None:
            sys.stdout.write(text)

        def flush(self) -> None:
            sys.stdout.flush()

    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Syncline")
    monkeypatch.setattr(logger.registered_handler, "stream", Stdout())
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def ended_run(**counts: int) -> Run:
    return Run(
        "r1", "prod-to-dr", 7, Trigger.MANUAL, EVERYTHING, 100.0, RunStatus.DONE, ended=102.5, counts=Counts(**counts)
    )


@pytest.mark.usefixtures("printed")
def test_no_line_contains_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    register(PLANTED)
    logger.info("message %s", PLANTED, extra={"field": PLANTED, "nested": {"deep": [PLANTED]}})
    try:
        int(PLANTED)
    except ValueError:
        logger.exception("an error whose text and traceback hold it")
    result = Result("team/app", "v1", Outcome.FAILED, code="UNAUTHORIZED", reason=f"refused {PLANTED}")
    log_batch_end({"step": "transfer", "batch": "b1"}, [result], Counts(failed=1))
    output = capsys.readouterr().out
    assert output.count("***") >= 5
    assert PLANTED not in output
    assert all(json.loads(line) for line in output.splitlines())


def test_a_secret_that_is_a_word_hides_no_field(printed: Callable[[], list[dict[str, Any]]]) -> None:
    for word in ("second", "operation", "level"):
        register(word)
    log_run_end(ended_run(moved=1))
    line, _ = printed()
    assert (line["level"], line["seconds"]) == ("info", 2.5)
    assert "operation" in line
    logger.warning("the %s", "second level", extra={"moved": {"seconds": 1}})
    (line,) = printed()
    assert (line["message"], line["moved"]) == ("the *** ***", {"***s": 1})


def test_the_end_of_a_run_is_logged_with_metrics(printed: Callable[[], list[dict[str, Any]]]) -> None:
    log_run_end(ended_run(moved=3, skipped=4, failed=1, bytes=1000))
    line, emf = printed()
    assert (line["level"], line["message"], line["sync"], line["seconds"]) == (
        "warning",
        "run ended",
        "prod-to-dr",
        2.5,
    )
    assert (emf["sync"], emf["ItemsMoved"], emf["ItemsFailed"], emf["RunSeconds"]) == (
        "prod-to-dr",
        [3.0],
        [1.0],
        [2.5],
    )
    log_run_end(ended_run(skipped=4, left_out=2))
    line, emf = printed()
    assert (line["level"], line["left_out"], emf["ItemsLeftOut"], emf["RunsFailed"]) == ("info", 2, [2.0], [0.0])


def test_a_plan_is_no_success_and_no_failure(printed: Callable[[], list[dict[str, Any]]]) -> None:
    for counts in ({"would_move": 3}, {"failed": 1}):
        log_run_end(replace(ended_run(**counts), plan=True))
        (line,) = printed()
        assert line["message"] == "plan ended"


@pytest.mark.parametrize(("counts", "failed"), [({"skipped": 3}, 0.0), ({"skipped": 3, "failed": 1}, 1.0), ({}, 1.0)])
def test_a_drill_has_a_metric_of_its_own(
    counts: dict[str, int], failed: float, printed: Callable[[], list[dict[str, Any]]]
) -> None:
    log_run_end(replace(ended_run(**counts), plan=True, drill=0.1))
    line, emf = printed()
    assert (line["message"], line["good"], emf["DrillsFailed"]) == ("drill ended", not failed, [failed])
    assert not {"LastSuccess", "RunsFailed", "ItemsMoved"} & emf.keys()


def test_metrics_have_the_name_of_the_stack_as_a_dimension(
    printed: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.telemetry._STACK", "staging")
    log_run_end(ended_run(moved=3))
    log_operation("prod-to-dr", "commit", {}, {"ClustersBackedUp": 2})
    measured = [line for line in printed() if "_aws" in line]
    assert [line["stack"] for line in measured] == ["staging", "staging"]
    for line in measured:
        ((names,),) = [each["Dimensions"] for each in line["_aws"]["CloudWatchMetrics"]]
        assert {"stack", "sync"} <= set(names)


def test_an_item_in_conflict_has_its_own_line(printed: Callable[[], list[dict[str, Any]]]) -> None:
    results = [
        Result("team/app", "v1", Outcome.MOVED, "sha256:a", "sha256:a"),
        Result("team/app", "v2", Outcome.CONFLICT, "sha256:a", "sha256:b", code="TAG_DIFFERS", reason="differs"),
    ]
    log_batch_end({"step": "verify", "batch": "b1"}, results, Counts.of(results))
    first, second = printed()
    assert (first["item"], first["outcome"], first["code"], first["why"]) == (
        "team/app:v2",
        "conflict",
        "TAG_DIFFERS",
        "differs",
    )
    assert (second["message"], second["moved"], second["conflict"]) == ("batch ended", 1, 1)


def test_a_name_cannot_hide_or_forge_a_log_line(
    printed: Callable[[], list[dict[str, Any]]],  # noqa: ARG001 - directs the log to this output
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "a\x1b[31mb\nc\x9bd\u202ee\u200bf\U000e0041\u2028g"
    for _ in range(2):
        logger.info("item not moved", extra={"item": name})
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(lines) == 2
    assert all(line.isprintable() and "\u202e" not in line and "\u200b" not in line for line in lines)
    assert json.loads(lines[0])["item"] == name


def test_every_line_has_an_operation(printed: Callable[[], list[dict[str, Any]]]) -> None:
    """A query such as ``select(.operation | startswith("git_"))`` fails on a line without an operation."""
    log_run_end(ended_run(moved=1))
    log_operation("clusters", "git_push", {"files_new": 1}, {"ClustersBackedUp": 2.0})
    assert [line["operation"] for line in printed()] == [logger.service, "metrics", "git_push", "metrics"]


@pytest.mark.parametrize(
    ("in_sync", "age", "expected"),
    [
        (True, 61.4, {"InSync": [1.0], "VerificationAge": [61.0]}),
        (False, -5.0, {"InSync": [0.0], "VerificationAge": [0.0]}),
        (None, 61.4, {"VerificationAge": [61.0]}),
        (None, None, None),
    ],
)
def test_the_health_of_a_sync_is_recorded_as_far_as_it_is_known(
    printed: Callable[[], list[dict[str, Any]]],
    in_sync: bool | None,
    age: float | None,
    expected: dict[str, list[float]] | None,
) -> None:
    record_sync_health("prod-to-dr", in_sync, age)
    lines = printed()
    assert len(lines) == (0 if expected is None else 1)
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert {each["Name"]: line[each["Name"]] for each in directive["Metrics"]} == expected
        assert line["sync"] == "prod-to-dr"


@pytest.mark.parametrize("name", ["SyncStaleAlarm", "SyncsNotWatchedAlarm"])
def test_the_alarms_of_health_use_the_metric_of_the_watch(
    printed: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "watch")
    monkeypatch.setattr("syncline.telemetry._STACK", "one")
    record_health(2, 3)
    (line,) = printed()
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    alarm = yaml_parse((Path(__file__).parents[2] / "template.yaml").read_text())["Resources"][name]["Properties"]
    dimensions = {each["Name"]: each["Value"] for each in alarm["Dimensions"]}
    assert (alarm["Namespace"], set(dimensions)) == (directive["Namespace"], set(directive["Dimensions"][0]))
    assert dimensions["service"] == line["service"] == "watch"
    assert line[alarm["MetricName"]] == [2.0]
    assert (line["SyncsOutOfSync"], alarm["Threshold"]) == ([3.0], 0 if name == "SyncStaleAlarm" else 1)


@pytest.mark.parametrize(
    ("buckets", "values"),
    [
        ({}, None),
        ({1: 1}, [2.0]),
        ({1: 2, 5: 1}, [2.0, 2.0, 10.0]),
        ({1: 900, 5: 100}, [2.0] * 45 + [10.0] * 5),
        ({len(LAG_BOUNDS): 1}, [LAG_BOUNDS[-1]]),
    ],
)
def test_lags_are_recorded_by_their_distribution(
    printed: Callable[[], list[dict[str, Any]]], buckets: dict[int, int], values: list[float] | None
) -> None:
    log_run_end(replace(ended_run(moved=1), lags=Lags(buckets)))
    assert printed()[1].get("Lag") == values
