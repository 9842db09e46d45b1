"""The checks of a sync of files."""

from __future__ import annotations

from syncline.config.sync import Sync
from syncline.kinds.files.config import FileManagerTarget, FilesSync
from syncline.kinds.files.wiring import manager_at
from syncline.wiring.checks import Check, CheckChain, Observation, unchecked
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.server_checks import bucket_chain, server_checks


def chains(sync: Sync, parts: Dependencies, *, local: bool) -> list[CheckChain]:
    """Return the checks of the source, of the target, and of the bucket for reports."""
    assert isinstance(sync, FilesSync)
    found = [bucket_chain("source", sync.source, parts, local=local, reads=True)]
    if isinstance(sync.target, FileManagerTarget):
        found.append(_manager_chain(sync.target, parts))
    else:
        found.append(bucket_chain("target", sync.target, parts, local=local, writes=True))
    if sync.reports is not None:
        found.append(bucket_chain("reports", sync.reports, parts, local=local, writes=True))
    return found


def _manager_chain(config: FileManagerTarget, parts: Dependencies) -> CheckChain:
    """Return the checks of a file manager. It has no request that checks the permission to write."""
    manager = manager_at(config, parts)

    def health() -> str:
        manager.check()
        return f"{config.file_manager} is healthy and accepts the {'token' if config.token else 'requests'}"

    def files() -> str:
        found = manager.get(f"{config.prefix}syncline-doctor")
        return f"files can be looked up{'' if found is None else '; one is called syncline-doctor'}"

    def write() -> Observation:
        return unchecked("a file manager tells only at a write if the token may write; see the last run")

    addresses = [check for address in config.addresses() for check in server_checks(address, parts)]
    return CheckChain("target", [*addresses, Check("health", health), Check("files", files), Check("write", write)])
