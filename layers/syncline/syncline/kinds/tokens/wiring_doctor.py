"""The checks of a sync of tokens."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from syncline import __version__
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.kubernetes.client import Cluster
from syncline.clients.replicas.client import ReplicaResponse
from syncline.clients.replicas.instances import Instance
from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.tokens.config import InstancesSource, TokensSync
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.probe import Prober
from syncline.kinds.tokens.wiring import StoredListings, rules_of
from syncline.kinds.tokens.wiring_scrape import login_of, source_of
from syncline.store.tokens import InstanceLists
from syncline.wiring.checks import Check, CheckChain, Observation, unchecked, warning
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.server_checks import server_checks

_WITHIN = 6.0
"""Seconds for the responses of all replicas."""
_ACCEPTED, _UNKNOWN = 200, 401
"""Statuses of an instance for a token that it has, and for one that it does not have."""
_PATH = "Set `check.path` to a path that answers 200 to a valid token and 401 to any other."
_INSIDE = "from this machine; the functions may reach the network of the cluster"


def chains(sync: Sync, parts: Dependencies, *, local: bool) -> list[CheckChain]:
    """Return the checks of the clusters, of the stored list of instances, and of each instance."""
    assert isinstance(sync, TokensSync)
    stored = _StoredList(sync, parts)
    found = [_cluster_chain(name, source, parts, local=local) for name, source in sync.sources.items()]
    found.append(CheckChain("instances", [Check("list", stored.check)], by_functions=True))
    probe = Check("replicas", lambda: _probe(sync, parts, stored.read()))
    return [*found, CheckChain("instances", [probe], lenient="" if local else _INSIDE)]


def _cluster_chain(name: str, source: InstancesSource, parts: Dependencies, *, local: bool) -> CheckChain:
    part = f"sources.{name}"
    if source.auth == "in-cluster":
        reason = unchecked("only a process in the cluster can use its service account; see the list of instances")
        return CheckChain(part, [Check("list", lambda: reason)])

    def listing() -> str | Observation:
        policy = RetryPolicy(attempts=1, deadline=time.monotonic() + _WITHIN)
        instances = Cluster(login_of(source, parts.secrets), policy).instances(source_of(source))
        text = f"the cluster lists {len(instances)} instances in {source.namespace}"
        if not any(each.serves for each in instances):
            return warning(f"{text}, and none of them serves", "Check the service or the labels, and its pods.")
        return text

    addresses = [check for address in source.addresses() for check in server_checks(address, parts)]
    return CheckChain(part, [*addresses, Check("list", listing)], lenient="" if local else _INSIDE)


class _StoredList:
    """The list of instances that the functions have stored."""

    def __init__(self, sync: TokensSync, parts: Dependencies) -> None:
        self._sync = sync
        self._parts = parts
        self._lists = InstanceLists(parts.database, parts.clock)

    def read(self) -> Listing:
        return StoredListings(self._lists).all().get(self._sync.name, Listing())

    def check(self) -> str | Observation:
        record = self._lists.all().get(self._sync.name)
        if record is not None and record.failed:
            raise SynclineError(record.failed, f"the latest scrape failed: {record.reason}")
        listing = self.read()
        problem = listing.problem(self._parts.clock(), self._sync.stale_after)
        if problem is not None:
            action = "Wait for the next scrape; if that changes nothing, `syncline logs NAME` shows why."
            return warning(f"the list cannot be used ({problem.value})", action)
        serving = sum(each.serves for each in listing.instances)
        return f"{serving} of {len(listing.instances)} listed instances serve"


def _probe(sync: TokensSync, parts: Dependencies, listing: Listing) -> str | Observation:
    """Request the path of the check from each instance that serves, with a token that does not exist: 401 is right."""
    instances = [each for each in listing.instances if each.serves]
    if not instances:
        return unchecked("no instance is listed")
    answers = asyncio.run(_ask(sync, parts, instances))
    silent = [f"{each.name} ({each.where}): {answer.text}" for each, answer in answers if answer.status is None]
    if silent:
        what = f"{len(silent)} of {len(instances)} instances do not answer: {'; '.join(silent[:3])}"
        raise SynclineError("UNREACHABLE", what)
    accepting = [each for each, answer in answers if answer.status == _ACCEPTED]
    if accepting:
        what = (
            f"{len(accepting)} of {len(instances)} instances accept a token that does not exist; correct `check.path`"
        )
        raise SynclineError("CONFIG_INVALID", what)
    others = [f"{each.name} ({each.where}) {answer.text}" for each, answer in answers if answer.status != _UNKNOWN]
    if others:
        what = f"{len(others)} of {len(instances)} instances do not answer 401 to an unknown token: {others[0]}"
        return warning(what, _PATH)
    return f"all {len(instances)} instances answer, and refuse an unknown token"


async def _ask(
    sync: TokensSync, parts: Dependencies, instances: list[Instance]
) -> list[tuple[Instance, ReplicaResponse]]:
    loop = asyncio.get_running_loop()
    prober = Prober(rules_of(sync, parts.secrets), loop)
    check = sync.check
    agent = f"User-Agent: syncline/{__version__}\r\nCookie: {check.cookie}=syncline-doctor"
    head = f"GET {check.path} HTTP/1.1\r\nHost: {check.host}\r\n{agent}\r\n\r\n".encode()
    futures = {instance.where: loop.create_future() for instance in instances}

    def answered(where: str, answer: ReplicaResponse) -> None:
        if not futures[where].done():
            futures[where].set_result(answer)

    try:
        for instance in instances:
            prober.replicas.send((instance.address, instance.port), head, partial(answered, instance.where))
        await asyncio.wait(futures.values(), timeout=_WITHIN)
        late = ReplicaResponse(None, None, f"no response within {_WITHIN:g} s")
        return [(each, futures[each.where].result() if futures[each.where].done() else late) for each in instances]
    finally:
        prober.close()
