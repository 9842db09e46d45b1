"""How the command's own AWS clients reach the engine on this machine: nothing of a person's AWS set-up gets between."""

from __future__ import annotations

from functools import cache
from typing import Final

import boto3
import botocore.session
from botocore.config import Config

# Without a proxy: the engine is on 127.0.0.1, whatever HTTP_PROXY says.
LOCAL_CONFIG: Final = Config(
    retries={"mode": "standard", "max_attempts": 2}, connect_timeout=2, read_timeout=20, proxies={}
)


@cache
def local_session(**arguments: str) -> boto3.Session:
    """A session that knows nothing of a person's AWS profile: one that is missing would be an error."""
    return boto3.Session(
        **arguments, botocore_session=botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    )
