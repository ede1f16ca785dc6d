"""What this machine's integer kernels make of a quantized model: as onnxruntime runs it, against the model as written.

The two differ by the last bit where kernels round once instead of twice, and by much where they overflow, as those for
uint8 times int8 do on x86 without VNNI, or where a kernel rounds floats to 8 bits that the model does not, as
onnxruntime's for MatMul with stored weights does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import is_float
from equiquant.graph.varying import varying
from equiquant.io.runtime import Runner
from equiquant.io.save import model_bytes
from equiquant.numerics.statistics.sqnr import ErrorAccumulator

__all__ = ["WHOLE_BELOW", "kernel_sqnr_db"]

WHOLE_BELOW = 250_000_000
"""Bytes of the quantized model's weights; with more, the session that fuses them would take six times as many."""


def kernel_sqnr_db(
    model: ir.Model, feeds: Iterable[Mapping[str, npt.NDArray[Any]]], entries: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Return the signal-to-noise ratio of each float output, optimized by onnxruntime against as written, in dB.

    Outputs in a number that depends on the numbers are left out, as are those that are nothing but zeros as written.

    Of a model of `WHOLE_BELOW` or more, kernels that read stored weights are not among what runs.

    Args:
        model: The quantized model; not changed.
        feeds: Inputs by name.
        entries: Entries of the optimized session's configuration.

    Raises:
        ModelError: onnxruntime cannot optimize the model, or not run it then.
    """
    unlike = varying(model)
    names = [str(v.name) for v in model.graph.outputs if is_float(v) and v not in unlike]
    if not names:
        return {}
    written = Runner(model, names, optimize=False)
    optimized = Runner(model, names, lean=model_bytes(model) >= WHOLE_BELOW, entries=entries)
    sums = [ErrorAccumulator() for _ in names]
    for feed in feeds:
        for accumulator, expected, got in zip(sums, written.run(feed), optimized.run(feed), strict=True):
            accumulator.add(expected, got)
    told = zip(names, sums, strict=True)
    return {name: accumulator.figures().sqnr_db for name, accumulator in told if not accumulator.silent}
