"""Invariants of canaries and probes: the promises of docs/reference/tokens.md.

They compare the results of rounds and the verdicts of probes with the true history in the model :class:`Gateway`. They
share no code with the kind ``tokens``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tests.simulation.models.replicas import Fault, Gateway

SLACK: Final = 0.1
"""Maximum seconds of transmission."""
SLOW: Final = 0.4
"""Seconds after which a slow response explains any failure."""

_LATE: Final = 0.05
"""Responses in the last seconds of a probe may come too late for it."""
_REFUSALS: Final = 2
"""Number of refusals by the origin that make a token invalid."""

_MILLISECONDS: Final = 0.0015
"""Maximum rounding error of a time in a response, in seconds."""
_CONFIRMED: Final = 2
"""Number of failures that confirm a fault."""


def _unless(fine: bool, wrong: str) -> str | None:
    return None if fine else wrong


@dataclass(frozen=True)
class RoundResult:
    """One result of a round: the role and the address of an instance, and how it ended."""

    role: str
    where: str
    bad: bool
    good: bool
    text: str


@dataclass
class Round:
    """One round of the canary, reported or killed. ``end`` is infinite while it runs."""

    begin: float
    end: float = float("inf")
    reported: bool = False
    results: Sequence[RoundResult] = ()
    faults: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    """The addresses of the list of instances that it may have used."""


@dataclass
class InstanceListing:
    """A list of instances returned by the cluster. ``asked_at`` is by the clock of the scrape function."""

    asked_at: float
    serving: tuple[str, ...]
    whole: tuple[str, ...]
    """The serving instances, and those that get no requests now."""
    returned_at: float
    stored_at: float = float("inf")
    """Time at which the list was written to the table."""


@dataclass
class TokenInvariants:
    """Collects violations. ``skew`` is the maximum difference between the clocks of two functions."""

    gateway: Gateway
    stale_after: float
    deadline: float
    quorum: str | int
    skew: float
    rounds: list[Round] = field(default_factory=list)
    lists: list[InstanceListing] = field(default_factory=list)
    list_failures: list[tuple[float, float]] = field(default_factory=list)
    """Periods in which a list, a secret or the table could not be read."""
    violations: list[str] = field(default_factory=list)
    false_alarms: int = 0
    names: dict[str, str] = field(default_factory=dict)
    """The name of each instance by its address."""

    # -- the true history

    def had(self, where: str, key: str, begin: float, end: float) -> bool:
        """Return True if an instance had a key at any time in a period."""
        periods = self.gateway.held.get((self.names.get(where, ""), key), ())
        return any(start <= end and begin <= stop for start, stop in periods)

    def was_faulty(self, where: str, begin: float, end: float) -> bool:
        """Return True if an instance in a period was down or faulty, or answered with errors, slowly or not at all."""
        name = self.names.get(where)
        if name is None:
            return True  # listed, but not running
        if any(start <= end and begin <= stop for start, stop in self.gateway.troubles.get(name, ())):
            return True
        for each in self.gateway.replies:
            if each.pod == name and each.sent <= end and each.came >= begin:
                failed = each.status is None or each.status >= 500 or each.status == 403
                if failed or each.came - each.sent > SLOW:
                    return True
        return False

    def _writes(self, begin: float, end: float) -> Iterator[tuple[str, str, float, float]]:
        """Yield the writer, the key, the time, and the time of the first deletion of each write in a period."""
        for each in self.gateway.replies:
            if each.kind == "write" and begin <= each.sent <= end:
                gone = [
                    other.sent
                    for other in self.gateway.replies
                    if other.kind == "delete" and other.key == each.key and other.sent >= each.sent
                ]
                yield each.pod, each.key, each.came, min(gone, default=end)

    def _missed(self, name: str, key: str, at: float, gone: float) -> bool:
        """Return True if an instance got a key later than promised, or lost it before it was deleted."""
        promised = at + 2 * self.gateway.interval + SLACK
        periods = self.gateway.held.get((name, key), ())
        if gone <= promised:
            # The key was deleted before the promised time: only a loss counts.
            return any(stop < gone for _, stop in periods)
        covered = at if not periods else periods[0][0]
        if covered > promised or not periods:
            return True
        return any(stop < gone for _, stop in periods)

    def missed_any(self, where: str, begin: float, end: float, writer: str | None = None) -> bool:
        name = self.names.get(where, "")
        return any(
            pod != name and (writer in (None, pod)) and self._missed(name, key, at, gone)
            for pod, key, at, gone in self._writes(begin, end)
        )

    def lost_any_write(self, where: str, begin: float, end: float, listed: Iterable[str]) -> bool:
        """Return True if a write to an instance was lost there, or reached no other instance in time."""
        name = self.names.get(where, "")
        others = [self.names.get(other, "") for other in listed if other != where]
        for pod, key, at, gone in self._writes(begin, end):
            if pod != name:
                continue
            if self._missed(name, key, at - SLACK, gone):
                return True
            if all(
                self._missed(other, key, at, gone) or self.was_faulty(self._where(other), begin, end)
                for other in others
            ):
                return True
        return False

    def _where(self, name: str) -> str:
        return next((where for where, each in self.names.items() if each == name), "")

    # -- rounds

    def had_fault(self, role: str, where: str, one: Round) -> bool:
        """Return True if an instance really had a fault that concerns its role during a round."""
        begin, end = one.begin, one.end
        if role == "round":
            return self._list_unusable(begin, end)
        places = where.split(" to ")
        if any(self.was_faulty(place, begin, end) for place in places):
            return True
        if role == "reader":
            return self.missed_any(places[0], begin, end)
        if role == "writer":
            return self.lost_any_write(places[0], begin, end, one.listed)
        if role == "path":
            writer = self.names.get(places[0])
            return self.missed_any(places[1], begin, end, writer) or self.lost_any_write(
                places[0], begin, end, one.listed
            )
        return False  # a response is bad only if the instance gave it

    def _list_unusable(self, begin: float, end: float) -> bool:
        if any(start <= end and begin <= stop for start, stop in self.list_failures):
            return True
        known = [each.asked_at for each in self.lists if each.stored_at <= begin]
        if not known:
            return True
        # Any of these may have been the latest list in the table when it was read.
        lists = [each for each in self.lists if max(known) <= each.asked_at and each.returned_at <= end]
        old = end - self.stale_after + self.skew
        return any(not each.serving or each.asked_at < old for each in lists)

    def check_round(self, one: Round) -> None:
        """Check the report of a round."""
        for result in one.results:
            if result.bad and not self.had_fault(result.role, result.where, one):
                self._false_alarm(f"a false failure: {result.text}")
            if result.good and result.role == "reader" and not self._has_received(result.where, one):
                self.violations.append(f"{result.where} was reported to have a key that it did not have: {result.text}")
        for fault in one.faults:
            self._check_fault(one, fault)

    def _check_fault(self, one: Round, fault: str) -> None:
        """Check that a confirmed fault follows two real failures in the role, without a success in between."""
        role, _, where = fault.partition(" ")
        if self._succeeded(one, role, where):
            self.violations.append(f"a fault is reported after a success: {fault}")
        causes = 0
        for other in sorted(self.rounds, key=lambda each: each.end, reverse=True):  # a round counts when it ends
            if other.reported and other.end <= one.begin and self._succeeded(other, role, where):
                break
            causes += self.had_fault(role, where, other)
        if causes < _CONFIRMED:
            self._false_alarm(f"a false alarm: {fault} after {causes} failures")

    @staticmethod
    def _succeeded(one: Round, role: str, where: str) -> bool:
        """Return True if a round has a success in a role, and no failure in it."""
        if role == "round":
            return not any(each.role == role for each in one.results)
        results = [each for each in one.results if (each.role, each.where) == (role, where)]
        return any(each.good for each in results) and not any(each.bad for each in results)

    def _has_received(self, where: str, one: Round) -> bool:
        name = self.names.get(where, "")
        return any(
            self.had(where, key, one.begin, one.end)
            for pod, key, _, _ in self._writes(one.begin, one.end)
            if pod != name
        ) or self.was_faulty(where, one.begin, one.end)

    def _false_alarm(self, text: str) -> None:
        self.false_alarms += 1
        self.violations.append(text)

    # -- verdicts

    def check_verdict(
        self, token: str, origin: str, begin: float, end: float, body: Mapping[str, Any], header: str
    ) -> None:
        """Check a response to ``GET /v1/synced``."""
        known, reason = str(body["verdict"]), str(body["reason"])
        wrong = self._wrong(token, origin, begin, end, body)
        if known in ("Synced", "Partialy", "NotSynced", "Timeout") and header != known:
            wrong = f"the header says {header}"
        if known == "Unknown" and header != "NotSynced":
            wrong = f"the header of an unknown verdict says {header}"
        if wrong:
            self.violations.append(f"verdict {known} ({reason}): {wrong}")

    def _wrong(self, token: str, origin: str, begin: float, end: float, body: Mapping[str, Any]) -> str | None:
        known = body["verdict"]
        listed = self._listed(body)
        if listed is None:
            return None if known == "Unknown" else "a verdict without a list"
        age = begin - listed.asked_at
        if known == "Unknown":
            return None if self._nothing_known(listed, begin, end) else "the verdict could be known"
        if age > self.stale_after + self.skew + SLACK:
            return f"the list is {age:.0f} s old"
        if not listed.serving:
            return "the list is empty"
        places = [where for where in listed.serving if where != origin]
        if sorted(places) != sorted(each["address"] for each in body["instances"]):
            return f"asked {[each['address'] for each in body['instances']]}, listed {places}"
        return self._wrong_count(token, origin, begin, end, known, places, origin in listed.whole)

    def _listed(self, body: Mapping[str, Any]) -> InstanceListing | None:
        seen = (body.get("list") or {}).get("seen")
        if seen is None:
            return None
        when = datetime.fromisoformat(seen).timestamp()
        return next((each for each in self.lists if abs(each.asked_at - when) < _MILLISECONDS), None)

    def _nothing_known(self, listed: InstanceListing, begin: float, end: float) -> bool:
        if not listed.serving or end - listed.asked_at > self.stale_after - self.skew:
            return True
        return any(self.was_faulty(where, begin, end) for where in listed.serving)

    def _wrong_count(
        self, token: str, origin: str, begin: float, end: float, known: str, places: list[str], origin_listed: bool
    ) -> str | None:
        statuses = {where: self._statuses(where, token, begin, end - _LATE) for where in [*places, origin]}
        yes = sum(200 in statuses[where] for where in places)
        possible = sum(self._may_have_had(where, token, begin, end) for where in places)
        needed = self._needed(len(places))
        refused = origin_listed and 200 not in statuses[origin] and statuses[origin].count(401) >= _REFUSALS
        agreed = yes >= needed and (bool(places) or 200 in statuses[origin])
        match known:
            case "Synced":
                enough = possible >= needed and (bool(places) or self._may_have_had(origin, token, begin, end))
                lacks = None if enough else f"{possible} of {len(places)} can have had the token, {needed} are needed"
                return lacks or (
                    "the origin refused the token" if refused else _unless(origin_listed, "the origin is not listed")
                )
            case "Partialy":
                few = f"only {possible} of {len(places)} can have had the token"
                synced = agreed and origin_listed and 200 in statuses[origin]
                capped = not origin_listed and possible >= needed  # the quorum agrees, but the origin is not listed
                return _unless(2 * possible > len(places) or capped, few) or _unless(not synced, "enough had the token")
            case "NotSynced":
                refusals = self._statuses(origin, token, begin, end).count(401)  # the last one may have ended the probe
                more = 2 * yes > len(places) and refusals < _REFUSALS
                return _unless(not more, f"{yes} of {len(places)} had the token")
            case "Timeout":
                late = end - begin >= self.deadline
                slow = any(self.was_faulty(where, begin, end) for where in [*places, origin])
                return _unless(late, f"after {end - begin:.2f} s") or _unless(slow, "every instance answered")
        return f"an undocumented verdict: {known}"

    def _statuses(self, where: str, token: str, begin: float, end: float) -> list[int]:
        """Return the statuses of the responses of an instance about a token in a period."""
        name = self.names.get(where)
        return [
            each.status
            for each in self.gateway.replies
            if each.pod == name and each.key == token and begin <= each.sent and each.came <= end
            if each.status is not None
        ]

    def _may_have_had(self, where: str, token: str, begin: float, end: float) -> bool:
        name = self.names.get(where)
        answered_yes = any(
            each.pod == name and each.status == 200 and begin <= each.sent <= end and each.key == token
            for each in self.gateway.replies
        )
        pod = self.gateway.pods.get(name or "")
        lies = pod is not None and pod.fault is Fault.YES
        return (
            self.had(where, token, begin, end)
            or (answered_yes and lies)
            or (answered_yes and self.was_faulty(where, begin, end))
        )

    def _needed(self, others: int) -> int:
        if self.quorum == "all":
            return others
        if self.quorum == "majority":
            return others // 2 + 1 if others else 0
        return int(self.quorum)
