"""One pass over an archive: layers go to whoever takes them as they come, descriptions are kept until its end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, Protocol

from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import LIMITS, Feed, Limits, Mark, Stream, invalid, refused
from syncline.kinds.artifacts.archive.images import Contents, SavedImage
from syncline.kinds.artifacts.archive.tars import Member, Tar, is_header
from syncline.kinds.artifacts.archive.unpacking import form_of, unpacked
from syncline.kinds.artifacts.checkpoints import Checkpoint
from syncline.kinds.artifacts.layers import Layer
from syncline.kinds.artifacts.sending import BrokenOffError, Interrupted
from syncline.kinds.kind import StepContext
from syncline.running_hash import RunningHash

_BLOB: Final = re.compile(r"blobs/([a-z0-9]+)/([0-9a-f]+)")
_NAMED_BY_CONTENT: Final = re.compile(r"(?:.*/)?([0-9a-f]{64})\.tar")
_PATIENCE: Final = 5
"""Functions that may get no further than others before."""
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
    """The layers of an archive by its own names: those that are at the target, and the uploads under way.

    ``functions`` counts those that did not come to the end. ``read`` is how far into the archive one of them has read, so
    that the next one could continue there, and ``reached`` how many it took to get there.
    """

    done: dict[str, Layer] = field(default_factory=dict)
    open: dict[str, dict[str, Any]] = field(default_factory=dict)
    functions: int = 0
    read: int = 0
    reached: int = 0

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Progress:
        done = {name: Layer(*layer) for name, layer in stored.get("done", {}).items()}
        counts = (int(stored.get(name, 0)) for name in ("functions", "read", "reached"))
        return cls(done, dict(stored.get("open", {})), *counts)

    def to_json(self) -> dict[str, Any]:
        done = {name: layer.to_json() for name, layer in self.done.items()}
        counts = {"functions": self.functions, "read": self.read, "reached": self.reached}
        return {"done": done, "open": self.open, **counts}

    def count_function(self, read: int, *, has_layers: bool) -> None:
        """Count a function that did not come to the end; ``has_layers`` if it has brought layers to the target."""
        self.functions += 1
        if read > self.read or has_layers:
            self.read, self.reached = max(read, self.read), self.functions

    @property
    def is_stuck(self) -> bool:
        """Return True if functions get no further.

        After a lost checkpoint it takes as many to come back to where they were, and no more.
        """
        return self.functions - self.reached > self.reached + _PATIENCE

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

    def holds(self, stored: dict[str, Any]) -> bool: ...

    def layer(
        self, content: Feed, diff_id: str | None, stored: dict[str, Any] | None, inside: dict[str, Any] | None = None
    ) -> Future[Layer | Interrupted]: ...

    def blob(
        self, content: Feed, digest: str, stored: dict[str, Any] | None, inside: dict[str, Any] | None = None
    ) -> Future[Layer | Interrupted]: ...


class Known(Protocol):
    """Which layers need not be taken; see :class:`syncline.kinds.artifacts.layers.KnownLayers`."""

    def find(self, repository: str, key: str, size: int, over: Callable[[], bool]) -> Layer | None: ...

    def get(self, repository: str, key: str) -> Layer | None: ...

    def note(self, repository: str, key: str, layer: Layer) -> None: ...

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None: ...

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None: ...


class NothingKnown:
    """Every layer is to be taken, and nothing is remembered."""

    def find(self, repository: str, key: str, size: int, over: Callable[[], bool]) -> Layer | None:
        """No layer."""

    def get(self, repository: str, key: str) -> Layer | None:
        """No layer."""

    def note(self, repository: str, key: str, layer: Layer) -> None:
        """Nothing."""

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None:
        """No guess."""

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """The start of a file's content: the tar's mark there, and how many texts, links and sizes were known before."""

    member: Member
    mark: Mark | None
    at: int
    texts: int
    links: int
    sizes: int


@dataclass(slots=True)
class Pass:
    """One pass. ``sizes`` has the size of every file that was met, in bytes.

    With ``trust``, a member's name and size may tell which layer it is. ``misled`` are those that were another one: their
    content has passed by, and only a second pass without trust can take it.
    """

    taker: Taker
    known: Known
    repository: str
    context: StepContext
    wanted: Wanted
    progress: Progress
    where: str
    limits: Limits = LIMITS
    trust: bool = True
    sizes: dict[str, int] = field(default_factory=dict)
    misled: list[str] = field(default_factory=list)
    _is_cut: bool = False
    _nested: str = ""
    _texts: dict[str, bytes] = field(default_factory=dict)
    _links: dict[str, str] = field(default_factory=dict)
    _running: dict[str, Future[Layer | Interrupted]] = field(default_factory=dict)
    _noted_as: dict[str, str] = field(default_factory=dict)
    _begun: _Spot | None = None
    _begun_inside: dict[str, Any] | None = None
    _current: _Spot | None = None
    _unfinished: dict[str, _Spot] = field(default_factory=dict)
    _insides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def resume(self, checkpoint: Checkpoint) -> Mark:
        """Begin where another pass has stopped; the mark from which on :meth:`over` is to be given the archive."""
        self._texts, self._links, self.sizes = dict(checkpoint.texts), dict(checkpoint.links), dict(checkpoint.sizes)
        self._nested = checkpoint.nested
        self.progress.done |= Progress.of({"done": checkpoint.done}).done
        member, inside = Member(checkpoint.member, "file", checkpoint.size), checkpoint.inside
        self._begun = self._current = self._spot(member, checkpoint.start)
        if inside is None or not self._is_usable(inside):
            return _bottom(checkpoint.start)
        self._begun_inside = self._insides[member.name] = inside
        if "open" in inside:
            self.progress.open[member.name] = inside["open"]
        return _bottom(inside["mark"])

    def _is_usable(self, inside: dict[str, Any]) -> bool:
        """Return True if reading can go on within a layer: the target has what came before."""
        if "open" in inside:
            return self.taker.holds(inside["open"])
        return self.known.get(self.repository, inside["key"]) is not None

    def checkpoint(self) -> Checkpoint | None:
        """Return where another pass can go on; None if it must begin at the start."""
        spots = [*self._unfinished.values(), *([self._current] if self._current else [])]
        spot = min(spots, key=lambda spot: spot.at, default=None)
        if spot is None or spot.mark is None:
            return None
        inside = self._insides.get(spot.member.name)
        if inside is not None and "hash" not in inside:
            stored = self.progress.open.get(spot.member.name)
            inside = None if stored is None else {**inside, "open": stored}
        return Checkpoint(
            spot.member.name,
            spot.member.size,
            spot.mark,
            inside,
            self._nested,
            dict(islice(self._texts.items(), spot.texts)),
            dict(islice(self._links.items(), spot.links)),
            dict(islice(self.sizes.items(), spot.sizes)),
            {name: layer.to_json() for name, layer in self.progress.done.items()},
        )

    def over(self, chunks: Iterable[bytes]) -> Contents | None:
        """Read the archive to its end and wait for what it set going; None where time was short."""
        try:
            whole = self._read(chunks)
        except SynclineError:
            self._settle(quietly=True)
            raise
        if not self._settle(quietly=False) or not whole or self._is_cut:
            return None
        return Contents(self.where, self._texts, self._links, frozenset(self.sizes))

    def _read(self, chunks: Iterable[bytes]) -> bool:
        if self._begun is None:
            return self._members(self._tar(chunks, None))
        member, inside = self._begun.member, self._begun_inside
        if inside is None:
            tar = self._tar(chunks, self._begun.mark)
            if (inner := self._met(tar, member)) is not None:
                return self._members(inner)
        else:
            self.sizes[member.name] = member.size
            packed = inside["mark"]["under"] if "form" in inside["mark"]["under"] else None
            tar = self._tar(chunks, inside["mark"]["under"] if packed is None else packed["under"])
            self._rest(self._content(tar, member, packed, inside["mark"]), member, inside)
        return self._goes_on(tar) and self._members(tar)

    def _tar(self, chunks: Iterable[bytes | memoryview], mark: Mark | None) -> Tar:
        """Return the tar in an archive, or in the archive's own archive, at a mark."""
        if mark is None:
            return Tar(unpacked(chunks, self.where, self.limits), self.where, self.limits)
        packed = mark["under"]
        if "left" in packed["under"]:
            chunks = self._tar(chunks, packed["under"]).content()
        where = f"{self.where}, {self._nested}" if self._nested else self.where
        return Tar(unpacked(chunks, where, self.limits, packed), where, self.limits, mark)

    def _members(self, tar: Tar) -> bool:
        where = f"{self.where}, {self._nested}" if self._nested else self.where
        for member in tar:
            if member.kind == "folder":
                continue
            if member.name in self.sizes or member.name in self._links:
                raise refused(f"{where} has two members {member.name[:120]!r}")
            if member.kind != "file":
                self._links[member.name] = member.link
                continue
            self._current = self._spot(member, tar.mark())
            if self.context.over:
                return False
            if (inner := self._met(tar, member)) is not None:
                return self._members(inner)
            if not self._goes_on(tar):
                return False
        return True

    def _met(self, tar: Tar, member: Member) -> Tar | None:
        """Take a file; if it is the image's own archive within this one, return the tar in it: nothing else counts."""
        if self._nested or not self.wanted.archive(member.name):
            self.sizes[member.name] = member.size
            self._file(tar, member)
            return None
        self._settle(quietly=True)
        self._texts, self._links, self.sizes = {}, {}, {}
        self._unfinished.clear()
        self._nested = member.name
        where = f"{self.where}, {member.name}"
        return Tar(unpacked(tar.content(), where, self.limits), where, self.limits)

    def _goes_on(self, tar: Tar) -> bool:
        """Note what has arrived; False if the rest of the member need not be read any more, for time is short."""
        self._take_done()
        return not (tar.left and self.context.over)

    def _spot(self, member: Member, mark: Mark | None) -> _Spot:
        at = 0 if mark is None else mark["given"]
        return _Spot(member, mark, at, len(self._texts), len(self._links), len(self.sizes))

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
        content = self._content(tar, member)
        if layer is not None:
            self._skim(content, member, digest, layer)
        else:
            self._take(content, member, digest, packed=bool(form))

    def _layer(self, tar: Tar, member: Member, form: str) -> None:
        """A layer whose content the archive names elsewhere, perhaps only at its end."""
        guess = self._guess(member) if self.trust else None
        layer = None if guess is None else self.known.find(self.repository, guess, member.size, self._is_over)
        content = self._content(tar, member, unpack=bool(form))
        if guess is not None and layer is not None:
            self._skim(content, member, guess, layer)
        else:
            self._take(content, member, None)

    def _rest(self, content: Feed, member: Member, inside: dict[str, Any]) -> None:
        """Go on within a layer."""
        if "hash" in inside:
            layer = self.known.get(self.repository, inside["key"])
            if layer is None:
                raise SynclineError("UPLOAD_LOST", f"{self.repository} no longer has the layer {inside['key']}")
            self._skim(content, member, inside["key"], layer, inside)
            return
        blob = _BLOB.fullmatch(member.name)
        digest = f"{blob[1]}:{blob[2]}" if blob else None
        self._take(content, member, digest, packed="unpacked" in inside, inside=inside)

    def _content(
        self, tar: Tar, member: Member, packed: Mark | None = None, mark: Mark | None = None, *, unpack: bool = False
    ) -> Feed:
        """Return a file's content, unpacked if need be, from its start or from a mark."""
        where = f"{self.where}, {member.name}"
        content: Stream[Any] = tar.content()
        if unpack or packed is not None:
            content = unpacked(content, where, self.limits, packed)
        return Feed(content, lambda: invalid(f"{where} is cut short"), mark)

    def _take(
        self,
        content: Feed,
        member: Member,
        digest: str | None,
        *,
        packed: bool = False,
        inside: dict[str, Any] | None = None,
    ) -> None:
        """Have a layer sent. `digest` is what the archive calls it."""
        name = member.name
        if digest is not None:
            self._noted_as[name] = digest
        if self._current is not None:
            self._unfinished[name] = self._current
        stored = self.progress.open.get(name)
        try:
            if packed:
                assert digest is not None, "only blobs are sent as they are"
                self._running[name] = self.taker.blob(content, digest, stored, inside)
            else:
                self._running[name] = self.taker.layer(content, digest, stored, inside)
        except BrokenOffError as broken:
            self._running[name] = broken.sent
            raise broken.error from None

    def _guess(self, member: Member) -> str | None:
        named = _NAMED_BY_CONTENT.fullmatch(member.name)
        return f"sha256:{named[1]}" if named else self.known.guess(member.name, member.size, self._is_over)

    def _skim(
        self, content: Feed, member: Member, key: str, layer: Layer, inside: dict[str, Any] | None = None
    ) -> None:
        """Check that a layer that need not be sent has the digest by which it was found."""
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
            self.misled.append(member.name)

    def _note_hash(self, member: Member, key: str, mark: Mark | None, hash_: RunningHash) -> None:
        """Note how far a layer was hashed, by which it is continued."""
        state = hash_.state()
        if mark is not None and state is not None:
            self._insides[member.name] = {"mark": mark, "hash": state, "key": key}

    def _is_over(self) -> bool:
        """Whether to stop waiting for somebody else, who may be waiting for what has arrived here meanwhile."""
        self._take_done()
        return self.context.over

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
        running, self._running = self._running, {}
        for name, each in running.items():
            self._insides.pop(name, None)
            try:
                result = each.result()
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
            if result.state is not None and result.inside is not None:
                self._insides[name] = result.inside
        if errors and not quietly:
            raise errors[0]
        return whole

    def _arrived(self, name: str, layer: Layer) -> None:
        self.progress.open.pop(name, None)
        self.progress.done[name] = layer
        spot = self._unfinished.pop(name)
        key = self._noted_as.get(name)
        if key is None:
            self.known.note_guess(name, spot.member.size, layer.diff_id)
        self.known.note(self.repository, key or layer.diff_id, layer)


def _bottom(mark: Mark) -> Mark:
    """Return the mark of the download itself, below that of a tar in it or of a file's content."""
    while "left" not in mark:
        mark = mark["under"]
    below: Mark = mark["under"]["under"]
    return _bottom(below) if "left" in below else below
