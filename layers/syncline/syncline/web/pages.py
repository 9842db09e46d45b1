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
_TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "openapi.json": "application/json",
    "start.js": "text/javascript; charset=utf-8",
    "swagger-ui.min.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.min.js": "text/javascript; charset=utf-8",
}

StaticPage = tuple[str, bytes]
"""A content type, and a body compressed with gzip."""


@cache
def page(path: str) -> StaticPage | None:
    """Return the page at ``path``, None if there is none."""
    if path == "/openapi.json":
        path = f"{_FOLDER}openapi.json"
    name = path.removeprefix(_FOLDER) or "index.html"
    if not path.startswith(_FOLDER) or name not in _TYPES:
        return None
    folder = _swagger_ui() if name.startswith("swagger-ui") else Path(__file__).with_name("static")
    return _TYPES[name], gzip.compress((folder / name).read_bytes(), 6, mtime=0)


def _swagger_ui() -> Path:
    # Found without importing the package, which takes long.
    found = importlib.util.find_spec("aws_lambda_powertools")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "event_handler" / "openapi" / "swagger_ui"
