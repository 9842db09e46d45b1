"""Read ``syncs.yaml`` into models, and report every problem in it with line and column.

Used by the command only: functions load applied syncs, and PyYAML is not in their layer. The text is parsed into nodes
(:mod:`syncline.config.yaml_nodes`), each sync is checked by its model, then all syncs against each other. All problems
are collected before any is raised.
"""

from __future__ import annotations

import itertools
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from syncline.config.circles import circles_between
from syncline.config.findings import Finding, conflicts_between
from syncline.config.limits import different_limits
from syncline.config.messages import closest, inner_path, keys_at, message_for, suggestion, without_echoes
from syncline.config.model import Model
from syncline.config.notify import Notify
from syncline.config.sync import Sync, model_of
from syncline.config.values import LONGEST_CA, LONGEST_KEYS, KeyPath
from syncline.config.yaml_nodes import Node, Position, YamlProblem, compose
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS

LARGEST: Final = 1024 * 1024
"""Largest file in bytes."""
_ENDPOINT_KEYS: Final = frozenset({"name", "source", "target", "select"})
"""Keys that decide where a sync reads and writes."""
_FILE_KEYS: Final = ("syncs", "notify")
_SECRET_KEYS: Final = frozenset({"auth", "api", "webhook", "ca", "notify", "heartbeat"})
"""Keys below which messages do not repeat unknown keys, which may be secrets."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem at a position of the file; line and column count from 1, `path` is dotted."""

    line: int
    column: int
    path: str
    message: str

    def text(self, file: str) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{file}:{self.line}:{self.column}: {where}{self.message}"


class ConfigInvalid(SynclineError):  # noqa: N818 - named like its code
    """CONFIG_INVALID with every problem of the file, in the order of its lines."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems), key=lambda p: (p.line, p.column, p.path, p.message))
        super().__init__("CONFIG_INVALID", "\n".join(problem.text(file) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class SyncsFile:
    """The syncs of a file by name, in its order, and warnings."""

    syncs: Mapping[str, Sync]
    warnings: tuple[Problem, ...]


def read_syncs(path: Path, applied: Iterable[Sync] = ()) -> SyncsFile:
    """Return the syncs of a file. Raises USAGE if it cannot be read, and see :func:`parse_syncs`."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        what = f"cannot read {path}: {error.strerror}; pass the path of the file with the syncs, or write one with `syncline init KIND`"
        raise SynclineError("USAGE", what) from None
    return parse_syncs(data, name=path.name, folder=path.parent, applied=applied)


def parse_syncs(
    data: bytes, *, name: str = "syncs.yaml", folder: Path = Path(), applied: Iterable[Sync] = ()
) -> SyncsFile:
    """Return the syncs in `data`. `name` is the file's name in messages, ``file:`` paths are relative to `folder`.

    Raises ConfigInvalid, also if a sync conflicts with one of `applied` that is not in the file.
    """
    try:
        root, problems = compose(_text(data))
    except YamlProblem as problem:
        raise ConfigInvalid(name, [Problem(*problem.position, "", str(problem))]) from None
    reading = _Reading(root, folder, applied)
    reading.problems += [Problem(*problem.position, _dotted(problem.path), str(problem)) for problem in problems]
    syncs = reading.syncs()
    if reading.problems:
        raise ConfigInvalid(name, reading.problems)
    return SyncsFile(syncs, tuple(sorted(reading.warnings, key=lambda w: (w.line, w.column))))


def _text(data: bytes) -> str:
    if len(data) > LARGEST:
        raise YamlProblem(
            Position(1, 1), f"the file is larger than {LARGEST} bytes; use several stacks with a file each"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace").split("\n")
        position = Position(len(before), len(before[-1]) + 1)
        raise YamlProblem(position, "the file is not valid UTF-8 here; save it as UTF-8") from None


class _Reading:
    """One pass over the nodes that collects problems and warnings."""

    def __init__(self, root: Node, folder: Path, applied: Iterable[Sync]) -> None:
        self._root = root
        self._folder = folder
        self._applied = applied
        self._comparable: list[Sync] = []  # also syncs with problems in other keys
        self._notify: Notify | None = None
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def syncs(self) -> dict[str, Sync]:
        entries = self._entries()
        self._notify = self._default_notify()
        found = {name: sync for name, node in entries.items() if (sync := self._sync(name, node))}
        self._comparable += [sync for sync in self._applied if sync.name not in entries]
        conflicts = conflicts_between([reach for sync in self._comparable for reach in sync.reaches()])
        circles = circles_between([flow for sync in self._comparable for flow in sync.flows()])
        for finding in (*conflicts, *circles):
            self._report(finding.path, finding.message)
        for name, sync in found.items():
            for finding in sync.warnings():
                path = ("syncs", name, *finding.path)
                self.warnings.append(Problem(*self._root.position_of(path), _dotted(path), finding.message))
        for finding in different_limits(sorted(self._comparable, key=lambda sync: sync.name in entries)):
            if finding.path[1] in entries:
                place = self._root.position_of(finding.path)
                self.warnings.append(Problem(*place, _dotted(finding.path), finding.message))
        return found

    def _report(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        position = self._root.position_of(path, key=key)
        self.problems.append(Problem(*position, _dotted(path), message))

    def _entries(self) -> dict[str, Node]:
        if not isinstance(self._root.value, dict):
            self._report((), "the file is not a mapping; begin it with syncs: and put each sync's name below it")
            return {}
        for key in self._root.value:
            if key not in _FILE_KEYS:
                allowed = f"{suggestion(key, _FILE_KEYS)}allowed: {', '.join(_FILE_KEYS)}"
                self._report((key,), f"is not a valid key; {allowed}", key=True)
        syncs = self._root.value.get("syncs")
        if syncs is not None and isinstance(syncs.value, dict):
            return syncs.value
        if syncs is not None:
            self._report(("syncs",), "is not a mapping; put each sync's name below it, or write {} for none")
        elif not any(closest(key, ["syncs"]) for key in self._root.value):
            self._report((), "the file has no syncs; begin it with syncs: and put each sync's name below it")
        return {}

    def _sync(self, name: str, node: Node) -> Sync | None:
        path: KeyPath = ("syncs", name)
        if not isinstance(node.value, dict):
            self._report(path, "is not a mapping; put kind, source and target below it", key=True)
            return None
        kind = node.value.get("kind")
        given = kind.value if kind is not None and isinstance(kind.value, str) else ""
        if given not in KINDS:
            wrong = "is missing" if kind is None else "is not a valid kind"
            self._report((*path, "kind"), f"{wrong}; {suggestion(given, KINDS)}allowed: {', '.join(KINDS)}")
            return None
        if "name" in node.value:
            self._report((*path, "name"), "is not a valid key; the sync's name is the key above it", key=True)
        data = {key: value.plain() for key, value in node.value.items() if key != "name"} | {"name": name}
        if self._notify is not None and KINDS[given].has_runs:
            data.setdefault("notify", self._notify)
        return self._validated(path, model_of(given), data, self._read_authorities(path, data))

    def _default_notify(self) -> Notify | None:
        """Return the notifications of all syncs that have none of their own, None if there are none."""
        node = self._root.value.get("notify") if isinstance(self._root.value, dict) else None
        if node is None:
            return None
        path: KeyPath = ("notify",)
        data = node.plain()
        self._read_authorities(path, data)
        try:
            return Notify.model_validate(data)
        except ValidationError as error:
            for details in without_echoes(error.errors(include_url=False), Notify):
                self._report_details(path, Notify, details)
        return None

    def _read_authorities(self, path: KeyPath, data: dict[str, Any]) -> list[KeyPath]:
        """Replace each ``ca: file:…``, and public keys likewise, by the text of the file.

        Remove those that fail, and return the removed paths.
        """
        failed = []
        for inner, part in list(_mappings(data)):
            for key, check in _CHECKS.items():
                value = part.get(key)
                if not isinstance(value, str):
                    continue
                try:
                    if value.startswith("file:"):
                        part[key] = _read_file(self._folder / Path(value.removeprefix("file:")).expanduser(), key)
                    if "-----BEGIN" in part[key]:
                        check(part[key])
                except (ValueError, RuntimeError) as error:  # RuntimeError for a ~user that does not exist
                    self._report((*path, *inner, key), str(error))
                    failed.append(_drop(data, (*inner, key)))
        return failed

    def _validated(self, path: KeyPath, model: type[Sync], data: dict[str, Any], dropped: list[KeyPath]) -> Sync | None:
        """Return the sync, or None if it has problems.

        Invalid keys are removed and the rest is validated again, to find problems between keys too, unless they depend
        on a removed key.
        """
        complete = not dropped
        try:
            sync = model.model_validate(data)
        except ValidationError as error:
            complete = False
            for details in without_echoes(error.errors(include_url=False), model):
                self._report_details(path, model, details)
                inner = inner_path(details["loc"])
                dropped.append(_drop(data, inner[:-1] if details["type"] == "missing" else inner))
            try:
                sync = model.model_validate(data)
            except ValidationError:
                return None
        found = [finding for finding in sync.problems() if not _depends(finding, dropped)]
        for finding in found:
            self._report((*path, *finding.path), finding.message, key=True)
        if not found and not any(part[0] in _ENDPOINT_KEYS for part in dropped):
            self._comparable.append(sync)
        return sync if complete and not found else None

    def _report_details(self, path: KeyPath, model: type[Model], details: ErrorDetails) -> None:
        inner = inner_path(details["loc"])
        if inner == ("name",):
            self._report(path, message_for(details, model), key=True)
        elif details["type"] == "extra_forbidden":
            allowed = keys_at(model, details["loc"][:-1])
            key = str(inner[-1])
            secretive = bool(_SECRET_KEYS & {*path, *inner[:-1]}) and not closest(key, allowed)
            position = self._root.position_of((*path, *inner), key=True)
            shown = (*path, *(inner[:-1] if secretive else inner))
            text = "has an invalid key" if secretive else "is not a valid key"
            text += f"; {suggestion(key, allowed)}allowed: {', '.join(allowed)}"
            self.problems.append(Problem(*position, _dotted(shown), text))
        else:
            self._report((*path, *inner), message_for(details, model))


def _dotted(path: KeyPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _mappings(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Yield every mapping in `value`, also in its lists, with its path."""
    if isinstance(value, dict):
        yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _mappings(each, (*path, key))


def _drop(data: dict[str, Any], path: KeyPath) -> KeyPath:
    """Remove the value at `path`, or the complete list that contains it; return the removed path."""
    keys = [str(part) for part in itertools.takewhile(lambda part: isinstance(part, str), path)]
    if keys == ["name"]:
        data["name"] = "name"
        return ("name",)
    part = data
    for depth, key in enumerate(keys[:-1], 1):
        inner = part.get(key, {})
        if not isinstance(inner, dict):  # text in place of a mapping is removed completely
            keys = keys[:depth]
            break
        part = inner
    if keys:
        part.pop(keys[-1], None)
    return tuple(keys)


def _depends(finding: Finding, dropped: Iterable[KeyPath]) -> bool:
    """Return True if removed values may have caused the finding."""
    rests_on = (finding.path, *finding.rests_on)
    return any(a[: len(b)] == b or b[: len(a)] == a for a in rests_on for b in dropped)


def _read_file(path: Path, key: str) -> str:
    """Return the text of a file of certificates for `ca`, else of public keys. Raises ValueError with the reason."""
    what, longest = ("CERTIFICATE", LONGEST_CA) if key == "ca" else ("PUBLIC KEY", LONGEST_KEYS)
    try:
        with path.open("rb") as file:
            data = file.read(longest + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; write a path relative to syncs.yaml") from None
    if len(data) > longest:
        only = "the authority that signed the server's certificate" if key == "ca" else "the keys that are needed"
        raise ValueError(f"file {path} is larger than {longest} bytes; use only {only}")
    text = data.decode("utf-8", "replace")
    if f"-----BEGIN {what}-----" not in text:
        raise ValueError(f"file {path} contains no {what.lower()}; use a PEM file with -----BEGIN {what}-----")
    return text


def _check_certificates(text: str) -> None:
    """Check that the certificates in `text` can be read. Raises ValueError."""
    if "PRIVATE KEY" in text:
        raise ValueError("contains a private key; write only the certificate of the authority")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError("is not a valid certificate; copy it unchanged in PEM form") from None


def _check_public_keys(text: str) -> None:
    """Check that the public keys in `text` can be read. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - slow to import, for signatures only
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    if "PRIVATE KEY" in text:
        raise ValueError("contains a private key; write only the public key")
    for each in re.findall("-----BEGIN PUBLIC KEY-----.*?(?:-----END PUBLIC KEY-----|$)", text, re.DOTALL):
        try:
            load_pem_public_key(each.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("is not a valid public key; copy it unchanged in PEM form") from None


_CHECKS: Final[dict[str, Callable[[str], None]]] = {
    "ca": _check_certificates,
    "public_key": _check_public_keys,
    "log_key": _check_public_keys,
}
"""Keys whose values are PEM texts, and the checks of these."""
