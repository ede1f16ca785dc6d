"""Arrays of several inputs whose axes 0 are not alike, and samples joined to a static batch."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import open_samples
from equiquant.calibrate.data.feeds import batch_size
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
    "one after whole ones": lambda x: [x[:4], x[4:5], x[5:]],
}


@pytest.mark.parametrize("kind", STATIC)
def test_a_static_batch_is_filled_from_whatever_comes(kind: str) -> None:
    x = samples(6)
    with open_samples(STATIC[kind](x), [FOURS], RECIPE) as stream:
        for _ in range(2):
            assert [f["x"].shape[0] for f in stream] == [4, 4]
            assert np.array_equal(np.concatenate([f["x"] for f in stream]), x[[0, 1, 2, 3, 4, 5, 4, 5]])
            assert [batch_size(f) for f in stream] == [4, 2]
        assert stream.samples == 6
        assert stream.known in (None, 6)


@pytest.mark.parametrize("kind", [lambda x: {"x": x, "y": 2 * x}, lambda x: [{"x": r, "y": 2 * r} for r in x]])
@pytest.mark.parametrize("static", ["x", "y"])
def test_an_open_batch_beside_a_static_one_is_joined_too(kind: Callable[[np.ndarray], Any], static: str) -> None:
    x = samples(6)
    specs = [InputSpec(name, "float32", (4 if name == static else None, 3, 4, 5)) for name in "xy"]
    for feed, taken in zip(open_samples(kind(x), specs, RECIPE), (x[:4], x[[4, 5, 4, 5]]), strict=True):
        np.testing.assert_array_equal(feed["x"], taken)
        np.testing.assert_array_equal(feed["y"], 2 * taken)


@pytest.mark.parametrize(
    ("data", "specs"),
    [
        ([{"k": np.ones(10), "x": row} for row in samples(6)], [InputSpec("k", "float32", (10,)), IMAGE]),
        ({"k": np.ones((6, 10)), "x": samples(6)[:, None]}, [InputSpec("k", "float32", (10,)), IMAGE]),
        (samples(6), [InputSpec("x", "float32", (3, 4, 5))]),
        (samples(6)[:, 0, 0], [InputSpec("x", "float32", (5,))]),
        ([{"h": np.ones((2, 1, 3)), "x": row} for row in samples(6)], [InputSpec("h", "float32", (2, None, 3)), IMAGE]),
        ([{"t": np.array(0.5), "x": x} for x in (samples(4), samples(2))], [NUMBER, IMAGE]),
    ],
    ids=["vector first", "vectors", "no batch", "signals", "states first", "number first"],
)
def test_samples_are_counted_along_the_batch_and_no_other_axis(data: Any, specs: list[InputSpec]) -> None:
    with open_samples(data, specs, RECIPE) as stream:
        assert stream.known in (None, 6)
        assert stream.samples == 6
    with open_samples(iter(data) if isinstance(data, list) else data, specs, RECIPE) as stream:  # kept in a file
        assert stream.samples == sum(map(batch_size, stream)) == 6
    with open_samples(data, specs, preset("a8w8", calibration_samples=4)) as stream:
        assert stream.samples == 4


@pytest.mark.parametrize(("shape", "feeds", "count"), [((3, 4, 5), 32, 32), ((12, 3, 4, 5), 3, 36)])
def test_made_up_inputs_are_as_many_whatever_the_batch(shape: tuple[int, ...], feeds: int, count: int) -> None:
    with open_samples(None, [InputSpec("x", "float32", shape)], RECIPE) as stream:
        assert len(list(stream)) == feeds
        assert stream.known == stream.samples == count


def test_an_open_batch_may_differ_from_a_static_axis_of_another_kind() -> None:
    specs = [InputSpec("x", "float32", (16, 1, 8)), InputSpec("y", "float32", (None, 3))]
    data = [{"x": np.ones((16, 1, 8), np.float32), "y": np.ones((1, 3), np.float32)}] * 2
    assert [feed["y"].shape for feed in open_samples(data, specs, RECIPE)] == [(1, 3)] * 2


@pytest.mark.parametrize("shape", [(16,), (3, 8, 8), (16, 1, 8)])
def test_an_array_of_the_inputs_shape_is_one_feed(shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (feed,) = open_samples(x, [InputSpec("x", "float32", shape)], RECIPE)
    np.testing.assert_array_equal(feed["x"], x)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(7,)], (10,)),
        ([(1,)] * 10, (10,)),
        ([()] * 10, (10,)),
        ([(1, 8, 8)] * 3, (3, 8, 8)),
        ([(8, 8)] * 3, (3, 8, 8)),
        ([(12, 1, 8)] * 4, (16, 1, 8)),
        ([(16, 1, 8), (12, 1, 8), (4, 1, 8)], (16, 1, 8)),
        ([(32, 1, 8)], (16, 1, 8)),
        ([(1, 1, 8), (2, 1, 8)], (16, 1, 8)),
    ],
)
def test_data_of_another_size_are_not_joined(given: list[tuple[int, ...]], expected: tuple[int, ...]) -> None:
    stream = open_samples([np.ones(s, np.float32) for s in given], [InputSpec("x", "float32", expected)], RECIPE)
    with pytest.raises(DataError, match=r"input 'x': got shape .*, expected " + re.escape(str(expected))):
        list(stream)


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
            r"sample 0, input 'a': got shape \(2, 1\), expected \(4, 1\)",
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
