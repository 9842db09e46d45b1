"""Logins to a Kubernetes API: in-cluster service account, kubeconfig, and bearer token (OpenShift, EKS).

The kubernetes package is imported on first use, here and in :mod:`syncline.clients.kubernetes.client` only. It is slow
to import, and on Lambda only the layer of the function ``scrape`` has it, without classes for API groups and objects.
"""

from __future__ import annotations

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
    from kubernetes.client import Configuration

_importing: Final = threading.Lock()
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


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


def _refuse_programs(content: Mapping[str, Any]) -> None:
    users = content.get("users")
    for entry in users if isinstance(users, list) else ():
        user = entry.get("user") if isinstance(entry, dict) else None
        programs = {"exec", "auth-provider"} & set(user if isinstance(user, dict) else ())
        if programs:
            what = f"the kubeconfig has a user with {programs.pop()!r}, which runs a program; use a token or a key"
            raise SynclineError("CONFIG_INVALID", what)
