"""A SHA-2 hash that can be put away and taken up again, in another process.

A large layer may take several functions one after the other, and its digest must still be of all its bytes.
``hashlib`` cannot store a hash under way, but OpenSSL, which ``hashlib`` itself calls, keeps it in a plain structure
(``SHA256_CTX``, ``SHA512_CTX`` in openssl/sha.h). Where that library cannot be reached, or does not agree with
``hashlib`` about a known text, states are not stored and the bytes are read again instead.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
from functools import cache
from typing import Final

_SIZES: Final = {"sha256": (112, 32), "sha512": (216, 64)}
"""By algorithm: bytes of OpenSSL's structure, bytes of the hash."""


@cache
def _openssl() -> ctypes.CDLL | None:
    """The library behind ``hashlib``, if its hash under way can be stored and gives what ``hashlib`` gives."""
    try:
        import _hashlib  # noqa: PLC0415 - a Python without OpenSSL lacks it

        library = ctypes.CDLL(_hashlib.__file__)
        text = bytes(range(200))
        for algorithm in _SIZES:
            first = _OpenSSLHash(library, algorithm)
            first.update(text[:77])
            second = _OpenSSLHash(library, algorithm, first.state())
            second.update(text[77:])
            if second.hexdigest() != hashlib.new(algorithm, text).hexdigest():
                return None
    except (ImportError, AttributeError, OSError):
        return None
    return library


class _OpenSSLHash:
    def __init__(self, library: ctypes.CDLL, algorithm: str, state: bytes | None = None) -> None:
        prefix = algorithm.upper()
        size, self._length = _SIZES[algorithm]
        self._update = getattr(library, f"{prefix}_Update")
        self._final = getattr(library, f"{prefix}_Final")
        self._update.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        self._final.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        if state is None:
            self._context = ctypes.create_string_buffer(size)
            getattr(library, f"{prefix}_Init")(self._context)
        else:
            self._context = ctypes.create_string_buffer(state, size)

    def update(self, data: bytes) -> None:
        self._update(self._context, data, len(data))

    def state(self) -> bytes:
        return self._context.raw

    def hexdigest(self) -> str:
        digest = ctypes.create_string_buffer(self._length)
        # Final spoils the structure, and the hash may go on.
        copy = ctypes.create_string_buffer(self._context.raw, len(self._context))
        self._final(digest, copy)
        return digest.raw.hex()


class RunningHash:
    """The hash of the bytes given so far, ``offset`` of them; ``algorithm`` is ``sha256`` or ``sha512``."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.offset = 0
        library = _openssl()
        self._hash = _OpenSSLHash(library, algorithm) if library else hashlib.new(algorithm)

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.offset += len(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def state(self) -> list[str | int] | None:
        """The hash under way as JSON values, None where it cannot be stored."""
        if not isinstance(self._hash, _OpenSSLHash):
            return None
        return [self.offset, base64.b64encode(self._hash.state()).decode()]

    @classmethod
    def resume(cls, algorithm: str, state: list[str | int] | None) -> RunningHash:
        """The hash as :meth:`state` stored it; a new one, at offset 0, where it cannot be taken up."""
        running = cls(algorithm)
        library = _openssl()
        if state is None or library is None:
            return running
        stored = base64.b64decode(str(state[1]))
        if len(stored) != _SIZES[algorithm][0]:
            return running
        running._hash = _OpenSSLHash(library, algorithm, stored)
        running.offset = int(state[0])
        return running
