"""Run the soak test: ``python -m tests.soak --minutes 60 --seed 1 --record FILE``. The exit code is 0 on success.

The local engine runs one sync of each kind. Two docker-registries hold the images, nginx instances the tokens; buckets,
git over HTTP, the file manager and GitHub are the strict stand-ins of the tests. Sources change all the time, with
schedules, webhooks and events, while a seed selects the processes to kill. Then the faults stop, every sync runs in full,
and the judge compares sources and targets.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.soak import judge, writers
from tests.soak.deployment import KINDS, Deployment, sync_name
from tests.soak.killer import Killer
from tests.soak.servers import running
from tests.soak.watch import Growth, Search, Watch, growth
from tests.standins.programs import program

_MIB: Final = 1 << 20
_SHOWN: Final = 20


def planted(seed: int) -> dict[str, str]:
    """Return the planted secrets. Some contain characters that URLs escape."""
    rng = random.Random(f"{seed} secrets")
    signed = {name: f"pl4nted/{name}+{rng.getrandbits(96):024x}=;" for name in ("prod", "dr", "git", "s3")}
    plain = ("manager", "github", "cluster", "canary", *(f"hook_{kind}" for kind in KINDS[:4]))
    return signed | {name: f"pl4nted-{name}-{rng.getrandbits(96):024x}" for name in plain}


class Soak:
    """One run of the soak test, in a separate folder."""

    def __init__(self, folder: Path, minutes: float, seed: int) -> None:
        self.folder = folder
        self.seconds = minutes * 60
        self.seed = seed
        self.secrets = planted(seed)
        self.search = Search(self.secrets | {"session": writers.marker(seed)})
        self.wrong: list[str] = []
        self.record: dict[str, Any] = {"minutes": minutes, "seed": seed}
        self.growth: list[Growth] = []

    def run(self) -> None:
        """Run the complete test; :attr:`wrong` has the errors, :attr:`record` the figures."""
        deployment = Deployment(self.folder / "home", self.folder)
        try:
            notify = f"{deployment.outputs['ReceiveUrl']}hooks/{sync_name('images')}/{self.secrets['hook_images']}"
            with running(self.folder / "servers", self.secrets, notify) as servers:
                work = writers.Work(deployment, servers, self.secrets, self.seed)
                writers.first_content(work)
                deployment.apply(servers, self.secrets)
                self._load(work)
                self._judge(work)
            self.wrong += [error for each in servers.standins for error in each.errors]
        finally:
            deployment.down()
        self._search(deployment, work)

    def _load(self, work: writers.Work) -> None:
        """Change sources, kill processes and take samples until the time is over."""
        ended = threading.Event()
        killer = Killer(work.deployment, work.servers.victims, self.seed, self.seconds)
        watch = Watch(work.deployment, self.search)
        parts: dict[str, Callable[[threading.Event], None]] = {kind: partial(work.run, kind) for kind in KINDS}
        parts |= {"killer": killer.run, "watch": watch.run}
        threads = [
            threading.Thread(target=self._run_part, args=(name, part, ended), name=name, daemon=True)
            for name, part in parts.items()
        ]
        for each in threads:
            each.start()
        end = time.monotonic() + self.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 60))
            done, kills = sum(work.done.values()), sum(killer.kills.values())
            print(f"{max(0, end - time.monotonic()):5.0f} s left: {done} changes, {kills} kills", flush=True)
        ended.set()
        for each in threads:
            each.join(180)
            if each.is_alive():
                self.wrong.append(f"{each.name} does not end")
        killer.one(work.deployment, 0)
        self.wrong += killer.wrong
        self.growth = growth(watch.samples, self.seconds)
        self.wrong += [f"{each.name} is not flat: {_grown(each)}" for each in self.growth if not each.flat]
        samples = watch.samples
        ends = [
            {name: getattr(each, name) for name in ("engine", "function", "disk", "log", "rows")}
            for each in samples[:: len(samples) - 1 or 1]
        ]
        self.record |= {
            "changes": dict(work.done),
            "refused": dict(work.refused),
            "hints": dict(work.hints),
            "verdicts": dict(work.verdicts),
            "kills": dict(killer.kills),
            "bytes": {"start": ends[0], "end": ends[-1]},
            "growth": {each.name: {"second_quarter": each.second, "last_quarter": each.last} for each in self.growth},
        }

    def _run_part(self, name: str, part: Callable[[threading.Event], None], ended: threading.Event) -> None:
        """Run a part of the load. Record an exception, because the test is void without this part."""
        try:
            part(ended)
        except Exception as error:  # noqa: BLE001 - any exception invalidates the test
            self.wrong.append(f"the {name} of the soak ended: {error!r}")

    def _judge(self, work: writers.Work) -> None:
        began = time.monotonic()
        wrong = judge.idle(work.deployment)
        letters, unsettled = judge.settle(work.deployment)
        wrong += unsettled
        lost = list(judge.differences(work))
        left = judge.left_letters(work.deployment)
        if left:
            wrong.append(f"{left} dead letters are left")
        self.wrong += wrong + lost
        about = {"lost": len(lost), "dead_letters_retried": letters, "dead_letters_left": left}
        self.record |= {
            **about,
            "settled_seconds": round(time.monotonic() - began),
            "requests": work.servers.requests(),
        }

    def _search(self, deployment: Deployment, work: writers.Work) -> None:
        """Search everything that the engine has written for every secret and session."""
        search = self.search
        count = search.home(deployment.home)
        control = Search({"control": sync_name("files")})
        control.home(deployment.home)
        if not control.found:
            self.wrong.append("the search for secrets does not even find the name of a sync")
        self.wrong += [f"secret: {each}" for each in sorted(search.found)]
        self.record |= {"secrets": len(self.secrets) + work.sessions, "secrets_found": len(search.found)}
        self.record |= {"searched": {"places": count, "bytes": search.bytes}}


def _grown(each: Growth) -> str:
    return f"{each.second / _MIB:.1f} MiB in the second quarter, {each.last / _MIB:.1f} MiB in the last"


def show(soak: Soak) -> None:
    """Print the table and the verdict."""
    record = soak.record
    print(f"\n{'kind':<10} {'changes':>8} {'refused':>8} {'events':>7} {'dead letters':>13}")
    for kind in KINDS:
        columns = [
            record.get(name, {}).get(kind, 0) for name in ("changes", "refused", "hints", "dead_letters_retried")
        ]
        print(f"{kind:<10} {columns[0]:>8} {columns[1]:>8} {columns[2]:>7} {columns[3]:>13}")
    kills = ", ".join(f"{kind} {count}" for kind, count in sorted(record.get("kills", {}).items()))
    print(f"kills: {kills}")
    for each in soak.growth:
        print(f"{each.name}: {_grown(each)}")
    for name in ("verdicts", "requests", "secrets", "secrets_found", "searched", "settled_seconds"):
        print(f"{name}: {json.dumps(record.get(name))}")
    for what in soak.wrong[:_SHOWN]:
        print(f"wrong: {what}")
    verdict = f"{len(soak.wrong)} wrong" if soak.wrong else "nothing lost, memory and disk flat, no secret written"
    print(f"{'✗' if soak.wrong else '✓'} soak of {record['minutes']:g} minutes, seed {soak.seed}: {verdict}")


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the folder even after a success")
    options = parser.parse_args()
    for name in ("docker-registry", "nginx", "git", "make"):
        program(name)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, options.minutes, options.seed)
    try:
        soak.run()
    except Exception as error:  # noqa: BLE001 - any exception is a failure of the test
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        soak.wrong.append(f"the soak ended: {error!r}")
    show(soak)
    if options.record and not soak.wrong:
        options.record.write_text(json.dumps(soak.record, indent=1) + "\n")
    if soak.wrong or options.keep:
        print(f"everything is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
