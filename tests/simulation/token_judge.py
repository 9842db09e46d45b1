"""Judges what canaries and probes report by the truth of the model: what docs/reference/tokens.md promises, and nothing else.

The judge reads plain facts, a round's results and a verdict's body, and the history that :class:`Gateway` keeps. It
shares no code with the kind that it judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tests.simulation.models.replicas import Fault, Gateway

SLACK: Final = 0.1
"""Seconds that messages may take on their way."""
SLOW: Final = 0.4
"""Seconds after which an answer is slow enough to be the cause of anything."""

_LATE: Final = 0.05
"""Seconds before the end of a question within which an answer may come too late for it."""
_REFUSALS: Final = 2
"""Refusals of the origin that make a token bad."""

_MILLISECONDS: Final = 0.0015


_CONFIRMED: Final = 2


def _unless(fine: bool, wrong: str) -> str | None:
    return None if fine else wrong


@dataclass(frozen=True)
class Seen:
    """One result of a round: who, by address and port, in which role, and how it ended."""

    role: str
    where: str
    bad: bool
    good: bool
    text: str


@dataclass
class Round:
    """One round of the canary, reported or cut off. ``end`` is infinite while it lasts."""

    begin: float
    end: float = float("inf")
    reported: bool = False
    seen: Sequence[Seen] = ()
    faults: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    """The instances of the list that it may have used, by address and port."""


@dataclass
class Listed:
    """A list as the cluster gave it. ``asked`` is by the clock of the function that asked, the other times are true."""

    asked: float
    serving: tuple[str, ...]
    whole: tuple[str, ...]
    """The serving instances, and those that get no requests now."""
    given: float
    stored: float = float("inf")
    """When the table had it."""


@dataclass
class Judge:
    """Collects violations. ``skew`` is the most by which two clocks of functions differ."""

    gateway: Gateway
    stale_after: float
    deadline: float
    quorum: str | int
    skew: float
    rounds: list[Round] = field(default_factory=list)
    lists: list[Listed] = field(default_factory=list)
    list_trouble: list[tuple[float, float]] = field(default_factory=list)
    """When a list, a secret or the table could not be read."""
    violations: list[str] = field(default_factory=list)
    false_alarms: int = 0
    names: dict[str, str] = field(default_factory=dict)
    """The name of each instance by its address and port."""

    # -- the truth

    def had(self, where: str, key: str, begin: float, end: float) -> bool:
        """Return True if an instance had a key at some moment between two times."""
        periods = self.gateway.held.get((self.names.get(where, ""), key), ())
        return any(start <= end and begin <= stop for start, stop in periods)

    def troubled(self, where: str, begin: float, end: float) -> bool:
        """Return True if an instance was down or had a fault, or answered oddly, slowly or not at all."""
        name = self.names.get(where)
        if name is None:
            return True  # listed, and nobody is there
        if any(start <= end and begin <= stop for start, stop in self.gateway.troubles.get(name, ())):
            return True
        for each in self.gateway.replies:
            if each.pod == name and each.sent <= end and each.came >= begin:
                odd = each.status is None or each.status >= 500 or each.status == 403
                if odd or each.came - each.sent > SLOW:
                    return True
        return False

    def _writes(self, begin: float, end: float) -> Iterator[tuple[str, str, float, float]]:
        """Yield the writer, the key, its time and that of its first deletion, for each write within two times."""
        for each in self.gateway.replies:
            if each.kind == "write" and begin <= each.sent <= end:
                gone = [
                    other.sent
                    for other in self.gateway.replies
                    if other.kind == "delete" and other.key == each.key and other.sent >= each.sent
                ]
                yield each.pod, each.key, each.came, min(gone, default=end)

    def _missed(self, name: str, key: str, at: float, gone: float) -> bool:
        """Return True if an instance lacked a key longer than promised, or lost it before it was deleted."""
        promised = at + 2 * self.gateway.interval + SLACK
        periods = self.gateway.held.get((name, key), ())
        if gone <= promised:
            # Nobody waited as long as promised: only a loss counts.
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

    def unsent(self, where: str, begin: float, end: float, listed: Iterable[str]) -> bool:
        """Return True if what an instance wrote was kept neither there, nor came to any other one in time."""
        name = self.names.get(where, "")
        others = [self.names.get(other, "") for other in listed if other != where]
        for pod, key, at, gone in self._writes(begin, end):
            if pod != name:
                continue
            if self._missed(name, key, at - SLACK, gone):
                return True
            if all(
                self._missed(other, key, at, gone) or self.troubled(self._where(other), begin, end) for other in others
            ):
                return True
        return False

    def _where(self, name: str) -> str:
        return next((where for where, each in self.names.items() if each == name), "")

    # -- rounds

    def cause(self, role: str, where: str, one: Round) -> bool:
        """Return True if something really was wrong with an instance in a role during a round."""
        begin, end = one.begin, one.end
        if role == "round":
            return self._list_unusable(begin, end)
        places = where.split(" to ")
        if any(self.troubled(place, begin, end) for place in places):
            return True
        if role == "reader":
            return self.missed_any(places[0], begin, end)
        if role == "writer":
            return self.unsent(places[0], begin, end, one.listed)
        if role == "path":
            writer = self.names.get(places[0])
            return self.missed_any(places[1], begin, end, writer) or self.unsent(places[0], begin, end, one.listed)
        return False  # an answer is bad only if the instance answered so

    def _list_unusable(self, begin: float, end: float) -> bool:
        if any(start <= end and begin <= stop for start, stop in self.list_trouble):
            return True
        known = [each.asked for each in self.lists if each.stored <= begin]
        if not known:
            return True
        # Any of these may have been the latest in the table when it was read.
        lists = [each for each in self.lists if max(known) <= each.asked and each.given <= end]
        old = end - self.stale_after + self.skew
        return any(not each.serving or each.asked < old for each in lists)

    def flown(self, one: Round) -> None:
        """Judge the report of a round."""
        for seen in one.seen:
            if seen.bad and not self.cause(seen.role, seen.where, one):
                self._false(f"a false failure: {seen.text}")
            if seen.good and seen.role == "reader" and not self._arrived(seen.where, one):
                self.violations.append(f"a key was said to be at {seen.where} and was not: {seen.text}")
        for fault in one.faults:
            self._fault(one, fault)

    def _fault(self, one: Round, fault: str) -> None:
        """Judge a confirmed fault: there were two failures in the role, and no success in between."""
        role, _, where = fault.partition(" ")
        if self._did_well(one, role, where):
            self.violations.append(f"a fault stands after a success: {fault}")
        causes = 0
        for other in sorted(self.rounds, key=lambda each: each.end, reverse=True):  # they count when they end
            if other.reported and other.end <= one.begin and self._did_well(other, role, where):
                break
            causes += self.cause(role, where, other)
        if causes < _CONFIRMED:
            self._false(f"a false alarm: {fault} after {causes} failures")

    @staticmethod
    def _did_well(one: Round, role: str, where: str) -> bool:
        """Return True if a round has a success in a role, and no failure in it."""
        if role == "round":
            return not any(each.role == role for each in one.seen)
        seen = [each for each in one.seen if (each.role, each.where) == (role, where)]
        return any(each.good for each in seen) and not any(each.bad for each in seen)

    def _arrived(self, where: str, one: Round) -> bool:
        name = self.names.get(where, "")
        return any(
            self.had(where, key, one.begin, one.end)
            for pod, key, _, _ in self._writes(one.begin, one.end)
            if pod != name
        ) or self.troubled(where, one.begin, one.end)

    def _false(self, text: str) -> None:
        self.false_alarms += 1
        self.violations.append(text)

    # -- verdicts

    def verdict(self, token: str, origin: str, begin: float, end: float, body: Mapping[str, Any], header: str) -> None:
        """Judge an answer of ``GET /v1/synced``."""
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
            return None if known == "Unknown" else "no list, and yet a verdict"
        age = begin - listed.asked
        if known == "Unknown":
            return None if self._nothing_known(listed, begin, end) else "everything was known"
        if age > self.stale_after + self.skew + SLACK:
            return f"the list is {age:.0f} s old"
        if not listed.serving:
            return "the list is empty"
        places = [where for where in listed.serving if where != origin]
        if sorted(places) != sorted(each["address"] for each in body["instances"]):
            return f"asked {[each['address'] for each in body['instances']]}, listed {places}"
        return self._counted(token, origin, begin, end, known, places, origin in listed.whole)

    def _listed(self, body: Mapping[str, Any]) -> Listed | None:
        seen = (body.get("list") or {}).get("seen")
        if seen is None:
            return None
        when = datetime.fromisoformat(seen).timestamp()
        return next((each for each in self.lists if abs(each.asked - when) < _MILLISECONDS), None)

    def _nothing_known(self, listed: Listed, begin: float, end: float) -> bool:
        if not listed.serving or end - listed.asked > self.stale_after - self.skew:
            return True
        return any(self.troubled(where, begin, end) for where in listed.serving)

    def _counted(
        self, token: str, origin: str, begin: float, end: float, known: str, places: list[str], origin_listed: bool
    ) -> str | None:
        said = {where: self._said(where, token, begin, end - _LATE) for where in [*places, origin]}
        yes = sum(200 in said[where] for where in places)
        could = sum(self._could(where, token, begin, end) for where in places)
        needed = self._needed(len(places))
        refused = origin_listed and 200 not in said[origin] and said[origin].count(401) >= _REFUSALS
        agreed = yes >= needed and (bool(places) or 200 in said[origin])
        match known:
            case "Synced":
                enough = could >= needed and (bool(places) or self._could(origin, token, begin, end))
                lacks = None if enough else f"{could} of {len(places)} can have had the token, {needed} are needed"
                return lacks or ("the origin refused the token" if refused else _unless(origin_listed, "no origin"))
            case "Partialy":
                few = f"only {could} of {len(places)} can have had the token"
                synced = agreed and origin_listed and 200 in said[origin]
                capped = not origin_listed and could >= needed  # the quorum agrees, and the origin may not be alone
                return _unless(2 * could > len(places) or capped, few) or _unless(not synced, "enough had the token")
            case "NotSynced":
                refusals = self._said(origin, token, begin, end).count(401)  # the last one may have ended the question
                more = 2 * yes > len(places) and refusals < _REFUSALS
                return _unless(not more, f"{yes} of {len(places)} had the token")
            case "Timeout":
                late = end - begin >= self.deadline
                slow = any(self.troubled(where, begin, end) for where in [*places, origin])
                return _unless(late, f"after {end - begin:.2f} s") or _unless(slow, "every instance answered")
        return f"no word of the contract: {known}"

    def _said(self, where: str, token: str, begin: float, end: float) -> list[int]:
        """Return the statuses that an instance answered to the question about a token between two times."""
        name = self.names.get(where)
        return [
            each.status
            for each in self.gateway.replies
            if each.pod == name and each.key == token and begin <= each.sent and each.came <= end
            if each.status is not None
        ]

    def _could(self, where: str, token: str, begin: float, end: float) -> bool:
        name = self.names.get(where)
        said = any(
            each.pod == name and each.status == 200 and begin <= each.sent <= end and each.key == token
            for each in self.gateway.replies
        )
        pod = self.gateway.pods.get(name or "")
        lies = pod is not None and pod.fault is Fault.YES
        return self.had(where, token, begin, end) or (said and lies) or (said and self.troubled(where, begin, end))

    def _needed(self, others: int) -> int:
        if self.quorum == "all":
            return others
        if self.quorum == "majority":
            return others // 2 + 1 if others else 0
        return int(self.quorum)
