"""The page on which the contract can be tried: Swagger UI from the files that Powertools brings, from nowhere else.

It is where Syncer has it: at ``/swagger-ui/index.html``, with its files beside it.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Final

from syncline.web.openapi import document

START: Final = "swagger-ui/index.html"
"""Where the page is, from ``/`` and ``/swagger-ui``."""
_PLACE: Final = "/swagger-ui/"
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Syncline: tokens</title>
<link rel="stylesheet" href="swagger-ui.min.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="swagger-ui-bundle.min.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_START: Final = """window.ui = SwaggerUIBundle({
  url: "../openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true, validatorUrl: null
});
"""
_FILES: Final = {
    "swagger-ui.min.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.min.js": "text/javascript; charset=utf-8",
}

Page = tuple[str, bytes]
"""A content type, and a body compressed with gzip."""


@cache
def page(path: str) -> Page | None:
    """What is shown at ``path``; None for a path that has no page."""
    if path in ("/openapi.json", f"{_PLACE}openapi.json"):
        return "application/json", _packed(json.dumps(document()).encode())
    name = path.removeprefix(_PLACE)
    if name == path:
        return None
    if name in ("", "index.html"):
        return "text/html; charset=utf-8", _packed(_PAGE.encode())
    if name == "start.js":
        return "text/javascript; charset=utf-8", _packed(_START.encode())
    if name not in _FILES:
        return None
    return _FILES[name], _packed((_folder() / name).read_bytes())


def _folder() -> Path:
    # Found without being imported: the module it lies beside takes long to load.
    found = importlib.util.find_spec("aws_lambda_powertools")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "event_handler" / "openapi" / "swagger_ui"


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)
