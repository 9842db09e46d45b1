"""``syncline audit``: compare a whole source with a whole target, and write a report for an auditor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from syncline import __version__
from syncline.cli.audit_signature import check_signature, sign
from syncline.cli.commands_report import latest_run
from syncline.cli.commands_run import kind_of, scope_of
from syncline.cli.context import ALL_WELL, NOT_DONE, SOME_FAILED, CommandResult, Context
from syncline.cli.report_files import csv_report, html_report
from syncline.cli.run_progress import follow_run
from syncline.cli.summary import OUTPUT_VERSION, ending_line, exit_code, item_lines, run_dict
from syncline.errors import SynclineError, code_of
from syncline.model import EVERYTHING, Audit, Outcome, Result, Run, RunStatus, Scope, Trigger
from syncline.operations import start_run
from syncline.run_text import audit_text, report_order, source_and_target, with_display_groups
from syncline.store.overview import Overview
from syncline.store.table import Database
from syncline.text import number, plural, relative_time, size

if TYPE_CHECKING:
    from syncline.config.sync import Sync
    from syncline.store.audits import AuditCost

_SHOWN: Final = 20
"""Items with differences that are shown; the report has all."""
_PART: Final = re.compile(r"(\d{1,4})/(\d{1,4})")
_LARGEST_OF: Final = 1000
_REPAIRED: Final = (Outcome.MISSING, Outcome.DIFFERENT)


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """The options of the command."""

    only: Sequence[str] | None = None
    parts: bool = False
    deep: bool = False
    part: str | None = None
    allow_extra: bool = False
    repair: bool = False
    last: bool = False
    yes: bool = False
    out: Path | None = None
    key: str | None = None


def audit(context: Context, name: str | None, options: AuditOptions) -> CommandResult:
    """Audit a sync, and exit with 1 unless source and target are equal. Raises NO_SUCH_SYNC, and USAGE."""
    if name is None:
        raise SynclineError("USAGE", "Missing argument 'NAME'; name a sync, or check a report with --check")
    deployment, out = context.deployment, context.out
    state = deployment.state
    scope = scope_of(state, name, options.only)
    from syncline.config.sync import load_sync  # noqa: PLC0415 - models take long to import

    sync = load_sync(state.sync_config(name))
    pem = _key(context, sync, options)
    if options.last:
        run = _last(context, name, options)
    else:
        wanted = _wanted(sync, options)
        if wanted.part < 1:
            wanted = state.audits(name).due(wanted)
        _show_cost(context, name, scope, wanted)
        if not options.yes and out.interactive and not out.confirm(f"Audit {name}?"):
            out.line("nothing was audited")
            return CommandResult({"name": name, "audited": False}, NOT_DONE)
        run = follow_run(context, start_run(deployment, name, Trigger.MANUAL, scope, audit=wanted))
    results = sorted(state.results(run.id), key=report_order)
    files = [] if options.out is None else _write(sync, run, results, options.out, pem)
    _show(context, run, results, files)
    value = audit_dict(sync, run, results) | {"written": [str(path) for path in files]}
    if options.repair:
        value["repair"] = _repair(context, sync, results)
    return CommandResult(value, exit_code(run))


def check(context: Context, report: Path, key: str | None) -> CommandResult:
    """Check the signature of a report with a public key; the exit code is 1 if it is another one's."""
    if key is None:
        raise SynclineError("USAGE", "--check needs the file of the public key: --key FILE")
    valid = check_signature(report, Path(key))
    if valid:
        context.out.line(f"✓ {report}: the signature is that of {key}", "green")
    else:
        context.out.line(f"✗ {report}: the signature is not that of {key}, or the report was changed", "red")
    return CommandResult({"report": str(report), "valid": valid}, ALL_WELL if valid else SOME_FAILED)


def audit_dict(sync: Sync, run: Run, results: Iterable[Result]) -> dict[str, Any]:
    """Return an audit for JSON: its run, the verdict, and each item with both fingerprints."""
    assert run.audit is not None
    over = run.status is RunStatus.DONE
    return {
        "version": OUTPUT_VERSION,
        "sync": sync.name,
        "kind": sync.kind,
        "endpoints": source_and_target(json.loads(sync.model_dump_json())),
        "equal": over and run.audit.is_equal(run.counts),
        "complete": over and run.scope.everything,
        "run": run_dict(run),
        "items": [each.as_dict() for each in results],
        "written_by": f"Syncline {__version__}",
    }


def _wanted(sync: Sync, options: AuditOptions) -> Audit:
    """Return the options of the audit; raises USAGE for an invalid share."""
    allow_extra = options.allow_extra or (sync.audit is not None and sync.audit.allow_extra)
    plain = Audit(options.parts or options.deep, options.deep, allow_extra=allow_extra)
    if options.part is None:
        return plain
    if not options.deep:
        raise SynclineError("USAGE", "--part divides the bytes that --deep reads; add --deep")
    found = _PART.fullmatch(options.part)
    part, of = (int(each) for each in found.groups()) if found else (0, 0)
    if options.part.startswith("next/") and options.part[5:].isdecimal():
        of = int(options.part[5:][:5])
    elif not 1 <= part <= of:
        of = 0
    if not 1 <= of <= _LARGEST_OF:
        what = f"--part {options.part}: write K/N with K from 1 to N, or next/N, and N up to {_LARGEST_OF}"
        raise SynclineError("USAGE", what)
    return replace(plain, part=part, of=of)


def _last(context: Context, name: str, options: AuditOptions) -> Run:
    """Return the latest complete audit of a sync; raises NO_SUCH_RUN."""
    if options.repair:
        raise SynclineError("USAGE", "--repair follows an audit that begins now; leave out --last")
    record = context.deployment.state.audits(name)
    if not record.run:
        raise SynclineError("NO_SUCH_RUN", f"no audit of {name} has ended; start one with `syncline audit {name}`")
    context.out.line(f"the latest audit of {name} started {relative_time(record.at, context.now())}")
    return context.deployment.state.run(name, record.run)


def _show_cost(context: Context, name: str, scope: Scope, wanted: Audit) -> None:
    """Say what an audit will read, and what that will probably cost: as much as the last time."""
    state, out = context.deployment.state, context.out
    known: AuditCost | None = state.audits(name).cost(wanted)
    what = f"reads {audit_text(wanted)} of {'everything' if scope.everything else 'a part'}"
    if known is not None:
        read = f" and {size(known.bytes)}" if wanted.deep else ""
        cost = f"about {plural(known.requests, 'request')}{read}, as the last such audit"
    elif (run := latest_run(state, name)) is not None and run.over:
        more = " for digests, and several for each item" if wanted.parts else ""
        # A run that moved items made requests for that, too.
        most = "at most" if run.counts.moved else "about"
        cost = f"{most} {plural(run.counts.requests, 'request')}{more}, by the last run"
        if wanted.deep:
            sent = _sent(context, name) / wanted.of
            # What is shared, as layers are, was perhaps sent once, and is read in each group.
            cost += f", and at least {size(sent)} of the {size(sent * wanted.of)} that runs have sent" if sent else ""
    else:
        cost = "an unknown number of requests: nothing has run yet"
    out.line(f"the audit {what}: {cost}")


def _sent(context: Context, name: str) -> int:
    """Return the bytes that all runs of a sync have sent."""
    return sum(each.totals.bytes for each in Overview(Database(context.deployment.table)).read([name]))


def _show(context: Context, run: Run, results: Sequence[Result], files: Sequence[Path]) -> None:
    out, kind = context.out, kind_of(context.deployment.state, run.sync)
    hidden = {Outcome.EQUAL, Outcome.LEFT_OUT}
    shown = [
        each for each in results if each.outcome not in hidden or (each.outcome is Outcome.LEFT_OUT and each.reason)
    ]
    out.table(item_lines(with_display_groups(kind, shown[:_SHOWN]), full=True))
    if len(shown) > _SHOWN:
        out.line(f"  and {plural(len(shown) - _SHOWN, 'other')}")
    if not run.over:
        out.line(f"✗ {run.sync}: the audit made no progress; it is probably lost", "red")
        return
    out.line(*ending_line(run))
    read = f"{size(run.counts.bytes)} read, " if run.counts.bytes else ""
    out.line(f"{read}{plural(run.counts.requests, 'request')} to source and target", "dim")
    for path in files:
        out.line(f"written: {path}")
    if any(map(_is_repaired, results)):
        out.hint(context.command(f"audit {run.sync} --repair"), "to send again what is missing or damaged")
    if not files:
        out.hint(context.command(f"audit {run.sync} --last --out FOLDER"), "to write its report")


def _key(context: Context, sync: Sync, options: AuditOptions) -> str | None:
    """Return the private key for the report, None if none is configured; raises USAGE, and those of the secret."""
    from syncline.secrets import Reference  # noqa: PLC0415 - few commands need secrets

    reference = None if sync.audit is None else sync.audit.key
    if options.key is not None:
        try:
            reference = Reference.parse(options.key)
        except ValueError as error:
            raise SynclineError("USAGE", f"--key {error}") from None
    if options.out is None:
        if options.key is not None:
            raise SynclineError("USAGE", "--key signs the files of a report; add --out FOLDER")
        return None
    return None if reference is None else context.deployment.secrets.resolve(reference)


def _write(sync: Sync, run: Run, results: Sequence[Result], folder: Path, pem: str | None) -> list[Path]:
    """Write a report as JSON, CSV and HTML, each with its signature if there is a key; return the paths."""
    actions = {each.code: code_of(each.code).advice(sync.kind) for each in results if each.code}
    about = f"{sync.name}: {source_and_target(json.loads(sync.model_dump_json()))}"
    texts = {
        "json": json.dumps(audit_dict(sync, run, results), indent=1, ensure_ascii=False),
        "csv": "\r\n".join(csv_report(results)),
        "html": "\n".join(html_report(run, results, [], actions, about)),
    }
    base = f"audit-{sync.name}-{run.id}"
    files = {folder / f"{base}.{form}": f"{text}\n".encode(errors="surrogateescape") for form, text in texts.items()}
    if pem is not None:
        files |= sign(pem, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content)
    except OSError as error:
        raise SynclineError("FILE_REFUSED", f"cannot write the report to {folder}: {error.strerror}") from None
    return sorted(files)


def _is_repaired(result: Result) -> bool:
    """Return True if a run may mend what an audit found; it copies no image that `verify` refuses."""
    return result.outcome in _REPAIRED and result.code != "IMAGE_UNTRUSTED"


def _repair(context: Context, sync: Sync, results: Sequence[Result]) -> dict[str, Any] | None:
    """Start a run that sends again what an audit found missing or damaged, and follow it; None if nothing is.

    The run has the sync's own rules: what differs without `overwrite` is a conflict, and extra items stay.
    """
    out, deployment = context.out, context.deployment
    asked = [each for each in results if _is_repaired(each)]
    if not asked:
        out.line("nothing is to be repaired")
        return None
    scope = Scope.of(sync.scan_group(each.group, each.name) for each in asked)
    keys = [(each.group, each.name) for each in asked]
    run = start_run(deployment, sync.name, Trigger.RETRY, scope if scope.fits else EVERYTHING, asked=keys)
    out.line(f"run {run.id} of {sync.name} sends again what {plural(len(asked), 'item')} lacks")
    ended = follow_run(context, run)
    if ended.over:
        out.line(*ending_line(ended))
    failed = [each for each in deployment.state.results(ended.id) if each.code]
    for each in sorted(failed, key=report_order)[:_SHOWN]:
        out.line(f"  {each.group}:{each.name}: {each.code}: {each.reason}")
    if len(failed) > _SHOWN:
        out.line(f"  and {number(len(failed) - _SHOWN)} others")
    out.hint(context.command(f"audit {sync.name}"), "to see whether source and target are equal now")
    return run_dict(ended)
