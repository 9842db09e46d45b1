"""``audit``: its options, its report with signatures, its exit code, and repairs."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from scripts.output_schemas import FILES
from syncline.messages import Start
from syncline.model import Audit, Outcome, Result, Run, Trigger
from tests.standins.programs import needs
from tests.unit.cli.cli_stack import ROOT, SYNCS, Stack
from tests.unit.cli.test_cli_run import functions

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
EQUAL = Result("team/app", "1.0", Outcome.EQUAL, ONE, ONE)
DIFFERENT = Result("team/app", "2.0", Outcome.DIFFERENT, ONE, TWO, reason="the digests differ")
MISSING = Result("team/app", "3.0", Outcome.MISSING, ONE)
EXTRA = Result("team/app", "=4", Outcome.EXTRA, None, TWO)


def audited(stack: Stack, *arguments: str, results: tuple[Result, ...] = (EQUAL,), code: int = 0) -> dict[str, Any]:
    """Run `audit prod`, whose functions find `results`; return what it prints."""
    with functions(stack, lambda run: stack.finish(run, *results)):
        value = stack.json("audit", "prod", *arguments, code=code)
    jsonschema.validate(value, json.loads((ROOT / FILES["audit"]).read_text()))
    return value


def test_an_equal_target_exits_with_0(applied: Stack) -> None:
    value = audited(applied)
    assert value["equal"] is value["complete"] is True
    assert value["run"]["audit"] == {"parts": False, "deep": False, "part": 1, "of": 1, "allow_extra": False}
    assert [(each["outcome"], each["source"], each["target"]) for each in value["items"]] == [("skipped", ONE, ONE)]


@pytest.mark.parametrize("result", [DIFFERENT, MISSING, EXTRA], ids=lambda each: each.outcome.value)
def test_any_difference_exits_with_1(applied: Stack, result: Result) -> None:
    assert audited(applied, results=(EQUAL, result), code=1)["equal"] is False


def test_extra_items_can_be_allowed(applied: Stack) -> None:
    assert audited(applied, "--allow-extra", results=(EQUAL, EXTRA))["equal"] is True


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--parts"], Audit(parts=True)),
        (["--deep"], Audit(parts=True, deep=True)),
        (["--deep", "--part", "3/30"], Audit(parts=True, deep=True, part=3, of=30)),
        (["--deep", "--part", "next/30"], Audit(parts=True, deep=True, part=1, of=30)),
    ],
)
def test_the_options_reach_the_functions(applied: Stack, arguments: list[str], options: Audit) -> None:
    seen: list[Run] = []
    with functions(applied, lambda run: seen.append(applied.finish(run, EQUAL))) as starts:
        applied.json("audit", "prod", *arguments)
    assert [each.audit for each in seen] == [options]
    assert starts == [Start("prod", Trigger.MANUAL, run=seen[0].id, plan=True, audit=options)]


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/1001", "next/0", "-1/2"])
def test_an_invalid_share_is_refused(applied: Stack, part: str) -> None:
    result = applied.run("audit", "prod", "--deep", "--part", part)
    assert result.exit_code == 2
    assert f"--part {part}: write K/N" in result.stderr
    assert not applied.started()


def test_the_cost_is_that_of_the_last_such_audit(applied: Stack) -> None:
    assert "an unknown number of requests" in audit_text(applied)
    assert "about 7 requests, as the last such audit" in audit_text(applied)


def audit_text(stack: Stack) -> str:
    with functions(stack, lambda run: stack.finish(run, EQUAL)):
        return stack.run("audit", "prod").stdout


def test_the_report_has_each_item_in_each_form(applied: Stack, tmp_path: Path) -> None:
    value = audited(applied, "--out", str(tmp_path / "new"), results=(EQUAL, DIFFERENT, MISSING, EXTRA), code=1)
    table, page, document = (Path(each) for each in sorted(value["written"]))
    assert json.loads(document.read_text())["items"] == value["items"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {(row["name"], row["outcome"], row["source"], row["target"]) for row in rows} == {
        ("1.0", "skipped", ONE, ONE),
        ("2.0", "different", ONE, TWO),
        ("3.0", "missing", ONE, ""),
        ("'=4", "extra", "", TWO),
    }
    html = page.read_text()
    assert all(text in html for text in ("Verdict</dt><dd>not equal", ONE, TWO, "audit "))
    assert "not listed" not in html


def keys(kind: str, folder: Path) -> tuple[str, Path]:
    """Return a private key, and the file of its public one."""
    private = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = folder / "public.pem"
    public.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem.decode(), public


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_signed_report_is_checked(applied: Stack, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, public = keys(kind, tmp_path)
    monkeypatch.setenv("AUDIT_KEY", pem)
    value = audited(applied, "--out", str(tmp_path / "reports"), "--key", "env:AUDIT_KEY")
    reports = [each for each in value["written"] if not each.endswith(".sig")]
    assert len(reports) == 3
    for report in reports:
        assert applied.json("audit", "--check", report, "--key", str(public))["valid"] is True
    with Path(reports[0]).open("ab") as file:
        file.write(b" ")
    assert applied.json("audit", "--check", reports[0], "--key", str(public), code=1)["valid"] is False


def test_openssl_checks_a_signature(applied: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("openssl")
    pem, public = keys("ed25519", tmp_path)
    monkeypatch.setenv("AUDIT_KEY", pem)
    files = audited(applied, "--out", str(tmp_path / "reports"), "--key", "env:AUDIT_KEY")["written"]
    report = next(each for each in files if each.endswith(".json"))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin", "-in", report]
    assert subprocess.run([*command, "-sigfile", f"{report}.sig"], check=False).returncode == 0


def test_a_key_that_cannot_sign_is_refused(applied: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_KEY", "no key")
    with functions(applied, lambda run: applied.finish(run, EQUAL)):
        result = applied.run("audit", "prod", "--out", str(tmp_path), "--key", "env:AUDIT_KEY")
    assert result.exit_code == 2
    assert "no private key in PEM" in result.stderr


def test_a_repair_asks_for_what_is_missing_or_damaged(applied: Stack) -> None:
    repairs: list[Start] = []

    def work(run: Run) -> None:
        applied.finish(run, EQUAL, DIFFERENT, MISSING, EXTRA)
        while not repairs:
            repairs.extend(applied.started())
        state = applied.target.state
        assert repairs[0].run is not None
        applied.finish(state.run("prod", repairs[0].run), Result("team/app", "3.0", Outcome.MOVED, ONE, ONE))

    with functions(applied, work):
        value = applied.json("audit", "prod", "--repair", code=1)
    [start] = repairs
    assert (start.trigger, start.plan, start.scope.groups) == (Trigger.RETRY, False, ("team/app",))
    assert applied.target.state.failures.asked("prod", str(start.run)) == {("team/app", "2.0"), ("team/app", "3.0")}
    assert value["repair"]["id"] == start.run


def test_status_shows_the_latest_audit(applied: Stack) -> None:
    audited(applied, "--deep", "--part", "1/4", results=(EQUAL, MISSING), code=1)
    text = applied.run("status", "prod").stdout
    assert "every byte of part 1 of 4) and found not equal: 1 missing, 1 equal" in text
    assert "25 % of the target read by audits within 31 days" in text
    [sync] = applied.json("status", "prod")["syncs"]
    assert (sync["audit"]["equal"], sync["audit"]["read"], sync["audit"]["stale"]) == (False, 0.25, False)


def test_last_shows_an_earlier_audit(applied: Stack) -> None:
    assert applied.run("audit", "prod", "--last").exit_code != 0
    first = audited(applied, results=(EQUAL, MISSING), code=1)
    last = applied.json("audit", "prod", "--last", code=1)
    assert (last["run"]["id"], last["items"]) == (first["run"]["id"], first["items"])


def test_the_schedule_of_audits(stack: Stack) -> None:
    audit = "    audit: {schedule: rate(1 day), deep: true, spread: 30, within: 3d}\n"
    at = SYNCS.index("    source:")
    assert stack.apply(SYNCS[:at] + audit + SYNCS[at:]).exit_code == 0
    scheduler, group = stack.target.scheduler, stack.target.output("ScheduleGroupName")
    found = scheduler.get_schedule(Name="prod.audit", GroupName=group)
    message = json.loads(found["Target"]["Input"])
    assert (message["plan"], message["audit"]) == (True, [True, True, 0, 30, False])
    assert stack.apply(SYNCS).exit_code == 0
    names = {each["Name"] for each in scheduler.list_schedules(GroupName=group)["Schedules"]}
    assert "prod.audit" not in names
