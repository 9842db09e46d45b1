"""Whether every reference of the syncs can be resolved, asked before anything is applied."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from syncline.config import Sync
from syncline.errors import SynclineError
from syncline.secrets import Reference, references_in

if TYPE_CHECKING:
    from syncline.cli.target import Target

_UNSURE: Final = ("SECRET_DENIED", "AWS_DENIED")
_PARAMETERS: Final = "/syncline/"
"""Below this the functions may read parameters; the template says so."""


@dataclass(frozen=True, slots=True)
class SecretProblem:
    """A reference that leads nowhere, and where it stands."""

    sync: str
    path: str
    reference: str
    message: str

    def text(self) -> str:
        return f"{self.sync}.{self.path}: {self.message}"


class SecretsWrong(SynclineError):  # noqa: N818 - named as what it tells
    """All references that lead nowhere, under the code of the first."""

    def __init__(self, code: str, problems: Iterable[SecretProblem]) -> None:
        self.problems = list(problems)
        super().__init__(code, "\n".join(problem.text() for problem in self.problems))


def check_secrets(target: Target, syncs: Iterable[Sync]) -> list[str]:
    """Raises SecretsWrong naming every reference the functions could not resolve; returns warnings.

    A warning stands where it cannot be told from here: this person may not read what the functions may.
    """
    places = [(sync.name, path, reference) for sync in syncs for path, reference in references_in(sync)]
    found = {reference: _check(target, reference) for reference in {each for _, _, each in places}}
    wrong = {reference: error for reference, error in found.items() if isinstance(error, SynclineError)}
    if wrong:
        problems = [
            SecretProblem(name, path, str(reference), wrong[reference].what)
            for name, path, reference in places
            if reference in wrong
        ]
        first = next(wrong[reference] for _, _, reference in places if reference in wrong)
        raise SecretsWrong(first.code.name, problems)
    return sorted(warning for warning in found.values() if isinstance(warning, str))


def missing_secrets(target: Target, syncs: Iterable[Sync]) -> list[str]:
    """What :func:`check_secrets` finds, all of it as warnings."""
    try:
        return check_secrets(target, syncs)
    except SecretsWrong as error:
        return [problem.text() for problem in error.problems]


def _check(target: Target, reference: Reference) -> SynclineError | str | None:
    """What is wrong with a reference: an error, a warning, or None."""
    if not target.local and (refused := _outside(reference, target.parameters)):
        return SynclineError("SECRET_DENIED", refused)
    if reference.scheme == "env":
        return _check_variable(target, reference)
    try:
        target.secrets.resolve(reference)
    except SynclineError as error:
        if error.code.name in _UNSURE:
            return f"{reference} could not be checked: you may not read it ({error.code.name}); the functions may"
        return error
    return None


def _outside(reference: Reference, parameters: Mapping[str, str]) -> str | None:
    """Why the functions' role could not read a reference, by its name."""
    prefix = parameters.get("SecretPrefix", "")
    if reference.scheme == "secret" and not reference.name.startswith(prefix):
        return f"{reference} may not be read by the functions: the stack's SecretPrefix is {prefix}"
    if reference.scheme == "ssm" and not reference.name.startswith(_PARAMETERS):
        return f"{reference} may not be read by the functions: they read parameters below {_PARAMETERS}"
    return None


def _check_variable(target: Target, reference: Reference) -> SynclineError | str | None:
    environ = target.environ
    here = os.environ.get(reference.name)
    if environ is None:
        return f"{reference} could not be checked: you may not read the functions' configuration"
    there = environ.get(reference.name)
    if there:
        # The engine's functions have the environment of `syncline up`, however long ago that was.
        if target.local and here is not None and here != there:
            return f"{reference} is set otherwise here than when the engine was started; {_RESTART} to use this value"
        return None
    if not target.local:
        what = f"{reference} is not in the functions' environment; add it to template.yaml, or use secret: or ssm:"
    elif here:
        what = f"{reference} is set here, but was not when the engine was started; {_RESTART}"
    else:
        what = f"{reference} is not set; set it, then {_RESTART}"
    return SynclineError("SECRET_MISSING", what)


_RESTART: Final = "`syncline down` and `syncline up` in this shell"
