"""Archives from before Docker 1.10, which have no configs: they are made as `docker load` made them.

Each layer has a folder with its ``json``, which names its ``parent``; ``repositories`` names the uppermost layer of
each tag. The config is the uppermost layer's ``json`` without what was about layers, and with ``rootfs`` and
``history`` in their place; as Go writes JSON: keys of maps sorted, no spaces, ``<``, ``>`` and ``&`` escaped.
https://github.com/moby/moby/blob/v20.10.24/image/tarexport/load.go (legacyLoadImage) and image/v1/imagev1.go
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.kinds.artifacts.archive.feed import invalid

_DROPPED: Final = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")
_DEEPEST: Final = 1000
_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True)
class LegacyImage:
    """``config`` is the uppermost layer's JSON with its history; :func:`with_layers` adds what the layers hold."""

    names: tuple[str, ...]
    config: bytes
    layers: tuple[str, ...]


def legacy_images(name: str, texts: Mapping[str, bytes], files: frozenset[str]) -> list[LegacyImage]:
    """The images of a ``repositories`` file. Raises ARCHIVE_INVALID."""
    names: dict[str, list[str]] = {}
    for repository, tags in json.loads(texts["repositories"]).items():
        for tag, top in tags.items():
            names.setdefault(str(top), []).append(f"{repository}:{tag}")
    return [_image(name, texts, files, top, tuple(sorted(tags))) for top, tags in names.items()]


def _image(
    name: str, texts: Mapping[str, bytes], files: frozenset[str], top: str, names: tuple[str, ...]
) -> LegacyImage:
    chain: list[str] = []
    history: list[dict[str, Any]] = []
    layer: str | None = top
    while layer:
        if layer in chain or len(chain) > _DEEPEST:
            raise invalid(f"{name}: a layer is its own parent")
        if f"{layer}/json" not in texts or f"{layer}/layer.tar" not in files:
            raise invalid(f"{name} names the layer {layer[:80]!r} and does not have it")
        about = json.loads(texts[f"{layer}/json"])
        chain.append(layer)
        history.append(_history(about))
        layer = about.get("parent")
    config = {key: value for key, value in json.loads(texts[f"{top}/json"]).items() if key not in _DROPPED}
    config["history"] = history[::-1]
    return LegacyImage(names, _go_json(config), tuple(f"{layer}/layer.tar" for layer in reversed(chain)))


def with_layers(config: bytes, diff_ids: Sequence[str]) -> bytes:
    """The whole config, once it is known what the layers hold."""
    return _go_json({**json.loads(config), "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}})


def _history(about: Mapping[str, Any]) -> dict[str, Any]:
    """What Docker keeps of how a layer was made; the order of the fields is its own, and empty ones are left out."""
    command = (about.get("container_config") or {}).get("Cmd") or []
    fields = {
        "created": about.get("created", "0001-01-01T00:00:00Z"),
        "author": about.get("author"),
        "created_by": " ".join(command),
        "comment": about.get("comment"),
    }
    return {key: value for key, value in fields.items() if value}


def _go_json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(dict(sorted(value.items())), separators=(",", ":"), ensure_ascii=False)
    return "".join(_ESCAPES.get(character, character) for character in text).encode("utf-8", "surrogatepass")
