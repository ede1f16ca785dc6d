import numpy as np
import pytest

from equiquant.calibrate.data.feeds import batch_size, checked
from equiquant.errors import DataError
from equiquant.io import InputSpec

IMAGE = InputSpec("image", "float32", (None, 3, 4, 5))
IDS = InputSpec("ids", "int64", (None, None))


def test_a_missing_batch_dimension_is_added_and_float64_narrowed() -> None:
    feed = checked({"ids": np.arange(7), "image": np.ones((3, 4, 5))}, [IMAGE, IDS], "sample 0")
    assert list(feed) == ["image", "ids"]
    assert feed["image"].shape == (1, 3, 4, 5)
    assert feed["image"].dtype == np.float32
    assert feed["ids"].shape == (1, 7)
    assert batch_size(feed) == 1


def test_arrays_become_contiguous() -> None:
    x = np.ones((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2)
    feed = checked({"image": x}, [IMAGE], "sample 0")
    assert feed["image"].flags.c_contiguous
    assert batch_size(feed) == 2


def test_bytes_come_in_the_order_of_this_machine() -> None:
    x = np.arange(60, dtype=">f4").reshape(1, 3, 4, 5)
    feed = checked({"image": x, "ids": np.arange(7, dtype=">i8")}, [IMAGE, IDS], "sample 0")
    assert all(array.dtype.isnative for array in feed.values())
    assert np.array_equal(feed["image"], x)


def test_a_scalar_stays_one() -> None:
    feed = checked({"rate": np.array(16000), "image": np.ones((3, 4, 5))}, [InputSpec("rate", "int64", ()), IMAGE], "s")
    assert feed["rate"].shape == ()
    assert batch_size(feed) == 1


def test_float32_is_narrowed_for_a_half_precision_input() -> None:
    half = InputSpec("x", "float16", (None, 2))
    assert checked({"x": np.ones((1, 2), np.float32)}, [half], "sample 0")["x"].dtype == np.float16
    with pytest.raises(DataError, match="values beyond ±65504 do not fit the input's float16"):
        checked({"x": np.full((1, 2), 1e9, np.float32)}, [half], "sample 0")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.ones((1, 3, 4, 6), np.float32),
            r"sample 7, input 'image': got shape \(1, 3, 4, 6\), expected \(\?, 3, 4, 5\)",
        ),
        (np.ones((4, 5), np.float32), r"got shape \(4, 5\), expected"),
        (np.ones((4, 4, 5), np.float32), r"got shape \(4, 4, 5\), expected"),
        (np.ones((1, 3, 4, 5), np.uint8), "got dtype uint8, expected float32"),
        (np.ones((1, 3, 4, 5), np.float16), "got dtype float16, expected float32"),
        (np.ones((1, 3, 4, 5), np.int64), "got dtype int64, expected float32"),
        (np.full((1, 3, 4, 5), np.nan, np.float32), "NaN or infinite"),
        (np.full((1, 3, 4, 5), np.inf, np.float32), "NaN or infinite"),
        (np.full((1, 3, 4, 5), 1e300), r"values beyond ±3\.40282e\+38"),
        (np.ones((0, 3, 4, 5), np.float32), "the array is empty"),
        ("hello", "got dtype str"),
        ([[1.0], [1.0, 2.0]], r"cannot be read as an array: .*[^.]\.$"),
    ],
)
def test_what_does_not_fit_is_refused_with_sample_input_got_and_expected(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked({"image": value}, [IMAGE], "sample 7")


def test_names_are_checked() -> None:
    x = np.ones((1, 3, 4, 5), np.float32)
    with pytest.raises(DataError, match=r"no input 'imag'; it has 'image'.* Did you mean 'image'\?"):
        checked({"imag": x}, [IMAGE], "sample 0")
    with pytest.raises(DataError, match="has no array for the model's input 'ids'"):
        checked({"image": x}, [IMAGE, IDS], "sample 0")


def test_static_batches_must_match() -> None:
    with pytest.raises(DataError, match=r"got shape \(1, 2\), expected \(4, 2\)"):
        checked({"x": np.ones((1, 2), np.float32)}, [InputSpec("x", "float32", (4, 2))], "sample 0")
