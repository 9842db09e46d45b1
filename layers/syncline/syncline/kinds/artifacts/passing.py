"""One pass over an archive: layers go to whoever takes them as they come, descriptions are kept until its end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from syncline.clients.reference import digest_of
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import LIMITS, Limits, invalid, refused
from syncline.kinds.artifacts.archive.images import Contents, SavedImage
from syncline.kinds.artifacts.archive.tars import Member, Tar, is_header
from syncline.kinds.artifacts.archive.unpacking import form_of, unpacked
from syncline.kinds.artifacts.layers import Layer
from syncline.kinds.artifacts.sending import Interrupted
from syncline.kinds.kind import Pace

_BLOB: Final = re.compile(r"blobs/([a-z0-9]+)/([0-9a-f]+)")
_NAMED_BY_CONTENT: Final = re.compile(r"(?:.*/)?([0-9a-f]{64})\.tar")
_TEXTS_SIZE: Final = 64 * 1024 * 1024
"""Bytes of all JSON of an archive, kept until its end."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The image that is looked for. ``archive`` tells by a name whether that is the image's own archive in another."""

    image: str
    tag: str
    archive: Callable[[str], bool] = field(default=lambda _: False)


@dataclass(slots=True)
class Progress:
    """How far an archive got, by its own names: layers that arrived, those only ``guessed``, and those under way."""

    done: dict[str, Layer] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    open: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Progress:
        done = {name: Layer(*layer) for name, layer in stored.get("done", {}).items()}
        return cls(done, set(stored.get("guessed", ())), dict(stored.get("open", {})))

    def to_json(self) -> dict[str, Any]:
        done = {name: layer.to_json() for name, layer in self.done.items()}
        return {"done": done, "guessed": sorted(self.guessed), "open": self.open}

    def contradicting(self, image: SavedImage, contents: Contents) -> list[str]:
        """The layers that are none, or do not hold what the image's config says.

        Of a packed blob that the registry had already, its digest is enough.
        """
        wrong: list[str] = []
        for path, said in image.promises().items():
            layer = self.done.get(path)
            if (layer is None and path not in contents.texts) or (layer and layer.diff_id and said != {layer.diff_id}):
                wrong.append(path)
        return wrong


class Taker(Protocol):
    """Who takes layers; see :class:`syncline.kinds.artifacts.sending.Sender`."""

    def layer(
        self, content: Iterable[bytes | memoryview], diff_id: str | None, stored: dict[str, Any] | None
    ) -> Future[Layer | Interrupted]: ...

    def blob(
        self, content: Iterable[bytes | memoryview], digest: str, stored: dict[str, Any] | None
    ) -> Future[Layer | Interrupted]: ...


class Known(Protocol):
    """Which layers need not be taken; see :class:`syncline.kinds.artifacts.layers.KnownLayers`."""

    def find(self, repository: str, diff_id: str, size: int, over: Callable[[], bool]) -> Layer | None: ...

    def note(self, repository: str, layer: Layer) -> None: ...

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None: ...

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None: ...


class NothingKnown:
    """Every layer is to be taken, and nothing is remembered."""

    def find(self, repository: str, diff_id: str, size: int, over: Callable[[], bool]) -> Layer | None:
        """No layer."""

    def note(self, repository: str, layer: Layer) -> None:
        """Nothing."""

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None:
        """No guess."""

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None:
        """Nothing."""


def contradiction(wrong: list[str], where: str) -> SynclineError:
    return invalid(f"{where}: the layer {wrong[0][:120]!r} does not have the content that its config says")


@dataclass(slots=True)
class Pass:
    """One pass. ``sizes`` has the size of every file that was met, in bytes; with ``trust``, names may be believed."""

    taker: Taker
    known: Known
    repository: str
    pace: Pace
    wanted: Wanted
    progress: Progress
    where: str
    limits: Limits = LIMITS
    trust: bool = True
    sizes: dict[str, int] = field(default_factory=dict)
    _texts: dict[str, bytes] = field(default_factory=dict)
    _links: dict[str, str] = field(default_factory=dict)
    _running: dict[str, Future[Layer | Interrupted]] = field(default_factory=dict)
    _noted_as: dict[str, str] = field(default_factory=dict)

    def over(self, chunks: Iterable[bytes]) -> Contents | None:
        """Read the archive to its end and wait for what it set going; None where time was short."""
        try:
            whole = self._read(chunks, self.where, nested=False)
        except SynclineError:
            self._settle(quietly=True)
            raise
        if not self._settle(quietly=False) or not whole:
            return None
        return Contents(self.where, self._texts, self._links, frozenset(self.sizes))

    def _read(self, chunks: Iterable[bytes], where: str, *, nested: bool) -> bool:
        tar = Tar(unpacked(chunks, where, self.limits), where, self.limits)
        for member in tar:
            if self.pace.over:
                return False
            if member.kind == "folder":
                continue
            if member.name in self.sizes or member.name in self._links:
                raise refused(f"{where} has two members {member.name[:120]!r}")
            if member.kind != "file":
                self._links[member.name] = member.link
            elif not nested and self.wanted.archive(member.name):
                # The image's own archive within this one: all that counts is in there.
                self._texts, self._links, self.sizes = {}, {}, {}
                return self._read(map(bytes, tar.content()), f"{where}, {member.name}", nested=True)
            else:
                self.sizes[member.name] = member.size
                self._file(tar, member)
                self._take_done()
        return True

    def _file(self, tar: Tar, member: Member) -> None:
        start = tar.peek(512)
        name = member.name
        blob = _BLOB.fullmatch(name)
        if name in self.progress.done:
            return
        if start[:1] in (b"{", b"[") and not is_header(start):
            self._text(tar, name, blob)
        elif blob is not None:
            self._blob(tar, member, f"{blob[1]}:{blob[2]}", form_of(start))
        elif form_of(start) or is_header(start) or (member.size >= 1024 and not any(start)):
            self._layer(tar, member, form_of(start))

    def _text(self, tar: Tar, name: str, blob: re.Match[str] | None) -> None:
        text = tar.read()
        if sum(map(len, self._texts.values())) + len(text) > _TEXTS_SIZE:
            raise refused(f"{self.where} has more than {_TEXTS_SIZE} bytes of descriptions")
        if blob is not None and digest_of(text) != f"{blob[1]}:{blob[2]}":
            raise invalid(f"{self.where}: the blob {blob[2]} has another digest than its name")
        self._texts[name] = text

    def _blob(self, tar: Tar, member: Member, digest: str, form: str) -> None:
        """A blob of an OCI layout: packed already, or a layer as it is."""
        if not digest.startswith("sha256:") or len(digest) != 71:
            raise refused(f"{self.where} has a blob named by {digest[:80]!r}")
        layer = self.known.find(self.repository, digest, member.size, self._is_over)
        if layer is not None:
            self.progress.done[member.name] = Layer("", layer.digest, layer.size) if form else layer
            return
        self._noted_as[member.name] = digest
        stored = self.progress.open.get(member.name)
        if form:
            self._running[member.name] = self.taker.blob(tar.content(), digest, stored)
        else:
            self._running[member.name] = self.taker.layer(tar.content(), digest, stored)

    def _layer(self, tar: Tar, member: Member, form: str) -> None:
        """A layer whose content the archive names elsewhere, perhaps only at its end."""
        name = member.name
        guess = self._guess(member) if self.trust else None
        if guess is not None:
            layer = self.known.find(self.repository, guess, member.size, self._is_over)
            if layer is not None:
                self.progress.done[name] = layer
                self.progress.guessed.add(name)
                return
        content: Iterator[bytes | memoryview] = tar.content()
        if form:
            content = iter(unpacked(map(bytes, content), f"{self.where}, {name}", self.limits))
        self._running[name] = self.taker.layer(content, None, self.progress.open.get(name))

    def _guess(self, member: Member) -> str | None:
        named = _NAMED_BY_CONTENT.fullmatch(member.name)
        return f"sha256:{named[1]}" if named else self.known.guess(member.name, member.size, self._is_over)

    def _is_over(self) -> bool:
        """Whether to stop waiting for somebody else, who may be waiting for what has arrived here meanwhile."""
        self._take_done()
        return self.pace.over

    def _take_done(self) -> None:
        """Note the layers that have arrived, for whoever waits for them; raises the error of one that has not."""
        for name, running in list(self._running.items()):
            if running.done() and isinstance(result := running.result(), Layer):
                del self._running[name]
                self._arrived(name, result)

    def _settle(self, *, quietly: bool) -> bool:
        """Wait for all layers; whether all arrived. Raises the first error, once all have ended."""
        errors: list[SynclineError] = []
        whole = True
        for name, running in self._running.items():
            try:
                result = running.result()
            except SynclineError as error:
                errors.append(error)
                continue
            if isinstance(result, Layer):
                self._arrived(name, result)
                continue
            whole = False
            self.progress.open.pop(name, None)
            if result.state is not None:
                self.progress.open[name] = result.state
        if errors and not quietly:
            raise errors[0]
        return whole

    def _arrived(self, name: str, layer: Layer) -> None:
        self.progress.open.pop(name, None)
        self.progress.done[name] = layer
        key = self._noted_as.get(name)
        if key is None:
            self.known.note_guess(name, self.sizes[name], layer.diff_id)
        self.known.note(self.repository, Layer(key or layer.diff_id, layer.digest, layer.size))
