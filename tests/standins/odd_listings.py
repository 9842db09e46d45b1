"""S3 listings with invalid entries: hooks for :class:`tests.standins.s3.S3Server`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tests.standins import s3_store
from tests.standins.s3 import Answer, Hook, S3Server

Change = Callable[[str], str]


def no_size(entry: str) -> str:
    return re.sub("<Size>.*?</Size>", "", entry)


def bad_size(entry: str) -> str:
    return re.sub("<Size>.*?</Size>", "<Size>some</Size>", entry)


def bad_time(entry: str) -> str:
    return re.sub("<LastModified>.*?</LastModified>", "<LastModified>never</LastModified>", entry)


def no_key(entry: str) -> str:
    return re.sub("<Key>.*?</Key>", "", entry)


def no_text(entry: str) -> str:
    """Return the entry with a key that is not UTF-8."""
    return re.sub("<Key>.*?</Key>", "<Key>a%FFb</Key>", entry)


def empty(_entry: str) -> str:
    return "<Contents/>"


def invalidating(server: S3Server, bucket: str, key: str, change: Change) -> Hook:
    """Return a hook after which listings of a bucket have an invalid entry in place of an object's."""

    def hook(method: str, asked: str, path: str, query: Mapping[str, str]) -> Answer | None:
        if method != "GET" or asked != bucket or path or "list-type" not in query:
            return None
        body = s3_store.listing(server.objects[bucket], bucket, query, 0.0, server.largest_page)
        assert body is not None
        pattern = rf"<Contents><Key>{re.escape(key)}</Key>.*?</Contents>"
        text = re.sub(pattern, lambda found: change(found[0]), body.decode())
        return 200, {"Content-Type": "application/xml"}, text.encode()

    return hook
