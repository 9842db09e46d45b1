"""The engine on this machine: ministack, an emulator of AWS, on 127.0.0.1, with the stack deployed to it.

All its files are in one folder, its *home*:

==============  ======================================================================================
``engine.json`` its port and the deployment
``lock``        locked by the engine until its process ends
``pid``         its process ID
``unsaved``     exists from the start until a clean stop: if no engine runs, the last one was killed
``state``       its state, saved every few seconds: queues, table, secrets, functions, schedules
``save``        requests a save; the engine removes it when the state is saved
``engine.log``  its log, with the functions' output; ``engine.log.1`` is the previous one
``sam.log``     the output of ``sam build`` and ``sam deploy``
``project``     the deployed project and its environment, if the command is installed from a wheel
==============  ======================================================================================
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from syncline.cli import deploy, engine_log
from syncline.cli.programs import ProgramError, last_lines, reason
from syncline.cli.project import writable
from syncline.errors import SynclineError

DEFAULT_PORT: Final = 4577
_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 120  # it loads its state first
_STOP_SECONDS: Final = 30
_HEALTH: Final = "/_ministack/health"
_PROGRAM: Final = Path(__file__).with_name("engine_process.py")


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine. ``outputs`` are those of the stack, ``key`` is the digest of the deployment's inputs.

    ``unclean`` is set if the previous engine was killed: its last seconds may be lost.
    """

    port: int
    outputs: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    unclean: bool = False

    @property
    def endpoint(self) -> str:
        """URL of its AWS API."""
        return f"http://{_HOST}:{self.port}"


def up(home: Path, project: Path, *, port: int | None = None, say: deploy.Say = print) -> Engine:
    """Start the engine unless it runs, and deploy the stack of ``project`` unless it is up to date.

    ``port`` defaults to the previous port, at first :data:`DEFAULT_PORT`; 0 picks a free one. ``say`` is called with a
    message before each slow step. Raises ENGINE_FAILED naming the log file to read.
    """
    home, project = home.absolute(), project.absolute()
    with prepared(home), _locked(home / "up.lock"):
        project = writable(project, home)
        python = deploy.environment(project, home / "sam.log", say)
        engine = describe(home)
        fresh = engine is None and not _has_state(home)
        if engine is None:
            engine = _start(home, python, port, say)
        elif port not in (None, 0, engine.port):
            raise SynclineError(
                "ENGINE_FAILED", f"the engine runs on port {engine.port}; stop it with `syncline down` first"
            )
        elif not _healthy(engine.port):
            raise SynclineError("ENGINE_FAILED", f"the engine runs but does not answer; see {home / 'engine.log'}")
        key = deploy.inputs_key(project, python)
        if engine.key != key:
            _write_record(home, replace(engine, key=None))  # unknown until the deployment is complete
            engine = replace(engine, outputs=deploy.deploy(project, home, engine.endpoint, python, say), key=key)
            save(home)
            deploy.drop_other_layers(project, home, python)
            _write_record(home, engine)
            if not fresh:  # the deployment killed running functions: a restart makes their messages visible
                _stop(home, say)
                engine = _start(home, python, engine.port, say)
            if engine.key != key:
                raise SynclineError("ENGINE_FAILED", f"the engine lost the deployment; see {home / 'engine.log'}")
        _write_record(home, replace(engine, unclean=False))
        return engine


def down(home: Path, *, say: deploy.Say = print) -> bool:
    """Stop the engine and save its state; return False if none ran. An engine that does not stop is killed."""
    home = home.absolute()
    if not home.is_dir():
        return False
    with prepared(home), _locked(home / "up.lock"):
        if not _is_running(home):
            return False
        _stop(home, say)
        return True


def describe(home: Path) -> Engine | None:
    """Return the engine that runs in ``home``, None if none does."""
    return _read_record(home) if _is_running(home) else None


def runs_after_changes(home: Path) -> bool:
    """Wait for the end of an `up` or `down` by another process; return True if an engine runs then."""
    with prepared(home), _locked(home / "up.lock"):
        return _is_running(home)


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of the engine's functions, for ``env:`` references.

    Without /proc it is assumed to be that of this process.
    """
    with suppress(OSError, ValueError):
        pid = int((home / "pid").read_text())
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)
    return dict(os.environ)


# -- starting --------------------------------------------------------------------------------------------------------


def _start(home: Path, python: Path, port: int | None, say: deploy.Say) -> Engine:
    before = _read_record(home)
    forced = (home / "unsaved").exists()
    if forced:
        say("the engine was killed; resuming from its last save, a few seconds earlier")
    engine = before or Engine(DEFAULT_PORT)
    engine = replace(engine, port=_free_port(engine.port if port is None else port), unclean=forced or engine.unclean)
    state, temporary, log = home / "state", home / "tmp", home / engine_log.NAME
    moved = before is not None and before.port != engine.port
    if moved or not _has_state(home):
        engine = replace(engine, key=None)  # nothing is deployed, or to another address
    for folder in (state, temporary):
        folder.mkdir(exist_ok=True)
    _end_orphans(temporary)
    _remove_leftovers(temporary)
    _write_record(home, engine)
    engine_log.rotate(home)
    for name in ("pid", "save"):
        (home / name).unlink(missing_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    say(f"starting the engine on {_HOST}:{engine.port}")
    try:
        _launch(home, python, engine, log)
    except (OSError, subprocess.SubprocessError) as error:
        what = f"the engine did not start ({reason(error)}); its output is in {log}"
        raise ProgramError(what, last_lines(log, begin)) from error
    if not _wait_until(lambda: _healthy(engine.port) or not _is_running(home), _START_SECONDS) or not _is_running(home):
        raise ProgramError(f"the engine did not start; its output is in {log}", last_lines(log, begin))
    if not _only_loopback(engine.port):
        _stop(home, say)
        raise SynclineError("ENGINE_FAILED", "the engine listened on other addresses than 127.0.0.1, and was stopped")
    return engine


def _stop(home: Path, say: deploy.Say) -> None:
    if not _wait_until(lambda: _pid(home) is not None, _START_SECONDS):
        raise SynclineError("ENGINE_FAILED", f"the engine is starting but has not written its process ID; see {home}")
    pid = int((home / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    if not _wait_until(lambda: not _is_running(home), _STOP_SECONDS):
        say(f"the engine did not stop within {_STOP_SECONDS} s; killing it")
        os.killpg(pid, signal.SIGKILL)
        _wait_until(lambda: not _is_running(home), _STOP_SECONDS)
    elif (home / "unsaved").exists():
        say(f"the engine could not save all of its state; see {home / 'engine.log'}")


def _pid(home: Path) -> int | None:
    """Return the process ID of the engine, None if it is not written yet."""
    try:
        return int((home / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _launch(home: Path, python: Path, engine: Engine, log: Path) -> None:
    """Start the process, which becomes a daemon and inherits the lock."""
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with log.open("a") as output:
            subprocess.run(  # noqa: S603 - a fixed program, no shell
                [str(python), str(_PROGRAM), str(home), engine.endpoint],
                cwd=home,
                env=_environment(home, engine),
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=_START_SECONDS,
            )
    finally:
        os.close(lock)


def _environment(home: Path, engine: Engine) -> dict[str, str]:
    """Return ministack's settings over this process's environment, which functions use for ``env:`` references."""
    return deploy.local_environment(os.environ) | {
        "BIND_HOST": _HOST,
        "MINISTACK_HOST": _HOST,
        "GATEWAY_PORT": str(engine.port),
        "MINISTACK_REGION": deploy.REGION,
        "PERSIST_STATE": "1",
        "STATE_DIR": str(home / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(home / "s3"),
        "TMPDIR": str(home / "tmp"),
        "AWS_ENDPOINT_URL": engine.endpoint,  # for the functions
        "LOG_LEVEL": "INFO",
        "SYNCLINE_ENGINE": str(home),  # tells the functions that they run on one machine
        # Override settings that are meant for another engine:
        "AUTH": "false",
        "LAMBDA_EXECUTOR": "local",
        "LAMBDA_ACCOUNT_CONCURRENCY": "1000",  # as on AWS; the event source mappings limit it
        "LAMBDA_STRICT": "0",
        "SERVICES": "",
        "USE_SSL": "0",
        # Open no other ports, and remove no containers:
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{home / 'no-docker'}",
    }


def _free_port(port: int | None) -> int:
    """Return the port if it is free, any free port for 0; raises ENGINE_FAILED."""
    port = DEFAULT_PORT if port is None else port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            what = f"cannot listen on port {port}: {error.strerror}; choose another one with --port"
            raise SynclineError("ENGINE_FAILED", what) from error
        bound: int = probe.getsockname()[1]
        return bound


def _only_loopback(port: int) -> bool:
    """Return False if the port is open beyond 127.0.0.1: then it cannot be bound on 127.0.0.2 either."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE  # macOS has no 127.0.0.2
        return True


def _end_orphans(temporary: Path) -> None:
    """Kill the functions of a killed engine, if /proc shows them. Otherwise they end with their current batch."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{temporary}/".encode() in command.read_bytes():
                os.kill(int(command.parent.name), signal.SIGKILL)


def _remove_leftovers(temporary: Path) -> None:
    """Remove the unpacked functions of an earlier engine; without /proc they may still be running."""
    if Path("/proc/self").exists():
        for left in temporary.glob("ministack-lambda-*"):
            shutil.rmtree(left, ignore_errors=True)


def save(home: Path) -> None:
    """Make the engine save its state to disk now; raises ENGINE_FAILED."""
    request = home / "save"
    request.touch()
    if not _wait_until(lambda: not request.exists() or not _is_running(home), _STOP_SECONDS) or request.exists():
        raise SynclineError("ENGINE_FAILED", f"the engine did not save its state; see {home / 'engine.log'}")


# -- status ----------------------------------------------------------------------------------------------------------


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", _HEALTH)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _is_running(home: Path) -> bool:
    """Return True if the engine holds its lock, which the system releases when the process ends."""
    try:
        lock = os.open(home / "lock", os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SynclineError("ENGINE_FAILED", f"cannot read {home / 'lock'}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


@contextmanager
def prepared(home: Path) -> Iterator[None]:
    """Create the home if needed; raise errors of its files in the block as ENGINE_FAILED."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # the state may hold secrets
        yield
    except OSError as error:
        if not str(error.filename or home).startswith(str(home)):
            raise
        what = f"cannot keep the engine's state in {home}: {error.strerror or error}; choose another one with --home"
        raise SynclineError("ENGINE_FAILED", what) from error


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file in the block."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _has_state(home: Path) -> bool:
    """Return True if ``home`` has saved state."""
    return (home / "state" / "engine.db").exists()


def _read_record(home: Path) -> Engine | None:
    try:
        return Engine(**json.loads((home / "engine.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_record(home: Path, engine: Engine) -> None:
    write_durably(home / "engine.json", json.dumps(asdict(engine), indent=2))


def write_durably(file: Path, text: str) -> None:
    """Replace a file atomically and durably: a crash or power cut leaves the old or the new content."""
    new = file.with_name(f"{file.name}.new")
    with new.open("w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
