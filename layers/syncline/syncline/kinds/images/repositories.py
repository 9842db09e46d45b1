"""The repositories of a scan: those of the source that the sync selects, and their names at the target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.clients.registry.reference import parse_repository
from syncline.errors import CodeName, SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.config_select import shared_names
from syncline.kinds.images.listing import RegistryClients, ScanPosition, held_repositories
from syncline.kinds.kind import Failure, StepContext
from syncline.model import Item, Scope


class SelectedRepositories:
    """The source's repositories that a scan of a sync compares, and the failures of those that it cannot."""

    def __init__(self, sync: ImagesSync, source: RegistryClients) -> None:
        self._sync = sync
        self._source = source
        self._renamed = RenamedRepositories(sync, ())

    def of(self, scope: Scope, invalid: OnInvalid, context: StepContext) -> list[str] | ScanPosition:
        """Return the source's repositories that belong to the sync and the scope, sorted.

        If there are too many to hold, or the time was over before all were listed, return the position reached.
        """
        sync = self._sync
        if scope.groups is not None:
            # Named repositories are not listed: one that does not exist fails when its tags are requested.
            sources = (sync.source_repository(group) for group in scope.groups)
            return self.taken(name for name in sources if name is not None)
        if sync.source.repositories is not None:
            return self.taken(sync.source.repositories)
        names = held_repositories(self._source, sync.source.organizations, invalid, context)
        return names if isinstance(names, ScanPosition) else self.taken(names)

    def renamed(self, scope: Scope, invalid: OnInvalid, context: StepContext) -> list[str]:
        """Return the repositories of a sync that renames without naming its repositories, sorted.

        All names of the source are listed, also for a smaller scope: two repositories must not share a name at the target.
        """
        listed = held_repositories(self._source, self._sync.source.organizations, invalid, context)
        if isinstance(listed, ScanPosition):
            code: CodeName = "TIME_SHORT" if context.over else "LISTING_TOO_LONG"
            what = f"{self._source.registry.host} has too many repositories to compare their names after `rename`"
            raise SynclineError(code, f"{what}; name them in source.repositories, or divide the sync")
        self._renamed = RenamedRepositories(self._sync, self.taken(listed))
        return self._renamed.usable(scope)

    def failures(self, scope: Scope, *, named: bool) -> Iterator[Failure]:
        """Yield the failures of listed repositories that the sync cannot name at the target, and of groups that a user has ``named``."""
        return self._renamed.failures(scope, named=named)

    def taken(self, names: Iterable[str]) -> list[str]:
        """Return the names that the sync selects, sorted."""
        return sorted({name for name in names if self._sync.takes_repository(name)})

    def not_taken(self, scope: Scope) -> Iterator[Failure]:
        """Yield a failure for each group that a user has named and that does not belong to the sync."""
        for group in scope.groups or ():
            name = self._sync.source_repository(group)
            if name is None or not self._sync.takes_repository(name):
                yield Failure(Item(group, "*"), not_a_target(group))

    def namespaces(self, scope: Scope) -> set[str]:
        """Return the target's namespaces that a listing of organizations covers."""
        organizations = self._sync.source.organizations
        if organizations is None:
            return set()
        groups: Iterable[str] | None = scope.groups
        if groups is None and self._sync.rename:
            groups = self._renamed.targets
        elif groups is None:
            groups = (self._sync.target_repository(f"{name}/any") for name in organizations)
        found = {group.partition("/")[0] for group in groups or ()}
        # After a rename there may be a namespace for each repository, which one request for each would not make faster.
        return found if not self._sync.rename or len(found) <= len(organizations) else set()

    def invalid_at_source(self, invalid: Iterable[InvalidEntry]) -> Iterator[Failure]:
        """Yield the failures of invalid repositories of the source that the sync may take."""
        for each in invalid:
            if each.name is None:
                yield Failure(Item("*", each.label), each.error)
            elif self._sync.takes_repository(each.name):
                yield Failure(Item(self._sync.target_repository(each.label), "*"), each.error)

    def invalid_at_target(self, invalid: Iterable[InvalidEntry]) -> Iterator[Failure]:
        """Yield the failures of invalid repositories of the target that may belong to the sync."""
        for each in invalid:
            source = None if each.name is None else self._sync.source_repository(each.name)
            if each.name is None or (source is not None and self._sync.takes_repository(source)):
                yield Failure(Item("*", each.label), each.error)


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
