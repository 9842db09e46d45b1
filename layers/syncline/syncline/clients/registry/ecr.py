"""Amazon ECR: tokens for a private registry, and repositories, which do not come into being by a push.

GetAuthorizationToken returns a password for Basic authentication, valid for 12 hours. An expired one is answered 403 and
not 401, so it is renewed in time. boto3 is imported on use: only syncs with ECR need it.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from syncline.clients.registry.auth import RegistryCredentials
from syncline.errors import CodeName, SynclineError
from syncline.secrets import register

_HOST: Final = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)"
)
RENEWED_AFTER: Final = 6 * 3600.0
"""Seconds after which a token is renewed, half of its life."""
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "UnrecognizedClientException"})
_EXISTS: Final = "RepositoryAlreadyExistsException"


class Ecr:
    """A private registry of ECR. Safe for concurrent use by threads.

    ``clock`` returns Unix seconds. Raises CONFIG_INVALID for a host that is not one of ECR.
    """

    def __init__(self, host: str, clock: Callable[[], float] = time.time) -> None:
        match = _HOST.fullmatch(host)
        if match is None:
            what = f"{host} is not a private registry of ECR, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"
            raise SynclineError("CONFIG_INVALID", what)
        self.host = host
        self._account, self._region = match["account"], match["region"]
        self._clock = clock
        self._client: Any = None
        self._credentials: RegistryCredentials | None = None
        self._lock = threading.Lock()

    def credentials(self, *, renew: bool = False) -> RegistryCredentials:
        """Return the credentials, for half of their life the same ones. Raises AWS_DENIED, AWS_UNAVAILABLE or REFUSED."""
        with self._lock:
            known = self._credentials
            if known is None or renew or self._clock() >= known.renewed_at:
                known = self._credentials = self._token()
            return known

    def create_repository(self, name: str) -> None:
        """Create a repository, unless it exists. Raises AWS_DENIED, AWS_UNAVAILABLE or REFUSED."""
        self._call("create_repository", registryId=self._account, repositoryName=name)

    def _token(self) -> RegistryCredentials:
        answer = self._call("get_authorization_token", registryIds=[self._account])
        try:
            text = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode()
        except (KeyError, IndexError, TypeError, ValueError):
            raise SynclineError("BAD_ANSWER", f"ECR returned no token for {self.host}") from None
        name, _, password = text.partition(":")
        register(password)
        return RegistryCredentials(name, password, renewed_at=self._clock() + RENEWED_AFTER)

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        import boto3  # noqa: PLC0415 - see above
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            if self._client is None:
                self._client = boto3.client("ecr", region_name=self._region)
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except BotoCoreError as error:
            raise SynclineError("AWS_UNAVAILABLE", f"ECR {self.host}: {error}") from None
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == _EXISTS:
                return {}
            self._fail(operation, error.response)
        return answer

    def _fail(self, operation: str, response: Any) -> NoReturn:
        details = response.get("Error", {})
        name = str(details.get("Code", ""))
        code: CodeName = "AWS_DENIED" if name in _DENIED else "REFUSED"
        if "Throttl" in name or response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            code = "AWS_UNAVAILABLE"
        call = "".join(part.capitalize() for part in operation.split("_"))
        raise SynclineError(code, f"{call} at {self.host}: {name}: {details.get('Message', '')}")
