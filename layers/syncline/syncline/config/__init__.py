"""``syncs.yaml`` as typed, checked models: one module for each kind, loaded when a sync of that kind is.

The functions load what ``syncline apply`` stored, with :func:`load_sync`; reading the file itself, with line numbers
in every message, is :mod:`syncline.config.file`'s.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import import_module
from typing import Final

from pydantic import ValidationError

from syncline.config.base import BaseSync as Sync
from syncline.config.values import STORED
from syncline.errors import SynclineError

__all__ = ["KINDS", "Sync", "load_sync", "model_of"]

KINDS: Final[dict[str, str]] = {
    "images": "ImagesSync",
    "files": "FilesSync",
    "backups": "BackupsSync",
    "artifacts": "ArtifactsSync",
    "tokens": "TokensSync",
}
"""Each kind, and the name of its model in the module named like the kind."""


def model_of(kind: str) -> type[Sync]:
    """The model of a kind's syncs; raises KeyError where there is no such kind."""
    name = KINDS[kind]
    model: type[Sync] = getattr(import_module(f"syncline.config.{kind}"), name)
    return model


@lru_cache(maxsize=64)  # a warm function reads the same few with every message
def load_sync(text: str | bytes) -> Sync:
    """A sync from its JSON (``sync.model_dump_json()``).

    Raises SynclineError CONFIG_INVALID where this version does not understand it.
    """
    try:
        return model_of(json.loads(text)["kind"]).model_validate_json(text, context=STORED)
    except ValidationError as error:
        fields = {".".join(map(str, details["loc"])) for details in error.errors(include_input=False)}
        where = f" ({', '.join(sorted(fields))})"
    except (ValueError, KeyError, TypeError):
        where = ""
    raise SynclineError("CONFIG_INVALID", f"a stored sync is not understood{where}; run `syncline apply` again")
