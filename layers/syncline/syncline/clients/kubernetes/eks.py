"""The token with which an AWS identity logs in to an EKS cluster: a presigned call of STS that the cluster carries out.

``k8s-aws-v1.`` and, in base64url without padding, the URL of a signed ``GetCallerIdentity`` that lasts a minute. The
cluster's name is a signed header, so that a token for one cluster is worth nothing at another.
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
LIFETIME: Final = 60  # seconds; the cluster accepts it for 15 minutes at most, whatever stands here


def eks_token(cluster: str, region: str, credentials: Credentials | None) -> str:
    """A token for ``cluster``; AWS_DENIED where there are no credentials to sign it with."""
    if credentials is None:
        raise SynclineError("AWS_DENIED", f"there are no AWS credentials to log in to the EKS cluster {cluster} with")
    events = HierarchicalEmitter()  # the signer keeps no hold of it
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
