"""Whether every reference of the syncs can be resolved, asked before anything is applied."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from syncline.config.sync import Sync
from syncline.errors import CodeName, SynclineError
from syncline.secrets import Reference, references_in

if TYPE_CHECKING:
    from syncline.cli.target import Target

_UNSURE: Final[tuple[CodeName, ...]] = ("SECRET_DENIED", "AWS_DENIED")
_WEBHOOK: Final = "webhook.secret"
"""The path of the one reference that `receive` resolves, whose role may read no others."""


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

    def __init__(self, code: CodeName, problems: Iterable[SecretProblem]) -> None:
        self.problems = list(problems)
        super().__init__(code, "\n".join(problem.text() for problem in self.problems))


def check_secrets(target: Target, syncs: Iterable[Sync]) -> list[str]:
    """Raise SecretsWrong with every reference that the functions cannot resolve; return warnings.

    A warning names what cannot be checked from here: this person may not read what the functions may.
    """
    places = [(sync.name, path, reference) for sync in syncs for path, reference in references_in(sync)]
    found = {reference: _check(target, reference) for reference in {each for _, _, each in places}}
    problems, codes, warnings = list[SecretProblem](), list[CodeName](), set[str]()
    for name, path, reference in places:
        match outside(target, path, reference) or found[reference]:
            case SynclineError() as error:
                problems.append(SecretProblem(name, path, str(reference), error.what))
                codes.append(error.code.name)
            case str(warning):
                warnings.add(warning)
    if problems:
        raise SecretsWrong(codes[0], problems)
    return sorted(warnings)


def missing_secrets(target: Target, syncs: Iterable[Sync]) -> list[str]:
    """What :func:`check_secrets` finds, all of it as warnings."""
    try:
        return check_secrets(target, syncs)
    except SecretsWrong as error:
        return [problem.text() for problem in error.problems]


def _check(target: Target, reference: Reference) -> SynclineError | str | None:
    """What is wrong with a reference: an error, a warning, or None."""
    if reference.scheme == "env":
        return _check_variable(target, reference)
    try:
        target.secrets.resolve(reference)
    except SynclineError as error:
        if error.code.name in _UNSURE:
            return f"{reference} could not be checked: you may not read it ({error.code.name}); the functions may"
        return error
    return None


def outside(target: Target, path: str, reference: Reference) -> SynclineError | None:
    """Return why the role of the function that needs a reference may not read it, by its name."""
    if target.local or reference.scheme == "env":
        return None
    prefix, setting = target.parameters.get("SecretPrefix", ""), "SecretPrefix"
    if path == _WEBHOOK:
        prefix, setting = (
            prefix + target.parameters.get("WebhookSecretPrefix", ""),
            "SecretPrefix and WebhookSecretPrefix",
        )
    if reference.name.removeprefix("/").startswith(prefix):
        return None
    what = (
        f"{reference} may not be read by the functions: with the stack's {setting} its name has to begin with {prefix}"
    )
    return SynclineError("SECRET_DENIED", what)


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
