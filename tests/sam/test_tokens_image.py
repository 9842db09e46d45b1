"""The container's image, built by `docker build` from deploy/Dockerfile and run with the settings of the chart's pod."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from scripts.openapi import document
from tests.rig.container import CANARY, TOKEN, Container, cluster_of, sync_of, wait_for
from tests.rig.manifests import FILE
from tests.sam.docker_engine import Engine
from tests.sam.image_builds import SECONDS, base_image, built_image, package_index
from tests.sam.world import TOP
from tests.standins.kubernetes import KubernetesApi
from tests.standins.nginx import Gateway
from tests.standins.programs import needs, program

# If the base cannot be pulled, debootstrap makes it, which takes minutes.
pytestmark = pytest.mark.timeout(1200)

DOCKERFILE: Final = TOP / "deploy" / "Dockerfile"
ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def image(bare_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needs("docker")
    base = base_image(bare_engine, DOCKERFILE)
    with (
        package_index(tmp_path_factory.mktemp("index"), "container") as index,
        built_image(bare_engine, DOCKERFILE, base, index) as name,
    ):
        yield name


class Pod(Container):
    """The image in Docker, on the host's network, with exactly the settings of the pod in the chart's Deployment."""

    def __init__(self, engine: Engine, image: str, account: Path, api: KubernetesApi, sync: Mapping[str, Any]) -> None:
        super().__init__({"gateway": sync}, canary_every=0.5)
        self.name = f"syncline-test-{uuid.uuid4().hex[:12]}"
        self._engine = engine
        self._image = image
        self._account = account
        self._cluster = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}

    def _command(self, syncs: Path, settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        syncs.parent.chmod(0o755)  # the pod runs as another user
        command = [program("docker"), "run", "--rm", "--name", self.name, "--network", "host"]
        command += self._options_of_chart(syncs.parent)
        command += ["--volume", f"{self._account}:{ACCOUNT}:ro"]
        for name, value in {**settings, **self._cluster}.items():
            command += ["--env", f"{name}={value}"]
        return [*command, self._image], self._engine.environment

    def _options_of_chart(self, config: Path) -> list[str]:
        (deployment,) = (
            each for each in yaml.safe_load_all(FILE.read_text()) if each is not None and each["kind"] == "Deployment"
        )
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        user, limits = pod["securityContext"], container["securityContext"]
        options = ["--user", f"{user['runAsUser']}:{user['runAsGroup']}"]
        options += [f"--cap-drop={each}" for each in limits["capabilities"]["drop"]]
        options += ["--read-only"] if limits["readOnlyRootFilesystem"] else []
        options += [] if limits["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
        options += ["--memory", container["resources"]["limits"]["memory"].removesuffix("i").lower()]
        volumes = {each["name"]: each for each in pod["volumes"]}
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            if "emptyDir" in volume:
                size = volume["emptyDir"]["sizeLimit"].removesuffix("i").lower()
                options += ["--tmpfs", f"{mount['mountPath']}:size={size}"]
            else:
                options += ["--volume", f"{config}:{mount['mountPath']}:ro"]
        return options

    def execute(self, *command: str) -> tuple[int, str]:
        """Run a command in the container; return its exit code and its output."""
        whole_command = [program("docker"), "exec", self.name, *command]
        done = subprocess.run(
            whole_command, env=self._engine.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    needs("nginx")
    with Gateway(3, interval=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def pod(bare_engine: Engine, image: str, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with cluster_of(gateway) as api:
        account = tmp_path_factory.mktemp("account")
        (account / "ca.crt").write_text(api.authority.pem)
        (account / "token").write_text(TOKEN)
        for each in (account, account.parent, account.parent.parent):
            each.chmod(0o755)
        sync = sync_of(gateway, api, canary=CANARY)
        sync["sources"] = {"here": {"namespace": "gateway", "service": "nginx", "port": "https"}}
        with Pod(bare_engine, image, account, api, sync) as running:
            running.wait_until_ready()
            yield running


def test_it_gives_verdicts_on_the_instances_that_its_service_account_lists(pod: Pod, gateway: Gateway) -> None:
    gateway.put(0, "everywhere")
    synced = pod.synced("everywhere", "gateway-000")
    assert (synced.status, synced.headers["X-Token-Status"], synced.json["synced"]) == (200, "Synced", 2)
    refused = pod.synced("nowhere", "gateway-000")
    assert (refused.headers["X-Token-Status"], refused.json["reason"]) == ("NotSynced", "origin_refuses")
    assert (pod.get("/health").status, pod.get("/ready").status) == (200, 200)


def test_it_serves_its_metrics_and_its_api_document(pod: Pod, gateway: Gateway) -> None:
    assert pod.get("/openapi.json").json == document()
    assert pod.get("/swagger-ui/swagger-ui-bundle.min.js").status == 200
    canaries = 'syncline_canaries_total{check="write",instance="gateway-001",outcome="arrived",sync="gateway"}'
    wait_for(lambda: pod.figure(canaries) >= 1)
    assert pod.figure('syncline_instances{sync="gateway"}') == len(gateway.instances)


def test_it_has_no_privileges_and_a_read_only_file_system(pod: Pod) -> None:
    assert pod.execute("id", "-u") == (0, "65532\n")
    code, output = pod.execute("touch", "/opt/syncline/mark")
    assert (code, "Read-only file system" in output) == (1, True)
    assert pod.execute("/opt/syncline/bin/python", "-c", "import pip")[0] == 1


def test_it_runs_as_any_user(bare_engine: Engine, image: str) -> None:
    """OpenShift assigns users to each namespace. Here the container starts and then reports its absent configuration."""
    command = [program("docker"), "run", "--rm", "--read-only", "--network", "none", "--user", "1000660000:0", image]
    done = subprocess.run(
        command, env=bare_engine.environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "/etc/syncline/syncs.yaml" in done.stdout


def test_it_ends_with_code_0_at_sigterm(pod: Pod) -> None:
    """Stop the pod that the tests of this module share; this must be the last test."""
    assert pod.stop() == 0
