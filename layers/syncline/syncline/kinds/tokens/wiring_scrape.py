"""Builds the scrape: each source of a sync with its cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from syncline.clients.http.retry import RetryPolicy
from syncline.clients.kubernetes.client import Cluster, InstanceSource, PodsSource, ServiceSource
from syncline.clients.kubernetes.login import BearerToken, ClusterLogin, InCluster, Kubeconfig
from syncline.kinds.tokens.config import EksLogin, InstancesSource, KubeconfigLogin, TokenLogin, TokensSync
from syncline.kinds.tokens.scrape import DEADLINE, Scraper, ScrapeResult, ScrapeSource
from syncline.secrets import Reference, Secrets, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncline.kinds.tokens.listing import ListingStore
    from syncline.kinds.tokens.metrics import TokenMetrics


class Scraping:
    """Lists the instances of all syncs of tokens."""

    def __init__(
        self,
        syncs: Callable[[], Mapping[str, TokensSync]],
        listings: ListingStore,
        secrets: Secrets,
        clock: Callable[[], float],
        counts: TokenMetrics,
    ) -> None:
        self._syncs = syncs
        self._scraper = Scraper(listings, clock)
        self._secrets = secrets
        self._counts = counts

    def scrape(self, name: str | None = None) -> list[ScrapeResult]:
        """List every sync once, or the one called `name`, and return the results."""
        syncs = {sync: each for sync, each in self._syncs().items() if name in (None, sync)}
        results = self._scraper.scrape({name: partial(self._sources, sync) for name, sync in syncs.items()})
        self._counts.scraped(results)
        return results

    def _sources(self, sync: TokensSync) -> Iterable[ScrapeSource]:
        policy = RetryPolicy(deadline=time.monotonic() + DEADLINE)
        return [ScrapeSource(Cluster(self._login(source), policy), _source(source)) for source in sync.sources.values()]

    def _login(self, source: InstancesSource) -> ClusterLogin:
        ca = None if source.ca is None else self._secrets.text(source.ca)
        match source.auth:
            case KubeconfigLogin(kubeconfig=reference, context=context):
                return Kubeconfig(partial(self._secrets.resolve, reference), context)
            case TokenLogin(token=reference):
                return BearerToken(source.api or "", partial(self._token, reference), ca)
            case EksLogin(eks=cluster, region=region):
                return BearerToken(source.api or "", partial(_eks_token, cluster, region), ca)
            case _:
                return InCluster()

    def _token(self, reference: Reference, renewed: bool) -> str:  # noqa: FBT001 - a callback's only argument
        return self._secrets.refresh(reference) if renewed else self._secrets.resolve(reference)


def _eks_token(cluster: str, region: str | None, _renewed: bool) -> str:  # noqa: FBT001 - a callback's only argument
    import botocore.session  # noqa: PLC0415 - only for clusters on EKS

    from syncline.clients.kubernetes.eks import eks_token  # noqa: PLC0415

    session = botocore.session.get_session()
    where = region or os.environ.get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
    token = eks_token(cluster, where, session.get_credentials())
    register(token)
    return token


def _source(source: InstancesSource) -> InstanceSource:
    if source.service is not None:
        return ServiceSource(source.namespace, source.service, source.port)
    assert isinstance(source.port, int)
    return PodsSource(source.namespace, source.labels or "", source.port)
