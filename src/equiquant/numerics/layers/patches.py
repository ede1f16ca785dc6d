"""What each output of a convolution reads, as the columns of a matrix (im2col), at all positions or at a regular few.

A Conv of one sample is Y[o, p] = Σ_k W[o, k] X[k, p]: k runs over input channels and kernel elements, p over output
positions. A ConvTranspose is the Conv of its input with stride − 1 zeros between the elements, the kernel mirrored and
the padding complemented: d·(k − 1) − pad.
Source: Dumoulin and Visin, arXiv:1603.07285, section 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Patches"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Patches:
    """A sliding window over any number of spatial axes; one entry an axis.

    Attributes:
        kernel: Elements.
        strides: Steps between windows.
        dilations: Steps between elements of a window.
        begins: Zeros before the first element; negative leaves elements out.
        ends: Zeros after the last one.
        stuffing: Steps between the input's elements once zeros are put between them; 1 for none.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    stuffing: tuple[int, ...]

    def columns(self, x: Array, most: int | None = None, shift: int = 0, fill: int = 0) -> Array:
        """Return the elements that every output position reads.

        Args:
            x: (N, C, *spatial).
            most: Take about this many positions a sample at most, on a regular grid; None takes all.
            shift: Moves that grid, so that different samples give different positions.
            fill: What stands for 0: integers have a zero point.

        Returns:
            (N, C, K, P) in the type of `x`: K kernel elements, P positions, both row-major.
        """
        counts, windows = self._windows(x, most, shift, fill)
        result = np.empty((*x.shape[:2], math.prod(self.kernel), math.prod(counts)), x.dtype)
        target = result.reshape(*x.shape[:2], math.prod(self.kernel), *counts)
        for index, window in enumerate(windows):
            target[:, :, index] = window
        return result

    def holding_one(self, spatial: Sequence[int]) -> list[int]:
        """Return the sizes of an input, no less than those that have room for one window."""
        axes = zip(spatial, self.stuffing, self.begins, self.ends, self.kernel, self.dilations, strict=True)
        return [max(n, 1 - (b + e - d * (k - 1)) // t) for n, t, b, e, k, d in axes]

    def mean_column(self, x: Array) -> Array:
        """Return the mean over all output positions of what they read, (N, C, K); no column is made for it.

        Means are taken along one axis after the other: positions form a grid, and so do the elements of a kernel.
        """
        means = self._padded(x, 0)
        for k, s, d in zip(self.kernel, self.strides, self.dilations, strict=True):  # the first axis left is axis 2
            last = (means.shape[2] - d * (k - 1) - 1) // s * s
            means = np.stack([means[:, :, o : o + last + 1 : s].mean(axis=2) for o in range(0, k * d, d)], axis=-1)
        return means.reshape(*x.shape[:2], -1)

    def _windows(self, x: Array, most: int | None, shift: int, fill: int) -> tuple[list[int], Iterator[Array]]:
        """Return the positions along each axis, and for each kernel element a view of what they read there."""
        padded = self._padded(x, fill)
        reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        sizes = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, self.strides, strict=True)]
        picks = _grid(sizes, most, shift)

        def view(offsets: tuple[int, ...]) -> Array:
            slices = [
                slice(p.start * s + o * d, (p[-1] * s + o * d) + 1, p.step * s)
                for p, s, o, d in zip(picks, self.strides, offsets, self.dilations, strict=True)
            ]
            return padded[(slice(None), slice(None), *slices)]

        return [len(p) for p in picks], map(view, itertools.product(*(range(k) for k in self.kernel)))

    def _padded(self, x: Array, fill: int) -> Array:
        spatial = x.shape[2:]
        wide = [(n - 1) * t + 1 for n, t in zip(spatial, self.stuffing, strict=True)]
        sizes = [b + n + e for b, n, e in zip(self.begins, wide, self.ends, strict=True)]
        if sizes == list(spatial) and not any(self.begins):
            return x
        result = np.full((*x.shape[:2], *sizes), fill, x.dtype)
        into, source = [slice(None)] * 2, [slice(None)] * 2
        for begin, count, step, size in zip(self.begins, spatial, self.stuffing, sizes, strict=True):
            first = max(0, -(begin // step))  # the first element that is not cut off
            last = min(count, (size - 1 - begin) // step + 1)
            into.append(slice(begin + first * step, begin + (last - 1) * step + 1, step))
            source.append(slice(first, last))
        result[tuple(into)] = x[tuple(source)]
        return result


def _grid(sizes: Sequence[int], most: int | None, shift: int) -> list[range]:
    """Return the positions along each axis: all, or every n-th so that about `most` are left in all."""
    if most is None or math.prod(sizes) <= most:
        return [range(n) for n in sizes]
    step = math.ceil((math.prod(sizes) / most) ** (1 / len(sizes)))
    starts = [shift % step, (shift // step) % step, (shift // step**2) % step]
    return [range(min(start, n - 1), n, step) for n, start in zip(sizes, itertools.cycle(starts), strict=False)]
