"""Which axis counts the samples: axis 0 of the first input in which it is the batch.

That is for the shapes a model declares to say, since nothing in a feed tells a batch of 10 images from 10 anchors that
go with one. An open axis 0 is a batch. Of static ones those with most axes tell: beside a sequence or an image, numbers
and tables do not; and of these a size that others have on axis 1, as the states of a recurrent network do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from equiquant.io.runtime import InputSpec

__all__ = ["batch_input", "sample_count", "static_batch"]


def static_batch(specs: Sequence[InputSpec]) -> int:
    """Return the batch size of the inputs where it is static, the same for all that have one; else 1.

    Single numbers have none, nor do vectors alone or images of three axes, (3, height, width).
    """
    shapes = [spec.shape for spec in specs if spec.shape and spec.shape[0] is not None]
    sizes = {shape[0] for shape in shapes}
    return (sizes.pop() or 1) if len(sizes) == 1 and not _without_batch(shapes) else 1


def batch_input(specs: Sequence[InputSpec]) -> str | None:
    """Return the name of the input whose axis 0 counts the samples; None where no input has a batch."""
    shapes = {spec.name: spec.shape for spec in specs if spec.shape}
    open_ = [name for name, shape in shapes.items() if shape[0] is None]
    if open_:
        return next((name for name in open_ if len(shapes[name]) > 1), open_[0])
    if _without_batch(shapes.values()):
        return None
    most = max(map(len, shapes.values()))
    second = {shape[1] for shape in shapes.values() if len(shape) > 1}
    widest = {name: shape[0] for name, shape in shapes.items() if len(shape) == most}
    return max(widest, key=lambda name: (widest[name] in second, widest[name] != 1))  # the first of several alike


def _without_batch(shapes: Collection[Sequence[int | None]]) -> bool:
    """True of vectors alone, and where an image of three axes is among the inputs."""
    return all(len(shape) == 1 for shape in shapes) or any(len(shape) == 3 and shape[0] == 3 for shape in shapes)


def sample_count(arrays: Mapping[str, Any], specs: Sequence[InputSpec]) -> int:
    """Return the number of samples in the arrays of one feed; without a batch it is one sample."""
    name = batch_input(specs)
    return 1 if name is None else int(arrays[name].shape[0])
