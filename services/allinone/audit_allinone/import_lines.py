"""The lines of a file that may be compressed: gzip and zstd are known by their first bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import zstandard

from audit_allinone.failures import Failure

LINE_BYTES_MAX: Final = 1024 * 1024
"""As long as the longest entry that any server can be set to take."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_READ_BYTES: Final = 128 * 1024
_ZSTD_STEP_BYTES: Final = 1024
"""Unpacked at once; 4 bytes of zstd can hold 128 KiB, so these can be 32 MiB at most."""


class Line(NamedTuple):
    """One line, counted from 1, without its end; cut where it is longer than `LINE_BYTES_MAX`."""

    number: int
    text: bytes
    is_cut: bool


class Lines:
    """Lines in their order, and how much of the file they took so far."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size

    @property
    def read(self) -> int:
        """Bytes of the file, compressed as it is, that were read so far; of `size`."""
        return self._file.tell()

    def __iter__(self) -> Iterator[Line]:
        """
        The lines that aren't blank.

        Raises:
            Failure: what is compressed is broken or cut short; the lines before it were given.
        """
        try:
            with _unpacked(self._file) as unpacked:
                number = 0
                while text := unpacked.readline(LINE_BYTES_MAX + 1):
                    number += 1
                    is_cut = len(text) > LINE_BYTES_MAX and not text.endswith(b"\n")
                    if is_cut:
                        _skip_line(unpacked)
                    if text.strip():
                        yield Line(number, text.rstrip(b"\r\n"), is_cut)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as exc:
            raise Failure(f"the compressed file is broken or cut short: {exc}") from exc


@contextmanager
def opened_lines(path: Path) -> Iterator[Lines]:
    """
    The lines of the file at `path`.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        yield Lines(file, path.stat().st_size)


def _unpacked(file: BinaryIO) -> AbstractContextManager[BinaryIO | io.BufferedIOBase]:
    """What is in the file; closing it leaves the file open for who opened it."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file, mode="rb")
    if magic == _ZSTD:
        return io.BufferedReader(_Unzstd(file), _READ_BYTES)
    return nullcontext(file)


def _skip_line(file: BinaryIO | io.BufferedIOBase) -> None:
    while (rest := file.readline(_READ_BYTES)) and not rest.endswith(b"\n"):
        pass


class _Unzstd(io.RawIOBase):
    """What zstd frames hold; unlike the library's reader it tells a cut stream from a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._plain:
            packed = self._packed or self._file.read(_ZSTD_STEP_BYTES)
            self._packed = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("the last frame has no end")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._plain = self._frame.decompress(packed)
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count
