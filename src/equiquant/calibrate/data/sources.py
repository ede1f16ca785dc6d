"""Whatever a user calls calibration data, as one stream of labelled feeds.

Accepted: an array (samples along axis 0), a mapping of input names to arrays, an iterable of arrays or feed dicts, an
onnxruntime CalibrationDataReader (anything with `get_next()`), a .npy or .npz file, a folder of .npy and .npz files, of
images, or of a folder of .npy files for each input. Nothing is read before it is asked for and nothing is held: .npy is
memory-mapped, .npz is streamed, images are decoded a few ahead of the model on threads of their own.

A torch DataLoader is an iterable like any other: of a (input, label) tuple the first entries feed the model, and
tensors on a device or with gradients are brought home. Of a Hugging Face dataset the columns named like the model's
inputs are taken, or, for a model of one image input, its one column of images. Neither library is imported.

Arrays of the input's rank hold samples along axis 0 and are fed one at a time, arrays of one rank more hold whole
feeds.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.data.feeds import as_array, is_tensor
from equiquant.calibrate.data.files import path_source
from equiquant.calibrate.data.rows import row_count, rows
from equiquant.calibrate.data.source import Source, lone_input, numbered
from equiquant.calibrate.data.tables import is_table, table_source
from equiquant.errors import DataError, first_line
from equiquant.io import path_of
from equiquant.io.runtime import InputSpec
from equiquant.recipe import Recipe

__all__ = ["open_source"]

Array = npt.NDArray[Any]


def open_source(data: Any, specs: Sequence[InputSpec], recipe: Recipe) -> Source:
    """Return the stream behind `data`; nothing is read yet except headers.

    Raises:
        DataError: `data` is no kind of data, a file is missing or unreadable, or it does not fit the model's inputs.
    """
    if isinstance(data, type):
        raise DataError(f"Calibration data must be an object, not the class {data.__name__} itself; make one of it.")
    if isinstance(data, str | os.PathLike):
        return path_source(path_of(data), specs, recipe.image)
    if isinstance(data, Mapping):
        arrays = {str(name): _array(value, str(name)) for name, value in data.items()}
        return Source(lambda: rows(arrays, specs), replayable=True, count=row_count(arrays, specs))
    if isinstance(data, np.ndarray | memoryview) or is_tensor(data):
        name = lone_input(specs, "an array")
        named = {name: _array(data, name)}
        return Source(lambda: rows(named, specs), replayable=True, count=row_count(named, specs))
    if hasattr(data, "get_next"):
        _check_reader(data)
        return Source(lambda: numbered(_named(item, specs) for item in _from_reader(data)), replayable=False)
    if is_table(data):
        return table_source(data, specs, recipe.image)
    if isinstance(data, Iterable) and not isinstance(data, bytes | bytearray):
        return Source(
            lambda: numbered(_named(item, specs) for item in _items(data)), replayable=isinstance(data, list | tuple)
        )
    hint = " Wrap a Dataset in a DataLoader." if hasattr(data, "__getitem__") and not isinstance(data, Iterable) else ""
    raise DataError(
        "Calibration data are an array, an iterable of arrays or feed dicts, a reader with get_next(), a .npy or .npz"
        f" file or a folder, not {type(data).__name__}.{hint}"
    )


def _array(value: Any, name: str) -> Array:
    if is_table(value):
        raise DataError(f"The dataset has several splits: give one of them, e.g. dataset['{name}'].")
    return as_array(value, f"Calibration data for '{name}'")


def _items(data: Iterable[Any]) -> Iterator[Any]:
    try:
        return iter(data)
    except TypeError as error:
        raise DataError(f"The calibration data cannot be iterated: {first_line(error)}.") from error


def _check_reader(reader: Any) -> None:
    try:
        inspect.signature(reader.get_next).bind()
    except ValueError:  # written in another language, without a signature
        return
    except TypeError as error:
        kind = type(reader).__name__
        raise DataError(
            f"The reader's get_next must be a method without arguments, and that of {kind} is not."
        ) from error


def _from_reader(reader: Any) -> Iterator[Any]:
    """Yield until the reader gives None; an empty feed ends it too, and so does `next(iterator)` without a default."""
    while True:
        try:
            item = reader.get_next()
        except StopIteration:
            return
        if item is None or (isinstance(item, Mapping) and not item):
            return
        yield item


def _named(item: Any, specs: Sequence[InputSpec]) -> Mapping[str, Any]:
    """Return one item of an iterable as a feed: a dict as it is, a tuple in input order, an array for the one input.

    A tuple may be longer than the inputs, as a data loader's (image, label) is: the rest is not for the model.
    """
    if isinstance(item, Mapping):
        return item
    if isinstance(item, list) and len(item) > len(specs) + 1 and _alike(item, len(specs[0].shape) - 1):
        raise DataError(f"A sample is a list of {len(item)} arrays of one shape: stack those of a batch (np.stack).")
    several = isinstance(item, tuple) or (isinstance(item, list) and all(hasattr(i, "shape") for i in item))
    if several and len(item) >= len(specs):
        return {s.name: value for s, value in zip(specs, item, strict=False)}
    return {lone_input(specs, "arrays"): item}


def _alike(items: Sequence[Any], rank: int) -> bool:
    """True if all are arrays of that many axes, more than one, and of one shape and type: no labels among them."""
    kinds = {(getattr(i, "shape", None), str(getattr(i, "dtype", ""))) for i in items}
    return len(kinds) == 1 and len(getattr(items[0], "shape", ())) == rank > 1
