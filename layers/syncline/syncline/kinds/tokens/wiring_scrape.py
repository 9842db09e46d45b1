"""The scrape: lists the instances of every sync and stores them with the time of the request.

Each sync is listed in a separate thread and with a deadline, so that a cluster that hangs affects its sync only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.kubernetes.client import Cluster, InstanceSource, PodsSource, ServiceSource
from syncline.clients.kubernetes.login import BearerToken, ClusterLogin, InCluster, Kubeconfig, eks_token
from syncline.clients.replicas.instances import Instance, distinct
from syncline.errors import CodeName, SynclineError
from syncline.kinds.tokens.config import EksLogin, InstancesSource, KubeconfigLogin, TokenLogin, TokensSync
from syncline.kinds.tokens.isolation import Isolated
from syncline.secrets import Reference, Secrets, register
from syncline.telemetry import logger

if TYPE_CHECKING:
    from syncline.kinds.tokens.listing import ListingStore
    from syncline.kinds.tokens.metrics import TokenMetrics

DEADLINE: Final = 30.0
"""Seconds for all sources of one sync; less than the function `scrape` has, so that it can still store a failure."""


@dataclass(frozen=True, slots=True)
class ScrapeResult:
    """The result of a scrape for one sync: the number of its instances, or the code of its failure."""

    sync: str
    instances: int = 0
    serving: int = 0
    failed: CodeName | None = None


@dataclass
class Scraping:
    """Lists the instances of the syncs of tokens. ``clock`` gives Unix seconds."""

    syncs: Callable[[], Mapping[str, TokensSync]]
    listings: ListingStore
    secrets: Secrets
    clock: Callable[[], float]
    counts: TokenMetrics

    def __post_init__(self) -> None:
        self._isolated: Isolated[ScrapeResult] = Isolated("the scrape", DEADLINE)

    def scrape(self, name: str | None = None) -> list[ScrapeResult]:
        """List every sync once, or the one called `name`, and return the results."""
        syncs = self.syncs().values()
        found = self._isolated.run(
            {sync.name: partial(self._list, sync) for sync in syncs if name in (None, sync.name)}
        )
        results = [
            self._not_listed(sync, result) if isinstance(result, SynclineError) else result
            for sync, result in found.items()
        ]
        self.counts.scraped(results)
        return results

    def _not_listed(self, sync: str, error: SynclineError) -> ScrapeResult:
        logger.error("instances not listed", extra={"sync": sync, "code": error.code.name, "why": error.what})
        self.listings.not_listed(sync, error)
        return ScrapeResult(sync, failed=error.code.name)

    def _list(self, sync: TokensSync) -> ScrapeResult:
        seen = self.clock()  # before the first page, as the list is as old as its oldest part
        # All or nothing: without one source, agreement of some instances would look like that of all.
        found = distinct(one for lists in self._sources(sync) for one in lists(partial(_report, sync.name)))
        self.listings.listed(sync.name, found, seen)
        serving = sum(instance.serves for instance in found)
        logger.info("instances listed", extra={"sync": sync.name, "instances": len(found), "serving": serving})
        return ScrapeResult(sync.name, len(found), serving)

    def _sources(self, sync: TokensSync) -> Iterable[Callable[[OnInvalid], tuple[Instance, ...]]]:
        """Return a function for each source of a sync that lists its instances."""
        policy = RetryPolicy(deadline=time.monotonic() + DEADLINE)
        return [
            partial(Cluster(login_of(source, self.secrets), policy).instances, source_of(source))
            for source in sync.sources.values()
        ]


def login_of(source: InstancesSource, secrets: Secrets) -> ClusterLogin:
    """Return the login at the cluster of a source."""
    ca = None if source.ca is None else secrets.text(source.ca)
    match source.auth:
        case KubeconfigLogin(kubeconfig=reference, context=context):
            return Kubeconfig(partial(secrets.resolve, reference), context)
        case TokenLogin(token=reference):
            return BearerToken(source.api or "", partial(_token, secrets, reference), ca)
        case EksLogin(eks=cluster, region=region):
            return BearerToken(source.api or "", partial(_eks_token, cluster, region), ca)
        case _:
            return InCluster()


def _token(secrets: Secrets, reference: Reference, renewed: bool) -> str:  # noqa: FBT001 - a callback's argument
    return secrets.refresh(reference) if renewed else secrets.resolve(reference)


def _eks_token(cluster: str, region: str | None, _renewed: bool) -> str:  # noqa: FBT001 - a callback's only argument
    import botocore.session  # noqa: PLC0415 - only for clusters on EKS

    session = botocore.session.get_session()
    where = region or os.environ.get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
    token = eks_token(cluster, where, session.get_credentials())
    register(token)
    return token


def source_of(source: InstancesSource) -> InstanceSource:
    """Return what is listed at the cluster of a source."""
    if source.service is not None:
        return ServiceSource(source.namespace, source.service, source.port)
    assert isinstance(source.port, int)
    return PodsSource(source.namespace, source.labels or "", source.port)


def _report(sync: str, odd: InvalidEntry) -> None:
    """Log an invalid entry of a list, whose instance cannot be asked."""
    extra = {"sync": sync, "code": odd.error.code.name, "why": odd.error.what}
    logger.error("an instance cannot be asked: its entry in the list is invalid", extra=extra)
