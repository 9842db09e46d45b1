"""The registry of planted faults: defects that are patched into the product, one at a time, to test the simulation.

A planted fault breaks one rule of the product: it drops a condition, skips a call, or trusts an answer. The simulation
must find each. A planted fault that no seed finds shows a gap in the simulation.

The modules of this package each define the faults of one kind. A fault is searched for in the worlds that
``@planted_fault(worlds=...)`` names, or else in those of the constant ``WORLDS`` of its module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, overload
from unittest.mock import patch

Function = Callable[[], Iterator[None]]
PlantedFault = Callable[[], AbstractContextManager[None]]
"""Returns a context manager: the product has the fault while the block runs."""
PLANTED_FAULTS: Final[dict[str, PlantedFault]] = {}
WORLDS_OF: Final[dict[str, tuple[str, ...]]] = {}
"""The worlds in which each planted fault is searched for."""


@overload
def planted_fault(function: Function) -> Function: ...
@overload
def planted_fault(*, worlds: tuple[str, ...]) -> Callable[[Function], Function]: ...
def planted_fault(
    function: Function | None = None, *, worlds: tuple[str, ...] = ()
) -> Function | Callable[[Function], Function]:
    """Register a planted fault under the name of its function. The decorator works with and without arguments."""

    def register(planted: Function) -> Function:
        PLANTED_FAULTS[planted.__name__] = contextmanager(planted)
        WORLDS_OF[planted.__name__] = worlds or planted.__globals__["WORLDS"]
        return planted

    return register if function is None else register(function)


def all_planted_faults() -> Mapping[str, PlantedFault]:
    """Import all modules of this package, and return the planted faults by name."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        import_module(f"{__package__}.{path.stem}")
    return PLANTED_FAULTS


def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Any:
    """Return a patch that replaces an attribute by ``wrap(attribute)``."""
    return patch.object(owner, name, wrap(getattr(owner, name)))
