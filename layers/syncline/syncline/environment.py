"""Environment variables, read into frozen objects whose fields without a default are required.

A field ``discover_queue`` is the variable ``SYNCLINE_DISCOVER_QUEUE``. Variables of AWS and of Powertools are read by
their own libraries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Self

from syncline.errors import SynclineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The variables of every process. None is required: the command and the container have none.

    ``stack`` is the name of the stack, a dimension of all metrics. ``engine`` is the folder of the engine on one machine,
    which sets it for its functions.
    """

    stack: str = ""
    engine: str = ""

    @classmethod
    def variables(cls, *, required: bool = False) -> list[str]:
        """Return the names of all variables, or of the required ones."""
        return [_variable(each.name) for each in fields(cls) if not required or each.default is MISSING]

    @classmethod
    def read(cls, function: str = "", environ: Mapping[str, str] = os.environ) -> Self:
        """Return the environment of a function.

        Raises CONFIG_INVALID that names every required variable that is absent or empty.
        """
        missing = [name for name in cls.variables(required=True) if not environ.get(name)]
        if missing:
            where = f"Environment.Variables of {function.capitalize()}Function in template.yaml"
            raise SynclineError("CONFIG_INVALID", f"the function {function} lacks {', '.join(missing)}: set {where}")
        names = [each.name for each in fields(cls)]
        return cls(**{name: environ[_variable(name)] for name in names if _variable(name) in environ})


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionEnvironment(Environment):
    """The variables of every function. ``table`` is the name of the DynamoDB table."""

    table: str


def _variable(field: str) -> str:
    return f"SYNCLINE_{field.upper()}"
