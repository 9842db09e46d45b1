"""The fields of Kubernetes objects that a normalization drops: their defaults, and the parser of their paths."""

from __future__ import annotations

import re
from typing import Final

Path = tuple[str, ...]

DEFAULT_FIELDS: Final = (
    "status",
    "metadata.managedFields",
    "metadata.resourceVersion",
    "metadata.generation",
    "metadata.selfLink",
    "metadata.annotations[control-plane.alpha.kubernetes.io/leader]",
    "metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]",
    "metadata.annotations[autoscaling.alpha.kubernetes.io/conditions]",
    "metadata.annotations[autoscaling.alpha.kubernetes.io/current-metrics]",
    "Lease/spec.acquireTime",
    "Lease/spec.renewTime",
)
"""Fields that the cluster itself writes again and again, or that only describe such a write."""
_FIELD: Final = re.compile(r"(?:([A-Z][A-Za-z0-9]*)/)?([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*|\[[^\[\]\s]+\])*)")
_STEP: Final = re.compile(r"\[([^\[\]]+)\]|([^.\[\]]+)")
_NEEDED: Final = frozenset(
    {(), ("apiVersion",), ("kind",), ("metadata",), ("metadata", "name"), ("metadata", "namespace")}
)


def parse_field(text: str) -> tuple[str, Path]:
    """Return the kind, "" for all kinds, and the path of a field such as ``Lease/spec.renewTime``.

    Raises ValueError for other text, and for a field without which an object is none.
    """
    found = _FIELD.fullmatch(text)
    if found is None:
        raise ValueError(
            "is not a field; write a path such as metadata.managedFields, metadata.annotations[example.com/key], or "
            "Lease/spec.renewTime for one kind"
        )
    path = tuple(step[1] or step[2] for step in _STEP.finditer(found[2]))
    if path in _NEEDED:
        raise ValueError("cannot be dropped: without it, the object cannot be applied again")
    return found[1] or "", path
