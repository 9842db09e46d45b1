"""One simulation of canaries and probes of tokens.

A simulation has four phases. In the fault phase, rounds of canaries, probes and scrapes overlap with faults of
instances, of the network between them, of the cluster and of AWS, and functions are killed at any call. Then all faults
end, and every reported fault must be cleared. Then one instance gets a permanent fault, which must be found within the
documented number of rounds. Finally, that fault ends and must be cleared as well.
"""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

from syncline import secrets
from syncline.telemetry import logger
from tests.simulation.event_loop import LoopMachine
from tests.simulation.gateways import GatewayWorld, System, probe_event
from tests.simulation.installation import installed
from tests.simulation.machine import EndlessError, Machine
from tests.simulation.models.replicas import Fault, Pod
from tests.simulation.network import Faults
from tests.simulation.token_invariants import Round, RoundResult


@dataclass
class SimulationResult:
    """The result of a simulation: its violations, its trace and its counts."""

    seed: int
    violations: list[str]
    trace: list[str]
    totals: Counter[str] = field(default_factory=Counter)


def simulate(seed: int) -> SimulationResult:
    """Simulate a seed."""
    with ExitStack() as stack:
        # Without the secrets of earlier simulations.
        stack.enter_context(patch.object(secrets, "_redaction", secrets._Redaction()))
        machine = stack.enter_context(installed(LoopMachine(seed, 1_000_000)))
        lines = stack.enter_context(_captured())
        return Simulation(machine, seed, lines).run()


@contextmanager
def _captured() -> Iterator[io.StringIO]:
    """Capture the log lines and metrics of the functions."""
    lines = io.StringIO()
    handler = logger.registered_handler
    before = handler.setStream(lines)  # type: ignore[attr-defined]
    level = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    try:
        with redirect_stdout(lines):
            yield lines
    finally:
        handler.setStream(before)  # type: ignore[attr-defined]
        logging.disable(level)


class Simulation:
    """One simulation of a seed."""

    def __init__(self, machine: Machine, seed: int, lines: io.StringIO) -> None:
        self.machine, self.rng, self.seed, self.lines = machine, machine.rng, seed, lines
        rate = self._random_rate
        self.faults = Faults(
            throttled=rate(0.3, 0, 0.1),
            lost_replies=rate(0.4, 0, 0.05),
            unreachable=rate(0.2, 0, 0.03),
            conflicts=rate(0.2, 0, 0.05),
            killed=rate(0.4, 0, 0.01),
            slow=rate(0.2, 0, 0.02),
            server_errors=rate(0.3, 0, 0.03),
        )
        skew = rate(0.3, 0.0, 2.0)
        self.system = System(machine, self.faults, skew)
        self.worlds = [GatewayWorld(machine, number, rate) for number in range(self.rng.choice([1, 1, 1, 2]))]
        for world in self.worlds:
            world.invariants.skew = 2 * skew
            self.system.apply(world)
        self.totals = Counter[str]()
        self.violations: list[str] = []
        self.tokens: list[str] = []
        self.quiescent = False
        self.bodies: list[str] = []

    def _random_rate(self, chance: float, low: float, high: float) -> float:
        """Return a random rate between two limits, or 0: a simulation has only some of the faults."""
        return self.rng.uniform(low, high) if self.rng.random() < chance else 0.0

    def run(self) -> SimulationResult:
        with self.system.wired():
            try:
                self._scrape()
                self._wait(3)
                self._fault_phase()
                self._quiesce("after the fault phase")
                self._permanent_fault()
                self._quiesce("after the permanent fault")
            except EndlessError as error:
                self.violations.append(f"endless: {error}")
            self.system.end()
        for world in self.worlds:
            self.violations += [f"{world.name}: {each}" for each in world.invariants.violations]
            self.totals["false alarms"] += world.invariants.false_alarms
        self.violations += self.system.failures
        self.violations += self._leaks() + self._metrics()
        self.totals |= {"seeds": 1, "steps": self.machine.steps, "invocations": self.system.invocations}
        kills = sum(count for name, count in self.faults.points.items() if name.startswith("killed"))
        self.totals |= {"kills": kills, "failures of AWS": len(self.system.aws_failures)}
        for name in ("slow answer", "instance answers 503 or nothing"):
            self.totals[name] += self.faults.points[name]
        return SimulationResult(self.seed, self.violations, self.machine.trace, self.totals)

    # -- operations

    def _wait(self, seconds: float) -> None:
        self.machine.run(self.machine.now + seconds)

    def _scrape(self) -> None:
        self.totals["scrapes"] += 1
        self.system.invoke("scrape", {}, lambda _result, _process: None)

    def _round(self) -> Callable[[], dict[str, Any] | None]:
        """Start a round of every gateway. Return a function that returns its report, or None without one."""
        now = self.machine.now
        rounds = {world.name: Round(now, listed=self._last_list(world)) for world in self.worlds}
        for world in self.worlds:
            world.invariants.rounds.append(rounds[world.name])
        self.totals["rounds"] += len(rounds)
        reports: list[dict[str, Any]] = []

        def done(report: Any, _process: Any) -> None:
            reports.append(report)
            for world in self.worlds:
                self._reported(world, rounds[world.name], report.get(world.name))

        process = self.system.invoke("canary", {}, done)

        def killed() -> None:
            for one in rounds.values():
                one.end = min(one.end, self.machine.now)

        process.on_death = killed
        return lambda: reports[0] if reports else None

    @staticmethod
    def _last_list(world: GatewayWorld) -> tuple[str, ...]:
        lists = world.invariants.lists
        return () if not lists else max(lists, key=lambda each: each.asked_at).serving

    def _reported(self, world: GatewayWorld, one: Round, report: Any) -> None:
        one.end = min(one.end, self.machine.now)
        if report is None:
            self.violations.append(f"{world.name}: no report of a round")
            return
        one.reported = True
        one.results = [
            RoundResult(each.role.value, each.where, each.bad, each.good, str(each)) for each in report.results
        ]
        one.faults = report.faults
        self.totals["reported rounds"] += 1
        for each in report.results:
            if each.bad:
                self.machine.note(f"{world.name}: {each}")
        self.machine.note(f"{world.name}: faults {list(report.faults)}")
        world.invariants.check_round(one)

    def _probe(
        self, world: GatewayWorld, delay: float = 0.0, *, origin: Pod | None = None, known: bool = True
    ) -> list[str]:
        """Write a token to an instance and probe it. Return a list that will contain the header of the response."""
        origin = origin or world.some()
        token = f"token-{self.rng.randbytes(10).hex()}"
        self.tokens.append(token)
        if known and origin.up:
            world.gateway.write(origin, token, "session")
            if not self.quiescent and self.rng.random() < 0.05:
                self.machine.after(1.0, partial(world.gateway.drop, origin, token))
        answers: list[str] = []
        where = world.where(origin)

        def probe() -> None:
            started = self.machine.now

            def done(response: Any, _process: Any) -> None:
                self.bodies.append(json.dumps(response))
                header = response["headers"].get("X-Token-Status", "")
                answers.append(header)
                self.totals[f"verdict {header}"] += 1
                self.machine.note(f"{world.name}: {response['body']}")
                body = json.loads(response["body"])
                if response["statusCode"] == 200 and "verdict" in body and body.get("sync") is not None:
                    world.invariants.check_verdict(token, where, started, self.machine.now, body, header)
                elif header != "NotSynced":
                    self.violations.append(f"{world.name}: {response['statusCode']} with {header}")

            self.totals["probes"] += 1
            name = self.rng.choice([where, origin.name])
            self.system.invoke("probe", probe_event(token, name, world.name), done)

        self.machine.after(delay, probe)
        return answers

    # -- fault phase

    def _fault_phase(self) -> None:
        actions: list[Callable[[GatewayWorld], object]] = [
            *[lambda _world: self._round()] * 2,
            *[lambda world: self._probe(world, self.rng.choice([0.0, 0.0, 0.5, 5.0]))] * 2,
            *[lambda _world: self._scrape()] * 2,
        ]
        faults: list[Callable[[GatewayWorld], None]] = [
            self._break_instance,
            self._repair,
            self._partition,
            self._restart,
            self._add_instance,
            self._remove_instance,
            self._break_cluster,
            self._break_secrets,
            self._toggle_ready,
        ]
        actions += [action for action in faults for _ in range(self.rng.choice([0, 1, 1]))]
        for _ in range(self.rng.randint(5, 16)):
            action, world = self.rng.choice(actions), self.rng.choice(self.worlds)
            action(world)
            self._wait(self.rng.choice([0.0, 0.3, 2.0, 10.0, 30.0, 60.0]))

    def _break_instance(self, world: GatewayWorld) -> None:
        pod, fault = world.some(), self.rng.choice(list(Fault))
        self.totals[f"fault: {fault.value}"] += 1
        self.machine.note(f"{pod.name} {fault.value}")
        world.gateway.spoil(pod, fault)
        if self.rng.random() < 0.5:
            self.machine.after(self.rng.choice([0.5, 3.0, 30.0, 200.0]), lambda: world.gateway.spoil(pod, None))

    def _repair(self, world: GatewayWorld) -> None:
        for pod in world.gateway.pods.values():
            world.gateway.spoil(pod, None)
        world.gateway.heal()
        world.cluster = ""
        self.system.secrets_fail = False

    def _partition(self, world: GatewayWorld) -> None:
        one, other = self.rng.sample(list(world.gateway.pods.values()), 2)
        self.totals["fault: partition"] += 1
        self.machine.note(f"partition between {one.name} and {other.name}")
        world.gateway.part(one, other)
        self.machine.after(self.rng.choice([0.5, 3.0, 30.0, 200.0]), world.gateway.heal)

    def _restart(self, world: GatewayWorld) -> None:
        pod = world.some()
        self.totals["fault: restart"] += 1
        self.machine.note(f"{pod.name} restarts")
        world.gateway.restart(pod, self.rng.choice([0.1, 2.0, 20.0]), snapshot=self.rng.random() < 0.5)

    def _add_instance(self, world: GatewayWorld) -> None:
        if len(world.gateway.pods) < 8:
            self.totals["fault: instance added"] += 1
            self.machine.note(f"{world.add().name} added")

    def _remove_instance(self, world: GatewayWorld) -> None:
        if len(world.gateway.pods) > 2:
            pod = world.some()
            self.totals["fault: instance removed"] += 1
            self.machine.note(f"{pod.name} removed")
            world.gateway.remove(pod)

    def _toggle_ready(self, world: GatewayWorld) -> None:
        pod = world.some()
        pod.ready = not pod.ready

    def _break_cluster(self, world: GatewayWorld) -> None:
        world.cluster = self.rng.choice(["fails", "empty", "hangs"])
        self.totals[f"fault: cluster {world.cluster}"] += 1
        self.machine.note(f"the cluster of {world.name} {world.cluster}")

    def _break_secrets(self, _world: GatewayWorld) -> None:
        self.totals["fault: secrets"] += 1
        self.system.secrets_fail = True
        self.machine.after(self.rng.choice([5.0, 60.0]), lambda: setattr(self.system, "secrets_fail", False))

    # -- quiescence

    def _quiesce(self, when: str) -> None:
        """End all faults, and check that every confirmed fault is cleared within the documented rounds."""
        self.faults.off = self.quiescent = True
        for world in self.worlds:
            self._repair(world)
            for pod in world.gateway.pods.values():
                pod.ready = True
        self._wait(320)  # every running function has ended or was killed
        self._scrape()
        self._wait(10)
        most = 2 * max(len(world.gateway.pods) for world in self.worlds)
        for _ in range(most):
            report = self._complete_round()
            if report is None:
                self.violations.append(f"{when}: a round without a fault had no report")
                return
            if not any(each.faults for each in report.values()):
                break
        else:
            faults = [each.faults for each in (report or {}).values()]
            self.violations.append(f"{when}: faults are still reported after {most} rounds: {faults}")
        for world in self.worlds:
            answers = self._probe(world, 0.0)
            self._wait(10)
            if answers != ["Synced"] and not isinstance(world.quorum, int):
                self.violations.append(f"{when}: {world.name} without faults answers {answers}")

    def _complete_round(self) -> dict[str, Any] | None:
        """Run a round with a new list of instances. Return its report."""
        self._scrape()
        self._wait(5)
        report = self._round()
        for _ in range(30):
            self._wait(10)
            if report() is not None:
                break
        return report()

    def _permanent_fault(self) -> None:
        """Give one instance a permanent fault, and count the rounds until it is found."""
        world = self.rng.choice(self.worlds)
        pod, count = world.some(), len(world.gateway.pods)
        fault = self.rng.choice([each for each in Fault if each is not Fault.SLOW])
        most = _max_rounds(fault, count)
        self.machine.note(f"{pod.name} {fault.value} permanently")
        world.gateway.spoil(pod, fault)
        self.totals["losses"] += 1
        self.faults.off = self.rng.random() < 0.5
        for name in ("unreachable", "slow", "server_errors"):
            setattr(self.faults, name, 0.0)
        completed = 0
        where = world.where(pod)
        for _ in range(most * 6):
            report = self._complete_round()
            if report is None:
                continue
            # A round that failed itself has not tested the instances.
            completed += not any(each.role.value == "round" for each in report[world.name].results)
            if any(where in each for each in report[world.name].faults):
                self.totals["losses found"] += 1
                self.totals[f"found after {completed} rounds"] += 1
                break
            if completed >= most:
                break
        else:
            self.totals["losses not judged"] += 1  # the function was killed in nearly every round
            return
        if not any(where in each for each in report[world.name].faults):
            what = f"{world.name}: {pod.name} of {count} {fault.value}: not found after {completed} rounds"
            self.violations.append(what)
        if fault is Fault.DEAF and count > 1:
            others = [each for each in world.gateway.pods.values() if each is not pod]
            self._probe(world, 0.0, origin=self.rng.choice(others))
            self._wait(20)

    # -- secrets

    def _leaks(self) -> list[str]:
        """Return the tokens, keys and secrets found in log lines, metrics, responses or the table."""
        secret = [world.secret for world in self.worlds]
        keys = {reply.key for world in self.worlds for reply in world.gateway.replies if reply.key}
        stored = json.dumps([str(item) for item in self.table_items()])
        texts = {"a log or a metric": self.lines.getvalue(), "the table": stored, "a response": "".join(self.bodies)}
        found = []
        for where, text in texts.items():
            found += [
                f"{each[:14]}... is in {where}" for each in sorted({*secret, *self.tokens, *keys}) if each in text
            ]
        return found

    def _metrics(self) -> list[str]:
        """Return the gateways whose alarm metric differs from the reports of the rounds."""
        measured: Counter[tuple[str, int]] = Counter()
        for line in self.lines.getvalue().splitlines():
            if '"CanaryFaults"' in line and '"sync"' in line:
                values = json.loads(line)
                measured[values["sync"], int(values["CanaryFaults"][0])] += 1
        found = []
        for world in self.worlds:
            reported = Counter((world.name, len(one.faults)) for one in world.invariants.rounds if one.reported)
            killed = sum(not one.reported for one in world.invariants.rounds)
            more = {each: count for each, count in (measured - reported).items() if each[0] == world.name}
            if reported - measured or sum(more.values()) > killed:
                found.append(f"{world.name}: measured {dict(measured)}, reported {dict(reported)}, {killed} killed")
        return found

    def table_items(self) -> list[Any]:
        return list(self.system.table.items())


def _max_rounds(fault: Fault, count: int) -> int:
    """Return the number of rounds within which docs/reference/tokens.md promises to confirm a fault."""
    match fault:
        case Fault.YES | Fault.ERRORS | Fault.UNASKED | Fault.REFUSES | Fault.SILENT:
            return 2
        case Fault.NO:
            return 3
        case Fault.DEAF | Fault.LOSES:  # a key may be lost before any instance has reported it
            return 4 if count == 2 else 3
    return 2 * count
