"""Calibration data in files: .npy, .npz, images, and folders of them.

A folder is read with those below it, links followed; hidden files and folders are no data. Of a model with several
inputs it may hold a folder of .npy files named after each.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.data.images import IMAGE_SUFFIXES, ImageReader
from equiquant.calibrate.data.npz import load_npz
from equiquant.calibrate.data.rows import row_count, rows
from equiquant.calibrate.data.source import LabelledFeed, Source, lone_input
from equiquant.errors import DataError, first_line
from equiquant.io.runtime import InputSpec
from equiquant.recipe import ImageOptions

__all__ = ["DATA_SUFFIXES", "path_source"]

Array = npt.NDArray[Any]

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
DATA_SUFFIXES = ARRAY_SUFFIXES | IMAGE_SUFFIXES
MOST_DECODERS = 4  # threads
AHEAD = 2  # images a thread may be ahead of the model


def path_source(path: Path, specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    """Return the stream of a file or a folder; nothing is read yet except headers.

    Raises:
        DataError: It is missing, unreadable or of no known kind, or does not fit the model's inputs.
    """
    if not path.exists():
        raise DataError(f"No such calibration data: {path}")
    if path.is_dir():
        return _folder_source(path, specs, options)
    suffix, origin = path.suffix.lower(), f" of {path.name}"
    if suffix == ".npy":
        named = {lone_input(specs, "a .npy file"): _load_npy(path)}
        return Source(lambda: rows(named, specs, origin), replayable=True, count=row_count(named, specs))
    if suffix == ".npz":
        members = _by_input(load_npz(path), specs)
        return Source(lambda: rows(members, specs, origin), replayable=True, count=row_count(members, specs))
    if suffix in IMAGE_SUFFIXES:
        return _image_source([path], specs, options)
    raise DataError(f"{path} is neither .npy, .npz, an image nor a folder of them.")


def _folder_source(path: Path, specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    files = _listed(path)
    arrays = [p for p in files if p.suffix.lower() in ARRAY_SUFFIXES]
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    if arrays and images:
        raise DataError(f"{path} holds both arrays ({arrays[0].name}) and images ({images[0].name}); keep one kind.")
    if images:
        return replace(_image_source(images, specs, options), skipped=len(files) - len(images))
    if not arrays:
        raise DataError(f"{path} holds no .npy, .npz or image files.")
    if len(specs) > 1 and all((path / spec.name).is_dir() for spec in specs):
        return _source_of_folders(path, files, specs)
    return Source(
        lambda: itertools.chain.from_iterable(_file_feeds(p, specs) for p in arrays),
        replayable=True,
        skipped=len(files) - len(arrays),
    )


def _listed(folder: Path) -> list[Path]:
    """Return the files in a folder and below, each folder once however many links lead there."""
    found: list[Path] = []
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(n for n in folders if not n.startswith("."))
        found += [Path(place, n) for n in names if real not in seen and not n.startswith(".")]
        seen.add(real)
    return sorted(p for p in found if p.is_file())


def _source_of_folders(path: Path, files: Sequence[Path], specs: Sequence[InputSpec]) -> Source:
    """Return what lies in one folder an input: files of one name are one feed."""
    folders = [path / spec.name for spec in specs]  # each by itself: one may be a link to another
    each = [{p.name: p for p in _listed(f) if p.parent == f and p.suffix.lower() == ".npy"} for f in folders]
    if not any(each):
        raise DataError(
            f"{path} has a folder for each input, but none of them holds .npy files: put one a sample there."
        )
    for spec, named in zip(specs[1:], each[1:], strict=True):
        for name in sorted(each[0].keys() ^ named.keys()):
            raise DataError(
                f"{path}: '{name}' is in one of the folders '{specs[0].name}' and '{spec.name}' only; files of one name"
                " make one sample."
            )

    def feeds() -> Iterator[LabelledFeed]:
        for name in each[0]:
            yield f"files {name}", {spec.name: _load_npy(named[name]) for spec, named in zip(specs, each, strict=True)}

    read = {os.path.realpath(p) for named in each for p in named.values()}
    return Source(feeds, replayable=True, skipped=sum(os.path.realpath(p) not in read for p in files))


def _file_feeds(path: Path, specs: Sequence[InputSpec]) -> Iterator[LabelledFeed]:
    """Yield what one file of a folder holds: one sample without the batch dimension, or one batch."""
    if path.suffix.lower() == ".npy":
        feed: Mapping[str, Any] = {lone_input(specs, ".npy files"): _load_npy(path)}
    else:
        feed = _by_input(load_npz(path), specs)
    yield f"file {path.name}", feed


def _load_npy(path: Path) -> Array:
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r")  # np.load takes what it does not know for a pickle
    except Exception as error:  # of a damaged header numpy raises almost anything
        raise DataError(f"Cannot read {path}: {first_line(error)}") from error
    return array


def _by_input(arrays: Mapping[str, Any], specs: Sequence[InputSpec]) -> Mapping[str, Any]:
    """Return the arrays by input name; a lone array is for the lone input, whatever it is called."""
    if len(arrays) == len(specs) == 1:
        return {specs[0].name: next(iter(arrays.values()))}
    return arrays


def _image_source(files: Sequence[Path], specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    name = lone_input(specs, "images")
    reader = ImageReader(specs[0], options)
    return Source(  # decoded once, then spooled
        lambda: _image_feeds(files, reader, name), replayable=False, count=len(files), images=True
    )


def _image_feeds(files: Sequence[Path], reader: ImageReader, name: str) -> Iterator[LabelledFeed]:
    for path, image in zip(files, _ahead(reader, files), strict=True):
        yield f"file {path.name}", {name: image}


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
