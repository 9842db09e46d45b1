"""Invalid entries in lists of a cluster: each becomes an instance that cannot be probed. Others are listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.http.listings import InvalidEntry
from syncline.clients.kubernetes.client import Cluster, PodsSource, ServiceSource
from syncline.clients.kubernetes.login import BearerToken
from syncline.clients.replicas.instances import Instance, is_probed
from syncline.errors import SynclineError
from tests.standins.kubernetes import KubernetesApi, endpoint, endpoint_slice, pod
from tests.standins.made_up import Naps

SERVICE: Final = ServiceSource("gateway", "nginx")
PODS: Final = PodsSource("gateway", "app=nginx", 8443)
NAMES: Final = ["pod-0", "pod-1", "pod-2", "pod-3"]
JUNK: Final = st.sampled_from([None, True, 7, 1.5, "x", [], [None], {}, {"x": None}])


@pytest.fixture(scope="module")
def api() -> Iterator[KubernetesApi]:
    grants = {"good": frozenset({("endpointslices", "gateway"), ("pods", "gateway")})}
    with KubernetesApi(grants) as running:
        yield running


def listed(
    api: KubernetesApi, source: ServiceSource | PodsSource, items: Any
) -> tuple[list[Instance], list[InvalidEntry]]:
    api.answer_once(json.dumps({"metadata": {}, "items": items}).encode())
    invalid: list[InvalidEntry] = []
    cluster = Cluster(BearerToken(api.url, lambda _: "good", api.authority.pem), Naps().policy(attempts=1))
    return list(cluster.instances(source, invalid.append)), invalid


def check(found: list[Instance], invalid: list[InvalidEntry], names: list[str]) -> None:
    """Check that only the named instances can be probed, and that one more is listed that may serve."""
    probed = [each for each in found if is_probed(each.address)]
    (other,) = [each for each in found if each not in probed]
    assert [each.name for each in probed] == names
    assert other.serves
    (one,) = invalid
    assert one.error.code.name == "ENTRY_INVALID"
    assert other.name == one.label


def endpoints() -> list[dict[str, Any]]:
    return [endpoint(name, f"10.0.0.{number + 1}") for number, name in enumerate(NAMES)]


def without(at: int) -> list[str]:
    return [name for place, name in enumerate(NAMES) if place != at]


INVALID_ENDPOINTS: Final[st.SearchStrategy[Any]] = st.one_of(
    JUNK,
    st.tuples(
        st.sampled_from(["addresses"]), st.sampled_from([None, [], [None], [7], "10.0.0.9", {}, [""], [["10.0.0.9"]]])
    ),
    st.tuples(st.sampled_from(["conditions", "targetRef"]), st.sampled_from([True, "x", 1, ["x"]])),
    st.tuples(st.just("conditions"), st.sampled_from([{"ready": "false"}, {"terminating": 0}])),
)


@given(at=st.integers(0, 3), junk=INVALID_ENDPOINTS)
def test_an_invalid_endpoint_does_not_hide_others(api: KubernetesApi, at: int, junk: Any) -> None:
    entries: list[Any] = endpoints()
    entries[at] = {**entries[at], junk[0]: junk[1]} if isinstance(junk, tuple) else junk
    good = endpoint_slice("nginx-a", "nginx", endpoints())
    check(*listed(api, SERVICE, [{**good, "endpoints": entries}]), without(at))


@given(
    junk=st.one_of(
        JUNK,
        st.sampled_from([{"endpoints": 7}, {"endpoints": "x"}, {"endpoints": {}}]),
        st.sampled_from([{"ports": 7}, {"ports": [None]}, {"ports": {"port": 1}}, {"ports": ["https"]}]),
    )
)
def test_an_invalid_slice_does_not_hide_others(api: KubernetesApi, junk: Any) -> None:
    good = endpoint_slice("nginx-a", "nginx", endpoints())
    fields = junk if isinstance(junk, dict) and junk.keys() & {"endpoints", "ports"} else None
    other = endpoint_slice("nginx-b", "nginx", [endpoint("pod-9", "10.0.9.9")])
    check(*listed(api, SERVICE, [good, junk if fields is None else {**other, **fields}]), NAMES)


INVALID_PODS: Final[st.SearchStrategy[Any]] = st.one_of(
    JUNK,
    st.tuples(st.just("metadata"), st.sampled_from([None, {}, 7, {"name": None}, {"name": 7}, {"name": ""}])),
    st.tuples(
        st.just("status"), st.sampled_from([7, "x", ["x"], {"podIP": 7}, {"podIP": {}}, {"podIP": ["10.0.0.9"]}])
    ),
    st.tuples(
        st.just("status"),
        st.sampled_from([{"podIP": "10.0.0.9", "conditions": [None]}, {"podIP": "10.0.0.9", "conditions": 7}]),
    ),
)


@given(at=st.integers(0, 3), junk=INVALID_PODS)
def test_an_invalid_pod_does_not_hide_others(api: KubernetesApi, at: int, junk: Any) -> None:
    items: list[Any] = [pod(name, f"10.0.0.{number + 1}", {"app": "nginx"}) for number, name in enumerate(NAMES)]
    items[at] = {**items[at], junk[0]: junk[1]} if isinstance(junk, tuple) else junk
    check(*listed(api, PODS, items), without(at))


@pytest.mark.parametrize("body", [b'{"metadata": {}, "items": {}}', b'{"metadata": {"continue": ["a"]}, "items": []}'])
def test_a_list_of_another_shape_is_one_error(api: KubernetesApi, body: bytes) -> None:
    api.answer_once(body)
    cluster = Cluster(BearerToken(api.url, lambda _: "good", api.authority.pem), Naps().policy(attempts=1))
    with pytest.raises(SynclineError) as caught:
        cluster.instances(SERVICE)
    assert caught.value.code.name == "BAD_ANSWER"
