"""boto3 sessions for the engine on this machine, and errors of boto3 as errors with a code."""

from __future__ import annotations

from functools import cache
from typing import Final

import boto3
import botocore.session
from botocore import exceptions as aws
from botocore.config import Config

from syncline.cli.deploy import SESSION
from syncline.errors import SynclineError

# Without a proxy: the engine is on 127.0.0.1, whatever HTTP_PROXY says.
LOCAL_CONFIG: Final = Config(
    retries={"mode": "standard", "max_attempts": 2}, connect_timeout=2, read_timeout=20, proxies={}
)


@cache
def local_session() -> boto3.Session:
    """Return a session for the engine that ignores AWS_PROFILE: a profile that does not exist would be an error."""
    session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    return boto3.Session(**SESSION, botocore_session=session)


_DENIED_ERRORS: Final = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.NoAuthTokenError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.LoginError,
    aws.ProfileNotFound,
)
_SILENT_ERRORS: Final = (aws.ConnectionError, aws.HTTPClientError)
_DENIED_CODES: Final = {
    "AccessDenied", "AccessDeniedException", "AuthFailure", "ExpiredToken", "ExpiredTokenException",
    "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
    "MissingAuthenticationToken", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}  # fmt: skip
_NO_QUEUE: Final = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
_TABLE_CALLS: Final = {
    "BatchGetItem", "BatchWriteItem", "DeleteItem", "DescribeTable", "GetItem", "PutItem", "Query", "Scan",
    "TransactWriteItems", "UpdateItem",
}  # fmt: skip


def as_syncline_error(error: aws.BotoCoreError | aws.ClientError, where: str, *, local: bool) -> SynclineError:
    """Return an error of boto3 as an error with a code. ``where`` names the stack or the engine."""
    if isinstance(error, aws.ClientError):
        return _error_response(error, where)
    if isinstance(error, _DENIED_ERRORS):
        return SynclineError("AWS_DENIED", f"cannot access {where}: {_sentence(error)}")
    if isinstance(error, _SILENT_ERRORS):
        what = f"{where} does not answer: {_sentence(error)}"
        return SynclineError("ENGINE_ABSENT" if local else "AWS_UNAVAILABLE", what)
    if isinstance(error, aws.NoRegionError):
        return SynclineError("AWS_UNAVAILABLE", f"{where} cannot be found: no region is set; set AWS_DEFAULT_REGION")
    return SynclineError("AWS_UNAVAILABLE", f"cannot access {where}: {_sentence(error)}")


def _error_response(error: aws.ClientError, where: str) -> SynclineError:
    """Return an error response of AWS with our code for it and AWS's message."""
    code = error.response.get("Error", {}).get("Code", "")
    words = error.response.get("Error", {}).get("Message", "") or "no reason given"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    what = f"{where} refuses {error.operation_name} ({code}): {words}"
    if code in _DENIED_CODES or status in (401, 403):
        return SynclineError("AWS_DENIED", what)
    if code in _NO_QUEUE:
        return SynclineError("QUEUE_ABSENT", f"a queue of {where} does not exist ({error.operation_name})")
    if code == "ResourceNotFoundException" and error.operation_name in _TABLE_CALLS:
        return SynclineError("TABLE_ABSENT", f"the table of {where} does not exist ({error.operation_name})")
    if code == "ResourceNotFoundException":
        return SynclineError("ENGINE_ABSENT", what)
    return SynclineError("AWS_UNAVAILABLE", what)


def _sentence(error: Exception) -> str:
    """Return the message of an error on one line without the final dot."""
    return " ".join(str(error).split()).rstrip(".")
