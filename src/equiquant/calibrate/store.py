"""Statistics in one file: a .npz of plain arrays and one JSON member, no pickle; equal statistics make equal bytes.

Of each histogram only the occupied stretch is kept. The file appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.stats import AppliedScales, ChannelSums, TensorRecord, TensorStats
from equiquant.errors import DataError, first_line
from equiquant.io.places import replacing
from equiquant.numerics.ranges.chosen import ChosenRanges
from equiquant.numerics.statistics.histogram import BINS, DyadicHistogram
from equiquant.numerics.statistics.sketch import MagnitudeCounts

__all__ = ["FORMAT", "check_model", "load_stats", "read_stats", "save_stats"]

Array = npt.NDArray[Any]

FORMAT = "equiquant-stats-2"
SUMS = ("low", "high", "total", "square", "constant")
SCALES = ("model_hash", "request", "recipe", "method", "steps")


def save_stats(stats: TensorStats, path: str | os.PathLike[str], note: dict[str, Any] | None = None) -> None:
    """Write statistics to a file.

    Args:
        stats: The statistics.
        path: The file, made or replaced.
        note: More plain data, which `read_stats` returns.

    Raises:
        OutputError: The file cannot be written, or is no regular file.
    """
    arrays: dict[str, Array] = {}
    rows = [_pack(name, record, arrays, index) for index, (name, record) in enumerate(stats.tensors.items())]
    recounts = {
        name: _pack_histogram(h, arrays, f"recount{index}") for index, (name, h) in enumerate(stats.recounted.items())
    }
    about = {
        "format": FORMAT,
        "samples": stats.samples,
        "synthetic": stats.synthetic,
        "model_hash": stats.model_hash,
        "averaged": stats.averaged,
        "exact": stats.exact,
        "tensors": rows,
        "recounted": recounts,
        "note": note or {},
    }
    if stats.scales is not None:
        about["scales"] = _pack_scales(stats.scales)
        arrays["log_scales"] = stats.scales.z
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with replacing(Path(path), "the calibration statistics") as place, place.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_stats(path: str | os.PathLike[str]) -> TensorStats:
    """Return the statistics of a file.

    Args:
        path: The file.

    Raises:
        DataError: The file is missing, damaged or none of ours.
    """
    return read_stats(path)[0]


def check_model(stats: TensorStats, path: str | os.PathLike[str], model_hash: str) -> None:
    """Check that the statistics of a file are of the model with this hash.

    Raises:
        DataError: They are of another.
    """
    if stats.model_hash != model_hash:
        raise DataError(
            f"The statistics in {os.fspath(path)} are of another model (or the same equalized otherwise):"
            f" {stats.model_hash[:12]} instead of {model_hash[:12]}. Name another file and give the data."
        )


def read_stats(path: str | os.PathLike[str]) -> tuple[TensorStats, dict[str, Any]]:
    """Return the statistics of a file and the note beside them.

    Raises:
        DataError: As for `load_stats`.
    """
    try:
        with Path(path).open("rb") as file, _archive(file) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']}, not {FORMAT}")
            tensors = {row["name"]: _unpack(row, arrays, index) for index, row in enumerate(about["tensors"])}
            recounted = {
                name: _unpack_histogram(row, arrays, f"recount{index}")
                for index, (name, row) in enumerate(about["recounted"].items())
            }
            scales = _unpack_scales(about["scales"], arrays["log_scales"]) if "scales" in about else None
            exact = about.get("exact", False)  # files of earlier versions do not say
            samples, synthetic, averaged = about["samples"], about["synthetic"], about["averaged"]
            stats = TensorStats(samples, tensors, synthetic, about["model_hash"], averaged, recounted, scales, exact)
            return stats, about["note"]
    except KeyError as error:
        raise DataError(
            f"Cannot read calibration statistics from {os.fspath(path)}: it is incomplete, or none of ours ({error})."
        ) from error
    except Exception as error:  # damaged files raise almost anything
        raise DataError(f"Cannot read calibration statistics from {os.fspath(path)}: {first_line(error)}") from error


def _archive(file: IO[bytes]) -> Any:
    """Return the arrays of a .npz; of anything else numpy would say that it may be a pickle."""
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no file of statistics, or was cut off")
    file.seek(0)
    return np.load(file, allow_pickle=False)


def _pack(name: str, record: TensorRecord, arrays: dict[str, Array], index: int) -> dict[str, Any]:
    """Return the plain part of a record; its arrays go into `arrays`."""
    row: dict[str, Any] = {"name": name, "low": record.low, "high": record.high, "count": record.count}
    if record.histogram is not None:
        row["histogram"] = _pack_histogram(record.histogram, arrays, f"counts{index}")
    if record.sums is not None:
        row["sums"] = {"axis": record.sums.axis, "count": record.sums.count}
        arrays |= {f"{part}{index}": getattr(record.sums, part) for part in SUMS}
    if record.sketch is not None:
        row["sketch"] = {"top": record.sketch.top, "seen": record.sketch.seen}
        arrays[f"sketch{index}"] = record.sketch.counts
    if record.votes:
        row["votes"] = [[zero, exponent, count] for (zero, exponent), count in sorted(record.votes.items())]
    return row


def _pack_scales(scales: AppliedScales) -> dict[str, Any]:
    chosen = scales.ranges
    ranges = chosen and [
        [*key, list(ends), sorted(chosen.costs.get(key, {}).items()), list(chosen.gains.get(key, ()))]
        for key, ends in sorted(chosen.ends.items())
    ]
    plain = {name: getattr(scales, name) for name in SCALES}
    return {**plain, "ranges": ranges}


def _unpack_scales(row: dict[str, Any], z: Array) -> AppliedScales:
    ranges = None
    if row["ranges"] is not None:
        ends, costs, gains = {}, {}, {}
        for kind, name, values, table, gain in row["ranges"]:
            ends[kind, name] = tuple(values)
            if table:
                costs[kind, name] = {int(e): noise for e, noise in table}
            if gain:
                gains[kind, name] = tuple(gain)
        ranges = ChosenRanges(ends, costs, gains)
    return AppliedScales(**{name: row[name] for name in SCALES}, z=z, ranges=ranges)


def _pack_histogram(histogram: DyadicHistogram, arrays: dict[str, Array], key: str) -> dict[str, Any]:
    (used,) = np.nonzero(histogram.counts)
    first, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    arrays[key] = histogram.counts[first:stop]
    return {"exponent": histogram.exponent, "first": first, "low": histogram.low, "high": histogram.high}


def _unpack(row: dict[str, Any], arrays: Any, index: int) -> TensorRecord:
    histogram, sums, sketch = None, None, None
    if "histogram" in row:
        histogram = _unpack_histogram(row["histogram"], arrays, f"counts{index}")
    if "sums" in row:
        parts = {part: arrays[f"{part}{index}"] for part in SUMS}
        sums = ChannelSums(row["sums"]["axis"], row["sums"]["count"], **parts)
    if "sketch" in row:
        sketch = MagnitudeCounts(arrays[f"sketch{index}"], row["sketch"]["top"], row["sketch"]["seen"])
    votes = {(zero, exponent): count for zero, exponent, count in row.get("votes", [])}
    return TensorRecord(row["low"], row["high"], row["count"], histogram, sums, sketch, votes)


def _unpack_histogram(row: dict[str, Any], arrays: Any, key: str) -> DyadicHistogram:
    counts = np.zeros(2 * BINS, np.int64)
    stored = arrays[key]
    counts[row["first"] : row["first"] + stored.size] = stored
    counts.flags.writeable = False
    return DyadicHistogram(row["exponent"], counts, row["low"], row["high"])
