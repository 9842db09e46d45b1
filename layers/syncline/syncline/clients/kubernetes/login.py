"""Logins to a Kubernetes API: in-cluster service account, kubeconfig, and bearer token (OpenShift, EKS).

The kubernetes package is imported on first use, here and in :mod:`syncline.clients.kubernetes.client` only. It is slow
to import, and on Lambda only the layer of the function ``scrape`` has it, without classes for API groups and objects.

A token for EKS is ``k8s-aws-v1.`` followed by the URL of a signed ``GetCallerIdentity``, valid for a minute, in
base64url without padding. The cluster sends that request to identify the caller. Its name is a signed header, so a
token is invalid at any other cluster.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

from syncline.clients.http.addresses import redacted
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from kubernetes.client import Configuration

_importing: Final = threading.Lock()
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EKS_PREFIX: Final = "k8s-aws-v1."
_EKS_CLUSTER_HEADER: Final = "x-k8s-aws-id"
_EKS_LIFETIME: Final = 60  # seconds; clusters accept a token for at most 15 minutes


class ClusterLogin(Protocol):
    """The URL of a cluster's API and the credentials for it."""

    def configuration(self, *, renewed: bool) -> Configuration:
        """Return a configuration for the kubernetes package, with fresh credentials if ``renewed`` (after a 401).

        Raises CONFIG_INVALID for an unusable login, and the error of a secret that cannot be read.
        """
        ...


def client_package() -> ModuleType:
    """Import the package's client, in one thread at a time, since its modules import each other in cycles."""
    with _importing:
        import kubernetes.client  # noqa: PLC0415 - slow to import
        import kubernetes.config  # noqa: PLC0415

        return kubernetes.client


def _plain() -> Configuration:
    configuration: Configuration = client_package().Configuration()
    # The caller retries, and a proxy from the environment must not be used for a cluster's API.
    configuration.retries = 0
    configuration.proxy = None
    configuration.no_proxy = "*"
    return configuration


@dataclass(frozen=True, slots=True)
class InCluster:
    """The service account of the pod. Kubernetes renews the token file, so it is read each time."""

    folder: Path = SERVICE_ACCOUNT
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def configuration(self, *, renewed: bool) -> Configuration:  # noqa: ARG002 - the file is always current
        configuration = _plain()
        from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415
        from kubernetes.config.incluster_config import InClusterConfigLoader  # noqa: PLC0415

        loader = InClusterConfigLoader(  # type: ignore[no-untyped-call]
            token_filename=str(self.folder / "token"),
            cert_filename=str(self.folder / "ca.crt"),
            try_refresh_token=False,
            environ=self.environ,
        )
        try:
            loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            what = f"no service account to log in to the cluster ({error}); run in a pod, or set `auth` of the source"
            raise SynclineError("CONFIG_INVALID", what) from None
        return configuration


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A kubeconfig as text, and one of its contexts, None for the current one.

    A kubeconfig that names programs to run (``exec``, ``auth-provider``) is refused, since it is untrusted input.
    """

    text: Callable[[], str]
    context: str | None = None

    def configuration(self, *, renewed: bool) -> Configuration:  # noqa: ARG002 - the text is read each time
        configuration = _plain()
        import yaml  # noqa: PLC0415 - comes with the kubernetes package
        from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415
        from kubernetes.config.kube_config import load_kube_config_from_dict  # noqa: PLC0415

        try:
            content = yaml.safe_load(self.text())
        except (yaml.YAMLError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise SynclineError("CONFIG_INVALID", "the kubeconfig is not a YAML mapping")
        _refuse_programs(content)
        try:
            load_kube_config_from_dict(  # type: ignore[no-untyped-call]
                content, context=self.context, client_configuration=configuration
            )
        except (ConfigException, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            # The message may quote the file, which contains keys.
            raise SynclineError(
                "CONFIG_INVALID",
                f"the kubeconfig is invalid ({type(error).__name__}); check its current context, cluster and user",
            ) from None
        return configuration


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A bearer token: a service account's, or the output of ``oc whoami --show-token`` on OpenShift.

    ``token`` returns it, fetched anew when called with True. ``ca`` is PEM text, None for the system's roots.
    """

    server: str
    token: Callable[[bool], str]
    ca: str | None = None

    def configuration(self, *, renewed: bool) -> Configuration:
        if not self.server.startswith("https://"):
            raise SynclineError("CONFIG_INVALID", f"{redacted(self.server)!r} is not an https URL of a cluster's API")
        configuration = _plain()
        configuration.host = self.server
        configuration.ca_cert_data = self.ca
        configuration.api_key = {"BearerToken": f"Bearer {self.token(renewed)}"}
        return configuration


def eks_token(cluster: str, region: str, credentials: Credentials | None) -> str:
    """Return a token for the EKS cluster ``cluster``. Raises AWS_DENIED without credentials."""
    from botocore.hooks import HierarchicalEmitter  # noqa: PLC0415 - only for clusters on EKS
    from botocore.model import ServiceId  # noqa: PLC0415
    from botocore.signers import RequestSigner  # noqa: PLC0415

    if credentials is None:
        raise SynclineError("AWS_DENIED", f"no AWS credentials to log in to the EKS cluster {cluster}")
    events = HierarchicalEmitter()  # the signer only keeps a weak reference
    signer = RequestSigner(ServiceId("STS"), region, "sts", "v4", credentials, events)
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    request = {
        "method": "GET",
        "url": f"https://sts.{region}.{domain}/?Action=GetCallerIdentity&Version=2011-06-15",
        "body": {},
        "headers": {_EKS_CLUSTER_HEADER: cluster},
        "context": {},
    }
    url = signer.generate_presigned_url(request, operation_name="", region_name=region, expires_in=_EKS_LIFETIME)
    return _EKS_PREFIX + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")


def _refuse_programs(content: Mapping[str, Any]) -> None:
    users = content.get("users")
    for entry in users if isinstance(users, list) else ():
        user = entry.get("user") if isinstance(entry, dict) else None
        programs = {"exec", "auth-provider"} & set(user if isinstance(user, dict) else ())
        if programs:
            what = f"the kubeconfig has a user with {programs.pop()!r}, which runs a program; use a token or a key"
            raise SynclineError("CONFIG_INVALID", what)
