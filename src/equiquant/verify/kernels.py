"""What this machine's integer kernels make of a quantized model: as onnxruntime runs it, against the model as written.

The two differ by the last bit where kernels round once instead of twice, and by much where they overflow, as those for
uint8 times int8 do on x86 without VNNI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.io.runtime import Runner
from equiquant.numerics.sqnr import decibels

__all__ = ["kernel_sqnr_db"]


def kernel_sqnr_db(model: ir.Model, feeds: Iterable[Mapping[str, npt.NDArray[Any]]]) -> dict[str, float]:
    """Return the signal-to-noise ratio of each float output, optimized by onnxruntime against as written, in dB.

    Args:
        model: The quantized model; not changed.
        feeds: Inputs by name.
    """
    names = [v.name or "" for v in model.graph.outputs if v.dtype is None or v.dtype.is_floating_point()]
    written, optimized = Runner(model, names, optimize=False), Runner(model, names)
    signal, noise = np.zeros(len(names)), np.zeros(len(names))
    for feed in feeds:
        for index, (expected, got) in enumerate(zip(written.run(feed), optimized.run(feed), strict=True)):
            wide = expected.astype(np.float64)
            signal[index] += np.square(wide).sum()
            noise[index] += np.square(wide - got).sum()
    return {n: decibels(s, e) for n, s, e in zip(names, signal.tolist(), noise.tolist(), strict=True)}
