"""Check one feed against the model's inputs before the model sees it.

A feed maps every input name to an array. Nothing is cast in silence except wider floats to narrower ones (numpy makes
float64 by default); a sample without the batch dimension gets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.data.sample_axis import sample_count
from equiquant.errors import DataError, ModelError, first_line, nearest
from equiquant.io.runtime import InputSpec

__all__ = [
    "CountedFeed",
    "Feed",
    "as_array",
    "batch_size",
    "checked",
    "filling",
    "float_dtype",
    "is_tensor",
    "numbering",
    "of_samples",
    "shape_text",
    "told_feeds",
    "told_runs",
]

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Given = TypeVar("Given", bound=Mapping[str, Array])
Result = TypeVar("Result")

CASTS = {("float64", "float32"), ("float64", "float16"), ("float32", "float16")}


class CountedFeed(Feed):
    """A feed that tells how many samples it holds.

    Args:
        arrays: Input name to array.
        samples: How many they are.
        filling: How many rows behind them repeat them, to fill up a static batch.
    """

    def __init__(self, arrays: Mapping[str, Array], samples: int, filling: int = 0) -> None:
        super().__init__(arrays)
        self.samples, self.filling = samples, filling


def shape_text(shape: Sequence[int | None]) -> str:
    """Return a shape with `?` for dynamic dimensions.

    >>> shape_text((None, 3, 224, 224))
    '(?, 3, 224, 224)'
    """
    return "(" + ", ".join("?" if d is None else str(d) for d in shape) + ("," if len(shape) == 1 else "") + ")"


def float_dtype(spec: InputSpec) -> bool:
    """True if the input takes floating-point numbers."""
    return spec.dtype in ("float16", "float32", "float64")


def batch_size(feed: Mapping[str, Array]) -> int:
    """Return the number of samples in a feed; where it does not tell, the first dimension of the first input."""
    if isinstance(feed, CountedFeed):
        return feed.samples
    shape = next(iter(feed.values())).shape
    return shape[0] if shape else 1


def filling(feed: Mapping[str, Array]) -> int:
    """Return how many rows of a feed only fill up a static batch."""
    return feed.filling if isinstance(feed, CountedFeed) else 0


@contextmanager
def told_feeds(first: int | None, last: int | None = None) -> Iterator[None]:
    """Say in an error of what runs within on which feeds it ran.

    Args:
        first: The number in the data of the first of them, from 0; None where it is not known, and nothing is said.
        last: That of the last; None where it is one.
    """
    try:
        yield
    except (DataError, ModelError) as error:
        if first is None:
            raise
        feeds = f"feed {first}" if last in (None, first) else f"feeds {first} to {last}"
        raise type(error)(f"Calibration {feeds}: {error}") from error


def numbering(feeds: object) -> Callable[[int], int | None]:
    """Return what tells the number in the data of the feed with an index; of a mere list nobody knows."""
    known: Callable[[int], int | None] = getattr(feeds, "number", lambda _: None)
    return known


def told_runs(
    run: Callable[[Given], Result], feeds: Iterable[Given], number: Callable[[int], int | None] | None = None
) -> Iterator[Result]:
    """Yield what is made of one feed after the other; an error says which feed it is of.

    Args:
        run: Makes it.
        feeds: The feeds.
        number: Returns the number in the data of the feed with an index; None for the `numbering` of the feeds.
    """
    asked = numbering(feeds) if number is None else number
    for index, feed in enumerate(feeds):
        with told_feeds(asked(index)):
            result = run(feed)
        yield result


def of_samples(value: Array, feed: Mapping[str, Array]) -> Array:
    """Return what a model computed on a feed without the rows that only fill up its batch, where axis 0 is as long."""
    rows = filling(feed)
    return value[:-rows] if rows and value.ndim and len(value) == rows + batch_size(feed) else value


def is_tensor(value: Any) -> bool:
    """True for a torch tensor."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def as_array(value: Any, what: str) -> Array:
    """Return an array-like as an array, a torch tensor wherever it is.

    Args:
        value: What was given.
        what: What to call it in an error.

    Raises:
        DataError: numpy cannot hold it.
    """
    tensor = is_tensor(value)
    if isinstance(value, list | tuple) and any(map(is_tensor, value)):
        value = [as_array(item, what) for item in value]
    try:
        return np.asarray(value.detach().cpu().numpy() if tensor else value)
    except Exception as error:  # ragged lists, tensors without numbers, files that are closed: anything
        cure = " Of a bfloat16 tensor give .float(), of a sparse one .to_dense()." if tensor else ""
        raise DataError(f"{what} cannot be read as an array: {first_line(error)}.{cure}") from error


def checked(feed: Mapping[str, Any], specs: Sequence[InputSpec], where: str) -> CountedFeed:
    """Return the feed as contiguous arrays of the model's own types and ranks, in the order of the inputs.

    Args:
        feed: Input name to array-like.
        specs: The model's inputs.
        where: What to call this feed in an error, e.g. `sample 3`.

    Raises:
        DataError: A name is missing or unknown; a dtype, rank or size does not fit; a value is NaN or infinite.
    """
    names = [s.name for s in specs]
    for given in feed:
        if given not in names:
            known = ", ".join(f"'{n}'" for n in names)
            hint = nearest(str(given), names)
            raise DataError(f"Calibration {where}: the model has no input '{given}'; it has {known}.{hint}")
    for name in names:
        if name not in feed:
            raise DataError(f"Calibration {where}: the feed has no array for the model's input '{name}'.")
    arrays = {s.name: _checked_array(feed[s.name], s, f"Calibration {where}, input '{s.name}'") for s in specs}
    samples = feed.samples if isinstance(feed, CountedFeed) else sample_count(arrays, specs)
    return CountedFeed(arrays, samples, filling(feed))


def _checked_array(value: Any, spec: InputSpec, where: str) -> Array:
    given = as_array(value, where)
    array = _checked_dtype(given, spec, where)
    if spec.shape:  # onnxruntime gives () for an unknown rank too
        if array.ndim == len(spec.shape) - 1:
            array = array[None]
        fits = array.ndim == len(spec.shape) and all(
            want in (None, got) for got, want in zip(array.shape, spec.shape, strict=True)
        )
        if not fits:
            raise DataError(f"{where}: got shape {shape_text(given.shape)}, expected {shape_text(spec.shape)}.")
    if not array.size:
        raise DataError(f"{where}: the array is empty, shape {shape_text(array.shape)}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        if np.isfinite(given).all():
            most = np.finfo(array.dtype).max
            raise DataError(f"{where}: values beyond ±{most:g} do not fit the input's {spec.dtype}; scale the data.")
        raise DataError(f"{where}: the data contain NaN or infinite values ({spec.dtype}); remove this sample.")
    return np.asarray(array, order="C")  # a scalar stays one


def _checked_dtype(array: Array, spec: InputSpec, where: str) -> Array:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # whatever machine wrote them
    if array.dtype.name == spec.dtype:
        return array
    if (array.dtype.name, spec.dtype) not in CASTS:
        raise DataError(f"{where}: got dtype {array.dtype.name}, expected {spec.dtype}; convert the data.")
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused by the caller
        return array.astype(spec.dtype)
