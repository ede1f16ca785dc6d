"""Arrays of several inputs whose axes 0 are not alike, and samples joined to a static batch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import open_samples
from equiquant.errors import DataError
from equiquant.io import InputSpec
from equiquant.recipe import preset
from tests.calibrate.support import IMAGE, samples

RECIPE = preset("a8w8")
FOURS = InputSpec("x", "float32", (4, 3, 4, 5))
NUMBER = InputSpec("t", "float32", ())
LSTM = [InputSpec("x", "float32", (None, 10, 4)), InputSpec("h0", "float32", (2, None, 8))]


def as_npz(arrays: dict[str, Any], folder: Path) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("spec", [IMAGE, FOURS])
def test_a_single_number_goes_with_every_sample(spec: InputSpec, npz: bool, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"x": samples(8), "t": np.float32(0.5)}
    with open_samples(as_npz(arrays, tmp_path) if npz else arrays, [spec, NUMBER], RECIPE) as stream:
        feeds = list(stream)
        assert stream.known == stream.samples == 8
    assert np.array_equal(np.concatenate([f["x"] for f in feeds]), arrays["x"])
    assert all(f["t"].shape == () and f["t"] == 0.5 for f in feeds)


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_arrays_that_fit_as_they_are_make_one_feed(batch: int, npz: bool, tmp_path: Path) -> None:
    arrays = {"x": np.ones((batch, 10, 4), np.float32), "h0": np.ones((2, batch, 8), np.float32)}
    (feed,) = open_samples(as_npz(arrays, tmp_path) if npz else arrays, LSTM, RECIPE)
    assert feed["x"].shape == (batch, 10, 4)
    assert feed["h0"].shape == (2, batch, 8)


@pytest.mark.parametrize(
    ("arrays", "specs"),
    [
        ({"x": np.ones((4, 10, 4), np.float32), "h0": np.ones((3, 4, 8), np.float32)}, LSTM),
        ({"x": np.ones((4, 1, 10, 4), np.float32), "h0": np.ones((3, 2, 1, 8), np.float32)}, LSTM),
        (
            {"a": np.ones((6, 2), np.float32), "b": np.ones((5, 2), np.float32)},
            [InputSpec(name, "float32", (None, 2)) for name in "ab"],
        ),
    ],
)
def test_different_numbers_of_samples_are_refused(arrays: dict[str, Any], specs: list[InputSpec]) -> None:
    with pytest.raises(DataError, match="different numbers of samples along axis 0"):
        list(open_samples(arrays, specs, RECIPE))


def one_buffer(x: np.ndarray) -> Iterator[np.ndarray]:
    buffer = np.empty_like(x[0])
    for row in x:
        buffer[:] = row
        yield buffer


STATIC: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "singles": list,
    "one buffer": one_buffer,
    "feeds": lambda x: [{"x": row[None]} for row in x],
    "a smaller last one": lambda x: [x[:4], x[4:]],
    "larger ones": lambda x: [x[:5], x[5:]],
}


@pytest.mark.parametrize("kind", STATIC)
def test_a_static_batch_is_filled_from_whatever_comes(kind: str) -> None:
    x = samples(6)
    with open_samples(STATIC[kind](x), [FOURS], RECIPE) as stream:
        for _ in range(2):
            assert [f["x"].shape[0] for f in stream] == [4, 4]
            assert np.array_equal(np.concatenate([f["x"] for f in stream]), x[[0, 1, 2, 3, 4, 5, 0, 1]])
        assert stream.samples == 8
        assert stream.known == 8


@pytest.mark.parametrize(
    ("data", "specs", "message"),
    [
        ([np.ones((3, 4, 6), np.float32)], [FOURS], r"sample 0, input 'x': got shape \(3, 4, 6\)"),
        ([(0.1, 0.2, 0.3, 0.4)], [InputSpec("x", "float32", (4,))], r"got shape \(\), expected \(4,\)"),
        (
            [{"x": x, "t": np.float32(i)} for i, x in enumerate(samples(4))],
            [FOURS, NUMBER],
            "sample 3, input 't': .*same",
        ),
        (
            [{"a": np.ones((2, 1), np.float32), "b": np.ones((1, 1), np.float32)}],
            [InputSpec(name, "float32", (4, 1)) for name in "ab"],
            "sample 0: .*different numbers",
        ),
        (
            [np.ones((1, n), np.float32) for n in (3, 4)],
            [InputSpec("x", "float32", (2, None))],
            "sample 1, input 'x': .*one shape",
        ),
    ],
)
def test_samples_that_make_no_batch_are_refused(data: Any, specs: list[InputSpec], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_samples(data, specs, RECIPE))
