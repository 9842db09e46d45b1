"""The engine on this machine: ministack, an emulator of AWS, on 127.0.0.1, with the stack deployed to it.

All its files are in one folder, its *home*:

==============  ======================================================================================
``engine.json`` its port and what was deployed to it
``lock``        locked by the engine until its process ends
``pid``         its process
``unsaved``     exists from the start until a clean stop: if no engine runs, the last one was ended by force
``state``       its state, saved every few seconds: queues, table, secrets, functions, schedules
``save``        asks the engine to save its state now; the engine removes it when that is done
``engine.log``  its log, with the functions' output; ``engine.log.1`` is the log before
``sam.log``     the output of ``sam build`` and ``sam deploy``
``project``     what is deployed and its environment, if the command is installed from a wheel
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

from syncline.cli import deploy
from syncline.cli.programs import ProgramError, last_lines, reason
from syncline.cli.project import writable
from syncline.errors import SynclineError

DEFAULT_PORT: Final = 4577
_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 120  # it loads all its state first; one that ends before is not waited for
_STOP_SECONDS: Final = 30
_LOG_BYTES: Final = 50 << 20
_HEALTH: Final = "/_ministack/health"
_PROGRAM: Final = Path(__file__).with_name("engine_process.py")


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine. ``outputs`` are those of the stack, ``key`` is the digest of what was deployed.

    ``unclean`` is set if the engine before was ended by force: what happened in its last seconds may be lost.
    """

    port: int
    outputs: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    unclean: bool = False

    @property
    def endpoint(self) -> str:
        """Where it answers as AWS does."""
        return f"http://{_HOST}:{self.port}"

    def client_arguments(self) -> dict[str, str]:
        """Arguments for ``boto3.client`` and ``boto3.resource`` to reach it."""
        return deploy.client_arguments(self.endpoint)


def up(home: Path, project: Path, *, port: int | None = None, say: deploy.Say = print) -> Engine:
    """Have the engine run, with the stack of ``project`` as it is now; what is so already is left alone.

    Without ``port`` it listens where it did before, the first time on :data:`DEFAULT_PORT`; 0 takes a free one.
    ``say`` is told of each step that takes time. Raises ENGINE_FAILED naming the log file to read.
    """
    home, project = home.absolute(), project.absolute()
    with _used(home), _locked(home / "up.lock"):
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
            _record(home, replace(engine, key=None))  # until it is done, nobody knows what is deployed
            engine = replace(engine, outputs=deploy.deploy(project, home, engine.endpoint, python, say), key=key)
            save(home)
            deploy.drop_other_layers(project, home, python)
            _record(home, engine)
            if not fresh:  # functions that were at work were killed by the change: let their messages be seen again
                _stop(home, say)
                engine = _start(home, python, engine.port, say)
            if engine.key != key:
                raise SynclineError("ENGINE_FAILED", f"the engine lost what was deployed; see {home / 'engine.log'}")
        _record(home, replace(engine, unclean=False))
        return engine


def down(home: Path, *, say: deploy.Say = print) -> bool:
    """Stop the engine so that its state is kept; False if none ran. An engine that does not end is killed."""
    home = home.absolute()
    if not home.is_dir():
        return False
    with _used(home), _locked(home / "up.lock"):
        if not _lives(home):
            return False
        _stop(home, say)
        return True


def describe(home: Path) -> Engine | None:
    """The engine that runs in ``home``, None if none does."""
    return _recorded(home) if _lives(home) else None


def environment_of(home: Path) -> dict[str, str]:
    """The environment that the engine's functions inherit, by which ``env:`` references are resolved.

    Where there is no /proc to ask, it is taken to be this process's own.
    """
    with suppress(OSError, ValueError):
        pid = int((home / "pid").read_text())
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)
    return dict(os.environ)


# -- starting --------------------------------------------------------------------------------------------------------


def _start(home: Path, python: Path, port: int | None, say: deploy.Say) -> Engine:
    before = _recorded(home)
    forced = (home / "unsaved").exists()
    if forced:
        say("the engine was ended by force; it goes on from its last save, a few seconds before")
    engine = before or Engine(DEFAULT_PORT)
    engine = replace(engine, port=_free_port(engine.port if port is None else port), unclean=forced or engine.unclean)
    state, temporary, log = home / "state", home / "tmp", home / "engine.log"
    moved = before is not None and before.port != engine.port
    if moved or not _has_state(home):
        engine = replace(engine, key=None)  # nothing is deployed, or it holds another address
    for folder in (state, temporary):
        folder.mkdir(exist_ok=True)
    _end_orphans(temporary)
    _remove_leftovers(temporary)
    _record(home, engine)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(home / "engine.log.1")
    for name in ("pid", "save"):
        (home / name).unlink(missing_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    say(f"starting the engine on {_HOST}:{engine.port}")
    try:
        _launch(home, python, engine, log)
    except (OSError, subprocess.SubprocessError) as error:
        what = f"the engine did not start ({reason(error)}); its output is in {log}"
        raise ProgramError(what, last_lines(log, begin)) from error
    if not _until(lambda: _healthy(engine.port) or not _lives(home), _START_SECONDS) or not _lives(home):
        raise ProgramError(f"the engine did not start; its output is in {log}", last_lines(log, begin))
    if not _only_loopback(engine.port):
        _stop(home, say)
        raise SynclineError("ENGINE_FAILED", "the engine listens on more than 127.0.0.1, and was stopped")
    return engine


def _stop(home: Path, say: deploy.Say) -> None:
    if not _until((home / "pid").exists, _START_SECONDS):
        raise SynclineError("ENGINE_FAILED", f"the engine starts and does not say its process; see {home}")
    pid = int((home / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    if not _until(lambda: not _lives(home), _STOP_SECONDS):
        say(f"the engine did not stop in {_STOP_SECONDS} s and is killed; the next start says so")
        os.killpg(pid, signal.SIGKILL)
        _until(lambda: not _lives(home), _STOP_SECONDS)
    elif (home / "unsaved").exists():
        say(f"the engine could not save all of its state; see {home / 'engine.log'}")


def _launch(home: Path, python: Path, engine: Engine, log: Path) -> None:
    """Start the process; it detaches itself, and takes the lock along."""
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
    """Settings of ministack, over this process's environment: references to it in syncs.yaml are resolved there."""
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
        "AWS_ENDPOINT_URL": engine.endpoint,  # what the functions talk to
        "LOG_LEVEL": "INFO",
        "SYNCLINE_ENGINE": str(home),  # tells the functions that they run on one machine
        # Settings that somebody's environment may hold for another engine:
        "AUTH": "false",
        "LAMBDA_EXECUTOR": "local",
        "LAMBDA_ACCOUNT_CONCURRENCY": "1000",  # as on AWS, whatever this machine's memory: the mappings set the bounds
        "LAMBDA_STRICT": "0",
        "SERVICES": "",
        "USE_SSL": "0",
        # It would open further ports, and clear away containers of others:
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{home / 'no-docker'}",
    }


def _free_port(port: int | None) -> int:
    """The port itself if it can be had, a free one for 0; raises ENGINE_FAILED."""
    port = DEFAULT_PORT if port is None else port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            what = f"cannot listen on port {port}: {error.strerror}; --port names another one"
            raise SynclineError("ENGINE_FAILED", what) from error
        bound: int = probe.getsockname()[1]
        return bound


def _only_loopback(port: int) -> bool:
    """False if the port is open beyond 127.0.0.1: then it cannot be had on 127.0.0.2 either."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE  # macOS has no 127.0.0.2, and BIND_HOST is all there is
        return True


def _end_orphans(temporary: Path) -> None:
    """Kill processes of functions that a killed engine left behind, where /proc shows them.

    Elsewhere they end by themselves, with the batch they work on.
    """
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{temporary}/".encode() in command.read_bytes():
                os.kill(int(command.parent.name), signal.SIGKILL)


def _remove_leftovers(temporary: Path) -> None:
    """Remove the code of functions that an earlier engine has unpacked; a killed one leaves a folder for each.

    Where orphans cannot be found they may still run from there.
    """
    if Path("/proc/self").exists():
        for left in temporary.glob("ministack-lambda-*"):
            shutil.rmtree(left, ignore_errors=True)


def save(home: Path) -> None:
    """Have the engine save its state now, and return when that is on the disk; raises ENGINE_FAILED."""
    request = home / "save"
    request.touch()
    if not _until(lambda: not request.exists() or not _lives(home), _STOP_SECONDS) or request.exists():
        raise SynclineError("ENGINE_FAILED", f"the engine did not save its state; see {home / 'engine.log'}")


# -- what is known ---------------------------------------------------------------------------------------------------


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", _HEALTH)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _lives(home: Path) -> bool:
    """Whether the lock is held: the system lets go of it when the engine ends, however it does."""
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
def _used(home: Path) -> Iterator[None]:
    """Make the home if it does not exist; raises ENGINE_FAILED if its files cannot be written."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # the state holds secrets, if any were put into the engine
        yield
    except OSError as error:
        if not str(error.filename or home).startswith(str(home)):
            raise
        what = f"cannot keep the engine's state in {home}: {error.strerror or error}; --home names another folder"
        raise SynclineError("ENGINE_FAILED", what) from error


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One at a time in here; others wait."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _has_state(home: Path) -> bool:
    """Return True if an engine saved something in ``home``; one of an older version did so in JSON files."""
    return (home / "state" / "engine.db").exists() or (home / "state" / "cloudformation.json").exists()


def _recorded(home: Path) -> Engine | None:
    try:
        return Engine(**json.loads((home / "engine.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _record(home: Path, engine: Engine) -> None:
    write_durably(home / "engine.json", json.dumps(asdict(engine), indent=2))


def write_durably(file: Path, text: str) -> None:
    """Replace a file by ``text``, so that a crash or a power cut leaves either the old file or the new one."""
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
