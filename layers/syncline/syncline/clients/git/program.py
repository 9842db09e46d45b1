"""The git program, driven by GitPython: where it is, what it runs with, and its failures as codes.

Every command line is a fixed list of this package's own; of a user's words only the repository's address and full ref
names get into one, each behind an option that takes it or in a place where git reads no option. Nothing of the
machine's or a person's configuration counts, no hook runs, nothing is ever checked out.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from syncline.clients.git.failures import disk_full, failure_of
from syncline.clients.http.pacing import never, rest
from syncline.clients.http.rejections import REJECTIONS
from syncline.errors import CodeName, SynclineError

if TYPE_CHECKING:
    from git.cmd import Git as GitPython

PROGRAM_VARIABLE: Final = "GIT_PYTHON_GIT_EXECUTABLE"
LAYER: Final = "/opt/git/bin/git"
_PASSING: Final[tuple[CodeName, ...]] = ("UNREACHABLE", "SERVER_ERROR", "THROTTLED")
_LONGEST: Final = 600.0  # seconds for one command, where no deadline is nearer
_GLANCE: Final = 1.0  # seconds after which it is checked whether a command is still wanted
_WORDS: Final = 16_384  # bytes kept of what a command says on its standard error
_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "core.bigFileThreshold=4m",  # larger blobs are streamed, and never compared with others
    "credential.helper=",
    "fetch.negotiationAlgorithm=noop",  # what is asked for is asked for by name
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=false",  # the token is for the configured address
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=60",
    "http.proxy=",
    "pack.threads=1",
    "pack.window=1",  # a folder is sent as what changed in it; files next to one another are of one name, at best
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
}


@cache
def program() -> str:
    """The path of the git program: the variable ``GIT_PYTHON_GIT_EXECUTABLE``, the layer's, or the machine's; else GIT_ABSENT."""
    named = os.environ.get(PROGRAM_VARIABLE) or (LAYER if Path(LAYER).exists() else shutil.which("git"))
    if named is None or not Path(named).exists():
        raise SynclineError("GIT_ABSENT", f"no git program at {named or LAYER}")
    return named


@cache
def _gitpython() -> type[GitPython]:
    """GitPython, which looks for the program when it is imported."""
    os.environ["GIT_PYTHON_GIT_EXECUTABLE"] = program()
    from git.cmd import Git as GitPython  # noqa: PLC0415 - cannot be imported before the program is known

    return GitPython


@dataclass(frozen=True, slots=True)
class Done:
    """What a command said."""

    status: int
    out: bytes
    err: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How often in all something is tried, with ``delay`` seconds before the second time and then twice as long."""

    attempts: int = 1
    delay: float = 5.0
    sleep: Callable[[float], None] = time.sleep

    def bears(
        self, error: SynclineError, attempt: int, left: Callable[[], float], halted: Callable[[], bool] = never
    ) -> bool:
        """Return True, after a pause, if to try again after failure number ``attempt``, with seconds ``left``.

        The pause ends once ``halted`` returns True.
        """
        pause = self.delay * 2 ** (attempt - 1)
        if error.code.name not in _PASSING or attempt >= self.attempts or pause >= left():
            return False
        rest(pause, self.sleep, halted)
        return True


@dataclass(frozen=True, slots=True)
class Git:
    """Runs git in the bare repository ``folder``.

    ``settings`` and ``environment`` are added to those that always hold; ``variables`` maps settings to variables of
    the environment that have their values, which so never stand in a list of processes. ``left`` gives the seconds
    that commands may still take; they end once ``halted`` returns True. ``account`` is the server's host with the
    credentials that are sent to it.
    """

    folder: Path
    protocols: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    left: Callable[[], float] = lambda: _LONGEST
    patience: Patience = field(default_factory=Patience)
    halted: Callable[[], bool] = never
    account: tuple[str, object] = ("", None)

    def ask(self, *arguments: str, feed: bytes | None = None, accept: tuple[int, ...] = (0,)) -> Done:
        """Run a command that only asks the server, again where its failure may pass, be its status in ``accept`` or not."""
        with REJECTIONS.trial(*self.account):
            for attempt in itertools.count(1):
                try:
                    done = self.run(*arguments, feed=feed, accept=accept)
                    error = self.failure(arguments[0], done) if done.status else None
                    self._note(error)
                    if error is None or not self.bears(error, attempt):
                        return done
                except SynclineError as error:
                    self._note(error)
                    if not self.bears(error, attempt):
                        raise
        raise AssertionError  # the loop has no other end

    def bears(self, error: SynclineError, attempt: int) -> bool:
        """Return True, after a pause, if to try again; see :meth:`Patience.bears`."""
        return self.patience.bears(error, attempt, self.left, self.halted)

    def _note(self, error: SynclineError | None) -> None:
        """Note whether the server took the credentials, as far as an answer of it tells."""
        if error is None:
            REJECTIONS.accepted(*self.account)
        elif error.code.name == "UNAUTHORIZED":
            REJECTIONS.refused(*self.account, error)

    def run(
        self,
        *arguments: str,
        feed: bytes | None = None,
        extra: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (0,),
    ) -> Done:
        """A command's output; ``feed`` goes to its standard input. A status not in ``accept`` is raised as a code."""
        with self.start(*arguments, extra=extra) as running:
            if feed is not None:
                running.write(feed)
            out = running.read()
        done = running.ended(out)
        if done.status not in accept or running.stopped:
            raise running.error(done)
        return done

    @contextlib.contextmanager
    def start(self, *arguments: str, extra: Mapping[str, str] | None = None) -> Iterator[Running]:
        """A command under way; it is killed, with all it started, if the block is left by an exception."""
        command = [program(), f"--git-dir={self.folder}", *self._options(), *arguments]
        hidden = {name: "" for name in os.environ if name.startswith("AWS_")}
        environment = {**hidden, **_ENVIRONMENT, "HOME": str(self.folder), **self.environment, **(extra or {})}
        seconds = min(self.left(), _LONGEST)
        if seconds <= 0:
            raise SynclineError("TIME_SHORT", f"no time is left for git {arguments[0]}")
        if self.halted():
            raise SynclineError("RUN_CANCELLED", f"git {arguments[0]} was not begun: its run was cancelled")
        with disk_full():
            process = _gitpython()(str(self.folder)).execute(
                command,
                istream=subprocess.PIPE,
                as_process=True,
                env=environment,
                start_new_session=True,
            )
        running = Running(arguments[0], process, seconds, self)
        try:
            yield running
        except BaseException:
            running.kill()
            raise
        finally:
            running.close()

    def failure(self, command: str, done: Done) -> SynclineError:
        """Return the error for a command that failed."""
        anonymous = not self.variables and "GIT_SSH_COMMAND" not in self.environment
        return failure_of(command, done.status, done.err, anonymous=anonymous)

    def _options(self) -> Iterator[str]:
        for setting in (*_SETTINGS, *(f"protocol.{name}.allow=always" for name in self.protocols), *self.settings):
            yield "-c"
            yield setting
        for name, variable in self.variables.items():
            yield f"--config-env={name}={variable}"


class Running:
    """A git command under way, with its pipes."""

    def __init__(self, name: str, process: Any, seconds: float, git: Git) -> None:
        self.name = name
        self._failure = git.failure
        self._process = cast("subprocess.Popen[bytes]", process.proc)
        self._wrapper = process  # kills the process when it is collected
        self.stopped: SynclineError | None = None
        self._err = bytearray()
        self._drain = threading.Thread(target=self._read_errors, daemon=True)
        self._drain.start()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._stop_in_time, args=(seconds, git.halted), daemon=True)
        self._watch.start()

    @property
    def _in(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def write(self, data: bytes) -> None:
        """Feed the command; that it has ended already shows in :meth:`ended`, not here."""
        with contextlib.suppress(BrokenPipeError):
            self._in.write(data)

    def write_all(self, chunks: Iterable[bytes]) -> None:
        """Feed the command, and raise GIT_FAILED (or what it said) at once if it has ended."""
        try:
            for chunk in chunks:
                self._in.write(chunk)
            self._in.flush()
        except BrokenPipeError:
            raise self.error(self.ended(b"")) from None

    def read(self) -> bytes:
        """All that the command says until its end; its input is closed first."""
        self._close_input()
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def read_exactly(self, size: int) -> bytes:
        """``size`` bytes of the command's output; GIT_FAILED if it ends before."""
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise self.error(self.ended(b""))
        return data

    def line(self) -> bytes:
        """The next line of the command's output, without its end."""
        self._in.flush()
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip(b"\n")

    def ended(self, out: bytes = b"") -> Done:
        """Wait for the command's end."""
        self._close_input()
        status = self._process.wait()
        self._drain.join()
        return Done(status, out, bytes(self._err).decode("utf-8", "replace"))

    def error(self, done: Done) -> SynclineError:
        """The code that an end with a failure has."""
        return self.stopped or self._failure(self.name, done)

    def kill(self) -> None:
        """End the command and what it started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._over.set()
        self._close_input()
        self._process.wait()
        self._drain.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._wrapper.proc = None

    def _close_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._in.close()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while block := self._process.stderr.read1(4096):  # type: ignore[attr-defined]
            self._err += block
            del self._err[:-_WORDS]

    def _stop_in_time(self, seconds: float, halted: Callable[[], bool]) -> None:
        """End the command when its time is over, or when it is halted, which is looked at every second."""
        end = time.monotonic() + seconds
        while not self._over.wait(max(0.0, min(_GLANCE, end - time.monotonic()))):
            if halted():
                self.stopped = SynclineError("RUN_CANCELLED", f"git {self.name} was ended: its run was cancelled")
            elif time.monotonic() >= end:
                self.stopped = SynclineError("TIME_SHORT", f"git {self.name} was not done in time and was ended")
            if self.stopped:
                self.kill()
                return
