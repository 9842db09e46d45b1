"""The chart, the manifests and the Dockerfile: valid by Kubernetes' own schemas, and with minimal permissions."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import kubernetes.client
import pytest
import yaml

from syncline.config.file import parse_syncs
from tests.rig.manifests import (
    CHART,
    EXAMPLE,
    FILE,
    NAMESPACE,
    RELEASE,
    ROOT,
    SCHEMA,
    SETTINGS,
    first_line,
    helm,
    rendered,
    values_schema,
)
from tests.standins.programs import wants

MODELS: Final = {
    "ServiceAccount": "V1ServiceAccount",
    "ConfigMap": "V1ConfigMap",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Service": "V1Service",
    "Deployment": "V1Deployment",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "NetworkPolicy": "V1NetworkPolicy",
    "Ingress": "V1Ingress",
}
CUSTOM: Final = ("ServiceMonitor", "Route")
"""Kinds without a model in the Kubernetes package. A real API server checks them against their definitions."""
ALWAYS: Final = ("ServiceAccount", "ConfigMap", "Role", "RoleBinding", "Service", "Deployment", "PodDisruptionBudget")
SYNC: Final = "syncs.gateway"
SOURCE: Final = f"{SYNC}.sources.here"
_API: Final[Any] = kubernetes.client.ApiClient()  # converts models to JSON, without requests


@pytest.fixture(scope="module")
def program() -> str:
    """Return the path of the program helm."""
    return wants(helm(), "program helm is not installed: `scripts/helm` builds it where there is Go")


def _documents(text: str) -> list[dict[str, Any]]:
    # Through JSON, because SAM makes YAML load mappings whose comparison includes their order.
    return [json.loads(json.dumps(each)) for each in yaml.safe_load_all(text) if each]


def _check(text: str) -> dict[str, list[dict[str, Any]]]:
    """Return the documents by kind, each checked against the model of its kind. An unknown key fails the check."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (*MODELS, *CUSTOM)}
    for document in _documents(text):
        if document["kind"] not in CUSTOM:
            model = getattr(kubernetes.client, MODELS[document["kind"]])
            assert _without_none(_API.sanitize_for_serialization(model.from_dict(document))) == _without_none(document)
        found[document["kind"]].append(document)
    return found


def _without_none(value: Any) -> Any:
    """Return JSON without its empty values, as a model has it. A model drops unknown keys, so a comparison finds them."""
    if isinstance(value, dict):
        return {key: inner for key, each in value.items() if (inner := _without_none(each)) not in (None, {}, [])}
    return [_without_none(each) for each in value] if isinstance(value, list) else value


def test_the_generated_files_are_current() -> None:
    """Run ``python -m tests.rig.manifests`` after a change of the chart or of the models of tokens."""
    assert SCHEMA.read_text() == values_schema()
    assert FILE.read_text().splitlines(keepends=True)[0] == first_line()


def test_the_manifests_are_valid_by_the_schemas_of_kubernetes() -> None:
    found = _check(FILE.read_text())
    assert {kind: len(each) for kind, each in found.items() if each} == dict.fromkeys(ALWAYS, 1)
    assert all(each["metadata"]["namespace"] == NAMESPACE for every in found.values() for each in every)


def test_the_role_may_list_endpoint_slices_and_nothing_else() -> None:
    found = _check(FILE.read_text())
    (role,) = found["Role"]
    assert role["rules"] == [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]}]
    (binding,) = found["RoleBinding"]
    (account,) = found["ServiceAccount"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": RELEASE}
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": NAMESPACE}
    ]


def test_the_pod_runs_without_root_on_a_read_only_file_system() -> None:
    (deployment,) = _check(FILE.read_text())["Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    probes = [container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert probes == ["/health", "/health", "/ready"]


def test_the_configuration_in_the_manifests_is_valid() -> None:
    (config,) = _check(FILE.read_text())["ConfigMap"]
    parsed = parse_syncs(config["data"]["syncs.yaml"].encode())
    assert [sync.kind for sync in parsed.syncs.values()] == ["tokens"]
    assert parsed.warnings == ()


def test_helm_lints_the_chart_and_renders_the_manifests(program: str) -> None:
    for values in ((), ("--values", str(EXAMPLE))):
        command = [program, "lint", "--strict", str(CHART), *values]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    assert first_line() + rendered(program) == FILE.read_text()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_helm_renders_valid_manifests_for_every_setting(program: str, settings: tuple[str, ...]) -> None:
    found = _check(rendered(program, *settings))
    roles = 2 if "namespaces={gateway,edge}" in settings else 0 if "rbac.create=false" in str(settings) else 1
    assert len(found["Role"]) == len(found["RoleBinding"]) == roles
    assert len(found["Deployment"]) == 1


def test_every_value_is_rendered(program: str) -> None:
    """Each value of the example file appears in its object."""
    found = _check(rendered(program, *SETTINGS[-1]))
    (values,) = _documents(Path(SETTINGS[-1][-1]).read_text())
    one = {kind: each[0] for kind, each in found.items() if each}
    assert one.keys() == {*MODELS, *CUSTOM}
    assert all(each["metadata"]["name"] == "sessions" for each in one.values())
    spec = one["Deployment"]["spec"]
    assert "replicas" not in spec
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"{values['image']['repository']}@{values['image']['digest']}"
    assert container["envFrom"] == values["envFrom"]
    assert values["extraVolumes"][0] in pod["volumes"]
    assert values["extraVolumeMounts"][0] in container["volumeMounts"]
    assert container["readinessProbe"].items() >= values["readinessProbe"].items()
    assert container["resources"]["limits"] == values["resources"]["limits"]
    assert pod["securityContext"].items() >= values["podSecurityContext"].items()
    for key in ("priorityClassName", "nodeSelector", "tolerations", "affinity"):
        assert pod[key] == values[key]
    default, configured = pod["topologySpreadConstraints"]
    assert default["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]
    assert configured == values["topologySpreadConstraints"][1]
    annotations = spec["template"]["metadata"]["annotations"]
    assert annotations["example.com/a"] == "b"
    assert "prometheus.io/scrape" not in annotations
    assert spec["template"]["metadata"]["labels"]["team"] == "edge"
    budget, scaler = one["PodDisruptionBudget"]["spec"], one["HorizontalPodAutoscaler"]["spec"]
    assert (budget["minAvailable"], "maxUnavailable" in budget) == ("50%", False)
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 6)
    assert scaler["behavior"] == values["autoscaling"]["behavior"]
    policy = one["NetworkPolicy"]["spec"]
    assert policy["ingress"][0]["from"] == values["networkPolicy"]["from"]
    assert policy["egress"] == values["networkPolicy"]["egress"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (endpoint,) = one["ServiceMonitor"]["spec"]["endpoints"]
    assert (endpoint["interval"], endpoint["path"]) == ("15s", "/metrics")
    assert endpoint["relabelings"] == values["serviceMonitor"]["relabelings"]
    (rule,) = one["Ingress"]["spec"]["rules"]
    assert [each["path"] for each in rule["http"]["paths"]] == ["/v1", "/health"]
    assert one["Ingress"]["spec"]["tls"] == values["ingress"]["tls"]
    assert "tls" not in one["Route"]["spec"]
    assert (one["Service"]["spec"]["type"], one["Service"]["spec"]["ports"][0]["port"]) == ("LoadBalancer", 443)


def test_a_changed_configuration_replaces_the_pod(program: str) -> None:
    sums = set()
    for settings in ((), ("--set", "syncs.gateway.quorum=majority")):
        (deployment,) = _check(rendered(program, *settings))["Deployment"]
        sums.add(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/syncs"])
    assert len(sums) == 2


def test_on_openshift_the_namespace_chooses_the_user(program: str) -> None:
    (deployment,) = _check(rendered(program, "--api-versions", "security.openshift.io/v1"))["Deployment"]
    assert deployment["spec"]["template"]["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("replicas=many", "/replicas"),
        ("replica=3", "additional properties 'replica' not allowed"),
        ("image.pullpolicy=Never", "additional properties 'pullpolicy' not allowed"),
        ("image.digest=sha256:1", "/image/digest"),
        ("lists.secrets=true", "additional properties 'secrets' not allowed"),
        ("scrapeEverySeconds=0", "/scrapeEverySeconds"),
        ("service.port=65536", "/service/port"),
        ("service.port=0", "/service/port"),
        ("containerPort=80", "/containerPort"),
        ("service.type=NodePort,service.nodePort=70000", "/service/nodePort"),
        ("namespaces[0]=Gateway_1", "/namespaces/0"),
        ("ingress.enabled=true", "/ingress/hosts"),
        ("livenessProbe.httpGet.path=/other", "/livenessProbe"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
        ("podDisruptionBudget.maxUnavailable=120%", "/podDisruptionBudget/maxUnavailable"),
        ("podDisruptionBudget.minAvailable=1", "podDisruptionBudget takes one of minAvailable and maxUnavailable"),
        ("autoscaling.enabled=true,autoscaling.minReplicas=20", "autoscaling.minReplicas is greater"),
        (
            "autoscaling.enabled=true,autoscaling.targetCPUUtilizationPercentage=null",
            "autoscaling needs targetCPUUtilizationPercentage or targetMemoryUtilizationPercentage",
        ),
        ("nameOverride=Gate_Way", "/nameOverride"),
        (f"{SOURCE}.namespace=edge", f"{SOURCE}: nothing may be listed in the namespace edge; add it to `namespaces`"),
        ("namespaces={edge}", f"{SOURCE}: nothing may be listed in the namespace gateway; add it to `namespaces`"),
        ("lists.endpointslices=false", f"{SOURCE} needs `lists.endpointslices: true`"),
        (f"{SOURCE}.service=null,{SOURCE}.labels=app=nginx", f"{SOURCE} needs `lists.pods: true`"),
        (f"{SOURCE}.labels=app=nginx", f"{SOURCE} takes one of service and labels"),
        (f"{SOURCE}.service=null", f"{SOURCE} takes one of service and labels"),
        ("syncs=text", "/syncs"),
        (f"{SYNC}.kind=images", f"/{SYNC.replace('.', '/')}/kind"),
        (f"{SYNC}.check=null", "/syncs/gateway/check"),
        (f"{SYNC}.chekc.path=/x", "additional properties 'chekc' not allowed"),
        (f"{SYNC}.quorum=most", f"/{SYNC.replace('.', '/')}/quorum"),
        (f"{SYNC}.stale_after=-1", f"/{SYNC.replace('.', '/')}/stale_after"),
        ("syncs.Gate_Way.kind=tokens", "Gate_Way"),
    ],
)
def test_helm_refuses_an_invalid_value_and_names_it(program: str, setting: str, message: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(program, "--set", setting)
    assert message in caught.value.stderr


def test_sources_outside_the_namespace_need_no_role_of_the_chart(program: str) -> None:
    for settings in (f"{SOURCE}.namespace=edge,rbac.create=false", f"{SOURCE}.namespace=edge,{SOURCE}.auth.eks=prod"):
        assert rendered(program, "--set", settings)


def test_helm_requires_a_sync(program: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(program, example=False)
    assert "syncs is empty: set at least one sync" in caught.value.stderr


@pytest.mark.parametrize("folder", ["deploy", "deploy/one-machine"])
def test_an_image_copies_files_that_exist_and_runs_without_root(folder: str) -> None:
    text = (ROOT / folder / "Dockerfile").read_text()
    copied = [
        word for match in re.finditer(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in match[1].split()
    ]
    assert copied
    assert all((ROOT / each).exists() for each in copied)
    kept = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert all((ROOT / each).exists() for each in kept)
    assert [each for each in copied if not any(name == each or name.startswith(f"{each}/") for name in kept)] == []
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["65532:65532"]
    assert "--require-hashes" in text or "scripts/environment" in text


def test_the_image_of_tokens_matches_the_chart() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    assert importlib.util.find_spec(json.loads(entry)[-1]) is not None


@pytest.mark.parametrize(("image", "complete"), [("container", "kubernetes"), ("machine", "layer")])
def test_an_image_has_the_same_versions_as_the_functions(image: str, complete: str) -> None:
    def pinned(name: str) -> dict[str, str]:
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        pairs = [line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith((" ", "#"))]
        return {package: version.split(";")[0] for package, version in pairs}

    container = pinned(image)
    assert pinned(complete).keys() <= container.keys()
    for name in ("kubernetes", "layer", "tools"):
        others = pinned(name)
        assert {package: others[package] for package in container.keys() & others.keys()} == {
            package: version for package, version in container.items() if package in others
        }
