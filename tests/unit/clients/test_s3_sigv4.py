"""Signatures, compared with those of botocore."""

from __future__ import annotations

import datetime as dt
from unittest import mock
from urllib.parse import quote

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.s3.sigv4 import EMPTY_SHA256, AccessKeys, Signer, SigningRequest

NOW = 1_790_000_000
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)


@given(
    key=TEXT,
    query=st.dictionaries(st.text("abc-", min_size=1), TEXT, max_size=3),
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    value=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
    token=st.none() | st.text("abc/+=", min_size=1),
)
def test_signatures_equal_those_of_botocore(
    key: str, query: dict[str, str], method: str, value: str, token: str | None
) -> None:
    path = f"/bucket/{quote(key, safe='/-._~')}"
    text = "&".join(f"{quote(name, safe='-._~')}={quote(query[name], safe='-._~')}" for name in sorted(query))
    headers = {"If-Match": value, "x-amz-meta-a": "b"}
    signer = Signer("eu-central-1", clock=lambda: NOW)
    asked = SigningRequest(method, "s3.example:9000", path, text)
    ours = signer.headers(AccessKeys("AKID", "secret", token), asked, headers, EMPTY_SHA256)

    request = AWSRequest(method, f"http://s3.example:9000{path}{'?' if text else ''}{text}", headers)
    time = dt.datetime.fromtimestamp(NOW, dt.UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=time.replace(tzinfo=None)):
        auth = botocore.auth.S3SigV4Auth(Credentials("AKID", "secret", token), "s3", "eu-central-1")
        auth.add_auth(request)
    # botocore may leave the body unsigned where ours is signed, so the checksum is compared too.
    assert request.headers["X-Amz-Content-SHA256"] == EMPTY_SHA256
    assert ours["Authorization"] == request.headers["Authorization"]


def test_secrets_do_not_show() -> None:
    assert "top-secret" not in repr(AccessKeys("AKID", "top-secret", "top-secret"))
