"""Hugging Face datasets: the columns named like the model's inputs, or one column of images for its one input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from equiquant.calibrate.data.images import ImageReader
from equiquant.calibrate.data.source import LabelledFeed, Source
from equiquant.errors import DataError, first_line
from equiquant.io.runtime import InputSpec
from equiquant.recipe import ImageOptions

__all__ = ["is_table", "table_source"]


def is_table(data: Any) -> bool:
    """True for a Hugging Face dataset: rows are dicts of named columns."""
    return isinstance(data, Iterable) and hasattr(data, "column_names") and hasattr(data, "features")


def table_source(data: Any, specs: Sequence[InputSpec], options: ImageOptions) -> Source:
    """Return the stream of a dataset's rows.

    Raises:
        DataError: No column feeds the model, or there are no rows.
    """
    first = next(iter(data), None)
    if not isinstance(first, Mapping):
        raise DataError("The dataset has no rows, or several splits: give one split, e.g. dataset['train'].")
    names = [s.name for s in specs]
    count = len(data) if hasattr(data, "__len__") else None
    column = _images(first, names)
    if column is not None:
        reader = ImageReader(specs[0], options)
        return Source(lambda: _pictures(data, column, names[0], reader), replayable=False, count=count, images=True)
    lacking = next((name for name in names if name not in first), None)
    if lacking is None:
        return Source(lambda: _columns(data, names), replayable=False, count=count)
    nothing = " or ".join(repr(column) for column, value in first.items() if value is None)  # of images, perhaps
    leave = f", or leave out the rows that have nothing in {nothing}, as the first" if nothing else ""
    raise DataError(
        f"The dataset has columns {', '.join(map(repr, first))}; none feeds '{lacking}'."
        f" Rename one to the input's name (dataset.rename_column){leave}."
    )


def _images(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the column of images that feeds the model's one input: that of its name, or the only one."""
    columns = [column for column, value in row.items() if _is_image(value)]
    if len(names) != 1 or (names[0] in row and names[0] not in columns):
        return None
    return names[0] if names[0] in columns else columns[0] if len(columns) == 1 else None


def _is_image(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "size")


def _columns(data: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Iterator[LabelledFeed]:
    for number, row in enumerate(data):
        yield f"sample {number}", {name: row[name] for name in names if name in row}  # the check says what is missing


def _pictures(data: Iterable[Mapping[str, Any]], column: str, name: str, reader: ImageReader) -> Iterator[LabelledFeed]:
    for number, row in enumerate(data):
        image = row.get(column)
        if not _is_image(image):
            raise DataError(f"Calibration sample {number}: there is no image in column '{column}'; leave this row out.")
        try:
            feed = {name: reader.prepare(image)}
        except Exception as error:  # decoded only now: damaged ones raise almost anything
            raise DataError(
                f"Calibration sample {number}: cannot read the image in column '{column}': {first_line(error)}"
            ) from error
        yield f"sample {number}", feed
