"""Inputs made up when there is no data: noise with a 1/f amplitude spectrum, as natural images and sounds have.

Field (1987): the amplitude spectrum of natural images falls as 1/f. White noise does not excite a trained network the
way its data do; 1/f noise comes closer. Unless a `Texture` or earlier inputs say otherwise each sample has mean 0 and
standard deviation 1, as normalized inputs have; channels share most of their energy, as colours do.

Dynamic dimensions: 1 for the batch; for rank 4, 3 channels and 224 pixels; else 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.data.feeds import CountedFeed, Feed, float_dtype
from equiquant.calibrate.data.sample_axis import static_batch
from equiquant.errors import DataError
from equiquant.io.runtime import InputSpec
from equiquant.numerics.statistics.histogram import DyadicHistogram

__all__ = [
    "COMPONENTS",
    "SYNTHETIC_SAMPLES",
    "USUAL_POWERS",
    "Texture",
    "channel_axis",
    "component",
    "filled_shape",
    "pink_noise",
    "synthetic_feeds",
]

Array = npt.NDArray[Any]

SYNTHETIC_SAMPLES = 32
SHARED_ENERGY = 0.8  # of a channel's energy, common to all channels of a sample
DEFAULT_SIZE, DEFAULT_CHANNELS = 224, 3
COMPONENTS = (  # of a texture: exponent of 1/f (infinite: constant), common to all channels, usual power
    *((exponent, True, 0.8 * (exponent == 1.0)) for exponent in (0.0, 0.5, 1.0, 1.5, math.inf)),
    *((exponent, False, 0.2 * (exponent == 1.0)) for exponent in (0.0, 0.5, 1.0, 1.5, math.inf)),
)
USUAL_POWERS = np.array([usual for _, _, usual in COMPONENTS])
LARGEST_ID = 100  # integer inputs stay below where no table says otherwise: most vocabularies have that many entries
MASK = re.compile(r"masks?(?![a-z])")  # of names in small letters; a masked image is none


@dataclass(frozen=True, eq=False)
class Texture:
    """What an input looks like.

    Attributes:
        offset: Mean of each channel, `(C,)`.
        powers: Variance of each of `COMPONENTS`, `(K,)`.
    """

    offset: Array
    powers: Array


def synthetic_feeds(
    specs: Sequence[InputSpec],
    seed: int,
    samples: int = SYNTHETIC_SAMPLES,
    texture: Texture | None = None,
    entries: Mapping[str, int] = MappingProxyType({}),
    known: Mapping[str, DyadicHistogram] = MappingProxyType({}),
) -> Iterator[Feed]:
    """Yield plausible feeds, the same for the same seed.

    Args:
        specs: The model's inputs.
        seed: Seed of the generator.
        samples: How many samples, at least; a static batch is filled.
        texture: What the only input looks like, where that is known.
        entries: Of integer inputs, by name, what they must stay below.
        known: Of float inputs, by name, how real ones are distributed.

    Raises:
        DataError: An input has a type that cannot be made up.
    """
    rng = np.random.default_rng(seed)
    batch = static_batch(specs)
    for _ in range(-(-samples // batch)):
        if texture is None:
            feed = {spec.name: _made_up(spec, rng, entries.get(spec.name, LARGEST_ID), specs) for spec in specs}
            feed |= {s.name: _like(feed[s.name], known[s.name]) for s in specs if s.name in known}
        else:
            feed = {spec.name: _textured(spec, texture, rng) for spec in specs}
        yield CountedFeed(feed, batch)


def component(index: int, shape: Sequence[int], axis: int, rng: np.random.Generator) -> Array:
    """Return noise of one of `COMPONENTS`, expected power 1, float32 of `shape` with channels along `axis`."""
    exponent, common, _ = COMPONENTS[index]
    planes = np.empty((shape[0], shape[axis], *(n for i, n in enumerate(shape) if i not in (0, axis))), np.float32)
    for sample in planes:
        shared = _plane(rng, sample.shape[1:], exponent) if common else None
        for channel in sample:
            channel[...] = _plane(rng, sample.shape[1:], exponent) if shared is None else shared
    return np.ascontiguousarray(np.moveaxis(planes, 1, axis))


def _plane(rng: np.random.Generator, shape: Sequence[int], exponent: float) -> Array | float:
    return float(rng.standard_normal()) if math.isinf(exponent) else pink_noise(rng, shape, exponent)


def _textured(spec: InputSpec, texture: Texture, rng: np.random.Generator) -> Array:
    shape, axis = filled_shape(spec), channel_axis(spec)
    x = np.zeros(shape, np.float32)
    for index, power in enumerate(texture.powers):
        if power > 0:
            x += np.float32(math.sqrt(power)) * component(index, shape, axis, rng)
    x += texture.offset.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return x.astype(spec.dtype)


def pink_noise(rng: np.random.Generator, shape: Sequence[int], exponent: float = 1.0) -> Array:
    """Return noise over all axes of `shape` whose amplitude falls as 1/f^exponent; mean 0, standard deviation 1."""
    spectrum = np.fft.rfftn(rng.standard_normal(shape))
    squares = [np.fft.fftfreq(n) ** 2 for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1]) ** 2]
    total: Array = sum(np.ix_(*squares))  # type: ignore[assignment]
    frequency = np.sqrt(total)
    frequency.flat[0] = 1.0
    spectrum.flat[0] = 0.0  # mean 0
    noise = np.fft.irfftn(spectrum / frequency**exponent, s=shape, axes=range(len(shape)))
    spread = noise.std()
    result: Array = (noise / spread if spread > 0 else noise).astype(np.float32)
    return result


def _made_up(spec: InputSpec, rng: np.random.Generator, entries: int, specs: Sequence[InputSpec]) -> Array:
    shape, channels_last = filled_shape(spec), channel_axis(spec) == 3
    mask = _is_mask(spec)
    if float_dtype(spec):
        signal: Array = np.ones(shape)
        if not mask or len(specs) == 1 or _masks_alike(spec, specs):
            signal = _signal(shape, channels_last, rng)
        if mask and len(specs) > 1:  # what is masked is another input
            signal = signal >= 0
        return signal.astype(spec.dtype)
    if spec.dtype == "bool":
        return np.ones(shape, dtype=bool)
    if spec.dtype == "uint8" and len(shape) == 4:
        pixels: Array = np.clip(np.rint(128 + 64 * _signal(shape, channels_last, rng)), 0, 255).astype(np.uint8)
        return pixels
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise _no_data(spec, spec.dtype) from error
    if dtype.kind == "O":
        raise _no_data(spec, "string")
    if dtype.kind in "iu":
        entries = min(entries, int(np.iinfo(dtype).max) + 1)
    flags = len(shape) == 0 or mask or "type" in spec.name.lower()
    return np.asarray(np.ones(shape) if flags else rng.integers(0, entries, shape), dtype=dtype)


def _like(signal: Array, known: DyadicHistogram) -> Array:
    """Return a signal of mean 0 and deviation 1 with the mean, the deviation and the range of known values."""
    x, counts = known.occupied()
    mean = np.average(x, weights=counts)
    deviation = math.sqrt(np.average(np.square(x - mean), weights=counts))
    made: Array = np.clip(mean + deviation * signal, known.low, known.high).astype(signal.dtype)
    return made


def _is_mask(spec: InputSpec) -> bool:
    return MASK.search(spec.name.lower()) is not None


def _masks_alike(mask: InputSpec, specs: Sequence[InputSpec]) -> bool:
    """True if images or features have as many axes as the mask: whether ones or zeros hide them is not known.

    A mask of one element a sample would hide all of it.
    """
    others = (s for s in specs if not _is_mask(s) and (float_dtype(s) or s.dtype == "uint8"))
    whole = all(size == 1 for size in mask.shape[1:])
    return not whole and any(len(s.shape) == len(mask.shape) for s in others)


def _no_data(spec: InputSpec, kind: str) -> DataError:
    return DataError(f"The input '{spec.name}' has type {kind}, for which no data can be made up; give data.")


def channel_axis(spec: InputSpec) -> int:
    """Return the axis that looks like that of the channels; 1 unless an image has them last."""
    last = len(spec.shape) == 4 and spec.shape[3] in (1, 3, 4) and spec.shape[1] not in (1, 3, 4)
    return 3 if last else 1


def filled_shape(spec: InputSpec, size: int | None = None) -> tuple[int, ...]:
    """Return the shape of an input with a size for its dynamic dimensions: batch 1, 3 channels of an image.

    Args:
        spec: The input.
        size: Of the other dimensions; None for 224 of an image, else 1.
    """
    image = len(spec.shape) == 4
    usual = {0: 1, channel_axis(spec): DEFAULT_CHANNELS} if image else {0: 1}
    other = size or (DEFAULT_SIZE if image else 1)
    return tuple(known or usual.get(axis, other) for axis, known in enumerate(spec.shape))


def _signal(shape: tuple[int, ...], channels_last: bool, rng: np.random.Generator) -> Array:
    """Return pink noise over the axes after (batch, channel); white noise for features, which have no neighbours."""
    if len(shape) < 3:
        return rng.standard_normal(shape).astype(np.float32)
    if channels_last:
        planes = _signal((shape[0], shape[3], *shape[1:3]), False, rng)
        return np.ascontiguousarray(np.moveaxis(planes, 1, 3))
    result = np.empty(shape, np.float32)
    for sample in result:
        common = pink_noise(rng, shape[2:])
        for channel in sample:
            own = pink_noise(rng, shape[2:])
            channel[...] = np.sqrt(SHARED_ENERGY) * common + np.sqrt(1 - SHARED_ENERGY) * own
        spread = sample.std()
        sample /= spread if spread > 0 else 1
    return result
