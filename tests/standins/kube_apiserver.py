"""A real kube-apiserver with its etcd, on loopback with real TLS and RBAC, to verify the stand-in for it.

    with KubeApiserver() as api:
        api.create({"kind": "Namespace", ...})

``scripts/kube-apiserver`` builds both programs. There are no controllers and no nodes: tests write their objects,
including pods' status. The admission plugin for service accounts is off, since no controller creates each namespace's
default one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.standins.certificates import Authority
from tests.standins.nginx import free_ports

ADMIN: Final = "token-of-the-admin"
_BUILT: Final = Path(__file__).parents[2] / ".build" / "kubernetes"
_PATHS: Final = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ServiceMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/servicemonitors",
    "Route": "/apis/route.openshift.io/v1/namespaces/{}/routes",
}


def kube_apiserver() -> str | None:
    """Return the program built by ``scripts/kube-apiserver``, with etcd beside it; None if it has not been built."""
    return shutil.which("kube-apiserver", path=str(_BUILT)) and shutil.which("etcd", path=str(_BUILT))


class KubeApiserver:
    """Runs both programs on free ports. ``flags`` are additional flags of kube-apiserver."""

    def __init__(self, *flags: str) -> None:
        self.authority = Authority("Authority of the cluster")
        self.port = 0
        self._flags = flags
        self._etcd_port = 0
        self._stack = contextlib.ExitStack()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failing:
            failing.callback(self.__exit__)
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kube-apiserver-")))
            self._etcd_port, peers, self.port = free_ports(3)
            self._start(folder, "etcd", self._etcd(folder, peers))
            api = self._start(folder, "kube-apiserver", self._apiserver(folder))
            self._wait(api, folder / "kube-apiserver.log")
            failing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def request(self, method: str, path: str, body: Any = None, token: str | None = ADMIN) -> tuple[int, Any]:
        """Send one request; return its status and the JSON of the response."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Content-Type": kind} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        context = self.authority.client_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            response = answer.read()
            return answer.status, json.loads(response) if response.startswith(b"{") else response

    def create(self, value: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """Create an object unchanged; a key that the API does not know fails. ``dry`` only checks it."""
        path = _PATHS[value["kind"]].format(value["metadata"].get("namespace", ""))
        more = "&dryRun=All" if dry else ""
        status, response = self.request("POST", f"{path}?fieldValidation=Strict{more}", value)
        assert status == 201, response
        assert isinstance(response, dict)
        return response

    def token_of(self, namespace: str, account: str) -> str:
        """Return a token of a service account, as its pods have."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        status, response = self.request("POST", path, {"spec": {"expirationSeconds": 600}})
        assert status == 201, response
        return str(response["status"]["token"])

    def compact(self) -> None:
        """Compact etcd through its JSON gateway, as the API server does every few minutes."""
        status, response = self.request("GET", "/api/v1/namespaces?limit=1")
        assert status == 200, response
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=60)
        with contextlib.closing(connection):
            wanted = {"revision": response["metadata"]["resourceVersion"], "physical": True}
            connection.request("POST", "/v3/kv/compaction", json.dumps(wanted))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()

    def _etcd(self, folder: Path, peers: int) -> list[str]:
        clients, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peers}"
        command = ["--data-dir", str(folder / "data"), "--unsafe-no-fsync", "--log-level", "warn"]
        command += ["--listen-client-urls", clients, "--advertise-client-urls", clients]
        return [*command, "--listen-peer-urls", peer]

    def _apiserver(self, folder: Path) -> list[str]:
        certificate, key = self.authority.write_server_files(folder)
        signing = folder / "service-accounts.key"
        signing.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        (folder / "tokens.csv").write_text(f'{ADMIN},admin,1,"system:masters"\n')
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": "127.0.0.1",
            "secure-port": self.port,
            "tls-cert-file": certificate,
            "tls-private-key-file": key,
            "token-auth-file": folder / "tokens.csv",
            "service-account-issuer": "https://cluster.test",
            "service-account-key-file": signing,
            "service-account-signing-key-file": signing,
            "service-cluster-ip-range": "10.0.0.0/24",
            "authorization-mode": "RBAC",
            "disable-admission-plugins": "ServiceAccount",
        }
        return [*(f"--{name}={value}" for name, value in flags.items()), *self._flags]

    def _start(self, folder: Path, name: str, flags: list[str]) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((folder / f"{name}.log").open("wb"))
        command = [str(_BUILT / name), *flags]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._stack.callback(_end, process)
        return process

    def _wait(self, process: subprocess.Popen[bytes], log: Path, limit: float = 90.0) -> None:
        end = time.monotonic() + limit
        while True:
            with contextlib.suppress(OSError):
                if self.request("GET", "/readyz") == (200, b"ok"):
                    return
            output = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"kube-apiserver ended: {output}"
            assert time.monotonic() < end, f"kube-apiserver is not ready: {output}"
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    # No data is kept, so there is no need to end it gracefully.
    process.send_signal(signal.SIGKILL)
    process.wait()


def list_path(resource: str, namespace: str, **query: str) -> str:
    """Return the path of a list of EndpointSlices or pods."""
    group = "/apis/discovery.k8s.io/v1" if resource == "endpointslices" else "/api/v1"
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    return f"{group}/namespaces/{namespace}/{resource}" + (f"?{text}" if text else "")
