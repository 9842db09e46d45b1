"""What goes wrong between the command and AWS, or the local engine, as errors with a code.

Imports botocore, so it is itself imported only once boto3 is.
"""

from __future__ import annotations

from typing import Final

from botocore import exceptions as aws

from syncline.errors import SynclineError

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
_DENIED_CODES: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_GONE_CODES: Final = frozenset(
    {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "ResourceNotFoundException"}
)


def as_syncline_error(error: aws.BotoCoreError | aws.ClientError, where: str, *, local: bool) -> SynclineError:
    """An error of boto's with its code. ``where`` names the stack or the engine that was asked."""
    if isinstance(error, aws.ClientError):
        return _refused(error, where)
    if isinstance(error, _DENIED_ERRORS):
        return SynclineError("AWS_DENIED", f"{where} cannot be asked: {_sentence(error)}")
    if isinstance(error, _SILENT_ERRORS):
        what = f"{where} does not answer: {_sentence(error)}"
        return SynclineError("ENGINE_ABSENT" if local else "AWS_UNAVAILABLE", what)
    if isinstance(error, aws.NoRegionError):
        return SynclineError("AWS_UNAVAILABLE", f"{where} cannot be found: no region is set; set AWS_DEFAULT_REGION")
    return SynclineError("AWS_UNAVAILABLE", f"{where} cannot be asked: {_sentence(error)}")


def _refused(error: aws.ClientError, where: str) -> SynclineError:
    """An answer that is a refusal: its code decides, its words are passed on."""
    code = error.response.get("Error", {}).get("Code", "")
    words = error.response.get("Error", {}).get("Message", "") or "no reason given"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    what = f"{where} refuses {error.operation_name} ({code}): {words}"
    if code in _DENIED_CODES or status in (401, 403):
        return SynclineError("AWS_DENIED", what)
    if code in _GONE_CODES:
        return SynclineError("ENGINE_ABSENT", what)
    return SynclineError("AWS_UNAVAILABLE", what)


def _sentence(error: Exception) -> str:
    """The error's own words on one line, without the dot at their end."""
    return " ".join(str(error).split()).rstrip(".")
