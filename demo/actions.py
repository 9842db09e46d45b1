"""The actions of the sample: each runs the commands that a user would type, and shows their output."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from demo import push as pushing
from demo import servers, sync, verification
from demo.catalog import REPOSITORIES, SIGNED
from demo.fill import fill
from demo.settings import ROOT, SYNC, USER, Settings, credentials_file, home, is_free
from syncline.cli import local_engine as engines
from syncline.cli.deployment import deployment_of
from syncline.cli.local_engine import Engine
from syncline.cli.output import Output
from syncline.text import duration, plural, size

_SOME_FAILED: Final = 1
_REPORT_LINES: Final = 9

out: Final = Output()


def run(settings: Settings) -> int:
    """Set up everything, sync, and verify the copy."""
    began = time.monotonic()
    settings = _registries(settings)
    title("Engine: the functions and queues of template.yaml, on this machine")
    if code := _syncline("up", *_port_option()):
        return code
    engine = _engine()
    sync.put_secrets(settings, engine)
    title("Sync: everything at prod, to dr")
    if code := _syncline("apply", _typed_path(sync.write_syncs(settings))):
        return code
    servers.control_quay(settings, "webhook", sync.hook_address(settings, engine).encode())
    if deployment_of(engine, home()).state.current_run(SYNC):
        _syncline("status", SYNC, "--wait")  # started by the schedule, or by `up` after a kill
    code = _syncline("run", SYNC, "--wait")
    if code not in (0, _SOME_FAILED):
        return code
    _syncline("report", SYNC, head=_REPORT_LINES)
    title("Verification, without Syncline's code")
    verified = _verify(settings)
    title(f"Done in {duration(time.monotonic() - began)}. Next steps")
    out.table(_next_steps(settings), indent=2)
    return code if verified else _SOME_FAILED


def push(settings: Settings) -> int:
    """Push a new image to prod, and show the time until dr has it."""
    if not servers.are_running() or engines.describe(home()) is None:
        raise RuntimeError("the sample is not running; start it with `make run`")
    pushed = pushing.push(settings)
    out.line(f"pushed {settings.host('prod')}/{pushing.REPOSITORY}:{pushed.tag}  {pushed.digest[:19]}")
    seconds = pushing.wait_for_copy(settings, pushed)
    if seconds is None:
        raise RuntimeError(f"dr does not have it after {pushing.COPY_TIMEOUT:.0f} s: see `syncline status`")
    out.line(f"copied to {settings.host('dr')} {duration(seconds)} later, started by Quay's webhook", "green")
    return _syncline("status")


def down(settings: Settings) -> int:
    """Stop everything and keep its content."""
    del settings
    code = _syncline("down")
    stopped = servers.stop()
    out.line(f"stopped {', '.join(stopped)}; their content is kept" if stopped else "no registry was running")
    return code


def title(text: str) -> None:
    """Print the title of a section."""
    out.line()
    out.line(text, "bold")


def _registries(settings: Settings) -> Settings:
    title("Registries: prod, with Quay's API in front, and dr")
    settings, started = servers.start(settings)
    software = "docker-registry" if settings.real else "the engine's registry (docker-registry is not installed)"
    rows = [
        ("prod", settings.host("prod"), software),
        ("dr", settings.host("dr"), software),
        ("quay", settings.host("quay"), "Quay's API, a stand-in"),
    ]
    out.table([(*row, "started" if started else "running") for row in rows], indent=2)
    servers.control_quay(settings, "webhook")  # no webhook for these pushes, because the run below copies them
    servers.create_repositories([each.name for each in REPOSITORIES], settings)
    filled = fill(settings, lambda text: out.line(f"  {text}", "dim"))
    servers.control_quay(settings, "refresh")
    content = f"{plural(len(REPOSITORIES), 'repository', 'repositories')}, {plural(_tags(), 'tag')}"
    if filled.tags:
        pushed = f"{plural(filled.tags, 'tag')} pushed, {size(filled.bytes)} in {plural(len(filled.blobs), 'blob')}"
        out.line(f"  prod has {content}: {pushed}")
    else:
        out.line(f"  prod has {content} already")
    return settings


def _tags() -> int:
    return sum(len(each.tags) for each in REPOSITORIES) + 1  # and the signature


def _verify(settings: Settings) -> bool:
    comparison = verification.compare(settings)
    tags = f"{plural(comparison.tags, 'tag')} of {plural(comparison.repositories, 'repository', 'repositories')}"
    if comparison.differing:
        out.line(f"  {comparison.reader}: of {tags}, these differ: {', '.join(comparison.differing)}", "red")
    else:
        out.line(f"  {comparison.reader}: {tags} are byte for byte the same at prod and dr", "green")
    signed = f"{SIGNED[0]}:{SIGNED[1]}"
    valid = verification.signature_is_valid(settings)
    if valid:
        out.line(
            f"  the signature of {signed} is valid at dr (ECDSA, key {_typed_path(verification.public_key())})", "green"
        )
    else:
        out.line(f"  the signature of {signed} is not valid at dr", "red")
    return valid and not comparison.differing


def _next_steps(settings: Settings) -> list[tuple[str, str]]:
    """Return next steps, each with the command to type."""
    syncline = _typed_path(Path(sys.executable).with_name("syncline"))
    password = f"$(cat {_typed_path(home() / 'sample' / 'password')})"
    image = f"{settings.host('dr')}/{SIGNED[0]}:{SIGNED[1]}"
    docker = f"docker --config {_typed_path(credentials_file().parent)} run --rm {image}"
    engine = engines.describe(home())
    return [
        *([("the status page", engine.outputs["ConsoleUrl"])] if engine is not None else []),
        ("each sync and its last run", f"{syncline} status"),
        ("each image with its digests", f"{syncline} report --full"),
        ("push a new image to prod", "make push"),
        ("the log of the functions", f"less {_typed_path(home() / 'engine.log')}"),
        ("the repositories of dr", f"curl -u {USER}:{password} {settings.url('dr')}/v2/_catalog"),
        *([("run a copy", docker)] if shutil.which("docker") else []),
        ("stop the sample", "make down"),
    ]


def _port_option() -> tuple[str, ...]:
    """Return an option for `up` if another program uses the engine's port."""
    if engines.describe(home()) is not None:
        return ()
    try:
        port = int(json.loads((home() / "engine.json").read_text())["port"])
    except FileNotFoundError:
        port = engines.DEFAULT_PORT
    return () if is_free(port) else ("--port", "0")


def _engine() -> Engine:
    engine = engines.describe(home())
    if engine is None:
        raise RuntimeError("the engine is not running")
    return engine


def _typed_path(path: Path) -> str:
    """Return a path as the user would type it in the project's folder."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _syncline(*words: str, head: int | None = None) -> int:
    """Run a `syncline` command and return its exit code. ``head`` limits its output to the first lines."""
    out.line(f"$ syncline {' '.join(words)}" + (f" | head -{head}" if head else ""), "cyan")
    command = [sys.executable, "-m", "syncline.cli.main", *words]
    pipe = None if head is None else subprocess.PIPE
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, cwd=ROOT, stdout=pipe, text=True
    )
    try:
        printed, _ = process.communicate()
    except KeyboardInterrupt:
        process.communicate()  # the command was also interrupted and prints a message
        raise
    for line in (printed or "").splitlines()[:head]:
        out.line(line)
    return process.returncode
