"""Static files of the status page. Their addresses contain a digest of the content, so that browsers may keep them."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from syncline.web.function_url import HttpResponse

_FOLDER: Final = Path(__file__).with_name("static")
_TYPES: Final = {
    "status.css": "text/css; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_KEPT: Final = "public, max-age=31536000, immutable"


@cache
def _content(name: str) -> tuple[bytes, str]:
    """Return a file, compressed, and the digest of its content."""
    content = (_FOLDER / name).read_bytes()
    return gzip.compress(content, 9, mtime=0), hashlib.sha256(content).hexdigest()[:12]


def asset_path(name: str) -> str:
    """Return the path of a file, relative to the root of the page."""
    return f"static/{_content(name)[1]}/{name}"


def asset(path: str) -> HttpResponse | None:
    """Return the file at a path, None if there is none. That of another version is served, but not kept."""
    _, _, rest = path.partition("/static/")
    digest, _, name = rest.partition("/")
    if name not in _TYPES:
        return None
    body, current = _content(name)
    headers = {"content-type": _TYPES[name], "cache-control": _KEPT if digest == current else "no-store"}
    return HttpResponse(200, body, headers | {"x-content-type-options": "nosniff"}, is_gzip=True)
