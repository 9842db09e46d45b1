"""Tokens for EKS clusters: a presigned STS request that the cluster sends to identify the caller.

A token is ``k8s-aws-v1.`` followed by the URL of a signed ``GetCallerIdentity``, valid for a minute, in base64url
without padding. The cluster's name is a signed header, so a token is invalid at any other cluster.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from botocore.hooks import HierarchicalEmitter
from botocore.model import ServiceId
from botocore.signers import RequestSigner

from syncline.errors import SynclineError

if TYPE_CHECKING:
    from botocore.credentials import Credentials

PREFIX: Final = "k8s-aws-v1."
CLUSTER_HEADER: Final = "x-k8s-aws-id"
LIFETIME: Final = 60  # seconds; clusters accept a token for at most 15 minutes


def eks_token(cluster: str, region: str, credentials: Credentials | None) -> str:
    """Return a token for ``cluster``. Raises AWS_DENIED without credentials."""
    if credentials is None:
        raise SynclineError("AWS_DENIED", f"no AWS credentials to log in to the EKS cluster {cluster}")
    events = HierarchicalEmitter()  # the signer only keeps a weak reference
    signer = RequestSigner(ServiceId("STS"), region, "sts", "v4", credentials, events)
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    request = {
        "method": "GET",
        "url": f"https://sts.{region}.{domain}/?Action=GetCallerIdentity&Version=2011-06-15",
        "body": {},
        "headers": {CLUSTER_HEADER: cluster},
        "context": {},
    }
    url = signer.generate_presigned_url(request, operation_name="", region_name=region, expires_in=LIFETIME)
    return PREFIX + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
