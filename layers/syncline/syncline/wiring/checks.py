"""Checks of ``syncline doctor``: their types, and how they are run. No check changes anything.

The checks of a chain depend on each other: after one that failed, the rest is not checked, since its failures would have
the same cause. Chains are independent and run at the same time. Each check has a deadline, so one that hangs delays
nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from syncline.errors import CodeName, SynclineError

WITHIN: Final = 15.0
"""Seconds after which a check counts as failed."""
_AT_ONCE: Final = 48
_ELSEWHERE: Final[tuple[CodeName, ...]] = ("SECRET_MISSING", "SECRET_DENIED")
"""Codes of secrets, which have checks of their own."""


class CheckVerdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of a check that did not fail: what was found, or for an unchecked one why it was not checked."""

    text: str
    verdict: CheckVerdict = CheckVerdict.OK
    action: str = ""


def warning(text: str, action: str) -> Observation:
    """Return the observation of something that works, but needs attention."""
    return Observation(text, CheckVerdict.WARNING, action)


def unchecked(reason: str) -> Observation:
    """Return the observation of something that cannot be checked."""
    return Observation(reason, CheckVerdict.UNCHECKED)


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``run`` returns a sentence or an observation, or raises the SynclineError of what is wrong.

    ``action`` replaces the advice of the error's code.
    """

    what: str
    run: Callable[[], str | Observation]
    action: str = ""


@dataclass(frozen=True, slots=True)
class CheckChain:
    """Checks of one part of a sync, such as its source, in an order in which each needs those before it.

    ``by_functions`` is True if the functions have found what is checked; other checks are made from this machine.
    ``lenient`` turns failures into warnings, for a part that this machine may see differently; it says why.
    """

    part: str
    checks: Sequence[Check]
    by_functions: bool = False
    lenient: str = ""


@dataclass(frozen=True, slots=True)
class CheckGroup:
    """The chains of one sync, or of the stack. ``kind`` is the sync's, whose advice is used; "" for the stack."""

    name: str
    kind: str
    chains: Sequence[CheckChain]


@dataclass(frozen=True, slots=True)
class CheckLine:
    """The result of one check. ``code`` and ``action`` are set for a failure."""

    part: str
    what: str
    verdict: CheckVerdict
    text: str
    code: str = ""
    action: str = ""
    by_functions: bool = False

    @property
    def failed(self) -> bool:
        return self.verdict is CheckVerdict.FAILED


def run_checks(groups: Sequence[CheckGroup], within: float = WITHIN) -> dict[str, list[CheckLine]]:
    """Run all chains at the same time and return the lines of each group in order, by its name.

    A failure with one cause is reported once: what an earlier line says already is not checked again.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="checks") as pool:
        started = [
            (group.name, [pool.submit(_lines, chain, group.kind, within) for chain in group.chains]) for group in groups
        ]
        found = {name: [line for future in futures for line in future.result()] for name, futures in started}
    first: dict[tuple[str, str], tuple[str, str, str]] = {}
    for name, lines in found.items():
        codes = {line.code for line in lines if line.failed and not line.by_functions}
        for number, line in enumerate(lines):
            if line.failed and line.by_functions and line.code in codes:
                text = f"the functions have met the same problem: {line.text}"
                lines[number] = replace(line, verdict=CheckVerdict.UNCHECKED, text=text, code="", action="")
                continue
            place = (name, line.part, line.what)
            if line.failed and first.setdefault((line.code, line.text), place) != place:
                again = f"the same failure as above: {' '.join(first[line.code, line.text])}"
                lines[number] = replace(line, verdict=CheckVerdict.UNCHECKED, text=again, code="", action="")
    return found


def _lines(chain: CheckChain, kind: str, within: float) -> list[CheckLine]:
    """Run the checks of a chain, one after another."""
    lines: list[CheckLine] = []
    blocked = ""
    for check in chain.checks:
        if blocked:
            lines.append(
                CheckLine(chain.part, check.what, CheckVerdict.UNCHECKED, blocked, by_functions=chain.by_functions)
            )
            continue
        result = _result(check, chain.part, within)
        if isinstance(result, Observation):
            line = CheckLine(chain.part, check.what, result.verdict, result.text, action=result.action)
        else:
            blocked = f"needs {check.what}"
            line = _failure(chain, check, kind, result)
        lines.append(replace(line, by_functions=chain.by_functions))
    return lines


def _failure(chain: CheckChain, check: Check, kind: str, error: SynclineError) -> CheckLine:
    if error.is_any(*_ELSEWHERE) and not check.what.startswith("secret"):
        return CheckLine(
            chain.part, check.what, CheckVerdict.UNCHECKED, f"needs a secret that is unavailable: {error.what}"
        )
    verdict, text = CheckVerdict.FAILED, error.what
    if chain.lenient:
        verdict, text = CheckVerdict.WARNING, f"{error.what} ({chain.lenient})"
    return CheckLine(chain.part, check.what, verdict, text, error.code.name, check.action or error.code.advice(kind))


def _result(check: Check, part: str, within: float) -> Observation | SynclineError:
    """Run one check in a thread that is given up after ``within`` seconds: a DNS lookup cannot be cancelled."""
    future: Future[str | Observation] = Future()
    threading.Thread(target=_run, args=(check, future), name=f"check of {check.what}", daemon=True).start()
    wait([future], within)
    if not future.done():
        return SynclineError("UNREACHABLE", f"the check of {check.what} had no result within {within:g} s")
    error = future.exception()
    if isinstance(error, SynclineError):
        return error
    if error is not None:  # a defect in one check must not end the others
        return SynclineError("INTERNAL", f"the check of {check.what} of {part} failed ({type(error).__name__})")
    found = future.result()
    return Observation(found) if isinstance(found, str) else found


def _run(check: Check, future: Future[str | Observation]) -> None:
    try:
        future.set_result(check.run())
    except Exception as error:  # noqa: BLE001 - becomes the result
        future.set_exception(error)
