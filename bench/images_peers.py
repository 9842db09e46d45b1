"""Measurements of ``images`` against regsync and crane, beside skopeo: the programs that users run instead.

All copy between the same two registries in the same rounds. An absent program has a row without a value. The number of
tags of ``images.tags`` is that of ``BENCH_IMAGES_TAGS``, 10,000 if it is not set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.content import Filler
from bench.delay_proxy import delayed
from bench.measure import MeasurementError, Row
from bench.peers import Crane, Regsync, Skopeo, present
from bench.workspace import CompletedRun, Functions, Workspace
from syncline.cli.aws import LOCAL_CONFIG, local_session
from syncline.model import RunStatus
from syncline.store.state import State
from tests.standins.programs import program
from tests.standins.registry import Registry

_TAGS: Final = ("v1", "v2", "v3")
_REPOSITORIES: Final = [f"bench/app-{number:03d}" for number in range(30)]
_FEW: Final = _REPOSITORIES[:10]
_MANY: Final = [f"bench/app-{number:03d}" for number in range(270)]
_LONG_COUNT: Final = int(os.environ.get("BENCH_IMAGES_TAGS", "10000"))
_LABEL: Final = "10k" if _LONG_COUNT == 10_000 else str(_LONG_COUNT)
_OWN: Final = (256 * 1024, 64 * 1024)
_MIB: Final = 1024 * 1024
_ROUNDS: Final = 5
_LONG_ROUNDS: Final = 3
_ONE_WAY: Final = 0.01
"""Seconds by which the proxies delay each direction."""
_PATIENCE: Final = 30.0
_SECRET: Final = "a-long-random-text"

Copy = Callable[[str, str], float]
"""A function that copies everything from one host to another, and returns the seconds."""


def against(workspace: Workspace) -> list[Row]:
    """Measure 30 repositories with 3 tags: copies to an empty target, and runs with an equal target."""
    return _cold_and_idle(workspace, "images.peers", _REPOSITORIES, _TAGS, _ROUNDS, (0.7, 0.8))


def tags(workspace: Workspace) -> list[Row]:
    """Measure one repository with 10,000 tags: a copy to an empty target, and runs with an equal target."""
    names = [f"v{number}" for number in range(_LONG_COUNT)]
    own = (64,)
    return _cold_and_idle(
        workspace, f"images.tags.{_LABEL}", ["bench/long"], names, _LONG_ROUNDS, (0.7, 0.35), own, colds=1
    )


def latency(workspace: Workspace) -> list[Row]:
    """Measure 10 repositories with 3 tags, with proxies in front of both registries that delay each direction by 10 ms."""
    return _cold_and_idle(
        workspace, "images.latency", _FEW, _TAGS, _LONG_ROUNDS, (0.7, None), skopeo_aim=0.3, delay=_ONE_WAY
    )


def push(workspace: Workspace) -> list[Row]:
    """Measure the time from a push to one of 270 repositories until the copy is verified; the registry notifies us."""
    program("docker-registry")
    os.environ["BENCH_HOOK"] = _SECRET  # the engine, which may start next, and its functions inherit it
    functions = workspace.functions
    resource: Any = local_session().resource("dynamodb", endpoint_url=functions.endpoint, config=LOCAL_CONFIG)
    state = State(resource.Table(functions.output("TableName")))
    hook = f"{functions.output('ReceiveUrl')}hooks/bench-push/{_SECRET}"
    times: list[float] = []
    folder = workspace.folder / "push"
    # Without notifications: the sync does not exist yet, and a registry repeats a refused one before all later ones.
    with Registry(folder=folder) as filled:
        Filler(filled.host).images(_MANY, _TAGS, 4096, ())
    with Registry(folder=folder, notify=hook) as source, _empty(workspace, 0) as target:
        config = {
            "kind": "images",
            "source": {"registry": source.host, "plain_http": True, "catalog": True},
            "target": {"registry": target, "plain_http": True},
            "webhook": {"secret": "env:BENCH_HOOK"},
        }
        functions.apply_all({"bench-push": config})
        functions.run("bench-push")
        for number in range(_ROUNDS + 1):
            repository = _MANY[number * 7]
            _wait_until_idle(state)
            began = time.time()
            Filler(source.host).images([repository], [f"pushed-{number}"], 4096, (4096,))
            pushed = time.time()
            ended = _copied(state, began)
            if number:  # the first push starts the function that receives
                times.append(ended - pushed)
    note = "from the end of the push to the recorded end of the run that verified it; the peer is the limit of 1 s"
    return [Row("images.push", "s", times, [1.0], 1.0, note)]


def _wait_until_idle(state: State) -> None:
    end = time.monotonic() + _PATIENCE
    while state.current_run("bench-push") is not None:
        if time.monotonic() > end:
            raise MeasurementError("the previous run did not end")
        time.sleep(0.05)


def _copied(state: State, began: float) -> float:
    """Return the end (Unix seconds) of the first run since ``began`` that moved an image."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        for run in state.runs("bench-push", 5):
            if run.started >= began and run.status is RunStatus.DONE and run.counts.moved and run.ended is not None:
                return run.ended
        time.sleep(0.05)
    raise MeasurementError(f"the push was not copied within {_PATIENCE:.0f} s")


def _cold_and_idle(  # noqa: PLR0913, PLR0917 - what varies between the measurements
    workspace: Workspace,
    name: str,
    repositories: Sequence[str],
    tag_names: Sequence[str],
    rounds: int,
    regsync_aims: tuple[float, float | None],
    own: Sequence[int] = _OWN,
    *,
    colds: int | None = None,
    skopeo_aim: float | None = None,
    delay: float = 0,
) -> list[Row]:
    program("docker-registry")
    count = len(repositories) * len(tag_names)
    copies = _peers(workspace.folder, repositories)
    ours, theirs = list[CompletedRun](), dict[str, list[float]]()
    idle_ours, idle_theirs = list[CompletedRun](), dict[str, list[float]]()
    aims = {"regsync": regsync_aims, "skopeo": (skopeo_aim, None)}
    with (
        Registry(folder=workspace.folder / name) as registry,
        _near(registry.host, delay) as source,
    ):
        Filler(registry.host).images(repositories, tag_names, _MIB, own)
        with _empty(workspace, delay) as target:  # starts the functions and caches the source's files
            _copied_by_us(workspace.functions, source, target, count)
        for number in range(rounds if colds is None else colds):
            for copy in _in_turn(number, [None, *copies]):
                with _empty(workspace, delay) as target:
                    if copy is None:
                        ours.append(_copied_by_us(workspace.functions, source, target, count)[1])
                    else:
                        theirs.setdefault(copy, []).append(copies[copy](source, target))
        with _empty(workspace, delay) as target:
            sync, _ = _copied_by_us(workspace.functions, source, target, count)
            for number in range(rounds):
                for copy in _in_turn(number, [None, *copies]):
                    if copy is None:
                        idle_ours.append(_idle(workspace.functions, sync, count))
                    else:
                        idle_theirs.setdefault(copy, []).append(copies[copy](source, target))
    rows = []
    for which, runs, peers in (("cold", ours, theirs), ("idle", idle_ours, idle_theirs)):
        for peer in ("regsync", "crane", "skopeo"):
            aim = aims.get(peer, (None, None))[which == "idle"]
            rows.append(Row(f"{name}.{which}.{peer}", "s", [each.seconds for each in runs], peers.get(peer, []), aim))
        rows.append(Row(f"{name}.{which}.requests", "requests", [each.requests for each in runs]))
        aim = 0.5 if which == "idle" and name == "images.peers" else None
        rows.append(Row(f"{name}.{which}.command", "s", [each.command_seconds for each in runs], None, aim))
    return rows


def _in_turn(number: int, names: list[str | None]) -> list[str | None]:
    """Return the names in an order that begins with another one in each round."""
    at = number % len(names)
    return names[at:] + names[:at]


def _peers(folder: Path, repositories: Sequence[str]) -> Mapping[str, Copy]:
    """Return the installed programs, by name, as functions that copy the repositories."""
    found: dict[str, Copy] = {}
    if present("regsync"):
        found["regsync"] = Regsync(folder, repositories).sync
    if present("crane"):
        found["crane"] = Crane(repositories).copy
    if present("skopeo") and len(repositories) > 1:  # it takes minutes for thousands of tags
        skopeo = Skopeo(folder)

        def copy(source: str, target: str) -> float:
            skopeo.forget()
            return skopeo.sync(source, repositories, f"{target}/bench")

        found["skopeo"] = copy
    return found


@contextmanager
def _near(host: str, delay: float) -> Iterator[str]:
    """Yield the host, or that of a proxy in front of it that delays each direction."""
    with ExitStack() as stack:
        yield stack.enter_context(delayed(host, delay)) if delay else host


@contextmanager
def _empty(workspace: Workspace, delay: float) -> Iterator[str]:
    """Yield the host of an empty registry."""
    with (
        TemporaryDirectory(dir=workspace.folder) as folder,
        Registry(folder=Path(folder)) as registry,
        _near(registry.host, delay) as host,
    ):
        yield host


def _copied_by_us(functions: Functions, source: str, target: str, count: int) -> tuple[str, CompletedRun]:
    config = {
        "kind": "images",
        "source": {"registry": source, "plain_http": True, "catalog": True},
        "target": {"registry": target, "plain_http": True},
    }
    name = functions.apply(config)
    run = functions.run(name)
    if run.moved != count:
        raise MeasurementError(f"the run moved {run.moved} images instead of {count}")
    return name, run


def _idle(functions: Functions, sync: str, count: int) -> CompletedRun:
    run = functions.run(sync)
    if (run.moved, run.skipped) != (0, count):
        raise MeasurementError(f"the run moved {run.moved} images and found {run.skipped} equal")
    return run


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {
    "peers": against,
    "push": push,
    "latency": latency,
    "tags": tags,
}
