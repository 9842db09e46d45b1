"""Targets of backups and builds: Kubernetes documents, packed data, git objects and build logs."""

from __future__ import annotations

import gzip
import io
import json
from typing import Final, cast

import yaml

from syncline.clients.git.history import _changes
from syncline.clients.git.objects import (
    FOLDER,
    branch_name_error,
    decode_name,
    quoted,
    read_commit,
    tree_entries,
    tree_id,
)
from syncline.clients.git.program import RunningCommand
from syncline.clients.git.repository import _read_tree
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import block_of, blocks_in, lines_of
from syncline.kinds.artifacts.config import Metadata
from syncline.kinds.backups.secrets_detection import Verdict, inspect, is_harmless, without_secrets
from syncline.kinds.backups.secrets_documents import split_json, split_yaml
from tests.fuzz.target import Target, must, refusals
from tests.rig.secret_documents import CONFIG, JSON, WAYS, YAML

_RULES: Final = Metadata.model_validate(
    {
        "keys": ["Image tag", "Commit", "Generated at"],
        "required": ["Image tag", "Commit"],
        "tag": "Image tag",
        "time": "Generated at",
        "check": "app-{Commit:.12}",
    }
)
_MAX_ALIASES: Final = 4


def _secrets(data: bytes) -> None:
    """Search an object for Secrets. A Secret that a YAML or JSON parser finds must be found, whatever surrounds it."""
    must(b"".join(split_yaml(data)) == data, "the parts of a YAML file do not add up to the file")
    must(b"".join(split_json(data)) == data, "the parts of a JSON file do not add up to the file")
    verdict = inspect([data])
    must(
        verdict is Verdict.CLEAN or not is_harmless(data),
        f"the quick check calls an object harmless that is {verdict.name}",
    )
    must(verdict is not Verdict.CLEAN or not _is_secret(data), "a Secret is not found")
    pieces = inspect(data[at : at + 7] for at in range(0, len(data), 7))
    must(pieces is verdict, f"an object is {pieces.name} in pieces and {verdict.name} as a whole")
    kept = without_secrets(data)
    must(kept is None or not _is_secret(kept), "a Secret remains")


def _is_secret(data: bytes) -> bool:
    if data.count(b"*") > _MAX_ALIASES or b"<<" in data:
        return False
    try:
        text = data.decode()
        found = list(yaml.load_all(text, Loader=yaml.CBaseLoader))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        found = []
    return any(
        isinstance(each, dict) and each.get("kind") == "Secret" and isinstance(each.get("data"), dict) and each["data"]
        for each in found
    )


def _packed(data: bytes) -> None:
    """Search packed data. An input that begins with ``g`` is also compressed and searched."""
    inspect([data])
    form, content = data[:1], data[1:]
    if form == b"g":
        verdict = inspect([gzip.compress(content, mtime=0)])
        must(verdict is not Verdict.CLEAN or inspect([content]) is Verdict.CLEAN, "gzip hides a Secret")


def _git(data: bytes) -> None:
    must(_unquoted(quoted(data)) == data, "a path changes when it is quoted and unquoted")
    decode_name(data)
    branch_name_error(data.decode("utf-8", "replace"))
    with refusals():
        read_commit("ab" * 20, data).trailer("Syncline-Batch")
    path = data.replace(b"\0", b"") or b"path"
    raw = b":000000 100644 %b %b A\0%b\0" % (b"0" * 40, b"ab" * 20, path)
    must(list(_changes(raw)) == [(path, "ab" * 20)], "the history has another path")
    with refusals():
        entries = list(tree_entries(data))
        again = b"".join(each.mode + b" " + name + b"\0" + bytes.fromhex(each.oid) for name, each in entries)
        must(again == data, "a tree changes when it is read and written")
        files = [(name, each.oid) for name, each in entries if each.mode != FOLDER]
        must(len(tree_id(files)) == 40, "the ID of a tree does not have 40 digits")


def _git_batch(data: bytes) -> None:
    """Read the input as the output of `git cat-file --batch`."""
    with refusals():
        list(_read_tree(cast("RunningCommand", _GitOutput(data)), "ab" * 20))


class _GitOutput:
    """A git command whose output is the input."""

    def __init__(self, data: bytes) -> None:
        self._out = io.BytesIO(data)

    def write(self, data: bytes) -> None:
        pass

    def line(self) -> bytes:
        return self._out.readline().rstrip(b"\n")

    def read_exactly(self, size: int) -> bytes:
        data = self._out.read(size)
        if len(data) != size:
            raise self.error()
        return data

    def error(self) -> SynclineError:
        return SynclineError("GIT_FAILED", "git cat-file ended")


def _unquoted(text: bytes) -> bytes:
    return text[1:-1].decode("unicode_escape").encode("latin-1")


def _logs(data: bytes) -> None:
    """Read a build log as a whole and in pieces. Both must give the same blocks."""
    whole = list(blocks_in(lines_of([data]), _RULES))
    pieces = list(blocks_in(lines_of(data[at : at + 5] for at in range(0, len(data), 5)), _RULES))
    must(whole == pieces, "a log has other blocks in pieces than as a whole")
    must(all(set(_RULES.needed) <= set(block) for block in whole), "a block lacks a key")
    with refusals():
        block_of(whole, _RULES, 0.0, 4e9, "logs")


_TREE: Final = b"100644 a\0" + b"\x01" * 20 + b"40000 b\0" + b"\x02" * 20
_COMMIT: Final = b"tree " + b"ab" * 20 + b"\nauthor A <a@b> 1 +0000\n\nSubject\n\nSyncline-Batch: x\n"
_LOG: Final = b"""2026-01-02T03:04:05.1234567Z ##[group]Run build
2026-01-02T03:04:05.1234567Z ##[endgroup]
2026-01-02T03:04:05.1234567Z Image tag: app-0123456789ab
2026-01-02T03:04:05.1234567Z \x1b[1mCommit\x1b[0m: 0123456789abcdef
2026-01-02T03:04:05.1234567Z Generated at: 2026-01-02T03:04:05Z
"""

_MIXED: Final = (
    CONFIG + b"---\n" + YAML,
    json.dumps({"a": JSON.decode()}).encode(),
    b"a: &x {kind: Secret}\nb: *x\n",
)


def _ways(longest: int) -> tuple[bytes, ...]:
    return tuple(data for _, (_, data) in sorted(WAYS.items()) if len(data) <= longest)


TARGETS = (
    Target("secrets", _secrets, (YAML, JSON, *_MIXED, *_ways(1024)[::3])),
    Target("packed", _packed, (*_ways(4096), b"g" + YAML)),
    Target("git-objects", _git, (_TREE, _COMMIT, b"pa\nth\xff")),
    Target("git-batch", _git_batch, (b"ab" * 20 + b" tree %d\n%b\n" % (len(_TREE), _TREE), b"ab" * 20 + b" missing\n")),
    Target("build-logs", _logs, (_LOG, _LOG + _LOG.replace(b"0123", b"4567"))),
)
