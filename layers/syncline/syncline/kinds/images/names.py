"""Names of the target's repositories where the sync renames them and only a listing of the source tells its repositories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from syncline.clients.registry.reference import parse_repository
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.config_select import shared_names
from syncline.kinds.kind import Failure
from syncline.model import Item, Scope


class RenamedRepositories:
    """The repositories that a sync selects, all of them, and their names at the target.

    ``targets`` has the names by which the target's repositories are known.
    """

    def __init__(self, sync: ImagesSync, sources: Iterable[str]) -> None:
        self._names = {name: sync.target_repository(name) for name in sorted(sources)}
        self._wrong = misnamed(self._names)
        self.targets = frozenset(self._names.values())

    def usable(self, scope: Scope) -> list[str]:
        """Return the repositories of a scope that have a name of their own at the target, sorted."""
        names = self._names.items()
        return [name for name, group in names if name not in self._wrong and _contains(scope, group)]

    def failures(self, scope: Scope, *, named: bool) -> Iterator[Failure]:
        """Yield the failures of the other repositories of a scope, and of groups that a user has ``named``."""
        for name, error in sorted(self._wrong.items()):
            if _contains(scope, self._names[name]):
                yield Failure(Item(self._names[name], name), error)
        for group in sorted(set(scope.groups or ()) - self.targets) if named else ():
            yield Failure(Item(group, "*"), not_a_target(group))


def _contains(scope: Scope, group: str) -> bool:
    return scope.groups is None or group in scope.groups


def misnamed(names: dict[str, str]) -> dict[str, SynclineError]:
    """Return the errors of repositories whose name at the target, the value, is invalid or that of another one too."""
    errors: dict[str, SynclineError] = {}
    for name, target in names.items():
        try:
            parse_repository(target)
        except SynclineError as error:
            errors[name] = SynclineError("RENAME_REFUSED", f"`rename` gives {name} an invalid name: {error.what}")
    for shared, several in shared_names(names, names.__getitem__).items():
        what = f"`rename` gives {' and '.join(several)} the same name {shared}; none of them is copied"
        errors |= dict.fromkeys(several, SynclineError("RENAME_REFUSED", what))
    return errors


def not_a_target(group: str) -> SynclineError:
    """Return the error for a group to which the sync copies no repository."""
    what = f"{group} is not a target repository of the sync's current configuration"
    return SynclineError("SOURCE_ABSENT", what)
