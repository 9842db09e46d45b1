"""Instances listed with the Kubernetes package from a stand-in with the rules of the API."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from botocore.credentials import Credentials

from syncline.clients.kubernetes.client import Cluster, PodsSource, ServiceSource
from syncline.clients.kubernetes.login import BearerToken, InCluster, Kubeconfig, eks_token
from syncline.clients.replicas.instances import Instance
from syncline.errors import SynclineError
from tests.standins.kubernetes import KubernetesApi, endpoint, endpoint_slice, pod
from tests.standins.made_up import Naps

GRANTS: Final = {
    "good": frozenset({("endpointslices", "gateway"), ("pods", "gateway")}),
    "AKIDEKS": frozenset({("endpointslices", "gateway")}),
}
SERVICE: Final = ServiceSource("gateway", "nginx")
PODS: Final = PodsSource("gateway", "app=nginx", 8443)


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi(GRANTS, eks={"AKIDEKS": "secret-of-eks"}, eks_cluster="prod") as running:
        yield running


def _cluster(api: KubernetesApi, naps: Naps, token: str = "good") -> Cluster:
    return Cluster(BearerToken(api.url, lambda _: token, api.authority.pem), naps.policy())


def _slices(count: int, size: int = 1) -> list[dict[str, Any]]:
    return [
        endpoint_slice(
            f"nginx-{number:04d}",
            "nginx",
            [
                endpoint(f"pod-{number:04d}-{each}", f"10.{number // 250 + 1}.{number % 250}.{each + 1}")
                for each in range(size)
            ],
        )
        for number in range(count)
    ]


def _code(api: KubernetesApi, naps: Naps, source: ServiceSource | PodsSource = SERVICE, token: str = "good") -> str:
    with pytest.raises(SynclineError) as caught:
        _cluster(api, naps, token).instances(source)
    assert "good" not in caught.value.what
    return caught.value.code.name


def test_conditions_of_a_slice_decide_and_absent_ones_mean_ready(api: KubernetesApi, naps: Naps) -> None:
    api.put(
        "endpointslices",
        "gateway",
        endpoint_slice(
            "nginx-a",
            "nginx",
            [
                endpoint("ready", "10.1.0.1", ready=True, terminating=False),
                endpoint("silent", "10.1.0.2"),
                endpoint("starting", "10.1.0.3", ready=False),
                endpoint("leaving", "10.1.0.4", ready=False, terminating=True),
            ],
        ),
        endpoint_slice("other-a", "other", [endpoint("stranger", "10.1.0.9")]),
        endpoint_slice("nginx-empty", "nginx", [], ports=()),
    )
    assert [(i.name, i.serves) for i in _cluster(api, naps).instances(SERVICE)] == [
        ("leaving", False),
        ("ready", True),
        ("silent", True),
        ("starting", False),
    ]


def test_an_absent_service_differs_from_one_without_pods(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", endpoint_slice("nginx-empty", "nginx", [], ports=()))
    assert _cluster(api, naps).instances(SERVICE) == ()
    assert _code(api, naps, ServiceSource("gateway", "typo")) == "SOURCE_ABSENT"


def test_an_endpoint_in_two_slices_is_one_instance(api: KubernetesApi, naps: Naps) -> None:
    api.put(
        "endpointslices",
        "gateway",
        endpoint_slice("nginx-a", "nginx", [endpoint("moving", "10.1.0.1", ready=False)]),
        endpoint_slice("nginx-b", "nginx", [endpoint("moving", "10.1.0.1", ready=True)]),
    )
    assert _cluster(api, naps).instances(SERVICE) == (
        Instance("moving", "10.1.0.1", 8443, ready=True, source="gateway/nginx"),
    )


def test_the_port_is_the_only_the_named_or_the_given_one(api: KubernetesApi, naps: Naps) -> None:
    ports = (("http", 8080), ("https", 8443))
    api.put("endpointslices", "gateway", endpoint_slice("nginx-a", "nginx", [endpoint("one", "10.1.0.1")], ports))
    cluster = _cluster(api, naps)
    assert [i.port for i in cluster.instances(ServiceSource("gateway", "nginx", "https"))] == [8443]
    assert [i.port for i in cluster.instances(ServiceSource("gateway", "nginx", 9000))] == [9000]
    assert _code(api, naps, SERVICE) == "CONFIG_INVALID"
    assert _code(api, naps, ServiceSource("gateway", "nginx", "grpc")) == "CONFIG_INVALID"


def test_pods_are_listed_by_label_with_their_readiness(api: KubernetesApi, naps: Naps) -> None:
    labels = {"app": "nginx"}
    api.put(
        "pods",
        "gateway",
        pod("a", "10.1.0.1", labels),
        pod("b", "10.1.0.2", labels, ready=False),
        pod("c", "10.1.0.3", labels, deleted=True),
        pod("d", None, labels, phase="Pending"),
        pod("e", "10.1.0.5", labels, phase="Succeeded"),
        pod("f", "10.1.0.6", {"app": "other"}),
    )
    found = _cluster(api, naps).instances(PODS)
    assert [(i.name, i.where, i.ready, i.terminating) for i in found] == [
        ("a", "10.1.0.1:8443", True, False),
        ("b", "10.1.0.2:8443", False, False),
        ("c", "10.1.0.3:8443", True, True),
    ]


def test_every_page_is_read(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", *_slices(1201))
    assert len(_cluster(api, naps).instances(SERVICE)) == 1201
    assert len(api.requests) == 3


def test_a_list_that_expires_between_two_pages_is_restarted(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", *_slices(501))

    def once() -> None:
        api.after_each_page(None)
        api.compact()

    api.after_each_page(once)
    assert len(_cluster(api, naps).instances(SERVICE)) == 501
    assert len(api.requests) == 4  # a page, 410, and both pages again


def test_a_list_that_always_expires_is_an_error(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", *_slices(501))
    api.after_each_page(api.compact)
    assert _code(api, naps) == "LISTING_INCOMPLETE"


def test_a_list_that_repeats_a_page_is_an_error(api: KubernetesApi, naps: Naps) -> None:
    page = json.dumps({"metadata": {"continue": "again"}, "items": []}).encode()
    for _ in range(2):
        api.answer_once(page)
    assert _code(api, naps) == "LISTING_INCOMPLETE"


def test_a_refused_token_is_fetched_again_once(api: KubernetesApi, naps: Naps) -> None:
    asked: list[bool] = []

    def token(renewed: bool) -> str:
        asked.append(renewed)
        return "good" if renewed else "old"

    api.put("endpointslices", "gateway", *_slices(501))
    cluster = Cluster(BearerToken(api.url, token, api.authority.pem), naps.policy())
    assert len(cluster.instances(SERVICE)) == 501
    assert asked == [False, True]
    assert _code(api, naps, token="wrong") == "UNAUTHORIZED"


def test_a_token_that_stays_refused_is_sent_once(api: KubernetesApi, naps: Naps) -> None:
    api.requests.clear()
    assert {_code(api, naps, token="wrong") for _ in range(5)} == {"UNAUTHORIZED"}
    assert len(api.requests) == 1


def test_a_list_without_permission_is_an_error(api: KubernetesApi, naps: Naps) -> None:
    assert _code(api, naps, ServiceSource("elsewhere", "nginx")) == "FORBIDDEN"


def test_the_retry_time_of_a_busy_api_is_awaited(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", *_slices(1))
    api.fail(429, times=2, Retry_After="3")
    assert len(_cluster(api, naps).instances(SERVICE)) == 1
    assert naps.slept == [3.0, 3.0]
    api.fail(429, times=9, Retry_After="3")
    assert _code(api, naps) == "THROTTLED"


def test_a_failing_api_is_retried_and_then_an_error(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", *_slices(1))
    api.fail(500, times=2)
    assert len(_cluster(api, naps).instances(SERVICE)) == 1
    api.fail(503, times=9)
    assert _code(api, naps) == "SERVER_ERROR"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"metadata": {}, "items": 7}',
    ],
)
def test_an_invalid_list_is_refused(api: KubernetesApi, naps: Naps, body: bytes) -> None:
    for _ in range(4):
        api.answer_once(body)
    assert _code(api, naps) == "BAD_ANSWER"


def test_an_unknown_authority_and_an_absent_server_have_codes(api: KubernetesApi, naps: Naps) -> None:
    with pytest.raises(SynclineError) as caught:
        Cluster(BearerToken(api.url, lambda _: "good"), naps.policy()).instances(SERVICE)
    assert caught.value.code.name == "TLS_FAILED"
    with pytest.raises(SynclineError) as caught:
        Cluster(BearerToken("https://127.0.0.1:1", lambda _: "good"), naps.policy()).instances(SERVICE)
    assert caught.value.code.name == "UNREACHABLE"
    with pytest.raises(SynclineError) as caught:
        Cluster(BearerToken("http://127.0.0.1:1", lambda _: "good"), naps.policy()).instances(SERVICE)
    assert caught.value.code.name == "CONFIG_INVALID"


def test_the_token_of_the_service_account_is_read_again(api: KubernetesApi, naps: Naps, tmp_path: Path) -> None:
    api.put("endpointslices", "gateway", *_slices(1))
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    login = InCluster(tmp_path, environ)
    with pytest.raises(SynclineError, match="no service account"):
        Cluster(login, naps.policy()).instances(SERVICE)
    (tmp_path / "ca.crt").write_text(api.authority.pem)
    (tmp_path / "token").write_text("good")
    cluster = Cluster(login, naps.policy())
    assert len(cluster.instances(SERVICE)) == 1
    api.grants = {"newer": GRANTS["good"]}
    (tmp_path / "token").write_text("newer")
    assert len(cluster.instances(SERVICE)) == 1


def _kubeconfig(api: KubernetesApi, user: dict[str, Any]) -> str:
    return yaml.safe_dump(_kubeconfig_content(api, user))


def _kubeconfig_content(api: KubernetesApi, user: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "other",
        "clusters": [
            {"name": "c", "cluster": {"server": api.url, "certificate-authority-data": _base64(api.authority.pem)}}
        ],
        "users": [{"name": "u", "user": user}, {"name": "nobody", "user": {"token": "wrong"}}],
        "contexts": [
            {"name": "good", "context": {"cluster": "c", "user": "u"}},
            {"name": "other", "context": {"cluster": "c", "user": "nobody"}},
        ],
    }


def test_the_kubeconfig_of_oc_login_logs_in(api: KubernetesApi, naps: Naps) -> None:
    """The names in it have slashes and colons, and the token belongs to a person."""
    api.put("endpointslices", "gateway", *_slices(1))
    context, cluster = "gateway/api-ocp-example:6443/ann@example", "api-ocp-example:6443"
    config = _kubeconfig_content(api, {"token": "good"})
    config["clusters"][0]["name"] = cluster
    config["users"][0]["name"] = f"ann@example/{cluster}"
    named = {"cluster": cluster, "namespace": "gateway", "user": f"ann@example/{cluster}"}
    config |= {"contexts": [{"name": context, "context": named}], "current-context": context, "preferences": {}}
    text = yaml.safe_dump(config)
    assert len(Cluster(Kubeconfig(lambda: text), naps.policy()).instances(SERVICE)) == 1


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_kubeconfig_logs_in_with_the_named_context(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", *_slices(1))
    text = _kubeconfig(api, {"token": "good"})
    assert len(Cluster(Kubeconfig(lambda: text, "good"), naps.policy()).instances(SERVICE)) == 1
    with pytest.raises(SynclineError) as caught:
        Cluster(Kubeconfig(lambda: text), naps.policy()).instances(SERVICE)
    assert caught.value.code.name == "UNAUTHORIZED"


@pytest.mark.parametrize("program", ["exec", "auth-provider"])
def test_a_kubeconfig_that_runs_programs_is_refused(api: KubernetesApi, naps: Naps, program: str) -> None:
    text = _kubeconfig(api, {program: {"command": "touch", "args": ["/tmp/ran"]}})
    with pytest.raises(SynclineError, match="runs a program") as caught:
        Cluster(Kubeconfig(lambda: text, "good"), naps.policy()).instances(SERVICE)
    assert caught.value.code.name == "CONFIG_INVALID"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: b: c", "[" * 5_000, "current-context: x", "clusters: 1\nusers: 2\ncontexts: 3"],
    ids=["empty", "list", "no YAML", "deep", "no users", "numbers"],
)
def test_an_invalid_kubeconfig_is_not_quoted(naps: Naps, text: str) -> None:
    with pytest.raises(SynclineError) as caught:
        Cluster(Kubeconfig(lambda: text), naps.policy()).instances(SERVICE)
    assert caught.value.code.name == "CONFIG_INVALID"


def test_an_aws_identity_logs_in_only_to_its_cluster(api: KubernetesApi, naps: Naps) -> None:
    api.put("endpointslices", "gateway", *_slices(1))
    credentials = Credentials("AKIDEKS", "secret-of-eks")
    token = eks_token("prod", "eu-central-1", credentials)
    assert len(_cluster(api, naps, token).instances(SERVICE)) == 1
    assert _code(api, naps, token=eks_token("test", "eu-central-1", credentials)) == "UNAUTHORIZED"
    forged = eks_token("prod", "eu-central-1", Credentials("AKIDEKS", "guessed"))
    assert _code(api, naps, token=forged) == "UNAUTHORIZED"
    with pytest.raises(SynclineError) as caught:
        eks_token("prod", "eu-central-1", None)
    assert caught.value.code.name == "AWS_DENIED"


def test_a_redirect_is_not_followed(api: KubernetesApi, naps: Naps) -> None:
    api.fail(302, times=20, Location=f"{api.url}/elsewhere")
    with pytest.raises(SynclineError) as caught:
        _cluster(api, naps).instances(SERVICE)
    assert caught.value.code.name == "UNREACHABLE"
