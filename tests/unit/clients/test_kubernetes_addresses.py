"""Instances in a cluster's lists: identified by address and port, and complete by the deadline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from syncline.clients.http.retry import RetryPolicy
from syncline.clients.kubernetes.client import Cluster, ServiceSource
from syncline.clients.kubernetes.login import BearerToken
from syncline.errors import SynclineError
from tests.standins.kubernetes import KubernetesApi, endpoint, endpoint_slice
from tests.standins.made_up import Naps

SERVICE: Final = ServiceSource("gateway", "nginx")


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi({"good": frozenset({("endpointslices", "gateway")})}) as running:
        yield running


def _listed(api: KubernetesApi, naps: Naps, *slices: dict[str, Any]) -> list[tuple[str, str, bool]]:
    api.put("endpointslices", "gateway", *slices)
    found = Cluster(BearerToken(api.url, lambda _: "good", api.authority.pem), naps.policy()).instances(SERVICE)
    return [(one.name, one.where, one.serves) for one in found]


def _named(hostname: str, address: str, **conditions: bool) -> dict[str, Any]:
    """Return an endpoint without a pod, as written manually."""
    return {"addresses": [address], "hostname": hostname, "conditions": conditions}


def test_each_address_of_a_shared_hostname_is_an_instance(api: KubernetesApi, naps: Naps) -> None:
    endpoints = [_named("gateway", f"10.1.0.{number}") for number in range(1, 6)]
    assert _listed(api, naps, endpoint_slice("nginx-a", "nginx", endpoints)) == [
        ("gateway", f"10.1.0.{number}:8443", True) for number in range(1, 6)
    ]


def test_a_pod_ready_at_two_addresses_in_two_slices_is_listed_at_both(api: KubernetesApi, naps: Naps) -> None:
    assert _listed(
        api,
        naps,
        endpoint_slice("nginx-a", "nginx", [endpoint("one", "10.1.0.1")]),
        endpoint_slice("nginx-b", "nginx", [endpoint("one", "10.2.0.1")]),
    ) == [("one", "10.1.0.1:8443", True), ("one", "10.2.0.1:8443", True)]


def test_an_address_with_two_ports_is_two_instances(api: KubernetesApi, naps: Naps) -> None:
    assert _listed(
        api,
        naps,
        endpoint_slice("nginx-a", "nginx", [endpoint("one", "10.1.0.1")]),
        endpoint_slice("nginx-b", "nginx", [endpoint("one", "10.1.0.1")], (("https", 9443),)),
    ) == [("one", "10.1.0.1:8443", True), ("one", "10.1.0.1:9443", True)]


def test_endpoints_of_every_family_are_listed(api: KubernetesApi, naps: Naps) -> None:
    assert _listed(
        api,
        naps,
        endpoint_slice("nginx-4", "nginx", [endpoint("one", "10.1.0.1")]),
        endpoint_slice("nginx-6", "nginx", [endpoint("two", "fd00::2")], family="IPv6"),
        endpoint_slice("nginx-name", "nginx", [_named("three", "three.example")], family="FQDN"),
    ) == [
        ("one", "10.1.0.1:8443", True),
        ("three", "three.example:8443", True),
        ("two", "[fd00::2]:8443", True),
    ]


def test_one_address_in_two_spellings_is_one_instance(api: KubernetesApi, naps: Naps) -> None:
    assert _listed(
        api,
        naps,
        endpoint_slice("nginx-a", "nginx", [endpoint("old", "FD00:0:0::1", ready=False)], family="IPv6"),
        endpoint_slice("nginx-b", "nginx", [endpoint("new", "fd00::1")], family="IPv6"),
    ) == [("new", "[fd00::1]:8443", True)]


@pytest.mark.parametrize("times", [(11.0,), (0.0, 11.0)], ids=["before the request", "within the response"])
def test_a_list_that_is_incomplete_at_its_deadline_is_an_error(api: KubernetesApi, times: tuple[float, ...]) -> None:
    api.put("endpointslices", "gateway", endpoint_slice("nginx-a", "nginx", [endpoint("one", "10.1.0.1")]))
    passing = iter(times)
    policy = RetryPolicy(deadline=10.0, clock=lambda: next(passing, times[-1]))
    with pytest.raises(SynclineError, match="not complete") as caught:
        Cluster(BearerToken(api.url, lambda _: "good", api.authority.pem), policy).instances(SERVICE)
    assert caught.value.code.name == "UNREACHABLE"
    assert len(api.requests) == len(times) - 1
