"""A pytest plugin: run the selected tests once, then run for each mutant those that execute its line.

A mutant runs in a forked process in which the code of the function is replaced; the first test that fails kills it. The
tests are collected and their modules imported once for all mutants.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import coverage
import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.mutants import Mutant, mutants_of

_TEST_LIMIT: Final = 5.0
"""Seconds of processor time after which a test is stopped and skipped."""
_MUTANT_LIMIT: Final = 20.0
"""Limit of the time for the tests of one mutant, in seconds, as measured without a mutant."""
_KILLED: Final = 1
_NOT_APPLICABLE: Final = 77


@dataclass(frozen=True, slots=True)
class Job:
    """A module, the lines to mutate (None for all), and the files or folders of its tests."""

    path: Path
    lines: Container[int] | None
    tests: tuple[Path, ...]


@dataclass(slots=True)
class Outcome:
    """Counts of existing and tried mutants, and the survivors: line, number of tests that passed, and diff."""

    path: Path
    mutants: int
    tried: int = 0
    survivors: list[tuple[int, int, str]] = field(default_factory=list)


class Mutations:
    """The plugin. It calls `report` with the outcome of each job when the job is done."""

    def __init__(
        self, jobs: Sequence[Job], sample: int | None, seed: int | None, report: Callable[[Outcome], None]
    ) -> None:
        self._jobs, self._sample, self._seed, self._report = jobs, sample, seed, report
        self._passed: dict[str, pytest.Item] = {}
        self._seconds: dict[str, float] = {}
        self._skipped: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        import hypothesis  # noqa: PLC0415 - its pytest plugin must be loaded first

        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        quiet = list(hypothesis.HealthCheck)
        hypothesis.settings.register_profile(
            "mutation", phases=phases, database=None, deadline=None, max_examples=30, suppress_health_check=quiet
        )
        hypothesis.settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} test files cannot be collected")
        found = {job.path: mutants_of(job.path.resolve(), job.lines, self._sample, self._seed) for job in self._jobs}
        if any(mutants for mutants, _ in found.values()):
            with _quiet():
                data = self._measure(session)
        else:
            data = coverage.CoverageData(no_disk=True)
        for line in self._skipped:
            print(line, flush=True)
        live = {job.path: _LoadedFunctions(job.path.resolve()) for job in self._jobs}
        gc.collect()
        gc.freeze()
        for job in self._jobs:
            mutants, number = found[job.path]
            outcome = Outcome(job.path, number)
            self._run(job, mutants, outcome, live[job.path], data.contexts_by_lineno(str(job.path.resolve())))
            self._report(outcome)
        return True

    def _measure(self, session: pytest.Session) -> coverage.CoverageData:
        """Run every test, record those that pass in time, and return the lines that each executes."""
        paths = [str(job.path.resolve()) for job in self._jobs]
        measured = coverage.Coverage(data_file=None, include=paths, config_file=False)
        measured.start()
        signal.signal(signal.SIGPROF, lambda *_: pytest.fail("takes too long"))
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            measured.switch_context(item.nodeid)
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, _TEST_LIMIT)
            reports = runtestprotocol(item, nextitem=following, log=False)
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._seconds[item.nodeid] = seconds = time.process_time() - began
            if not all(report.passed for report in reports):
                why = "takes too long" if seconds >= _TEST_LIMIT else "does not pass"
                self._skipped.append(f"skipped because it {why}: {item.nodeid}")
            else:
                self._passed[item.nodeid] = item
        measured.stop()
        return measured.get_data()

    def _run(
        self,
        job: Job,
        mutants: Sequence[Mutant],
        outcome: Outcome,
        live: _LoadedFunctions,
        tests_of: dict[int, list[str]],
    ) -> None:
        folders = [test.resolve() for test in job.tests]
        judges = {
            name for name, item in self._passed.items() if any(item.path.is_relative_to(each) for each in folders)
        }
        killers: dict[tuple[str, int], list[str]] = defaultdict(list)
        for mutant in mutants:
            names = judges.intersection(name for line in mutant.lines for name in tests_of.get(line, ()))
            first = killers[mutant.function]
            order = [name for name in first if name in names]
            order += sorted(names - set(order), key=lambda name: (self._seconds[name], name))
            items = list(self._affordable(order))
            ended, killer = self._try(mutant, live, items)
            outcome.tried += ended != _NOT_APPLICABLE
            if ended == 0:
                outcome.survivors.append((mutant.line, len(items), mutant.diff))
            elif killer:
                killers[mutant.function] = [killer, *(name for name in first if name != killer)]

    def _affordable(self, order: Sequence[str]) -> Iterator[pytest.Item]:
        """Yield the tests that fit into the time limit of a mutant."""
        left = _MUTANT_LIMIT
        for name in order:
            left -= self._seconds[name]
            if left < 0:
                return
            yield self._passed[name]

    def _try(self, mutant: Mutant, live: _LoadedFunctions, items: Sequence[pytest.Item]) -> tuple[int, str]:
        """Return the exit code of a mutant's process (0 if no test fails) and the name of the test that failed."""
        if not items:
            return 0, ""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _child(mutant, live, [(item, self._seconds[item.nodeid]) for item in items], writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            killer = pipe.read().decode()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), killer


class _LoadedFunctions:
    """All function objects of a module, by name and line, and all caches of functions in the process."""

    def __init__(self, path: Path) -> None:
        self.functions: dict[tuple[str, int], list[FunctionType]] = defaultdict(list)
        self.caches: list[Any] = []
        for each in gc.get_objects():
            if isinstance(each, functools._lru_cache_wrapper):
                self.caches.append(each)
            elif isinstance(each, FunctionType) and each.__code__.co_filename == str(path):
                self.functions[each.__code__.co_qualname, each.__code__.co_firstlineno].append(each)

    def replace(self, mutant: Mutant) -> bool:
        """Replace the code of a function; return False if that is not possible."""
        held = self.functions.get(mutant.function, [])
        try:
            for function in held:
                function.__code__ = mutant.code
        except ValueError:  # the number of free variables differs
            return False
        for cache in self.caches:
            cache.cache_clear()
        return bool(held)


def _child(mutant: Mutant, live: _LoadedFunctions, items: Sequence[tuple[pytest.Item, float]], writing: int) -> None:
    """Run tests with the mutant in place, then exit. The numbers are the usual seconds of each test.

    If a test hangs, a timer ends the process.
    """
    code = _KILLED
    try:
        gc.disable()  # a collection would copy all shared memory pages
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _silence()
        if not live.replace(mutant):
            os._exit(_NOT_APPLICABLE)
        following = [item for item, _ in items[1:]]
        for (item, seconds), after in zip(items, [*following, None], strict=True):
            signal.setitimer(signal.ITIMER_PROF, 3 + 5 * seconds)
            signal.setitimer(signal.ITIMER_REAL, 60 + 50 * seconds)  # the machine may be busy
            if not all(report.passed for report in runtestprotocol(item, nextitem=after, log=False)):
                os.write(writing, item.nodeid.encode())
                break
        else:
            code = 0
    finally:
        os._exit(code)


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard the output of tests. Pytest's own capture is off because it does not survive a fork."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    _silence()
    try:
        yield
    finally:
        sys.stdout.flush()
        for descriptor, copy in enumerate(kept, 1):
            os.dup2(copy, descriptor)
            os.close(copy)


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
