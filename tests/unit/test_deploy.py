"""The chart, the manifests and the Dockerfile: right by Kubernetes' own schemas, and with no right too many."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from typing import Any, Final

import kubernetes.client
import pytest
import yaml

from syncline.config.file import parse_syncs
from tests.manifests import CHART, FILE, NAMESPACE, RELEASE, ROOT, SETTINGS, first_line, helm, rendered
from tests.standins.programs import wants

MODELS: Final = {
    "ServiceAccount": "V1ServiceAccount",
    "ConfigMap": "V1ConfigMap",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Service": "V1Service",
    "Deployment": "V1Deployment",
}
_API: Final[Any] = kubernetes.client.ApiClient()  # turns models into JSON; it asks nobody


@pytest.fixture(scope="module")
def program() -> str:
    """Helm."""
    return wants(helm(), "program helm is not installed: `scripts/helm` builds it where there is Go")


def _documents(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def _check(text: str) -> dict[str, list[dict[str, Any]]]:
    """Every document by its kind, each held to the schema of that kind, without a key that is none."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in MODELS}
    for document in _documents(text):
        model = getattr(kubernetes.client, MODELS[document["kind"]])
        assert _without_none(_API.sanitize_for_serialization(model.from_dict(document))) == _without_none(document)
        found[document["kind"]].append(document)
    return found


def _without_none(value: Any) -> Any:
    """As JSON, without what is absent: a key that the model does not know is lost in it, and so is found."""
    if isinstance(value, dict):
        return {key: inner for key, each in value.items() if (inner := _without_none(each)) not in (None, {}, [])}
    return [_without_none(each) for each in value] if isinstance(value, list) else value


def test_the_manifests_are_those_of_the_chart() -> None:
    """After a change of the chart: ``python -m tests.manifests``."""
    assert FILE.read_text().splitlines(keepends=True)[0] == first_line()


def test_the_manifests_are_right_by_kubernetes_schemas() -> None:
    found = _check(FILE.read_text())
    assert {kind: len(each) for kind, each in found.items()} == dict.fromkeys(MODELS, 1)
    assert all(each["metadata"]["namespace"] == NAMESPACE for every in found.values() for each in every)


def test_the_role_may_list_what_is_listed_and_nothing_else() -> None:
    found = _check(FILE.read_text())
    (role,) = found["Role"]
    assert role["rules"] == [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]}]
    (binding,) = found["RoleBinding"]
    (account,) = found["ServiceAccount"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": RELEASE}
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": NAMESPACE}
    ]


def test_the_pod_is_nobody_and_writes_nowhere() -> None:
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


def test_its_configuration_is_one() -> None:
    (config,) = _check(FILE.read_text())["ConfigMap"]
    parsed = parse_syncs(config["data"]["syncs.yaml"].encode())
    assert [sync.kind for sync in parsed.syncs.values()] == ["tokens"]
    assert parsed.warnings == ()


def test_helm_lints_the_chart_and_renders_the_manifests(program: str) -> None:
    done = subprocess.run([program, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert first_line() + rendered(program) == FILE.read_text()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_whatever_is_set_helm_renders_what_kubernetes_takes(program: str, settings: tuple[str, ...]) -> None:
    found = _check(rendered(program, *settings))
    namespaces = 2 if "namespaces={gateway,edge}" in settings else 1
    assert len(found["Role"]) == len(found["RoleBinding"]) == namespaces
    assert len(found["Deployment"]) == 1


def test_on_openshift_the_user_is_the_namespaces_own(program: str) -> None:
    (deployment,) = _check(rendered(program, "--api-versions", "security.openshift.io/v1"))["Deployment"]
    assert deployment["spec"]["template"]["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_helm_refuses_values_that_are_none(program: str) -> None:
    for wrong in ("replicas=many", "syncs=", "lists.secrets=true", "scrapeEverySeconds=0"):
        with pytest.raises(subprocess.CalledProcessError):
            rendered(program, "--set", wrong)


def test_the_image_has_what_the_chart_expects_of_it() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = [match[1] for match in re.finditer(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)]
    assert all((ROOT / each).exists() for each in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{each}" for each in copied} <= set(ignored)
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    assert importlib.util.find_spec(json.loads(entry)[-1]) is not None
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["65532:65532"]
    assert "--require-hashes" in text


def test_the_container_runs_with_the_versions_that_the_functions_have() -> None:
    def pinned(name: str) -> dict[str, str]:
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        pairs = [line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith((" ", "#"))]
        return {package: version.split(";")[0] for package, version in pairs}

    container = pinned("container")
    assert pinned("kubernetes").keys() <= container.keys()
    for name in ("kubernetes", "layer", "tools"):
        others = pinned(name)
        assert {package: others[package] for package in container.keys() & others.keys()} == {
            package: version for package, version in container.items() if package in others
        }
