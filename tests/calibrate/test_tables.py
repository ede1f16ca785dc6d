"""Data as other libraries hand it over, told by its shape: nothing of them is imported."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from equiquant.calibrate import open_samples
from equiquant.calibrate.data.images import ImageReader
from equiquant.errors import DataError, OptionError
from equiquant.io import InputSpec
from equiquant.recipe import IMAGE_RECIPES, ImageOptions, preset
from tests.calibrate.support import IMAGE, samples

A8W8 = preset("a8w8")
PICTURE = InputSpec("pixels", "float32", (None, 3, 8, 12))


class Tensor:
    """A torch tensor on a device, with a gradient: numpy cannot read it before `detach` and `cpu`."""

    def __init__(self, array: np.ndarray, home: bool = False) -> None:
        self._array, self._home = array, home
        self.shape = array.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def detach(self) -> "Tensor":
        return self

    def cpu(self) -> "Tensor":
        return Tensor(self._array, home=True)

    def numpy(self) -> np.ndarray:
        assert self._home
        return self._array


class Loader:
    """A torch DataLoader: iterated anew for each pass, yields what its collate function makes."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Table:
    """A Hugging Face dataset."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        self.column_names = list(rows[0]) if rows else []
        self.features = dict.fromkeys(self.column_names)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@pytest.mark.parametrize("collated", ["tuple", "list", "dict", "bare"])
def test_a_data_loader(collated: str) -> None:
    x, labels = samples(4), np.arange(4)
    batches = [(Tensor(x[i : i + 2]), Tensor(labels[i : i + 2])) for i in (0, 2)]
    shapes: dict[str, list[Any]] = {
        "tuple": batches,
        "list": [list(b) for b in batches],
        "dict": [{"x": b[0]} for b in batches],
        "bare": [b[0] for b in batches],
    }
    with open_samples(Loader(shapes[collated]), [IMAGE], A8W8) as stream:
        assert np.array_equal(np.concatenate([f["x"] for f in stream]), x)
        assert stream.samples == 4


def test_columns_named_like_the_inputs() -> None:
    specs = [InputSpec("ids", "int64", (None, 5)), InputSpec("mask", "int64", (None, 5))]
    rows = [{"label": 1, "ids": list(range(i, i + 5)), "mask": [1] * 5, "text": "no"} for i in range(3)]
    with open_samples(Table(rows), specs, A8W8) as stream:
        feeds = list(stream)
        assert stream.known == 3
    assert [f["ids"].shape for f in feeds] == [(1, 5)] * 3
    assert feeds[2]["ids"][0, 4] == 6


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_column_of_images_is_prepared_like_files(tmp_path: Path) -> None:
    images = [picture(20, 16, seed) for seed in range(3)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    table = Table([{"image": image, "label": 0} for image in images])
    with open_samples(table, [PICTURE], A8W8) as rows, open_samples(tmp_path, [PICTURE], A8W8) as files:
        for row, file in zip(rows, files, strict=True):
            assert np.array_equal(row["pixels"], file["pixels"])


def test_a_dataset_without_a_fitting_column_says_which_it_has() -> None:
    with pytest.raises(DataError, match=r"columns 'image', 'label'; none feeds 'x'.*rename_column"):
        open_samples(Table([{"image": "cat.png", "label": 1}]), [IMAGE], A8W8)
    with pytest.raises(DataError, match="no rows"):
        open_samples(Table([]), [IMAGE], A8W8)


def test_a_dataset_that_feeds_some_of_the_inputs_says_which_it_does_not() -> None:
    specs = [InputSpec("ids", "int64", (None, 3)), InputSpec("mask", "int64", (None, 3))]
    with pytest.raises(DataError, match=r"columns 'ids', 'label'; none feeds 'mask'"):
        open_samples(Table([{"ids": [1, 2, 3], "label": 1}]), specs, A8W8)


def test_a_first_row_without_an_image_is_to_be_left_out() -> None:
    rows: list[dict[str, Any]] = [{"image": None, "label": 1}, {"image": picture(12, 8), "label": 1}]
    with pytest.raises(DataError, match=r"or leave out the rows that have nothing in 'image', as the first\."):
        open_samples(Table(rows), [PICTURE], A8W8)


def test_letterbox_keeps_proportions_and_fills_with_gray() -> None:
    red = Image.new("RGB", (10, 10), (255, 0, 0))
    got = ImageReader(PICTURE, IMAGE_RECIPES["yolo"]).prepare(red)
    assert got.shape == (3, 8, 12)
    assert np.allclose(got[:, :, :2], 114 / 255)
    assert np.allclose(got[:, :, 10:], 114 / 255)
    assert np.allclose(got[0, :, 2:10], 1.0)
    assert np.allclose(got[1:, :, 2:10], 0.0)
    wide = ImageReader(PICTURE, ImageOptions(resize="letterbox", fill=0)).prepare(
        Image.new("RGB", (24, 4), (0, 255, 0))
    )
    assert np.allclose(wide[1, 3:5], 1.0)
    assert np.allclose(wide[1, :3], 0.0)
    with pytest.raises(OptionError, match="fill"):
        ImageOptions(fill=300)


def test_the_imagenet_recipe_is_torchvisions() -> None:
    spec = InputSpec("x", "float32", (None, 3, 224, 224))
    gray = Image.new("RGB", (300, 260), (128, 128, 128))
    got = ImageReader(spec, IMAGE_RECIPES["imagenet"]).prepare(gray)
    want = (128 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.allclose(got.mean(axis=(1, 2)), want, atol=1e-5)


def test_images_are_decoded_ahead_of_the_model_in_order_and_not_too_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(30):
        Image.new("RGB", (12, 8), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    read, threads = ImageReader.read, []

    def watched(self: ImageReader, path: Path) -> np.ndarray:
        threads.append(threading.current_thread())
        return read(self, path)

    monkeypatch.setattr(ImageReader, "read", watched)
    before = threading.active_count()
    with open_samples(tmp_path, [PICTURE], A8W8) as stream:
        iterator = iter(stream)
        assert next(iterator)["pixels"].max() == 0.0
        assert 1 <= len(threads) <= 20  # memory holds a few, whatever the size of the folder
        assert threading.main_thread() not in threads
        rest = [float(f["pixels"][0, 0, 0, 0] * 255) for f in iterator]
        assert np.allclose(rest, np.arange(1, 30), atol=1e-3)
    del iterator
    assert threading.active_count() <= before


def test_a_bad_file_names_itself_even_from_a_thread(tmp_path: Path) -> None:
    picture(12, 8).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    with open_samples(tmp_path, [PICTURE], A8W8) as stream, pytest.raises(DataError, match=r"b\.png"):
        list(stream)


def test_an_image_column_may_have_the_inputs_name() -> None:
    rows = [{"pixels": picture(20, 16, seed), "other": picture(20, 16)} for seed in range(2)]
    with open_samples(Table(rows), [PICTURE], A8W8) as stream:
        assert np.array_equal(
            next(iter(stream))["pixels"][0], ImageReader(PICTURE, ImageOptions()).prepare(rows[0]["pixels"])
        )
        assert stream.images


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": None}, "there is no image in column 'image'; leave this row out"),
        ({}, "there is no image in column 'image'"),
        (
            {"image": Image.fromarray(np.zeros((9, 9), np.float32))},
            "cannot read the image in column 'image': its pixels",
        ),
    ],
)
def test_a_bad_row_of_images_is_named(row: dict[str, Any], message: str) -> None:
    with (
        open_samples(Table([{"image": picture(12, 8)}, row]), [PICTURE], A8W8) as stream,
        pytest.raises(DataError, match=f"sample 1: {message}"),
    ):
        list(stream)


def test_a_row_without_the_column_is_named() -> None:
    table = Table([{"x": samples(1)[0]}, {"y": samples(1)[0]}])
    with (
        open_samples(table, [IMAGE], A8W8) as stream,
        pytest.raises(DataError, match=r"sample 1: .*no array for .* 'x'"),
    ):
        list(stream)
