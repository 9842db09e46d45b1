"""Requests to one bucket of an S3-compatible service: their addresses, signatures and errors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.limits import Body
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.s3 import xml
from syncline.clients.s3.head import WriteCondition
from syncline.clients.s3.sigv4 import EMPTY_SHA256, AccessKeys, Signer, SigningRequest
from syncline.clients.s3.xml import NotXmlError
from syncline.errors import CodeName, SynclineError

_SAFE: Final = "-._~"
_DOTS: Final = (".", "..")
_CODES: Final[Mapping[str, CodeName]] = {
    "NoSuchBucket": "BUCKET_ABSENT",
    "NoSuchKey": "NOT_FOUND",
    "NoSuchVersion": "NOT_FOUND",
    "InvalidObjectState": "OBJECT_ARCHIVED",
    "QuotaExceeded": "TARGET_FULL",
    "XMinioAdminBucketQuotaExceeded": "TARGET_FULL",
    "XMinioStorageFull": "TARGET_FULL",
    "NoSuchUpload": "UPLOAD_LOST",
    "PreconditionFailed": "SOURCE_CHANGED",
    "ConditionalRequestConflict": "SERVER_ERROR",
    "OperationAborted": "SERVER_ERROR",
    "SignatureDoesNotMatch": "UNAUTHORIZED",
    "InvalidAccessKeyId": "UNAUTHORIZED",
    "ExpiredToken": "UNAUTHORIZED",
    "InvalidToken": "UNAUTHORIZED",
    "RequestTimeTooSkewed": "UNAUTHORIZED",
    "EntityTooLarge": "TOO_LARGE",
    "IncompleteBody": "SERVER_ERROR",
    "RequestTimeout": "SERVER_ERROR",
    "InternalError": "SERVER_ERROR",
    "SlowDown": "THROTTLED",
    "BadDigest": "BAD_ANSWER",
    "XAmzContentSHA256Mismatch": "BAD_ANSWER",
    "XAmzContentChecksumMismatch": "BAD_ANSWER",
}
"""Our code for each error code of the protocol that is more specific than the HTTP status it comes with."""


class BucketRequests:
    """Sends signed requests to one bucket. Safe for concurrent use by threads. The parameters are those of :class:`syncline.clients.s3.client.Bucket`."""

    def __init__(  # noqa: PLR0913, PLR0917 - each is a property of the bucket
        self,
        endpoint: Endpoint,
        bucket: str,
        keys: Callable[[], AccessKeys | None],
        http: Http,
        region: str,
        path_style: bool,  # noqa: FBT001 - as above
        renewed: Callable[[], AccessKeys | None],
    ) -> None:
        self._endpoint = endpoint
        self._bucket = bucket
        self._host = endpoint.host if path_style else f"{bucket}.{endpoint.host}"
        self._root = f"/{quote_all(bucket)}" if path_style else ""
        self._keys = keys
        self._renewed = renewed
        self._http = http
        self._signer = Signer(region)

    def __str__(self) -> str:
        return f"{self._endpoint.host}/{self._bucket}"

    def request(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        condition: WriteCondition | None = None,
        is_long: bool = False,
    ) -> Response:
        """Send a request and return its answer of 200; raise the :meth:`error` of any other answer.

        An empty ``key`` addresses the bucket itself. ``is_long`` is for work that takes the service minutes: it sends a
        space now and then until the work is done, so the response has no minimum rate.
        """
        if condition is not None:
            headers = {**(headers or {}), **condition.headers}
        response = self.send(method, key, query, headers, body, is_long=is_long)
        if response.status != 200:
            raise self.error(response, condition)
        return response

    def send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        stream: bool = False,
        is_long: bool = False,
    ) -> Response:
        """Send a request and return its answer, whatever the status; raise UNAUTHORIZED if the keys are refused.

        If the service refuses the keys and there are new ones, the request is sent once more, signed with those.
        """
        path = f"{self._root}/{quote_key(key)}"
        text = "&".join(f"{quote_all(name)}={quote_all(value)}" for name, value in sorted((query or {}).items()))
        url = f"{self._endpoint.scheme}://{self._host}{_sent(path)}{'?' if text else ''}{text}"
        payload = EMPTY_SHA256 if body is None else hashlib.sha256(body).hexdigest()
        asked = SigningRequest(method, self._host, path, text)
        sent: Body = body if body is not None or method not in ("PUT", "POST") else b""

        def signed_by(who: AccessKeys | None) -> Response:
            signed = dict(headers or {})
            if who is not None:
                signed = self._signer.headers(who, asked, signed, payload)
            policy = replace(self._http.policy, min_rate=0) if is_long else None
            return self._http.request(
                method, url, signed, sent, route=self._endpoint.route, stream=stream, retry=policy
            )

        return REJECTIONS.send(self._host, self._keys(), self._renewed, signed_by, self._refusal, self._accepts)

    def _accepts(self, keys: AccessKeys | None) -> bool:
        """Return True if the service accepts the keys, independent of any object."""
        asked = SigningRequest("GET", self._host, f"{self._root}/", "list-type=2&max-keys=0")
        headers = {} if keys is None else self._signer.headers(keys, asked, {}, EMPTY_SHA256)
        url = f"{self._endpoint.scheme}://{self._host}{asked.path}?{asked.query}"
        return self._refusal(self._http.request("GET", url, headers, route=self._endpoint.route)) is None

    def _refusal(self, response: Response) -> SynclineError | None:
        """Return the failure of an answer that refuses the keys."""
        if response.status not in (400, 401, 403):
            return None
        error = self.error(response)
        return error if error.code.name == "UNAUTHORIZED" else None

    def error(self, response: Response, condition: WriteCondition | None = None) -> SynclineError:
        """Return the error for an answer that refuses a request with ``condition``.

        An error code in the body that is more specific than the status takes precedence.
        """
        error = response.error()
        code = xml.error_code(response.body)
        name = _CODES.get(code)
        if response.status == 412:
            name = _code_for("PreconditionFailed", condition)
        elif response.status == 404 and code in ("", "NoSuchKey"):
            name = _code_for("NoSuchKey", condition)
        elif name is None and response.status in (301, 307, 400) and response.header("x-amz-bucket-region"):
            what = f"the bucket {self} is in the region {response.header('x-amz-bucket-region')}"
            return SynclineError("REDIRECTED", what)
        return error if name is None else SynclineError(name, error.what, retry_after=error.retry_after)

    def etag_within(self, response: Response, root: str, condition: WriteCondition | None = None) -> str:
        """Return the ETag in the body of an answer of 200, an XML document named ``root``.

        CopyObject, UploadPartCopy and CompleteMultipartUpload can fail after the status was sent. The body is an error
        document then, and its error is raised.
        """
        try:
            etag = xml.parse(response.body, root).findtext("ETag")
        except NotXmlError as error:
            code = xml.error_code(response.body)
            if code:
                what = f"{response.method} of {self} failed after the status 200: {code}"
                raise SynclineError(_code_for(code, condition) or "SERVER_ERROR", what) from None
            raise response.protocol_error(str(error)) from None
        return (etag or "").strip('"')


@contextmanager
def read_xml(response: Response) -> Iterator[None]:
    """Convert a NotXmlError of the block, which reads the answer, to BAD_ANSWER."""
    try:
        yield
    except NotXmlError as error:
        raise response.protocol_error(str(error)) from None


def quote_all(text: str) -> str:
    """Return ``text`` percent-encoded as signatures require it: all but letters, digits and ``-._~``."""
    return quote(text, safe=_SAFE)


def quote_key(key: str) -> str:
    """Return ``key`` percent-encoded for a path: like :func:`quote_all`, with its slashes unchanged."""
    return quote(key, safe=f"/{_SAFE}")


def _sent(path: str) -> str:
    """Return an encoded path as it is sent: with its `.` and `..` encoded, which servers and proxies would resolve.

    They are signed as they are. A signature covers the key, and `.` needs no encoding there.
    """
    return "/".join(part.replace(".", "%2E") if part in _DOTS else part for part in path.split("/"))


def _code_for(code: str, condition: WriteCondition | None) -> CodeName | None:
    """Return our code for the service's in an answer to a request with ``condition``, None if there is no such code."""
    refused = code == "PreconditionFailed" and condition is not None
    gone = code == "NoSuchKey" and condition is not None and condition.etag is not None
    return "TARGET_CHANGED" if refused or gone else _CODES.get(code)
