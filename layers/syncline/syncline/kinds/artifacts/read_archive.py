"""One pass over an archive: layers are passed on as they are read, descriptions are kept until the end.

Some archives name their layers only at the end. So each layer is sent as soon as it is read, under the digest that it
turns out to have, and is compared with the descriptions afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.decompress import compression_of, decompressed
from syncline.kinds.artifacts.archive.images import ArchiveContents, SavedImage
from syncline.kinds.artifacts.archive.streams import (
    LIMITS,
    ArchiveLimits,
    ChunkReader,
    Mark,
    MarkedStream,
    invalid,
    refused,
)
from syncline.kinds.artifacts.archive.tar import TarMember, TarReader, is_header
from syncline.kinds.artifacts.checkpoints import Checkpoint
from syncline.kinds.artifacts.layers import KnownLayers, Layer
from syncline.kinds.artifacts.upload import LayerReadError, LayerState, SentLayer
from syncline.kinds.kind import StepContext
from syncline.running_hash import RunningHash

_BLOB: Final = re.compile(r"blobs/([a-z0-9]+)/([0-9a-f]+)")
_NAMED_BY_CONTENT: Final = re.compile(r"(?:.*/)?([0-9a-f]{64})\.tar")
_STALLED: Final = 5  # functions in a row that may make no progress
_TEXTS_SIZE: Final = 64 * 1024 * 1024  # largest total size of an archive's JSON files, in bytes


@dataclass(frozen=True, slots=True)
class WantedImage:
    """The image to read. ``archive`` returns True for the name of the image's own archive within another archive."""

    image: str
    tag: str
    archive: Callable[[str], bool] = field(default=lambda _: False)


@dataclass(slots=True)
class ImageProgress:
    """The layers of an archive by its member names: those that are at the target, and the uploads in progress.

    ``functions`` counts the functions that did not reach the end. ``read`` is the furthest position, in bytes, from which
    a next one could continue, and ``reached`` the number of functions that it took to get there. ``hash`` is the state of
    the hash of the artifact.
    """

    done: dict[str, Layer] = field(default_factory=dict)
    open: dict[str, dict[str, Any]] = field(default_factory=dict)
    functions: int = 0
    read: int = 0
    reached: int = 0
    hash: list[str | int] | None = None

    @classmethod
    def of(cls, stored: dict[str, Any]) -> ImageProgress:
        done = {name: Layer(*layer) for name, layer in stored.get("done", {}).items()}
        counts = {name: int(stored.get(name, 0)) for name in ("functions", "read", "reached")}
        return cls(done, dict(stored.get("open", {})), **counts, hash=stored.get("hash"))

    def to_json(self) -> dict[str, Any]:
        counts = {"functions": self.functions, "read": self.read, "reached": self.reached}
        layers = {name: list(layer) for name, layer in self.done.items()}
        return {"done": layers, "open": self.open, **counts} | ({} if self.hash is None else {"hash": self.hash})

    def count_function(self, read: int, *, has_layers: bool) -> None:
        """Count a function that did not reach the end; ``has_layers`` if it completed layers at the target."""
        self.functions += 1
        if read > self.read or has_layers:
            self.read, self.reached = max(read, self.read), self.functions

    @property
    def is_stuck(self) -> bool:
        """Return True if functions make no progress.

        After a lost checkpoint it takes as many functions as before to reach the same position, and no more.
        """
        return self.functions - self.reached > self.reached + _STALLED

    def resolve_layers(self, image: SavedImage, contents: ArchiveContents) -> SavedImage:
        """Return the image with the list of layers whose content agrees with the config. Raises ARCHIVE_INVALID."""
        if image.is_index:
            return replace(image, children=tuple(self.resolve_layers(child, contents) for child in image.children))
        readings = (image.layers, *image.others)
        wrong = [self._mismatch(layers, image, contents) for layers in readings]
        for layers, path in zip(readings, wrong, strict=True):
            if path is None:
                return replace(image, layers=layers, others=())
        raise invalid(
            f"{contents.name}: the layer {str(wrong[0])[:120]!r} does not have the content that its config states"
        )

    def _mismatch(self, layers: tuple[str, ...], image: SavedImage, contents: ArchiveContents) -> str | None:
        """Return a layer that is missing or contradicts the image's config, None if all agree."""
        for path, diff_id in zip(layers, image.diff_ids or [None] * len(layers), strict=True):
            layer = self.done.get(path)
            if path not in contents.texts if layer is None else diff_id not in (None, layer.diff_id):
                return path
        return None


class LayerReceiver(Protocol):
    """A receiver of layers; see :class:`syncline.kinds.artifacts.upload.LayerUploader`."""

    def holds(self, stored: dict[str, Any]) -> bool: ...

    def send(
        self, content: ChunkReader, digest: str | None, stored: LayerState, inside: LayerState, *, packed: bool
    ) -> SentLayer: ...


class EmptyLayerIndex:
    """An index without layers, in place of :class:`KnownLayers`."""

    def _nothing(self, *_: object) -> None:
        """Return None."""

    find = get = note = guess = note_guess = _nothing


class _Position(NamedTuple):
    """The start of a file's content: the tar's mark, and the numbers of texts, links and sizes known before it."""

    member: TarMember
    mark: Mark | None
    at: int
    texts: int
    links: int
    sizes: int


@dataclass(slots=True)
class ArchivePass:
    """One pass. ``sizes`` has the size of every file read so far, in bytes.

    With ``trust``, a layer may be identified by its member's name and size. ``mismatched`` are members for which that was
    wrong: their content was not sent, so a second pass without trust is needed.
    """

    receiver: LayerReceiver
    known: KnownLayers | EmptyLayerIndex
    repository: str
    context: StepContext
    wanted: WantedImage
    progress: ImageProgress
    where: str
    limits: ArchiveLimits = LIMITS
    trust: bool = True
    sizes: dict[str, int] = field(default_factory=dict)
    mismatched: list[str] = field(default_factory=list)
    _is_cut: bool = False
    _nested: str = ""
    _texts: dict[str, bytes] = field(default_factory=dict)
    _links: dict[str, str] = field(default_factory=dict)
    _running: dict[str, SentLayer] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _start: _Position | None = None
    _start_inside: dict[str, Any] | None = None
    _current: _Position | None = None
    _unfinished: dict[str, _Position] = field(default_factory=dict)
    _insides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def resume(self, checkpoint: Checkpoint) -> Mark:
        """Continue from a checkpoint; return the mark from which :meth:`over` needs the archive."""
        self._texts, self._links, self.sizes = dict(checkpoint.texts), dict(checkpoint.links), dict(checkpoint.sizes)
        self._nested = checkpoint.nested
        self.progress.done |= ImageProgress.of({"done": checkpoint.done}).done
        member, inside = TarMember(checkpoint.member, "file", checkpoint.size), checkpoint.inside
        self._start = self._current = self._position(member, checkpoint.start)
        if inside is None or not self._is_usable(inside):
            return _download_mark(checkpoint.start)
        self._start_inside = self._insides[member.name] = inside
        if "open" in inside:
            self.progress.open[member.name] = inside["open"]
        return _download_mark(inside["mark"])

    def _is_usable(self, inside: dict[str, Any]) -> bool:
        """Return True if reading can continue within a layer: the target has the part before it."""
        if "open" in inside:
            return self.receiver.holds(inside["open"])
        return self.known.get(self.repository, inside["key"]) is not None

    def checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint of another pass; None if it must begin at the start."""
        positions = [*self._unfinished.values(), *([self._current] if self._current else [])]
        position = min(positions, key=lambda position: position.at, default=None)
        if position is None or position.mark is None:
            return None
        inside = self._insides.get(position.member.name)
        if inside is not None and "hash" not in inside:
            stored = self.progress.open.get(position.member.name)
            inside = None if stored is None else {**inside, "open": stored}
        return Checkpoint(
            position.member.name,
            position.member.size,
            position.mark,
            inside,
            self._nested,
            dict(islice(self._texts.items(), position.texts)),
            dict(islice(self._links.items(), position.links)),
            dict(islice(self.sizes.items(), position.sizes)),
            {name: list(layer) for name, layer in self.progress.done.items()},
        )

    def over(self, chunks: Iterable[bytes]) -> ArchiveContents | None:
        """Read the archive and wait for the uploads of its layers; return None if time ran out."""
        try:
            complete = self._read(chunks)
        except SynclineError:
            self._wait_for_all(quietly=True)
            raise
        if not self._wait_for_all(quietly=False) or not complete or self._is_cut:
            return None
        return ArchiveContents(self.where, self._texts, self._links, frozenset(self.sizes))

    def _read(self, chunks: Iterable[bytes]) -> bool:
        if self._start is None:
            return self._members(self._tar(chunks, None))
        member, inside = self._start.member, self._start_inside
        if inside is None:
            tar = self._tar(chunks, self._start.mark)
            if (inner := self._handle(tar, member)) is not None:
                return self._members(inner)
        else:
            self.sizes[member.name] = member.size
            packed = inside["mark"]["under"] if "form" in inside["mark"]["under"] else None
            tar = self._tar(chunks, inside["mark"]["under"] if packed is None else packed["under"])
            self._resume_layer(self._content(tar, member, packed, inside["mark"]), member, inside)
        return self._continues(tar) and self._members(tar)

    def _tar(self, chunks: Iterable[bytes | memoryview], mark: Mark | None) -> TarReader:
        """Return the tar in an archive, or in the archive's own archive, at a mark."""
        if mark is None:
            return self._opened(chunks)
        packed = mark["under"]
        if "left" in packed["under"]:
            chunks = self._tar(chunks, packed["under"]).content()
        return self._opened(chunks, packed, mark)

    def _opened(
        self, chunks: Iterable[bytes | memoryview], packed: Mark | None = None, mark: Mark | None = None
    ) -> TarReader:
        """Return the tar in a stream, decompressed if required, from its start or from marks."""
        return TarReader(decompressed(chunks, self._location, self.limits, packed), self._location, self.limits, mark)

    @property
    def _location(self) -> str:
        """The name of the archive, or of the one nested in it, for messages."""
        return f"{self.where}, {self._nested}" if self._nested else self.where

    def _members(self, tar: TarReader) -> bool:
        for member in tar:
            if member.kind == "folder":
                continue
            if member.name in self.sizes or member.name in self._links:
                raise refused(f"{self._location} has two members named {member.name[:120]!r}")
            if member.kind != "file":
                self._links[member.name] = member.link
                continue
            self._current = self._position(member, tar.mark())
            if self.context.over:
                return False
            if (inner := self._handle(tar, member)) is not None:
                return self._members(inner)
            if not self._continues(tar):
                return False
        return True

    def _handle(self, tar: TarReader, member: TarMember) -> TarReader | None:
        """Handle a file. If it is the image's own archive, return the tar in it, which replaces this archive."""
        if self._nested or not self.wanted.archive(member.name):
            self.sizes[member.name] = member.size
            self._file(tar, member)
            return None
        self._wait_for_all(quietly=True)
        self._texts, self._links, self.sizes = {}, {}, {}
        self._unfinished.clear()
        self._nested = member.name
        return self._opened(tar.content())

    def _continues(self, tar: TarReader) -> bool:
        """Collect completed layers; return False if time ran out within the member."""
        self._collect()
        return not (tar.left and self.context.over)

    def _position(self, member: TarMember, mark: Mark | None) -> _Position:
        at = 0 if mark is None else mark["given"]
        return _Position(member, mark, at, len(self._texts), len(self._links), len(self.sizes))

    def _file(self, tar: TarReader, member: TarMember) -> None:
        start = tar.peek(512)
        name = member.name
        blob = _BLOB.fullmatch(name)
        if name in self.progress.done:
            return
        form = compression_of(start)
        if start[:1] in (b"{", b"[") and not is_header(start):
            self._text(tar, name, blob)
        elif blob is not None:
            if blob[1] != "sha256" or len(blob[2]) != 64:
                raise refused(f"{self.where} has a blob with the invalid digest {f'{blob[1]}:{blob[2]}'[:80]!r}")
            self._layer(tar, member, f"{blob[1]}:{blob[2]}", form, is_blob=True)
        elif form or is_header(start) or (member.size >= 1024 and not any(start)):
            self._layer(tar, member, self._guess(member) if self.trust else None, form, is_blob=False)

    def _text(self, tar: TarReader, name: str, blob: re.Match[str] | None) -> None:
        text = tar.read()
        if sum(map(len, self._texts.values())) + len(text) > _TEXTS_SIZE:
            raise refused(f"{self.where} has more than {_TEXTS_SIZE} bytes of JSON descriptions of images")
        if blob is not None and digest_of(text) != f"{blob[1]}:{blob[2]}":
            raise invalid(f"{self.where}: the blob {blob[2]} does not have the digest in its name")
        self._texts[name] = text

    def _layer(self, tar: TarReader, member: TarMember, key: str | None, form: str, *, is_blob: bool) -> None:
        """Handle a layer in the compression `form`. It is not sent if the target has one with the digest `key`.

        A blob of an OCI layout is named by its digest. The digest of another layer is elsewhere in the archive, perhaps
        only at its end, so `key` is a guess.
        """
        layer = None
        if key is not None:
            layer = self.known.find(self.repository, key, member.size, self._collect_until_over)
        content = self._content(tar, member, unpack=bool(form) and not is_blob)
        if key is not None and layer is not None:
            self._verify(content, member, key, layer)
        else:
            self._send(content, member, key if is_blob else None, packed=bool(form) and is_blob)

    def _resume_layer(self, content: ChunkReader, member: TarMember, inside: dict[str, Any]) -> None:
        """Continue within a layer."""
        if "hash" in inside:
            layer = self.known.get(self.repository, inside["key"])
            if layer is None:
                raise SynclineError("UPLOAD_LOST", f"{self.repository} no longer has the layer {inside['key']}")
            self._verify(content, member, inside["key"], layer, inside)
            return
        blob = _BLOB.fullmatch(member.name)
        digest = f"{blob[1]}:{blob[2]}" if blob else None
        self._send(content, member, digest, packed="unpacked" in inside, inside=inside)

    def _content(
        self,
        tar: TarReader,
        member: TarMember,
        packed: Mark | None = None,
        mark: Mark | None = None,
        *,
        unpack: bool = False,
    ) -> ChunkReader:
        """Return a file's content, decompressed if required, from its start or from a mark."""
        where = f"{self.where}, {member.name}"
        content: MarkedStream[Any] = tar.content()
        if unpack or packed is not None:
            content = decompressed(content, where, self.limits, packed)
        return ChunkReader(content, where, mark)

    def _send(
        self,
        content: ChunkReader,
        member: TarMember,
        digest: str | None,
        *,
        packed: bool = False,
        inside: LayerState = None,
    ) -> None:
        """Send a layer. `digest` is its digest by the archive, if known."""
        name = member.name
        if digest is not None:
            self._keys[name] = digest
        if self._current is not None:
            self._unfinished[name] = self._current
        stored = self.progress.open.get(name)
        try:
            self._running[name] = self.receiver.send(content, digest, stored, inside, packed=packed)
        except LayerReadError as broken:
            self._running[name] = broken.sent
            raise broken.error from None

    def _guess(self, member: TarMember) -> str | None:
        named = _NAMED_BY_CONTENT.fullmatch(member.name)
        return f"sha256:{named[1]}" if named else self.known.guess(member.name, member.size, self._collect_until_over)

    def _verify(
        self, content: ChunkReader, member: TarMember, key: str, layer: Layer, inside: LayerState = None
    ) -> None:
        """Verify that a layer that need not be sent has the digest by which it was found."""
        hash_ = RunningHash("sha256") if inside is None else RunningHash.resume("sha256", inside["hash"])
        if self._current is not None:
            self._unfinished[member.name] = self._current
        try:
            for piece in content:
                if self.context.over:
                    self._is_cut = True
                    self._note_hash(member, key, content.mark(len(piece)), hash_)
                    return
                hash_.update(bytes(piece))
        except SynclineError:
            self._note_hash(member, key, content.mark(), hash_)
            raise
        digest = f"sha256:{hash_.hexdigest()}"
        if digest == key:
            self.progress.done[member.name] = layer
            del self._unfinished[member.name]
        elif _BLOB.fullmatch(member.name):
            raise invalid(f"{self.where}: the blob that the archive calls {key} is {digest}")
        else:
            self.known.note_guess(member.name, member.size, None)
            self._insides.pop(member.name, None)
            self.mismatched.append(member.name)

    def _note_hash(self, member: TarMember, key: str, mark: Mark | None, hash_: RunningHash) -> None:
        """Save the state of hashing a layer, from which it is continued."""
        state = hash_.state()
        if mark is not None and state is not None:
            self._insides[member.name] = {"mark": mark, "hash": state, "key": key}

    def _collect_until_over(self) -> bool:
        """Return True if time ran out. Collect completed layers first: the function waited for may wait for one of them."""
        self._collect()
        return self.context.over

    def _collect(self) -> None:
        """Record the layers that are complete, for functions that wait for them. Raises the error of one that failed."""
        for name, running in list(self._running.items()):
            if running.done() and isinstance(result := running.result(), Layer):
                del self._running[name]
                self._complete(name, result)

    def _wait_for_all(self, *, quietly: bool) -> bool:
        """Wait for all layers; return True if all are complete. Raises the first error, once all have ended."""
        errors: list[SynclineError] = []
        complete = True
        running, self._running = self._running, {}
        for name, each in running.items():
            self._insides.pop(name, None)
            try:
                result = each.result()
            except SynclineError as error:
                errors.append(error)
                continue
            if isinstance(result, Layer):
                self._complete(name, result)
                continue
            complete = False
            self.progress.open.pop(name, None)
            if result.state is not None:
                self.progress.open[name] = result.state
            if result.state is not None and result.inside is not None:
                self._insides[name] = result.inside
        if errors and not quietly:
            raise errors[0]
        return complete

    def _complete(self, name: str, layer: Layer) -> None:
        self.progress.open.pop(name, None)
        self.progress.done[name] = layer
        position = self._unfinished.pop(name)
        key = self._keys.get(name)
        if key is None:
            self.known.note_guess(name, position.member.size, layer.diff_id)
        self.known.note(self.repository, key or layer.diff_id, layer)


def _download_mark(mark: Mark) -> Mark:
    """Return the mark of the download, below those of tars in it and of a file's content."""
    while "left" not in mark:
        mark = mark["under"]
    below: Mark = mark["under"]["under"]
    return _download_mark(below) if "left" in below else below
