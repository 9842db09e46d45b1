"""The scrape with a real kube-apiserver: the shipped Role, lists and logins; and a comparison with its stand-in."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from syncline.clients.kubernetes.client import Cluster, PodsSource, ServiceSource, _ExpiredError
from syncline.clients.kubernetes.login import BearerToken, InCluster, Kubeconfig
from syncline.errors import SynclineError
from tests.rig.container import Container, sync_of, wait_for
from tests.rig.manifests import FILE, NAMESPACE, RELEASE, SETTINGS, helm, rendered
from tests.standins.kube_apiserver import ADMIN, KubeApiserver, kube_apiserver, list_path
from tests.standins.kubernetes import KubernetesApi, endpoint, endpoint_slice, pod
from tests.standins.made_up import Naps
from tests.standins.nginx import Gateway
from tests.standins.programs import needs, wants

NGINX: Final = ServiceSource(NAMESPACE, "nginx")
PODS: Final = PodsSource(NAMESPACE, "app=nginx", 8443)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture(scope="module")
def api() -> Iterator[KubeApiserver]:
    """Yield the API with the applied manifests and a second namespace."""
    wants(kube_apiserver(), "program kube-apiserver is not there: `scripts/kube-apiserver` builds it where there is Go")
    with KubeApiserver() as running:
        for name in (NAMESPACE, "elsewhere"):
            running.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        running.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "restricted", "labels": restricted}}
        )
        for file in sorted((Path(__file__).parents[1] / "fixtures" / "crds").glob("*.yaml")):
            _define(running, yaml.safe_load(file.read_text()))
        for each in yaml.safe_load_all(FILE.read_text()):
            if each is not None:
                running.create(each)
        yield running


def _define(api: KubeApiserver, definition: dict[str, Any]) -> None:
    """Create a CustomResourceDefinition and wait until the API serves its kind."""
    api.create(definition)
    spec = definition["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    wait_for(lambda: api.request("GET", path)[0] == 200)


@pytest.fixture(scope="module")
def token(api: KubeApiserver) -> str:
    """Return a token of the pod's service account after its Role has become effective."""
    text = api.token_of(NAMESPACE, RELEASE)
    wait_for(lambda: api.request("GET", list_path("endpointslices", NAMESPACE), token=text)[0] == 200)
    return text


def _cluster(api: KubeApiserver, token: str, naps: Naps) -> Cluster:
    return Cluster(BearerToken(api.url, lambda _: token, api.authority.pem), naps.policy())


def _code(cluster: Cluster, source: ServiceSource | PodsSource) -> str:
    with pytest.raises(SynclineError) as caught:
        cluster.instances(source)
    return caught.value.code.name


def test_the_api_accepts_the_chart_with_all_settings(api: KubeApiserver) -> None:
    program = wants(helm(), "program helm is not installed: `scripts/helm` builds it where there is Go")
    taken = set()
    for settings in SETTINGS:
        for each in yaml.safe_load_all(rendered(program, *settings)):
            if each is not None and each["metadata"]["namespace"] == NAMESPACE:
                each["metadata"]["name"] += "-tried"
                api.create(each, dry=True)
                taken.add(each["kind"])
    assert {"ServiceMonitor", "Route", "Ingress", "NetworkPolicy", "HorizontalPodAutoscaler"} <= taken


def test_the_api_refuses_a_monitor_that_its_definition_does_not_allow(api: KubeApiserver) -> None:
    """Check that the definitions are effective: without them, the dry runs would prove nothing."""
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "wrong", "namespace": NAMESPACE},
        "spec": {"selector": {}, "endpoints": [{"port": "http", "interval": "often"}]},
    }
    with pytest.raises(AssertionError, match="interval"):
        api.create(monitor, dry=True)


def test_the_pods_satisfy_the_restricted_standard(api: KubeApiserver) -> None:
    program = wants(helm(), "program helm is not installed: `scripts/helm` builds it where there is Go")
    for settings in ((), ("--api-versions", "security.openshift.io/v1")):
        documents = list(yaml.safe_load_all(rendered(program, *settings)))
        (template,) = [each["spec"]["template"] for each in documents if each and each["kind"] == "Deployment"]
        metadata = template["metadata"] | {"name": "tokens", "namespace": "restricted"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        api.create(pod, dry=True)
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(AssertionError, match="PodSecurity"):
            api.create(pod, dry=True)


def test_the_role_permits_only_lists(api: KubeApiserver, token: str) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"

    def rules(token: str) -> list[dict[str, Any]]:
        status, response = api.request("POST", path, {"spec": {"namespace": NAMESPACE}}, token)
        assert (status, response["status"]["incomplete"]) == (201, False)
        return list(response["status"]["resourceRules"])

    # A service account without a role has the permissions of all authenticated users.
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": NAMESPACE}})
    anybody = rules(api.token_of(NAMESPACE, "nobody"))
    assert [each for each in rules(token) if each not in anybody] == [
        {"verbs": ["list"], "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}
    ]


def test_all_other_requests_are_refused(api: KubeApiserver, token: str, naps: Naps) -> None:
    api.create(endpoint_slice("refused", "refused", [endpoint("one", "10.1.0.1")]))
    here = list_path("endpointslices", NAMESPACE)
    refused = [
        ("GET", f"{here}/refused"),
        ("GET", f"{here}?watch=true"),
        ("PATCH", f"{here}/refused"),
        ("DELETE", f"{here}/refused"),
        ("DELETE", here),
        ("POST", here),
        ("GET", list_path("endpointslices", "elsewhere")),
        ("GET", "/apis/discovery.k8s.io/v1/endpointslices"),
        *(("GET", f"/api/v1/namespaces/{NAMESPACE}/{each}") for each in ("pods", "secrets", "configmaps", "services")),
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/namespaces"),
    ]
    response = {each: api.request(*each, {} if each[0] != "GET" else None, token) for each in refused}
    assert {each: (status, body["reason"]) for each, (status, body) in response.items()} == dict.fromkeys(
        refused, (403, "Forbidden")
    )
    cluster = _cluster(api, token, naps)
    assert [each.name for each in cluster.instances(ServiceSource(NAMESPACE, "refused"))] == ["one"]
    assert _code(cluster, ServiceSource("elsewhere", "nginx")) == "FORBIDDEN"
    assert _code(cluster, PODS) == "FORBIDDEN"
    assert _code(_cluster(api, "made-up", naps), NGINX) == "UNAUTHORIZED"


def test_slices_and_pods_are_read_correctly(api: KubeApiserver, token: str, naps: Naps) -> None:
    api.create(
        endpoint_slice(
            "read-a",
            "read",
            [
                endpoint("ready", "10.1.0.1", ready=True, terminating=False),
                endpoint("silent", "10.1.0.2"),
                endpoint("starting", "10.1.0.3", ready=False),
                endpoint("leaving", "10.1.0.4", ready=False, terminating=True),
            ],
        )
    )
    api.create(endpoint_slice("read-empty", "read", [], ports=()))
    api.create(endpoint_slice("read-6", "read", [endpoint("ready", "fd00::1")], family="IPv6"))
    assert [
        (each.where, each.serves) for each in _cluster(api, token, naps).instances(ServiceSource(NAMESPACE, "read"))
    ] == [
        ("10.1.0.4:8443", False),
        ("10.1.0.1:8443", True),
        ("[fd00::1]:8443", True),
        ("10.1.0.2:8443", True),
        ("10.1.0.3:8443", False),
    ]
    with pytest.raises(SynclineError, match="SOURCE_ABSENT"):
        _cluster(api, token, naps).instances(ServiceSource(NAMESPACE, "nobodys"))
    for name, address, ready in (("a", "10.1.0.1", True), ("b", "10.1.0.2", False), ("c", "10.1.0.3", True)):
        _run_pod(api, name, address, ready=ready)
    _run_pod(api, "d", None, ready=False)
    status, response = api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/c")
    assert status == 200, response
    found = _cluster(api, ADMIN, naps).instances(PODS)
    assert [(each.name, each.where, each.ready, each.terminating) for each in found] == [
        ("a", "10.1.0.1:8443", True, False),
        ("b", "10.1.0.2:8443", False, False),
        ("c", "10.1.0.3:8443", True, True),
    ]


def _run_pod(api: KubeApiserver, name: str, address: str | None, *, ready: bool, app: str = "nginx") -> None:
    """Create a pod on a node, with the status that its kubelet would write."""
    made = pod(name, address, {"app": app}, ready=ready)
    status = made.pop("status")
    made["spec"]["nodeName"] = "somewhere"
    api.create(made)
    code, response = api.request("PATCH", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/status", {"status": status})
    assert code == 200, response


def test_a_list_of_many_pages_is_read_completely_or_from_the_start(naps: Naps) -> None:
    """Disable the API's cache of lists, so that its pages come from etcd and expire with a compaction."""
    wants(kube_apiserver(), "program kube-apiserver is not there: `scripts/kube-apiserver` builds it where there is Go")
    with KubeApiserver("--watch-cache=false") as api:
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        slices = [
            endpoint_slice(
                f"n-{each:03d}", "nginx", [endpoint(f"p-{each:03d}", f"10.1.{each // 250}.{each % 250 + 1}")]
            )
            for each in range(501)
        ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(api.create, slices))
        cluster = _cluster(api, ADMIN, naps)
        assert len(cluster.instances(NGINX)) == 501
        items = cluster._items(NGINX)
        next(items)
        status, response = api.request("DELETE", f"{list_path('endpointslices', NAMESPACE)}/n-500")
        assert status == 200, response
        api.compact()
        with pytest.raises(_ExpiredError):
            list(items)
        assert len(cluster.instances(NGINX)) == 500


def test_each_kind_of_login_works(api: KubeApiserver, token: str, naps: Naps, tmp_path: Path) -> None:
    api.create(endpoint_slice("login", "login", [endpoint("one", "10.1.0.1")]))
    (tmp_path / "ca.crt").write_text(api.authority.pem)
    (tmp_path / "token").write_text(token)
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    kubeconfig = yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [
                {"name": "c", "cluster": {"server": api.url, "certificate-authority": str(tmp_path / "ca.crt")}}
            ],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        }
    )
    for login in (InCluster(tmp_path, environ), Kubeconfig(lambda: kubeconfig)):
        assert len(Cluster(login, naps.policy()).instances(ServiceSource(NAMESPACE, "login"))) == 1


def test_the_stand_in_answers_like_the_original(api: KubeApiserver, token: str) -> None:
    """Compare status and reason. The stand-in is deliberately stricter with parameters and continuations."""
    grants = {token: frozenset({("endpointslices", NAMESPACE)}), ADMIN: frozenset({("endpointslices", "nobodys")})}
    slices = [endpoint_slice(f"same-{each}", "same", [endpoint(f"p-{each}", "10.1.0.1")]) for each in range(3)]
    for each in slices:
        api.create(each)
    service = {"labelSelector": "kubernetes.io/service-name=same"}
    requests = [
        ("GET", list_path("endpointslices", NAMESPACE, **service), token),
        ("GET", list_path("endpointslices", NAMESPACE, **service, limit="2"), token),
        ("GET", list_path("endpointslices", NAMESPACE, **service, limit="many"), token),
        ("GET", list_path("endpointslices", NAMESPACE, **service, limit="2", **{"continue": "made-up"}), token),
        ("GET", list_path("endpointslices", NAMESPACE, labelSelector="==="), token),
        ("GET", list_path("endpointslices", NAMESPACE, labelSelector="a=b"), token),
        ("GET", list_path("endpointslices", "nobodys"), ADMIN),
        ("GET", list_path("endpointslices", "elsewhere"), token),
        ("GET", list_path("endpointslices", "neverheardof"), token),
        ("GET", list_path("pods", NAMESPACE), token),
        ("GET", list_path("endpointslices", NAMESPACE), "made-up"),
        ("POST", list_path("endpointslices", "elsewhere"), token),
    ]
    with KubernetesApi(grants) as stand_in:
        stand_in.put("endpointslices", NAMESPACE, *slices)
        for method, path, who in requests:
            theirs, ours = api.request(method, path, token=who), _response(stand_in, method, path, who)
            assert _essence(ours) == _essence(theirs), path


def _response(stand_in: KubernetesApi, method: str, path: str, token: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{stand_in.url}{path}", method=method, headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, context=stand_in.authority.client_context()) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def _essence(response: tuple[int, Any]) -> tuple[Any, ...]:
    """Return the parts that clients use: status, kind, reason; of a list, its items and if more follow."""
    status, body = response
    metadata = body["metadata"]
    more = (bool(metadata.get("continue")), metadata.get("remainingItemCount"), sorted(metadata.keys() - {"continue"}))
    names = [each["metadata"]["name"] for each in body.get("items") or ()]
    return status, body["kind"], body["apiVersion"], body.get("reason"), body.get("code"), names, more


def test_the_container_follows_the_cluster(api: KubeApiserver) -> None:
    """The real nginx instances are pods, because the API refuses loopback addresses in a slice."""
    needs("nginx")
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "pods", "namespace": NAMESPACE},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
    }
    api.create(role)
    subject = {"kind": "ServiceAccount", "name": "follows", "namespace": NAMESPACE}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"}
    binding = {**role, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]}
    del binding["rules"]
    api.create(binding)
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "follows", "namespace": NAMESPACE}})
    with Gateway(3) as gateway, KubernetesApi({}) as unused:
        for each in gateway.listed:
            _run_pod(api, each.name, each.address, ready=True, app="followed")
        sync = sync_of(gateway, unused)
        source = {"namespace": NAMESPACE, "labels": "app=followed", "port": gateway.port, "api": api.url}
        sync["sources"] = {"prod": {**source, "ca": api.authority.pem, "auth": {"token": "env:CLUSTER_TOKEN"}}}
        with Container({"gateway": sync}, token=api.token_of(NAMESPACE, "follows")) as container:
            container.wait_until_ready()
            gateway.put_everywhere("followed")
            response = container.synced("followed", "gateway-000")
            assert (response.headers["X-Token-Status"], response.json["asked"]) == ("Synced", 2)
            gone = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
            api.request("PATCH", f"/api/v1/namespaces/{NAMESPACE}/pods/gateway-002/status", gone)
            wait_for(lambda: container.synced("followed", "gateway-000").json["asked"] == 1)
            api.request("DELETE", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings/pods")
            wait_for(lambda: container.synced("followed", "gateway-000").json["list"]["failed"] == "FORBIDDEN")
