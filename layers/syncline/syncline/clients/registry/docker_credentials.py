"""Credentials from Docker: ``~/.docker/config.json``, or the one in ``DOCKER_CONFIG``, and credential helpers.

The ``docker`` SDK reads the file and runs the credential helpers. It takes 0.1 s to import, so it is imported on use.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from syncline.clients.registry.auth import RegistryCredentials
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from docker.auth import AuthConfig


def credentials_for(host: str) -> RegistryCredentials | None:
    """Return the credentials that Docker has for the registry ``host``, None if it has none.

    Raises CONFIG_INVALID if the file cannot be read, SECRET_MISSING if a credential helper fails.
    """
    # Docker stores the public registry under another name than its host.
    from docker.auth import INDEX_NAME  # noqa: PLC0415 - slow, see above
    from docker.errors import DockerException  # noqa: PLC0415

    config = _config()
    if config is None:
        return None
    name = INDEX_NAME if host == INDEX_NAME or host.endswith(f".{INDEX_NAME}") else host
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a missing helper is an error below
            found = config.resolve_authconfig(name)
    except (DockerException, ValueError, KeyError) as error:
        helper = config.get_credential_store(name)
        raise SynclineError(
            "SECRET_MISSING",
            f"docker-credential-{helper} returned no credentials for {host}; run `docker login {host}`",
        ) from error
    # The SDK returns lower case keys from the file, capitalized ones from a helper.
    value = {key.lower(): text for key, text in (found or {}).items()}
    if value.get("identitytoken"):
        return RegistryCredentials(identity_token=value["identitytoken"])
    return RegistryCredentials(value["username"], value.get("password") or "") if value.get("username") else None


def _config() -> AuthConfig | None:
    from docker.auth import load_config  # noqa: PLC0415 - slow, see above
    from docker.errors import InvalidConfigFile  # noqa: PLC0415

    directory = os.environ.get("DOCKER_CONFIG")
    path = (Path(directory) if directory else Path.home() / ".docker") / "config.json"
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError  # noqa: TRY301, TRY004 - reported below
        # Without these keys, the SDK would read other settings as credentials.
        known = {key: value[key] for key in ("auths", "credsStore", "credHelpers") if value.get(key)}
        return load_config(config_dict=known) if known else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, InvalidConfigFile) as error:
        raise SynclineError("CONFIG_INVALID", f"{path} is not a valid Docker configuration") from error
