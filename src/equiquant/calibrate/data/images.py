"""Image files as model inputs: decode, resize, (x · scale − mean) / std, lay out.

`crop` follows the usual ImageNet evaluation: the short side is resized to size / 0.875 (256 for 224), then the center
is cut out. `letterbox` follows YOLO's: the largest size that fits, centered on a gray ground. Needs Pillow, the
optional extra `images`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.data.feeds import float_dtype, shape_text
from equiquant.errors import DataError, first_line
from equiquant.io.runtime import InputSpec
from equiquant.recipe import ImageOptions

__all__ = ["IMAGE_SUFFIXES", "ImageReader"]

Array = npt.NDArray[Any]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CROP = 0.875
DEEPEST = 65535  # of 16 bits
LARGEST = 16  # times the crop: of a long narrow image only the crop is enlarged, which may differ by a rounding


class ImageReader:
    """Reads image files into arrays for one model input.

    Args:
        spec: The input; rank 4, float or uint8 (which gets the bytes as they are).
        options: How to prepare the images.

    Raises:
        DataError: Pillow is missing, the input does not take images, or its size is dynamic and none is given.
    """

    def __init__(self, spec: InputSpec, options: ImageOptions) -> None:
        try:
            from PIL import Image
        except ImportError as error:
            raise DataError("Reading images needs Pillow: pip install equiquant[images]") from error
        self._pillow, self._filter = Image, Image.Resampling.BILINEAR
        if len(spec.shape) != 4 or not (float_dtype(spec) or spec.dtype == "uint8"):
            raise DataError(f"The input '{spec.name}' ({spec.dtype}{shape_text(spec.shape)}) does not take images.")
        self._channels_first = options.layout == "NCHW" or (options.layout == "auto" and spec.shape[3] not in (1, 3))
        channels, height, width = (spec.shape[i] for i in ((1, 2, 3) if self._channels_first else (3, 1, 2)))
        if channels not in (1, 3, None):
            raise DataError(f"The input '{spec.name}' has {channels} channels; images have 1 or 3.")
        self._mode = "L" if channels == 1 else "RGB"
        size = options.size or (height, width)
        if size[0] is None or size[1] is None:
            raise DataError(
                f"The input '{spec.name}' has a dynamic size {shape_text(spec.shape)};"
                " give the image size, as --size 224x224 or ImageOptions(size=(224, 224)) does."
            )
        self._size: tuple[int, int] = (size[0], size[1])
        self._dtype, self._options = spec.dtype, options
        self._mean, self._std = (self._per_channel(v) for v in (options.mean, options.std))

    def _per_channel(self, values: tuple[float, ...]) -> Array:
        if self._mode == "L" and len(set(values)) > 1:
            raise DataError("The model takes gray images: the image 'mean' and 'std' options need one number each.")
        return np.asarray(values[:1] if self._mode == "L" else values, dtype=np.float32)

    def read(self, path: Path) -> Array:
        """Return the image of one file, `(C, H, W)` or `(H, W, C)`.

        Raises:
            DataError: The file is not an image, or it is damaged.
        """
        try:
            with self._pillow.open(path) as file:
                return self.prepare(file)
        except Exception as error:  # damaged files raise almost anything, each decoder its own kind
            raise DataError(f"Cannot read the image {path}: {first_line(error)}") from error

    def prepare(self, image: Any) -> Array:
        """Return a Pillow image as `read` returns a file.

        Raises:
            ValueError: Its pixels are neither bytes nor 16 bits.
        """
        pixels = np.asarray(self._fit(self._in_bytes(image).convert(self._mode)))
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self._dtype != "uint8":
            scaled = pixels.astype(np.float32) * np.float32(self._options.scale)
            pixels = ((scaled - self._mean) / self._std).astype(self._dtype)
        if self._options.color == "BGR":
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self._channels_first else pixels)

    def _in_bytes(self, image: Any) -> Any:
        """Return a Pillow image with a byte a pixel and channel: Pillow itself would cut 16 bits off at 255.

        Wider integers that bytes would hold are bytes; all others are taken to use 16 bits.
        """
        if not image.mode.startswith(("I", "F")):
            return image
        pixels = np.asarray(image)
        if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > DEEPEST:
            raise ValueError(f"its pixels ({image.mode}) are neither bytes nor 16 bits; save it with 8 bits a channel")
        step = 1 if image.mode == "I" and pixels.max() <= 255 else DEEPEST / 255
        return self._pillow.fromarray(np.rint(pixels / step).astype(np.uint8))

    def _fit(self, image: Any) -> Any:
        height, width = self._size
        if self._options.resize == "stretch":
            return image.resize((width, height), self._filter)
        if self._options.resize == "letterbox":
            ratio = min(width / image.width, height / image.height)
            inner = image.resize(
                (max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), self._filter
            )
            fill = self._options.fill
            ground = self._pillow.new(self._mode, (width, height), fill if self._mode == "L" else (fill, fill, fill))
            ground.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
            return ground
        ratio = max(width / image.width, height / image.height) / CROP
        whole = max(width, round(image.width * ratio)), max(height, round(image.height * ratio))
        left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
        if whole[0] * whole[1] <= LARGEST * width * height:
            return image.resize(whole, self._filter).crop((left, top, left + width, top + height))
        x, y = image.width / whole[0], image.height / whole[1]
        right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
        return image.resize((width, height), self._filter, box=(left * x, top * y, right, bottom))
