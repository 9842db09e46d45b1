"""Static pages of the probe: its OpenAPI document, and Swagger UI from the files in the Powertools package.

Swagger UI is at ``/swagger-ui/index.html``, as in Syncer.
"""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

START: Final = "swagger-ui/index.html"
"""Location of the page, relative to ``/`` and ``/swagger-ui``."""
_FOLDER: Final = "/swagger-ui/"
_DOCUMENT: Final = Path(__file__).with_name("openapi.json")
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

StaticPage = tuple[str, bytes]
"""A content type, and a body compressed with gzip."""


@cache
def page(path: str) -> StaticPage | None:
    """Return the page at ``path``, None if there is none."""
    if path in ("/openapi.json", f"{_FOLDER}openapi.json"):
        return "application/json", _compressed(_DOCUMENT.read_bytes())
    name = path.removeprefix(_FOLDER)
    if name == path:
        return None
    if name in ("", "index.html"):
        return "text/html; charset=utf-8", _compressed(_PAGE.encode())
    if name == "start.js":
        return "text/javascript; charset=utf-8", _compressed(_START.encode())
    if name not in _FILES:
        return None
    return _FILES[name], _compressed((_folder() / name).read_bytes())


def _folder() -> Path:
    # Found without importing the package, which takes long.
    found = importlib.util.find_spec("aws_lambda_powertools")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "event_handler" / "openapi" / "swagger_ui"


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)
