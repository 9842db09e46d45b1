"""From an archive to a registry in one pass: layers go out as they are met, manifests once all is known.

Some archives name their layers only at their end. So each layer is sent when it comes, under the digest of what it
became; what the archive says of it is held against that afterwards. Until its manifest is put no tag shows any of it,
and a registry removes in time what no manifest names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.clients.oci import Registry
from syncline.clients.reference import digest_of
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import LIMITS, Limits, invalid, refused
from syncline.kinds.artifacts.archive.images import Contents, chosen, images_in
from syncline.kinds.artifacts.archive.tars import Member, Tar, is_header
from syncline.kinds.artifacts.archive.unpacking import form_of, unpacked
from syncline.kinds.artifacts.layers import KnownLayers, Layer
from syncline.kinds.artifacts.manifests import Written, written
from syncline.kinds.artifacts.sending import Interrupted, Sender
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
    """How far an archive got: layers that arrived, and those under way, by the archive's names for them."""

    done: dict[str, Layer] = field(default_factory=dict)
    open: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Progress:
        done = {name: Layer(*layer) for name, layer in stored.get("done", {}).items()}
        return cls(done, dict(stored.get("open", {})))

    def to_json(self) -> dict[str, Any]:
        return {"done": {name: layer.to_json() for name, layer in self.done.items()}, "open": self.open}


class Push:
    """Brings images to one repository. ``sent`` counts the bytes that went out."""

    def __init__(  # noqa: PLR0913 - each is handed in, and all but four have defaults
        self,
        registry: Registry,
        repository: str,
        known: KnownLayers,
        pace: Pace,
        *,
        processors: int | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._known = known
        self._pace = pace
        self._processors = processors
        self._limits = limits
        self.sent = 0

    def image(
        self, archive: Callable[[], Iterable[bytes]], where: str, wanted: Wanted, progress: Progress
    ) -> Written | None:
        """Bring all of an image but its tag to the repository; None where time was short, ``progress`` being the rest.

        ``archive`` opens the archive anew each time. Raises ARCHIVE_INVALID, ARCHIVE_REFUSED, IMAGE_ABSENT, and what
        reading it and the registry raise; ``progress`` then tells what need not be done again.
        """
        for trust in (True, False):
            with Sender(self._registry, self._repository, self._pace, self._processors) as sender:
                try:
                    passed = _Pass(self, sender, wanted, progress, where, trust=trust)
                    contents = passed.over(archive())
                    if contents is None:
                        return None
                    image = chosen(images_in(contents), wanted.image, wanted.tag, where)
                    wrong = [
                        path for path, said in image.promises().items() if _contradicts(said, progress.done.get(path))
                    ]
                    if not wrong or not passed.guessed.issuperset(wrong):
                        _check(wrong, where)
                        return written(image, progress.done, contents, sender)
                    # A member was taken for what one of its name and size was before, and is another now.
                    for path in wrong:
                        progress.done.pop(path)
                        self._known.note_guess(path, passed.sizes[path], None)
                finally:
                    self.sent += sender.sent
        raise AssertionError  # the second pass guesses nothing

    @property
    def parts(self) -> tuple[str, KnownLayers, Pace, Limits]:
        return self._repository, self._known, self._pace, self._limits


def _contradicts(promised: set[str], layer: Layer | None) -> bool:
    """Whether a layer holds something else; of a packed blob that the registry had already its digest is enough."""
    return layer is not None and bool(layer.diff_id) and promised != {layer.diff_id}


def _check(wrong: list[str], where: str) -> None:
    if wrong:
        raise invalid(f"{where}: the layer {wrong[0][:120]!r} does not have the content that its config says")


class _Pass:
    """One pass over an archive."""

    def __init__(  # noqa: PLR0913 - each is handed in
        self, push: Push, sender: Sender, wanted: Wanted, progress: Progress, where: str, *, trust: bool
    ) -> None:
        self._repository, self._known, self._pace, self._limits = push.parts
        self._sender = sender
        self._wanted = wanted
        self._progress = progress
        self._where = where
        self._trust = trust
        self._texts: dict[str, bytes] = {}
        self._links: dict[str, str] = {}
        self._running: dict[str, Future[Layer | Interrupted]] = {}
        self._noted_as: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.guessed: set[str] = set()

    def over(self, chunks: Iterable[bytes]) -> Contents | None:
        """Read the archive to its end and wait for what it set going; None where time was short."""
        try:
            whole = self._read(chunks, self._where, nested=False)
        except SynclineError:
            self._settle(quietly=True)
            raise
        if not self._settle(quietly=False) or not whole:
            return None
        return Contents(self._where, self._texts, self._links, frozenset(self.sizes))

    def _read(self, chunks: Iterable[bytes], where: str, *, nested: bool) -> bool:
        tar = Tar(unpacked(chunks, where, self._limits), where, self._limits)
        for member in tar:
            if self._pace.over:
                return False
            if member.kind == "folder":
                continue
            if member.name in self.sizes or member.name in self._links:
                raise refused(f"{where} has two members {member.name[:120]!r}")
            if member.kind != "file":
                self._links[member.name] = member.link
            elif not nested and self._wanted.archive(member.name):
                # The image's own archive within this one: all that counts is in there.
                self._texts, self._links, self.sizes = {}, {}, {}
                return self._read(map(bytes, tar.content()), f"{where}, {member.name}", nested=True)
            else:
                self.sizes[member.name] = member.size
                self._file(tar, member)
                self._raise_early()
        return True

    def _file(self, tar: Tar, member: Member) -> None:
        start = tar.peek(512)
        name = member.name
        blob = _BLOB.fullmatch(name)
        if name in self._progress.done:
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
            raise refused(f"{self._where} has more than {_TEXTS_SIZE} bytes of descriptions")
        if blob is not None and digest_of(text) != f"{blob[1]}:{blob[2]}":
            raise invalid(f"{self._where}: the blob {blob[2]} has another digest than its name")
        self._texts[name] = text

    def _blob(self, tar: Tar, member: Member, digest: str, form: str) -> None:
        """A blob of an OCI layout: packed already, or a layer as it is."""
        if not digest.startswith("sha256:") or len(digest) != 71:
            raise refused(f"{self._where} has a blob named by {digest[:80]!r}")
        layer = self._known.find(self._repository, digest, member.size, self._is_over)
        if layer is not None:
            self._progress.done[member.name] = Layer("", layer.digest, layer.size) if form else layer
            return
        self._noted_as[member.name] = digest
        if form:
            self._running[member.name] = self._sender.blob(tar.content(), digest)
        else:
            stored = self._progress.open.get(member.name)
            self._running[member.name] = self._sender.layer(tar.content(), digest, stored)

    def _layer(self, tar: Tar, member: Member, form: str) -> None:
        """A layer whose content the archive names elsewhere, perhaps only at its end."""
        name = member.name
        guess = self._guess(member) if self._trust else None
        if guess is not None:
            layer = self._known.find(self._repository, guess, member.size, self._is_over)
            if layer is not None:
                self._progress.done[name] = layer
                self.guessed.add(name)
                return
        content: Iterator[bytes | memoryview] = tar.content()
        if form:
            content = iter(unpacked(map(bytes, content), f"{self._where}, {name}", self._limits))
        self._running[name] = self._sender.layer(content, None, self._progress.open.get(name))

    def _guess(self, member: Member) -> str | None:
        named = _NAMED_BY_CONTENT.fullmatch(member.name)
        return f"sha256:{named[1]}" if named else self._known.guess(member.name, member.size)

    def _is_over(self) -> bool:
        return self._pace.over

    def _raise_early(self) -> None:
        for running in self._running.values():
            if running.done():
                running.result()

    def _settle(self, *, quietly: bool) -> bool:
        """Wait for all layers; whether all arrived. Raises the first error, once all have ended."""
        errors: list[SynclineError] = []
        whole = True
        for name, running in self._running.items():
            self._progress.open.pop(name, None)
            try:
                result = running.result()
            except SynclineError as error:
                errors.append(error)
                continue
            if isinstance(result, Interrupted):
                whole = False
                if result.state is not None:
                    self._progress.open[name] = result.state
                continue
            self._note(name, result)
        if errors and not quietly:
            raise errors[0]
        return whole

    def _note(self, name: str, layer: Layer) -> None:
        self._progress.done[name] = layer
        key = self._noted_as.get(name)
        if key is None:
            self._known.note_guess(name, self.sizes[name], layer.diff_id)
        self._known.note(self._repository, Layer(key or layer.diff_id, layer.digest, layer.size))
