"""Whatever a user calls calibration data, as one stream of labelled feeds.

Accepted: an array (samples along axis 0), a mapping of input names to arrays, an iterable of arrays or feed dicts, an
onnxruntime CalibrationDataReader (anything with `get_next()`), a .npy or .npz file, a folder of .npy and .npz files, of
images, or of a folder of .npy files for each input. Nothing is read before it is asked for and nothing is held: .npy is
memory-mapped, .npz is streamed, images are decoded a few ahead of the model on threads of their own.

A torch DataLoader is an iterable like any other: of a (input, label) tuple the first entries feed the model, and
tensors on a device or with gradients are brought home. Of a Hugging Face dataset the columns named like the model's
inputs are taken, or, for a model of one image input, its one column of images. Neither library is imported.

Arrays of the input's rank hold samples along axis 0 and are fed one at a time, or B at a time where the model's batch
is static; a last group that is too short is filled with the first samples. Arrays of one rank more hold whole feeds.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.distilling import Distilled
from equiquant.calibrate.images import IMAGE_SUFFIXES, ImageReader
from equiquant.calibrate.npz import load_npz
from equiquant.errors import DataError, first_line
from equiquant.io.runtime import InputSpec
from equiquant.recipe import ImageOptions, Recipe

__all__ = ["DATA_SUFFIXES", "LabelledFeed", "Source", "numbered", "open_source"]

Array = npt.NDArray[Any]
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
DATA_SUFFIXES = ARRAY_SUFFIXES | IMAGE_SUFFIXES
MOST_DECODERS = 4  # threads
AHEAD = 2  # images a thread may be ahead of the model
LabelledFeed = tuple[str, Mapping[str, Any]]
"""What to call the feed in an error, and its arrays by input name, not yet checked."""


@dataclass(frozen=True)
class Source:
    """A stream of feeds.

    Attributes:
        start: Begins a pass; call once if not `replayable`.
        replayable: Every pass gives the same feeds cheaply, straight from memory or from a file.
        synthetic: The inputs are made up.
        distilled: How they came to fit the model, where they do.
        units: Why they are made up in other units than usual; empty where they are not.
        count: Samples it will give, if that is known beforehand.
        images: They are prepared as the image options say.
        skipped: Files of the folder that hold no samples.
    """

    start: Callable[[], Iterator[LabelledFeed]]
    replayable: bool
    synthetic: bool = False
    distilled: Distilled | None = None
    units: str = ""
    count: int | None = None
    images: bool = False
    skipped: int = 0


def open_source(data: Any, specs: Sequence[InputSpec], recipe: Recipe) -> Source:
    """Return the stream behind `data`; nothing is read yet except headers.

    Raises:
        DataError: `data` is no kind of data, a file is missing or unreadable, or it does not fit the model's inputs.
    """
    if isinstance(data, type):
        raise DataError(f"Calibration data must be an object, not the class {data.__name__} itself; make one of it.")
    if isinstance(data, str | Path):
        return _path_source(Path(data), specs, recipe.image)
    if isinstance(data, np.ndarray):
        _single(specs, "an array")
        return Source(lambda: _rows({specs[0].name: data}, specs), replayable=True, count=_length({"": data}))
    if isinstance(data, Mapping):
        arrays = {str(name): _array(value, str(name)) for name, value in data.items()}
        return Source(lambda: _rows(arrays, specs), replayable=True, count=_length(arrays))
    if hasattr(data, "get_next"):
        return Source(lambda: numbered(_named(item, specs) for item in _from_reader(data)), replayable=False)
    if _is_table(data):
        return _table_source(data, specs, recipe.image)
    if isinstance(data, Iterable):
        return Source(lambda: numbered(_named(item, specs) for item in data), replayable=isinstance(data, list | tuple))
    raise DataError(
        "Calibration data are an array, an iterable of arrays or feed dicts, a reader with get_next(), a .npy or .npz"
        f" file or a folder, not {type(data).__name__}."
    )


def _array(value: Any, name: str) -> Array:
    if _is_table(value):
        raise DataError(f"The dataset has several splits: give one of them, e.g. dataset['{name}'].")
    try:
        return np.asarray(_at_home(value))
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"Calibration data for '{name}' cannot be read as an array: {first_line(error)}") from error


def numbered(feeds: Iterable[Mapping[str, Any]]) -> Iterator[LabelledFeed]:
    """Yield the feeds, called by their numbers."""
    for number, feed in enumerate(feeds):
        yield f"sample {number}", feed


def _from_reader(reader: Any) -> Iterator[Any]:
    while (item := reader.get_next()) is not None and not (isinstance(item, Mapping) and not item):  # {} ends it too
        yield item


def _single(specs: Sequence[InputSpec], what: str) -> None:
    if len(specs) != 1:
        names = ", ".join(f"'{s.name}'" for s in specs)
        raise DataError(f"The model has {len(specs)} inputs ({names}): give feed dicts instead of {what}.")


def _named(item: Any, specs: Sequence[InputSpec]) -> Mapping[str, Any]:
    """Return one item of an iterable as a feed: a dict as it is, a tuple in input order, an array for the one input.

    A tuple may be longer than the inputs, as a data loader's (image, label) is: the rest is not for the model.
    """
    if isinstance(item, Mapping):
        return {name: _at_home(value) for name, value in item.items()}
    if isinstance(item, list) and len(item) > len(specs) + 1 and _alike(item):
        raise DataError(f"A sample is a list of {len(item)} arrays of one shape: stack those of a batch (np.stack).")
    several = isinstance(item, tuple) or (isinstance(item, list) and all(hasattr(i, "shape") for i in item))
    if several and len(item) >= len(specs):
        return {s.name: _at_home(value) for s, value in zip(specs, item, strict=False)}
    _single(specs, "arrays")
    return {specs[0].name: _at_home(item)}


def _alike(items: Sequence[Any]) -> bool:
    """True if all are arrays of more than one axis, of one shape and type: no labels among them."""
    kinds = {(getattr(i, "shape", None), str(getattr(i, "dtype", ""))) for i in items}
    return len(kinds) == 1 and len(getattr(items[0], "shape", ())) > 1


def _at_home(value: Any) -> Any:
    """Return a torch tensor as an array, wherever it is; anything else as it is."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return value.detach().cpu().numpy()
    return value


def _is_table(data: Any) -> bool:
    """True for a Hugging Face dataset: rows are dicts of named columns."""
    return isinstance(data, Iterable) and hasattr(data, "column_names") and hasattr(data, "features")


def _table_source(data: Any, specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    rows = iter(data)
    first = next(rows, None)
    if not isinstance(first, Mapping):
        raise DataError("The dataset has no rows, or several splits: give one split, e.g. dataset['train'].")
    names = [s.name for s in specs]
    count = len(data) if hasattr(data, "__len__") else None
    if all(name in first for name in names):
        return Source(lambda: numbered({n: row[n] for n in names} for row in data), replayable=False, count=count)
    pictures = [column for column, value in first.items() if hasattr(value, "convert") and hasattr(value, "size")]
    if len(specs) == 1 and len(pictures) == 1:
        reader = ImageReader(specs[0], options)
        images = ({names[0]: reader.prepare(row[pictures[0]])} for row in data)
        return Source(lambda: numbered(images), replayable=False, count=count, images=True)
    raise DataError(
        f"The dataset has columns {', '.join(map(repr, first))}; none feeds '{names[0]}'."
        " Rename one to the input's name (dataset.rename_column)."
    )


def _batch(specs: Sequence[InputSpec]) -> int:
    """Return the model's static batch size, 1 if it is dynamic."""
    return (specs[0].shape[0] or 1) if specs[0].shape else 1


def _rows(arrays: Mapping[str, Any], specs: Sequence[InputSpec], origin: str = "") -> Iterator[LabelledFeed]:
    """Split arrays with samples along axis 0 into feeds; anything with `shape`, `__len__` and slices will do."""
    spec = next((s for s in specs if s.name in arrays), None)
    ranks = {s.name: len(s.shape) for s in specs}
    extra = {name: len(a.shape) - ranks.get(name, len(a.shape)) for name, a in arrays.items()}
    if spec is None or any(e not in (0, 1) for e in extra.values()) or len(set(extra.values())) != 1:
        yield f"sample 0{origin}", arrays  # one sample, or wrong: the check says how
        return
    lengths = {name: a.shape[0] for name, a in arrays.items()}
    if len(set(lengths.values())) != 1:
        text = ", ".join(f"'{n}' has {k}" for n, k in lengths.items())
        raise DataError(f"The arrays hold different numbers of samples along axis 0: {text}.")
    count = next(iter(lengths.values()))
    if extra[spec.name]:
        for i in range(count):
            yield f"sample {i}{origin}", {name: a[i : i + 1][0] for name, a in arrays.items()}
        return
    size = _batch(specs)
    for i in range(0, count, size):
        feed = {name: a[i : i + size] for name, a in arrays.items()}
        short = size - min(size, count - i)
        if short:
            feed = {name: np.concatenate([part, _first(arrays[name], short)]) for name, part in feed.items()}
        label = f"sample {i}" if size == 1 else f"samples {i} to {min(i + size, count) - 1}"
        yield label + origin, feed


def _length(arrays: Mapping[str, Any]) -> int | None:
    """Return the size of axis 0, where the samples are."""
    shapes = [a.shape for a in arrays.values()]
    return int(shapes[0][0]) if shapes and shapes[0] else None


def _first(array: Any, count: int) -> Array:
    """Return the first `count` samples, over again where there are fewer."""
    return np.resize(np.asarray(array[:count]), (count, *array.shape[1:]))


def _path_source(path: Path, specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    if not path.exists():
        raise DataError(f"No such calibration data: {path}")
    if path.is_dir():
        return _folder_source(path, specs, options)
    suffix, origin = path.suffix.lower(), f" of {path.name}"
    if suffix == ".npy":
        _single(specs, "a .npy file")
        array = _load_npy(path)
        return Source(lambda: _rows({specs[0].name: array}, specs, origin), replayable=True, count=_length({"": array}))
    if suffix == ".npz":
        members = _by_input(load_npz(path), specs)
        return Source(lambda: _rows(members, specs, origin), replayable=True, count=_length(members))
    if suffix in IMAGE_SUFFIXES:
        return _image_source([path], specs, options)
    raise DataError(f"{path} is neither .npy, .npz, an image nor a folder of them.")


def _folder_source(path: Path, specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    arrays = [p for p in files if p.suffix.lower() in ARRAY_SUFFIXES]
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    if arrays and images:
        raise DataError(f"{path} holds both arrays ({arrays[0].name}) and images ({images[0].name}); keep one kind.")
    skipped = len(files) - len(arrays) - len(images)
    if images:
        return replace(_image_source(images, specs, options), skipped=skipped)
    if not arrays:
        raise DataError(f"{path} holds no .npy, .npz or image files.")
    if len(specs) > 1 and all((path / spec.name).is_dir() for spec in specs):
        return replace(_source_of_folders(path, specs), skipped=skipped)
    return Source(
        lambda: itertools.chain.from_iterable(_file_feeds(p, specs) for p in arrays), replayable=True, skipped=skipped
    )


def _source_of_folders(path: Path, specs: Sequence[InputSpec]) -> Source:
    """Return what lies in one folder an input: files of one name are one feed."""
    each = [{p.name: p for p in sorted((path / spec.name).glob("*.npy"))} for spec in specs]
    for spec, files in zip(specs[1:], each[1:], strict=True):
        for name in each[0].keys() ^ files.keys():
            raise DataError(
                f"{path}: '{name}' is in one of the folders '{specs[0].name}' and '{spec.name}' only; files of one name"
                " make one sample."
            )

    def feeds() -> Iterator[LabelledFeed]:
        for name in each[0]:
            yield f"files {name}", {spec.name: _load_npy(files[name]) for spec, files in zip(specs, each, strict=True)}

    return Source(feeds, replayable=True)


def _file_feeds(path: Path, specs: Sequence[InputSpec]) -> Iterator[LabelledFeed]:
    """Yield what one file of a folder holds: one sample without the batch dimension, or one batch."""
    if path.suffix.lower() == ".npy":
        _single(specs, ".npy files")
        feed: Mapping[str, Any] = {specs[0].name: _load_npy(path)}
    else:
        feed = _by_input(load_npz(path), specs)
    yield f"file {path.name}", feed


def _load_npy(path: Path) -> Array:
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r")  # np.load takes what it does not know for a pickle
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"Cannot read {path}: {first_line(error)}") from error
    return array


def _by_input(arrays: Mapping[str, Any], specs: Sequence[InputSpec]) -> Mapping[str, Any]:
    """Return the arrays by input name; a lone array is for the lone input, whatever it is called."""
    if len(arrays) == len(specs) == 1:
        return {specs[0].name: next(iter(arrays.values()))}
    return arrays


def _image_source(files: Sequence[Path], specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    _single(specs, "images")
    reader = ImageReader(specs[0], options)
    return Source(  # decoded once, then spooled
        lambda: _image_feeds(files, reader, specs), replayable=False, count=len(files), images=True
    )


def _image_feeds(files: Sequence[Path], reader: ImageReader, specs: Sequence[InputSpec]) -> Iterator[LabelledFeed]:
    size = _batch(specs)
    total = -(-len(files) // size) * size  # a last batch that is too short is filled with the first files
    decoded = _ahead(reader, [files[i % len(files)] for i in range(total)])
    for start in range(0, len(files), size):
        group = files[start : start + size]
        label = f"file {group[0].name}" if size == 1 else f"files {group[0].name} to {group[-1].name}"
        yield label, {specs[0].name: np.stack(list(itertools.islice(decoded, size)))}


def _ahead(reader: ImageReader, files: Sequence[Path]) -> Iterator[Array]:
    """Yield the images in order, decoded on threads a few ahead."""
    threads = min(os.cpu_count() or 1, MOST_DECODERS)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Array]] = deque()
        try:
            for path in files:
                waiting.append(pool.submit(reader.read, path))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the reader of the stream may stop early
            for future in waiting:
                future.cancel()
