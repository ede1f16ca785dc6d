"""Arrays inside a .npz, read a few rows at a time: np.load would read a whole member at once.

A .npz is a zip of .npy members (NEP 1), each a header and the elements in order; a zip member reads forwards only.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from equiquant.errors import DataError, first_line

__all__ = ["NpzArray", "load_npz"]

Array = npt.NDArray[Any]

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpzArray:
    """One array of a .npz, sliced along axis 0; slices in rising order cost one pass over the member.

    Attributes:
        shape: Its shape.
        dtype: Its element type.
    """

    def __init__(self, path: Path, member: str) -> None:
        self._path, self._member = path, member
        self._stream: IO[bytes] | None = None
        self._row = 0
        self.shape, self.fortran, self.dtype = self._open()
        self._whole: Array | None = None
        if self.fortran or not self.shape:  # columns first: rows are not contiguous
            with np.load(path, allow_pickle=False) as file:
                self._whole = file[member.removesuffix(".npy")]

    def _open(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        with zipfile.ZipFile(self._path) as archive:  # the member keeps the file open until it is closed itself
            self._stream = archive.open(self._member)
        self._row = 0
        version = np.lib.format.read_magic(self._stream)
        shape, fortran, dtype = READERS[version](self._stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        return shape, fortran, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Return rows start to stop, in memory."""
        start, stop, _ = rows.indices(len(self))
        if self._whole is not None:
            return self._whole[start:stop]
        try:
            if self._stream is None or self._row > start:
                self._open()
            if start > self._row:
                self._read(start - self._row)
            result = self._read(stop - start)
        except Exception as error:  # damaged files raise almost anything
            raise DataError(f"Cannot read '{self._member}' in {self._path}: {first_line(error)}") from error
        if stop == len(self) and self._stream is not None:
            self._stream.close()
            self._stream = None
        return result

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return the whole array."""
        whole = self._whole if self._whole is not None else self[:]
        return whole if dtype is None else whole.astype(dtype)

    def _read(self, rows: int) -> Array:
        size = rows * math.prod(self.shape[1:]) * self.dtype.itemsize
        data = self._stream.read(size) if self._stream is not None else b""
        if len(data) != size:
            raise EOFError("the file is truncated")
        self._row += rows
        return np.frombuffer(data, dtype=self.dtype).reshape(rows, *self.shape[1:])


def load_npz(path: Path) -> dict[str, NpzArray]:
    """Return the arrays of a .npz by name, in the order of the file, reading headers only.

    Raises:
        DataError: The file is damaged, empty, or holds something other than arrays of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        arrays = {m.removesuffix(".npy"): NpzArray(path, m) for m in members}
    except Exception as error:  # damaged files raise almost anything
        raise DataError(f"Cannot read {path}: {first_line(error)}") from error
    if not arrays:
        raise DataError(f"{path} holds no arrays.")
    return arrays
