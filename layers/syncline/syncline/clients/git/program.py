"""The git program, run through GitPython: its path, settings, environment, time limits and failures.

Every command line is fixed, except for full ref names and the repository's URL, which are in positions where git reads
no options. The configuration of the machine and the user is ignored, no hook runs, and nothing is checked out.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from syncline.clients.git.failures import disk_full_as_error, error_of_git
from syncline.clients.http.addresses import DIRECT, Route
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.http.retry import never_halted, sleep_unless_halted
from syncline.errors import CodeName, SynclineError

if TYPE_CHECKING:
    from git.cmd import Git as GitPython

PROGRAM_VARIABLE: Final = "GIT_PYTHON_GIT_EXECUTABLE"
LAYER: Final = "/opt/git/bin/git"
_TEMPORARY: Final[tuple[CodeName, ...]] = ("UNREACHABLE", "SERVER_ERROR", "THROTTLED")
_MAX_SECONDS: Final = 600.0  # for one command without an earlier deadline
_POLL_INTERVAL: Final = 1.0  # seconds between checks for a halt
_MAX_STDERR: Final = 16_384  # bytes kept of a command's standard error
_REMOTE: Final = frozenset({"fetch", "ls-remote", "push"})  # commands that send requests
_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "core.bigFileThreshold=4m",  # larger blobs are streamed, without delta compression
    "credential.helper=",
    "fetch.negotiationAlgorithm=noop",  # all objects are requested by ID
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=false",  # the token is for the configured URL
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=60",
    "pack.threads=1",
    "pack.window=1",  # enough for deltas between versions of a tree; a larger window costs time and finds little
    "protocol.version=2",
    "protocol.allow=never",
    "submodule.recurse=false",
    "transfer.credentialsInUrl=die",
    "advice.pushUpdateRejected=false",
)
_ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_COUNT": "0",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "SSH_AUTH_SOCK": "",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
    "LANGUAGE": "C",
    "http_proxy": "",
    "https_proxy": "",
    "HTTPS_PROXY": "",
    "ALL_PROXY": "",
    "all_proxy": "",
    "no_proxy": "",
    "NO_PROXY": "",
}


@cache
def program() -> str:
    """Return the path of the git program: from ``GIT_PYTHON_GIT_EXECUTABLE``, of the layer, or of the machine.

    Raises GIT_ABSENT if there is none.
    """
    named = os.environ.get(PROGRAM_VARIABLE) or (LAYER if Path(LAYER).exists() else shutil.which("git"))
    if named is None or not Path(named).exists():
        raise SynclineError("GIT_ABSENT", f"no git program at {named or LAYER}")
    return named


@cache
def _gitpython() -> type[GitPython]:
    """Return GitPython's class, which searches for the program when it is imported."""
    os.environ["GIT_PYTHON_GIT_EXECUTABLE"] = program()
    from git.cmd import Git as GitPython  # noqa: PLC0415 - cannot be imported before the program is known

    return GitPython


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit status and output of a command."""

    status: int
    out: bytes
    err: str


@dataclass(frozen=True, slots=True)
class GitRetryPolicy:
    """Retry policy: ``attempts`` in total, waiting ``delay`` seconds before the second, doubling after that."""

    attempts: int = 1
    delay: float = 5.0
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class GitRunner:
    """Runs git in the bare repository ``folder``.

    ``settings`` and ``environment`` are added to the fixed ones. ``left`` returns the seconds that commands may still
    take; they end once ``halted`` returns True. ``account`` is the server's host with the credentials for it.
    """

    folder: Path
    settings: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    left: Callable[[], float] = lambda: _MAX_SECONDS
    retry: GitRetryPolicy = field(default_factory=GitRetryPolicy)
    halted: Callable[[], bool] = never_halted
    account: tuple[str, object] = ("", None)
    route: Route = DIRECT

    def query(self, *arguments: str, feed: bytes | None = None, accept: tuple[int, ...] = (0,)) -> CommandResult:
        """Run a command that only reads from the server. Retry temporary failures, also those with a status in ``accept``."""
        with REJECTIONS.trial(*self.account):
            for attempt in itertools.count(1):
                try:
                    done = self.run(*arguments, feed=feed, accept=accept)
                    error = self.failure(arguments[0], done) if done.status else None
                    self._note(error)
                    if error is None or not self.wait(error, attempt):
                        return done
                except SynclineError as error:
                    self._note(error)
                    if not self.wait(error, attempt):
                        raise
        raise AssertionError  # the loop has no other end

    def fetch(self, *arguments: str, feed: bytes | None = None, accept: tuple[int, ...] = (0,)) -> CommandResult:
        """Run ``git fetch`` without tags; ``arguments`` are further options, the remote and refs."""
        options = ("--quiet", "--no-tags", "--no-write-fetch-head")
        return self.query("fetch", *options, *arguments, feed=feed, accept=accept)

    def wait(self, error: SynclineError, attempt: int) -> bool:
        """Wait before a retry after failure ``attempt`` and return True; return False if there is no retry."""
        pause = self.retry.delay * 2 ** (attempt - 1)
        if error.code.name not in _TEMPORARY or attempt >= self.retry.attempts or pause >= self.left():
            return False
        sleep_unless_halted(pause, self.retry.sleep, self.halted)
        return True

    def _note(self, error: SynclineError | None) -> None:
        """Record if the server accepted or refused the credentials."""
        if error is None:
            REJECTIONS.accepted(*self.account)
        elif error.code.name == "UNAUTHORIZED":
            REJECTIONS.refused(*self.account, error)

    def run(self, *arguments: str, feed: bytes | None = None, accept: Container[int] = (0,)) -> CommandResult:
        """Run a command with ``feed`` as its standard input. Raises an error for a status not in ``accept``."""
        with self.start(*arguments) as running:
            if feed is not None:
                running.write(feed)
            out = running.read()
        done = running.ended(out)
        if done.status not in accept or running.stopped:
            raise running.error()
        return done

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[RunningCommand]:
        """Start a command. If the block raises, the command and its child processes are killed."""
        options = itertools.chain.from_iterable(("-c", setting) for setting in (*_SETTINGS, *self.settings))
        command = [program(), f"--git-dir={self.folder}", *options, *arguments]
        hidden = {name: "" for name in os.environ if name.startswith("AWS_")}
        environment = {**hidden, **_ENVIRONMENT, "HOME": str(self.folder), **self.environment}
        seconds = min(self.left(), _MAX_SECONDS)
        if seconds <= 0:
            raise SynclineError("TIME_SHORT", f"no time is left for git {arguments[0]}")
        if self.halted():
            raise SynclineError("RUN_CANCELLED", f"git {arguments[0]} was not started: the run was cancelled")
        with disk_full_as_error():
            process = _gitpython()(str(self.folder)).execute(
                command, istream=subprocess.PIPE, as_process=True, env=environment, start_new_session=True
            )
        running = RunningCommand(arguments[0], process, seconds, self)
        try:
            yield running
        except BaseException:
            running.kill()
            raise
        finally:
            running.close()

    def failure(self, command: str, done: CommandResult) -> SynclineError:
        """Return the error for a failed command."""
        through = self.route.through if command in _REMOTE else ""
        return error_of_git(f"{command}{through}", done.status, done.err, anonymous=self.account[1] is None)


class RunningCommand:
    """A running git command with its pipes."""

    def __init__(self, name: str, process: Any, seconds: float, git: GitRunner) -> None:
        self.name = name
        self._failure = git.failure
        self._process = cast("subprocess.Popen[bytes]", process.proc)
        self._wrapper = process  # kills the process when it is collected
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self.stopped: SynclineError | None = None
        self._err = bytearray()
        self._drain = threading.Thread(target=self._read_errors, daemon=True)
        self._drain.start()
        self._over = threading.Event()
        threading.Thread(target=self._stop_in_time, args=(seconds, git.halted), daemon=True).start()

    def write(self, data: bytes) -> None:
        """Write to the command's input. A command that has already ended is reported by :meth:`ended` only."""
        with contextlib.suppress(BrokenPipeError):
            self._in.write(data)

    def write_all(self, chunks: Iterable[bytes]) -> None:
        """Write to the command's input. Raises its error, or GIT_FAILED, if it has already ended."""
        try:
            for chunk in chunks:
                self._in.write(chunk)
            self._in.flush()
        except BrokenPipeError:
            raise self.error() from None

    def read(self) -> bytes:
        """Close the command's input and return all of its output."""
        self._close_input()
        return self._out.read()

    def read_exactly(self, size: int) -> bytes:
        """Return ``size`` bytes of the command's output. Raises GIT_FAILED if it ends before."""
        data = self._out.read(size)
        if len(data) != size:
            raise self.error()
        return data

    def line(self) -> bytes:
        """Return the next line of the command's output, without the line break."""
        self._in.flush()
        return self._out.readline().rstrip(b"\n")

    def ended(self, out: bytes = b"") -> CommandResult:
        """Wait for the command's end and return its result."""
        self._close_input()
        status = self._process.wait()
        self._drain.join()
        return CommandResult(status, out, bytes(self._err).decode("utf-8", "replace"))

    def error(self) -> SynclineError:
        """Wait for the command's end and return the error for it."""
        done = self.ended()
        return self.stopped or self._failure(self.name, done)

    def kill(self) -> None:
        """Kill the command and its child processes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._over.set()
        self.ended()
        self._out.close()
        assert self._process.stderr
        self._process.stderr.close()
        self._wrapper.proc = None

    def _close_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._in.close()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while block := self._process.stderr.read1(4096):  # type: ignore[attr-defined]
            self._err += block
            del self._err[:-_MAX_STDERR]

    def _stop_in_time(self, seconds: float, halted: Callable[[], bool]) -> None:
        """Kill the command when its time is over or it is halted, which is checked every second."""
        end = time.monotonic() + seconds
        while not self._over.wait(max(0.0, min(_POLL_INTERVAL, end - time.monotonic()))):
            if halted():
                self.stopped = SynclineError("RUN_CANCELLED", f"git {self.name} was stopped: the run was cancelled")
            elif time.monotonic() >= end:
                self.stopped = SynclineError("TIME_SHORT", f"git {self.name} was stopped after {seconds:.0f} s")
            if self.stopped:
                self.kill()
                return
