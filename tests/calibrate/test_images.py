import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import SampleView, open_samples
from equiquant.calibrate.data.images import ImageReader
from equiquant.errors import DataError
from equiquant.io import InputSpec
from equiquant.recipe import ImageOptions, preset

Image = pytest.importorskip("PIL.Image", reason="needs the extra `images`")

NCHW = InputSpec("x", "float32", (None, 3, 8, 8))
NHWC = InputSpec("x", "float32", (None, 8, 8, 3))
GRAY = InputSpec("x", "float32", (None, 1, 8, 8))


def write(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def noise(seed: int = 0, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3))


def test_normalization_layout_and_colour_order(tmp_path: Path) -> None:
    pixels = noise()
    path = write(tmp_path / "a.png", pixels)
    options = ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), resize="stretch")
    expected = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    assert np.allclose(ImageReader(NHWC, options).read(path), expected, atol=1e-6)
    assert np.allclose(ImageReader(NCHW, options).read(path), expected.transpose(2, 0, 1), atol=1e-6)
    bgr = ImageReader(NHWC, ImageOptions(color="BGR", resize="stretch", scale=1.0)).read(path)
    assert np.array_equal(bgr, pixels[:, :, ::-1])
    colors = ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), resize="stretch", color="BGR")
    assert np.allclose(ImageReader(NHWC, colors).read(path), expected[:, :, ::-1], atol=1e-6)


def test_bytes_in_wider_integers_are_bytes(tmp_path: Path) -> None:
    pixels = noise()[:, :, 0]
    deep = ImageOptions(resize="stretch", scale=1.0)
    for name, wide, expected in (("a", pixels, pixels), ("b", pixels * 257, pixels)):
        path = tmp_path / f"{name}.tif"
        Image.fromarray(wide.astype(np.int32)).save(path)
        assert np.array_equal(ImageReader(GRAY, deep).read(path)[0], expected)


def test_crop_keeps_the_center_and_the_aspect(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128, 3))
    pixels[:, :32] = pixels[:, 96:] = 255  # outside the center square
    path = write(tmp_path / "wide.png", pixels)
    assert ImageReader(NCHW, ImageOptions(resize="crop")).read(path).max() < 0.01
    assert ImageReader(NCHW, ImageOptions(resize="stretch")).read(path).max() > 0.9


@pytest.mark.parametrize("size", [(8000, 8), (8, 8000), (300, 3)])
def test_of_a_long_image_only_the_crop_is_enlarged(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(noise(0, *size).astype(np.uint8))
    reader = ImageReader(InputSpec("x", "float32", (None, 3, 64, 64)), ImageOptions(scale=1.0))
    got = reader.prepare(image)
    monkeypatch.setattr("equiquant.calibrate.data.images.LARGEST", math.inf)
    assert np.abs(got - reader.prepare(image)).max() <= 1
    monkeypatch.undo()
    resize, largest = Image.Image.resize, []

    def watched(self: Any, size: tuple[int, int], *more: Any, **named: Any) -> Any:
        largest.append(size)
        return resize(self, size, *more, **named)

    monkeypatch.setattr(Image.Image, "resize", watched)
    reader.prepare(image)
    assert largest == [(64, 64)]


def test_gray_models_bytes_models_and_explicit_sizes(tmp_path: Path) -> None:
    pixels = noise(height=20, width=30)
    path = write(tmp_path / "a.png", pixels)
    assert ImageReader(InputSpec("x", "float32", (1, 1, 6, 7)), ImageOptions()).read(path).shape == (1, 6, 7)
    raw = ImageReader(InputSpec("x", "uint8", (1, 20, 30, 3)), ImageOptions(resize="stretch")).read(path)
    assert np.array_equal(raw, pixels)
    dynamic = InputSpec("x", "float32", (None, 3, None, None))
    assert ImageReader(dynamic, ImageOptions(size=(5, 9))).read(path).shape == (3, 5, 9)


def test_sixteen_bits_are_the_same_picture(tmp_path: Path) -> None:
    """Pillow alone would cut everything above 255 off: a white picture."""
    gray = np.random.default_rng(0).integers(0, 256, (8, 8))
    write(tmp_path / "8.png", gray)
    Image.fromarray((gray * 257).astype(np.uint16)).save(tmp_path / "16.png")
    reader = ImageReader(NCHW, ImageOptions(resize="stretch"))
    assert np.array_equal(reader.read(tmp_path / "16.png"), reader.read(tmp_path / "8.png"))
    Image.fromarray(gray.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="neither bytes nor 16 bits"):
        reader.read(tmp_path / "float.tif")


def test_a_folder_is_read_in_order_with_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    files = [write(tmp_path / name, noise(i)) for i, name in enumerate(["cats/1.png", "cats/2.jpg", "dog.bmp"])]
    (tmp_path / "labels.txt").write_text("ignored")
    reader = ImageReader(NCHW, ImageOptions())
    with open_samples(tmp_path, [NCHW], preset("a8w8")) as stream:
        for _ in range(2):
            assert np.array_equal(np.concatenate([f["x"] for f in stream]), np.stack([reader.read(f) for f in files]))
        for part, count in ((stream, 3), (SampleView(stream, 0, 2), 2)):
            again = open_samples(part, [NCHW], preset("a8w8"))
            assert (again.samples, again.images, again.skipped) == (count, True, 1)
    static = [f["x"] for f in open_samples(tmp_path, [InputSpec("x", "float32", (2, 3, 8, 8))], preset("a8w8"))]
    assert [x.shape[0] for x in static] == [2, 2]
    assert np.array_equal(static[1][1], static[1][0])
    assert open_samples(files[0], [NCHW], preset("a8w8")).samples == 1


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise())
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"Cannot read the image .*b\.png"):
        list(open_samples(tmp_path, [NCHW], preset("a8w8")))
    np.save(tmp_path / "c.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"both arrays .* and images"):
        open_samples(tmp_path, [NCHW], preset("a8w8"))
    with pytest.raises(DataError, match="does not take images"):
        ImageReader(InputSpec("x", "float32", (1, 10)), ImageOptions())
    with pytest.raises(DataError, match="have 1 or 3"):
        ImageReader(InputSpec("x", "float32", (1, 4, 8, 8)), ImageOptions())
    with pytest.raises(DataError, match="dynamic size"):
        ImageReader(InputSpec("x", "float32", (None, 3, None, None)), ImageOptions())
    with pytest.raises(DataError, match="one number each"):
        ImageReader(InputSpec("x", "float32", (1, 1, 8, 8)), ImageOptions(mean=(0.1, 0.2, 0.3)))


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install equiquant\[images\]"):
        ImageReader(NCHW, ImageOptions())
