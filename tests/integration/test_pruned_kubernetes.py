"""The kubernetes package of the layer, without the parts that `layers/kubernetes/prune` removes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.standins.kubernetes import KubernetesApi, endpoint, endpoint_slice, pod

TOP: Final = Path(__file__).parents[2]
INSTALLED: Final = Path(sysconfig.get_path("purelib"))
LARGEST: Final = 3 * 1024**2  # bytes of the pruned kubernetes package; the complete one has 107 MB

LISTING: Final = """
import json, pathlib, sys
import kubernetes
from syncline.clients.kubernetes.client import Cluster, PodsSource, ServiceSource
from syncline.clients.kubernetes.login import BearerToken, InCluster, Kubeconfig
from syncline.errors import SynclineError

url, port, account = sys.argv[1:]
ca = pathlib.Path(account, "ca.crt").read_text()
environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
kubeconfig = pathlib.Path(account, "kubeconfig").read_text()
found = {}
for name, login in {
    "token": BearerToken(url, lambda _: "good", ca),
    "in cluster": InCluster(pathlib.Path(account), environ),
    "kubeconfig": Kubeconfig(lambda: kubeconfig),
}.items():
    for source in (ServiceSource("gateway", "nginx"), PodsSource("gateway", "app=nginx", 8443)):
        found[f"{name}, {type(source).__name__}"] = [each.name for each in Cluster(login).instances(source)]
for name, login in {
    "refused": BearerToken(url, lambda _: "bad", ca),
    "no account": InCluster(pathlib.Path(account, "absent"), environ),
    "no kubeconfig": Kubeconfig(lambda: "contexts: []"),
    "unknown authority": BearerToken(url, lambda _: "good"),
}.items():
    try:
        Cluster(login).instances(ServiceSource("gateway", "nginx"))
    except SynclineError as error:
        found[name] = error.code.name
print(json.dumps({"from": kubernetes.__file__, "found": found}))
"""


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Yield a folder with the pruned packages of the layer, and one with all other installed packages."""
    layer, others = tmp_path_factory.mktemp("layer"), tmp_path_factory.mktemp("others")
    requirements = (TOP / "requirements" / "kubernetes.txt").read_text()
    inside: set[str] = set()
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", requirements, re.MULTILINE):
        distribution = importlib.metadata.distribution(name)
        assert distribution.version == version, f"the installed version of {name} differs from that of the layer"
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        inside |= tops
        for top in tops:
            if (INSTALLED / top).is_dir():
                shutil.copytree(INSTALLED / top, layer / top, ignore=shutil.ignore_patterns("__pycache__", "test*"))
            else:
                shutil.copy(INSTALLED / top, layer)
    subprocess.run(["sh", str(TOP / "layers" / "kubernetes" / "prune"), str(layer)], check=True, timeout=60)
    for path in INSTALLED.iterdir():
        if path.name not in inside:
            (others / path.name).symlink_to(path)
    yield layer, others
    shutil.rmtree(layer)


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi({"good": frozenset({("endpointslices", "gateway"), ("pods", "gateway")})}) as running:
        running.put("endpointslices", "gateway", endpoint_slice("a", "nginx", [endpoint("one", "10.0.0.1")]))
        running.put("pods", "gateway", pod("two", "10.0.0.2", {"app": "nginx"}))
        yield running


def test_the_pruned_package_supports_every_login_and_lists(
    layers: tuple[Path, Path], api: KubernetesApi, tmp_path: Path
) -> None:
    layer, others = layers
    (tmp_path / "ca.crt").write_text(api.authority.pem)
    (tmp_path / "token").write_text("good")
    kubeconfig = {
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": api.url, "certificate-authority": str(tmp_path / "ca.crt")}}],
        "users": [{"name": "u", "user": {"token": "good"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    path = os.pathsep.join(map(str, (layer, TOP / "layers" / "syncline", others)))

    # -S: without the site-packages of this environment, which contain the complete package.
    command = [sys.executable, "-S", "-c", LISTING, api.url, str(api.port), str(tmp_path)]
    listed = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=60)

    assert listed.returncode == 0, listed.stderr
    answer = json.loads(listed.stdout)
    assert Path(answer["from"]).parents[1] == layer
    logins = ("token", "in cluster", "kubeconfig")
    assert answer["found"] == {
        **{f"{login}, ServiceSource": ["one"] for login in logins},
        **{f"{login}, PodsSource": ["two"] for login in logins},
        "refused": "UNAUTHORIZED",
        "no account": "CONFIG_INVALID",
        "no kubeconfig": "CONFIG_INVALID",
        "unknown authority": "TLS_FAILED",
    }


def test_the_pruned_package_is_small(layers: tuple[Path, Path]) -> None:
    package = layers[0] / "kubernetes"
    assert sum(file.stat().st_size for file in package.rglob("*") if file.is_file()) < LARGEST
    assert not (layers[0] / "aiohttp").exists()
