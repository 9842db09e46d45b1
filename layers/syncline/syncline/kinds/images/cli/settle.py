"""Transfer and verification of items in this process, without queues, and the report of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from syncline.cli.context import ALL_WELL, SOME_FAILED, CommandResult, Context
from syncline.cli.summary import item_lines
from syncline.errors import code_of
from syncline.kinds.images.transfer import TransferResult
from syncline.kinds.kind import FOUND_EQUAL, Completed, Failure, Unfinished
from syncline.model import Counts, Item, Outcome, Result
from syncline.run_text import counts_text

Transfer = Callable[[Sequence[Item]], Iterable[TransferResult]]
Verify = Callable[[Sequence[Item]], Iterable[Completed | Unfinished | Failure]]
ATTEMPTS: Final = 4
_BAD: Final = (Outcome.FAILED, Outcome.CONFLICT, Outcome.UNTRUSTED)


class _Attempt:
    """One attempt at items: ``again`` are those that the next one continues or tries again."""

    def __init__(self, *, is_last: bool) -> None:
        self.again: list[Item] = []
        self._is_last = is_last
        self._completed: list[Completed] = []

    def transfer(self, answers: Iterable[TransferResult]) -> Iterator[Result]:
        for answer in answers:
            if isinstance(answer, Completed):
                self._completed.append(answer)
            else:
                yield from self._result(answer)

    def verify(self, verify: Verify) -> Iterator[Result]:
        sent = {each.item.name: each.moved_bytes for each in self._completed}
        for answer in verify([each.item for each in self._completed]) if sent else ():
            if isinstance(answer, Completed):
                item = answer.item
                outcome = Outcome.EQUAL if FOUND_EQUAL in item.detail else Outcome.MOVED
                reason = answer.note or None
                yield Result(
                    item.group, item.name, outcome, item.source, item.source, sent.get(item.name, 0), reason=reason
                )
            else:
                yield from self._result(answer)

    def _result(self, answer: Result | Unfinished | Failure) -> Iterator[Result]:
        if isinstance(answer, Result):
            yield answer
        elif isinstance(answer, Failure) and (
            self._is_last or not answer.error.retried or answer.error.code.name == "RUN_CANCELLED"
        ):
            yield failed_result(answer)
        elif isinstance(answer, Unfinished) and self._is_last:
            item, what = answer.item, "it was not finished in the time for one command"
            yield Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, "NO_PROGRESS", what)
        else:
            self.again.append(answer.item)


def settle(items: Sequence[Item], transfer: Transfer, verify: Verify) -> Iterator[Result]:
    """Transfer and verify items of one group, trying again what may succeed later; yield the result of each."""
    for number in range(1, ATTEMPTS + 1):
        attempt = _Attempt(is_last=number == ATTEMPTS)
        yield from attempt.transfer(transfer(items))
        yield from attempt.verify(verify)
        items = attempt.again
        if not items:
            return


def failed_result(failure: Failure) -> Result:
    """Return the result of a failed item."""
    item, error = failure.item, failure.error
    return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, error.code.name, error.what)


class Report:
    """The results of a command, printed as they come."""

    def __init__(self, context: Context) -> None:
        self._out = context.out
        self.results: list[Result] = []
        self._equal = 0
        self._left_out = 0

    def add(self, results: Iterable[Result]) -> None:
        """Print and keep results. Equal images are only counted if there are many."""
        for result in results:
            self.results.append(result)
            self._out.table(item_lines([result]))

    def count(self, *, equal: int, left_out: int = 0) -> None:
        """Count images without a result."""
        self._equal += equal
        self._left_out += left_out

    @property
    def is_bad(self) -> bool:
        return any(result.outcome in _BAD for result in self.results)

    @property
    def counts(self) -> Counts:
        def count(outcome: Outcome) -> int:
            return sum(result.outcome is outcome for result in self.results)

        return Counts(
            moved=count(Outcome.MOVED),
            skipped=count(Outcome.EQUAL) + self._equal,
            left_out=count(Outcome.LEFT_OUT) + self._left_out,
            conflict=count(Outcome.CONFLICT),
            untrusted=count(Outcome.UNTRUSTED),
            failed=count(Outcome.FAILED),
            bytes=sum(result.moved_bytes for result in self.results),
        )

    def end(self, where: str, **more: Any) -> CommandResult:
        """Print the last line, and return what the command returns."""
        mark = "✗" if self.is_bad else "✓"
        text = counts_text(self.counts) or "nothing to copy"
        self._out.line(f"{mark} {where}: {text}", "red" if self.is_bad else "green")
        for code in sorted({result.code for result in self.results if result.code}):
            advice = "Copy with `--overwrite` if the source is right." if code == "TAG_DIFFERS" else None
            self._out.line(f"→ {code}: {advice or code_of(code).advice('images', engine=False)}", "dim")
        counts = {key: value for key, value in asdict(self.counts).items() if value}
        results = [asdict(each) | {"outcome": each.outcome.value} for each in self.results]
        return CommandResult({"counts": counts, "results": results, **more}, SOME_FAILED if self.is_bad else ALL_WELL)
