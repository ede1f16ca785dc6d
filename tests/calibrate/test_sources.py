"""What a user hands over that is none of the usual kinds: read if numpy can, else said why not and what to do."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import open_samples
from equiquant.errors import DataError
from equiquant.recipe import preset
from tests.calibrate.support import IMAGE, samples

RECIPE = preset("a8w8")


class Tensor:
    """A torch tensor."""

    def __init__(self, array: np.ndarray | np.generic) -> None:
        self._array = np.asarray(array)
        self.shape = self._array.shape

    def detach(self) -> "Tensor":
        return self

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> np.ndarray:
        return self._array


class Unreadable(Tensor):
    """A tensor that numpy cannot hold, as of bfloat16."""

    def numpy(self) -> np.ndarray:
        raise TypeError("Got unsupported ScalarType BFloat16")


class Closed:
    """An array of a file that is closed."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise OSError("closed")


class Endless:
    """An iterable by its looks."""

    def __iter__(self) -> Any:
        return 5


class MapStyle:
    """A torch Dataset, which a DataLoader draws from."""

    def __getitem__(self, index: int) -> np.ndarray:
        raise NotImplementedError

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([Unreadable(samples(1))], r"sample 0, input 'x' cannot be read as an array: .*BFloat16\. .*give \.float\(\)"),
        ([(Unreadable(samples(1)), 1)], r"sample 0, input 'x' .*give \.float\(\)"),
        ([{"x": Unreadable(samples(1))}], r"sample 0, input 'x' .*give \.float\(\)"),
        ({"x": Unreadable(samples(1))}, r"data for 'x' .*give \.float\(\)"),
        (Unreadable(samples(1)), r"data for 'x' .*give \.float\(\)"),
        (Tensor(np.float32(1)), r"sample 0, input 'x': got shape \(\)"),
        ({"x": [Unreadable(samples(1))]}, r"data for 'x' .*BFloat16\. Of a .*give \.float\(\)"),
        ([Closed()], r"sample 0, input 'x' cannot be read as an array: closed\.$"),
        ({"x": Closed()}, r"data for 'x' cannot be read as an array: closed\.$"),
        (Endless(), "cannot be iterated: iter"),
        (MapStyle(), "not MapStyle. Wrap a Dataset in a DataLoader."),
    ],
)
def test_what_cannot_be_read_as_arrays_is_said(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_samples(data, [IMAGE], RECIPE))


@pytest.mark.parametrize("lend", [memoryview, Tensor, lambda x: {"x": [Tensor(row) for row in x]}])
def test_a_view_of_memory_and_tensors_are_arrays(lend: Callable[[np.ndarray], Any]) -> None:
    with open_samples(lend(samples(3)), [IMAGE], RECIPE) as stream:
        assert stream.known == 3
        assert np.array_equal(np.concatenate([feed["x"] for feed in stream]), samples(3))


@pytest.mark.parametrize("named", [str, os.fsencode])
def test_a_path_is_whatever_says_where_it_leads(tmp_path: Path, named: Callable[[Path], Any]) -> None:
    np.save(tmp_path / "x.npy", samples(3))
    with os.scandir(named(tmp_path)) as entries, open_samples(next(entries), [IMAGE], RECIPE) as stream:
        assert np.array_equal(np.concatenate([feed["x"] for feed in stream]), samples(3))
