"""What of a run goes into its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equiquant.calibrate import TensorStats
from equiquant.numerics.affine import QuantParams
from equiquant.pipeline.state import RunState
from equiquant.report import Report
from equiquant.target import QuantPlan
from equiquant.verify import Comparison

__all__ = ["report_of"]


def report_of(
    state: RunState,
    plan: QuantPlan | None = None,
    stats: TensorStats | None = None,
    quality: Comparison | None = None,
    blocks: Sequence[Mapping[str, Any]] = (),
    *,
    held: bool = False,
) -> Report:
    """Return the report of a finished run; `plan` and what follows are left out for an equalized float model.

    `blocks` are the rows of weights stored in blocks, see `qdq.insert_blocks`; `held` says that no weight was fitted to
    the samples of the comparison.
    """
    first = state.stream.first(1)
    return Report(
        recipe=state.reported,
        input_sha256=state.input_sha256,
        input_path=state.input_path,
        decisions=tuple(state.decisions),
        equalization=state.equalization,
        refinement=state.refinement,
        hardware=tuple(state.hardware),
        mixed_precision=state.mixed_precision,
        tensors=_tensors(plan, stats) if plan is not None and stats is not None else tuple(blocks),
        target={} if plan is None or plan.limits is None else plan.limits.to_dict(),
        quality=None if quality is None else {**quality.to_dict(), "synthetic": state.stream.synthetic, "held": held},
        warnings=tuple(state.warnings),
        stages=state.stages.costs,
        input_shapes={name: array.shape for feed in first for name, array in feed.items()},
        samples=None if stats is None else stats.samples,
        samples_made_up=stats is not None and stats.synthetic,
    )


def _tensors(plan: QuantPlan, stats: TensorStats) -> tuple[dict[str, Any], ...]:
    """Return one row per quantized tensor: activations first, then weights and biases by node and input."""
    rows = []
    for name, params in plan.activations.items():
        record = stats.tensors.get(name)
        low, high = (None, None) if record is None else (record.low, record.high)
        rows.append(_row(name, params, low, high))
    rows += [_row(f"{node}[{index}]", params, None, None) for (node, index), params in plan.constants.items()]
    return tuple(rows)


def _row(name: str, params: QuantParams, low: float | None, high: float | None) -> dict[str, Any]:
    row = {
        "name": name,
        "scale": params.scale.tolist(),
        "zero_point": params.zero_point.tolist(),
        "type": params.type.name,
        "low": low,
        "high": high,
    }
    return row if params.axis is None else {**row, "axis": params.axis}
