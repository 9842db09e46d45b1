"""Inflating of deflate streams that can be interrupted at any byte and continued in another process.

Neither zlib nor the Python modules for it and for ISA-L can export the state of a stream. ISA-L keeps it in one plain
structure, ``inflate_state`` of its public header igzip_lib.h, whose only pointers are the caller's input and output. So
this module calls the ISA-L library in the package `isal` directly and copies the structure.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final

import isal
from isal import igzip_lib

from syncline.kinds.artifacts.archive.streams import CHUNK

DEFLATE: Final = 0  # kinds of streams: ISA-L's ``crc_flag``
GZIP: Final = 1
_FINISHED: Final = 5  # ISA-L's ``ISAL_BLOCK_FINISH``
_HISTORY: Final = 32 * 1024
_LOOK_AHEAD: Final = 288
_READ_AHEAD: Final = 8  # bytes of input that ISA-L may buffer and return at the end of a stream
_WHY: Final = {-1: "a block is invalid", -2: "a symbol is invalid", -3: "it refers to bytes before its start"}
_LIBRARY: Final = ctypes.CDLL(igzip_lib.__file__)

VERSION: Final = f"{isal.__version__} {platform.machine()}"
"""A state is valid for the same version of ISA-L on the same processor architecture."""


class DamagedError(Exception):
    """The data is not a valid deflate or gzip stream."""


class _State(ctypes.Structure):
    """``struct inflate_state``."""

    _fields_ = (
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint32),
        ("total_out", ctypes.c_uint32),
        ("next_in", ctypes.c_void_p),
        ("read_in", ctypes.c_uint64),
        ("avail_in", ctypes.c_uint32),
        ("read_in_length", ctypes.c_int32),
        ("codes", ctypes.c_uint8 * 21120),
        ("block_state", ctypes.c_uint32),
        ("dict_length", ctypes.c_uint32),
        ("bfinal", ctypes.c_uint32),
        ("crc_flag", ctypes.c_uint32),
        ("crc", ctypes.c_uint32),
        ("hist_bits", ctypes.c_uint32),
        ("count", ctypes.c_int32),
        ("write_overflow_lits", ctypes.c_int32),
        ("write_overflow_len", ctypes.c_int32),
        ("copy_overflow_length", ctypes.c_int32),
        ("copy_overflow_distance", ctypes.c_int32),
        ("wrapper_flag", ctypes.c_int16),
        ("tmp_in_size", ctypes.c_int16),
        ("tmp_out_valid", ctypes.c_int32),
        ("tmp_out_processed", ctypes.c_int32),
        ("tmp_in", ctypes.c_uint8 * 328),
        ("tmp_out", ctypes.c_uint8 * (2 * _HISTORY + _LOOK_AHEAD)),
    )


_LIBRARY.isal_inflate_init.argtypes = _LIBRARY.isal_inflate.argtypes = [ctypes.POINTER(_State)]
_LIBRARY.isal_inflate_init.restype = None
_LIBRARY.isal_inflate.restype = ctypes.c_int
_SMALLEST: Final = _State.tmp_out.offset


class Inflater:
    """Inflates one stream of the kind DEFLATE or GZIP. With a ``state`` it continues the stream of another inflater."""

    def __init__(self, kind: int, state: bytes | None = None) -> None:
        self._state = _State()
        self._out = ctypes.create_string_buffer(CHUNK)
        self._input = b""
        _LIBRARY.isal_inflate_init(ctypes.byref(self._state))
        self._state.crc_flag = kind
        if state is not None:
            self._input, rest = state[:_READ_AHEAD], state[_READ_AHEAD:]
            if not _SMALLEST <= len(rest) <= ctypes.sizeof(_State):
                raise ValueError(f"{len(rest)} bytes cannot be the state of a deflate stream")
            ctypes.memmove(ctypes.byref(self._state), rest, len(rest))

    @property
    def is_finished(self) -> bool:
        return bool(self._state.block_state == _FINISHED)

    @property
    def waiting(self) -> int:
        """Return the number of input bytes not consumed yet. At the end of the stream, those after it."""
        return int(self._state.avail_in) + int(self._state.read_in_length) // 8 * self.is_finished

    @property
    def rest(self) -> bytes:
        """Return the input after the end of the stream."""
        return self._input[len(self._input) - self.waiting :]

    def inflate(self, data: bytes = b"") -> bytes:
        """Return up to CHUNK bytes. ``data`` is further input, which may be given if none is waiting. Raises DamagedError."""
        state = self._state
        if data:
            # The end of the previous input stays in front, as ISA-L may return it.
            self._input = self._input[-_READ_AHEAD:] + data
            state.avail_in = len(data)
        start = ctypes.cast(ctypes.c_char_p(self._input), ctypes.c_void_p).value or 0
        state.next_in = start + len(self._input) - state.avail_in
        state.next_out, state.avail_out = ctypes.addressof(self._out), CHUNK
        result = _LIBRARY.isal_inflate(ctypes.byref(state))
        if result < 0:
            raise DamagedError(_WHY.get(result, "a header or the checksum is wrong"))
        return ctypes.string_at(self._out, CHUNK - state.avail_out)

    def state(self) -> bytes:
        """Return the state without the waiting input, which the continuing inflater has to be given again."""
        taken = self._input[: len(self._input) - self._state.avail_in]
        copy = _State.from_buffer_copy(self._state)
        copy.next_in = copy.next_out = None
        copy.avail_in = copy.avail_out = 0
        superfluous = copy.tmp_out_processed - _HISTORY
        if superfluous > 0:
            copy.tmp_out_valid -= superfluous
            copy.tmp_out_processed -= superfluous
            start = ctypes.addressof(copy) + _SMALLEST
            ctypes.memmove(start, start + superfluous, copy.tmp_out_valid)
        size = _SMALLEST + copy.tmp_out_valid
        return taken[-_READ_AHEAD:].rjust(_READ_AHEAD, b"\0") + ctypes.string_at(ctypes.byref(copy), size)
