"""The shipped alert rules and dashboards use metrics that exist, and promtool accepts the rules and the metrics."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.rig.metric_pages import console_page, container_page
from tests.standins.programs import needs, program

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "syncline.rules.yml"
RULE_TESTS: Final = DEPLOY / "prometheus" / "syncline.rules.test.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "syncline.json"
_METRIC: Final = re.compile(r"(?<![\w:])(?:syncline[_:][a-z0-9_:]+|up)(?![\w:])")
_LABELS: Final = re.compile(r"(?:by|on|without|ignoring) \(([^)]*)\)")
_MATCHER: Final = re.compile(r"[{,] ?([a-z_]+)(?:=~|!~|!=|=)\"")
_LEGEND: Final = re.compile(r"\{\{(?: ?\$labels\.)?([a-z]+) ?\}\}")


@cache
def exported() -> dict[str, set[str]]:
    """Return the label names of every exported metric, by the names that samples have."""
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for page in (console_page(), container_page()):
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                found.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@cache
def recorded() -> dict[str, set[str]]:
    """Return the labels of every recorded series; a rule sums by them."""
    return {
        rule["record"]: set(re.findall(r"\w+", _LABELS.findall(rule["expr"])[0]))
        for rule in rules()
        if "record" in rule
    }


def targets() -> Iterator[tuple[str, str, str]]:
    """Yield title, expression and legend of every query of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def check_expression(expression: str, texts: str = "") -> None:
    """Check that the metrics of an expression exist, with the labels that it and ``texts`` use."""
    known = exported() | recorded()
    names = set(_METRIC.findall(expression))
    assert names, f"no metric in {expression}"
    assert names <= known.keys(), f"not exported: {names - known.keys()}"
    used = {name for part in _LABELS.findall(expression) for name in re.findall(r"\w+", part)}
    used |= set(_MATCHER.findall(expression)) | set(_LEGEND.findall(texts))
    assert used <= set().union(*(known[name] for name in names)), expression


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_use_metrics_that_are_exported(rule: dict[str, Any]) -> None:
    check_expression(rule["expr"], " ".join(rule.get("annotations", {}).values()))


def test_each_alert_says_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"].keys() == {"severity"}
            assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.parametrize("target", list(targets()), ids=lambda target: target[0])
def test_the_dashboard_uses_metrics_that_are_exported(target: tuple[str, str, str]) -> None:
    check_expression(target[1], target[2])


def test_a_metric_that_does_not_exist_is_found() -> None:
    with pytest.raises(AssertionError, match="not exported"):
        check_expression("rate(syncline_request_total[5m])")
    with pytest.raises(AssertionError, match="colour"):
        check_expression("sum by (colour) (syncline_stale)")


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    needs("promtool")
    return subprocess.run([program("promtool"), *arguments], input=text, capture_output=True, text=True, check=False)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stderr


def test_each_alert_is_tested_by_promtool() -> None:
    cases = [
        case for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for case in test.get("alert_rule_test", ())
    ]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts, "each alert fires in a test"
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts, "and does not in another"
    done = promtool("test", "rules", str(RULE_TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", [console_page, container_page])
def test_metrics_follow_the_rules_for_names(page: Any) -> None:
    done = promtool("check", "metrics", text=page())
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_reference_describes_every_metric() -> None:
    page = (DEPLOY.parent / "docs" / "reference" / "metrics.md").read_text()
    families = [*text_string_to_metric_families(console_page()), *text_string_to_metric_families(container_page())]
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    names = {name for name in names if not name.endswith("_created")}  # of the library, for counters
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_the_how_to_has_a_valid_configuration_and_every_alert() -> None:
    page = (DEPLOY.parent / "docs" / "how-to" / "watch-with-prometheus.md").read_text()
    config = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert {job["job_name"] for job in config["scrape_configs"]} == {"syncline", "syncline-tokens"}
    assert config["rule_files"] == [RULES.name]
    assert {rule["alert"] for rule in rules() if "alert" in rule} <= set(re.findall(r"`(Syncline\w+)`", page))


def test_promtool_accepts_the_configuration_of_the_how_to(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs" / "how-to" / "watch-with-prometheus.md").read_text()
    block = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "prometheus.yml").write_text(textwrap.dedent(block))
    done = promtool("check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
