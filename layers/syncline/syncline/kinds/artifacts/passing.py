"""One pass over an archive: layers go to whoever takes them as they come, descriptions are kept until its end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
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
    """The layers of an archive by its own names: those that are at the target, and the uploads under way."""

    done: dict[str, Layer] = field(default_factory=dict)
    open: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Progress:
        done = {name: Layer(*layer) for name, layer in stored.get("done", {}).items()}
        return cls(done, dict(stored.get("open", {})))

    def to_json(self) -> dict[str, Any]:
        done = {name: layer.to_json() for name, layer in self.done.items()}
        return {"done": done, "open": self.open}

    def settled(self, image: SavedImage, contents: Contents) -> SavedImage:
        """Return the image with that list of its layers whose content is what the config says. Raises ARCHIVE_INVALID."""
        if image.is_index:
            return replace(image, children=tuple(self.settled(child, contents) for child in image.children))
        readings = (image.layers, *image.others)
        wrong = [self._contradicting(layers, image, contents) for layers in readings]
        for layers, path in zip(readings, wrong, strict=True):
            if path is None:
                return replace(image, layers=layers, others=())
        raise invalid(
            f"{contents.name}: the layer {str(wrong[0])[:120]!r} does not have the content that its config says"
        )

    def _contradicting(self, layers: tuple[str, ...], image: SavedImage, contents: Contents) -> str | None:
        """Return a layer that is none, or has another content than the image's config says."""
        for path, said in zip(layers, image.diff_ids or [None] * len(layers), strict=True):
            layer = self.done.get(path)
            if layer is None and path not in contents.texts:
                return path
            if layer is not None and said not in (None, layer.diff_id):
                return path
        return None


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

    def find(self, repository: str, key: str, size: int, over: Callable[[], bool]) -> Layer | None: ...

    def note(self, repository: str, key: str, layer: Layer) -> None: ...

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None: ...

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None: ...


class NothingKnown:
    """Every layer is to be taken, and nothing is remembered."""

    def find(self, repository: str, key: str, size: int, over: Callable[[], bool]) -> Layer | None:
        """No layer."""

    def note(self, repository: str, key: str, layer: Layer) -> None:
        """Nothing."""

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None:
        """No guess."""

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None:
        """Nothing."""


@dataclass(slots=True)
class Pass:
    """One pass. ``sizes`` has the size of every file that was met, in bytes.

    With ``trust``, a member's name and size may tell which layer it is. ``misled`` are those that were another one: their
    content has passed by, and only a second pass without trust can take it.
    """

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
    misled: list[str] = field(default_factory=list)
    _is_cut: bool = False
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
        if not self._settle(quietly=False) or not whole or self._is_cut:
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
            # Its bytes are not sent, and they are still to be those that the archive announces.
            hashed = self._hashed(tar.content())
            if hashed not in (None, digest):
                raise invalid(f"{self.where}: the blob that the archive calls {digest} is {hashed}")
            if hashed is not None:
                self.progress.done[member.name] = layer
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
        layer = None if guess is None else self.known.find(self.repository, guess, member.size, self._is_over)
        content: Iterator[bytes | memoryview] = tar.content()
        if form:
            content = iter(unpacked(map(bytes, content), f"{self.where}, {name}", self.limits))
        if layer is not None:
            hashed = self._hashed(content)
            if hashed == layer.diff_id:
                self.progress.done[name] = layer
            elif hashed is not None:
                self.known.note_guess(name, member.size, None)
                self.misled.append(name)
            return
        self._running[name] = self.taker.layer(content, None, self.progress.open.get(name))

    def _guess(self, member: Member) -> str | None:
        named = _NAMED_BY_CONTENT.fullmatch(member.name)
        return f"sha256:{named[1]}" if named else self.known.guess(member.name, member.size, self._is_over)

    def _hashed(self, content: Iterable[bytes | memoryview]) -> str | None:
        """Return the digest of content that is not sent; None where time is short."""
        hash_ = hashlib.sha256()
        for piece in content:
            if self.pace.over:
                self._is_cut = True
                return None
            hash_.update(piece)
        return f"sha256:{hash_.hexdigest()}"

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
        self.known.note(self.repository, key or layer.diff_id, layer)
