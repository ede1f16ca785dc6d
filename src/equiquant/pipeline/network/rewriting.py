"""Rewriting for the NPU, measured: what should keep the function is proven to, and what does not says by how much.

Each kind of rewrite is compared with the model just before it, and all of them with the model the user gave. The figure
is the signal-to-noise ratio of the worst of the outputs and of the values before a final Softmax or Sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import hardware
from equiquant.calibrate import SampleView
from equiquant.calibrate.data.feeds import told_runs
from equiquant.decisions import Decision
from equiquant.graph.decisions import decision_values
from equiquant.io import Runner, model_bytes
from equiquant.numerics.statistics.sqnr import ErrorAccumulator
from equiquant.pipeline.measuring.splitting import alternate
from equiquant.pipeline.network.folding import rewritten
from equiquant.pipeline.network.proving import LARGE, reference_kept
from equiquant.pipeline.state import RunState
from equiquant.verify import Reference

__all__ = ["rewrite_for_npu"]

Array = npt.NDArray[Any]
Outputs = list[list[Array]]

FEEDS = 8  # feeds a rewrite is measured on; those of the proof do for a large model
AUDIBLE_DB = 20.0  # where less of the float output is left, 1% of its energy is noise: worth a warning


def rewrite_for_npu(state: RunState, model: ir.Model, reference: Reference) -> tuple[ir.Model, Reference]:
    """Write a canonical model in the operators of the NPU; nothing happens for other targets.

    Args:
        state: The run; gets the decisions, a row for each kind of rewrite, and the new nodes where its recipe names
            those to quantize.
        model: The canonical model; it is changed.
        reference: Outputs of the model as the user gave it.

    Returns:
        The model, and the outputs that equalization has to keep.
    """
    given = state.recipe
    exact, values = hardware.wanted(given)
    original = model.clone()
    recipe, done = rewritten(model, given, exact)
    if any(d.applied for d in done):
        kept = reference_kept(state, model, reference, "hardware")
        if kept is None:
            model, recipe, done = original.clone(), given, []
        else:
            reference = kept
    state.decisions += done
    state.hardware += [_row(kind, count, None) for kind, count in _counted(done)]
    changed: set[str] = set()  # some nodes by more than one kind
    meter: _Meter | None = None
    for rule in values:
        recipe, done = rewritten(model, recipe, [rule])
        state.decisions += done
        changed.update(d.where for d in done if d.applied)
        for kind, count in _counted(done):
            meter = meter or _Meter(state, original, reference)
            state.hardware.append(_row(kind, count, meter.step_db(model)))
    state.recipe = recipe
    state.made = frozenset(recipe.nodes_to_quantize) - frozenset(given.nodes_to_quantize)
    if meter is None:
        return model, reference
    _sum_up(state, len(changed), *meter.total_db())
    return model, meter.reference([str(v.name) for v in model.graph.outputs], len(reference.feeds))


def _sum_up(state: RunState, nodes: int, left: float, tensor: str) -> None:
    """Add the row of all kinds together, and warn where they cost much, naming the tensor that lost most."""
    rows = [row for row in state.hardware if row["sqnr_db"] is not None]
    state.hardware.append(_row("together", nodes, left))
    if left < AUDIBLE_DB:
        worst = min(rows, key=lambda row: float(row["sqnr_db"]))
        state.warn(
            f"What the NPU computes differs from the float model: {left:.1f} dB of '{tensor}' are left before any"
            f" rounding, {worst['sqnr_db']:.1f} dB by '{worst['rule']}' ({worst['nodes']} nodes) alone."
            " SimulateDPU=False leaves the operators as they are; docs/hardware.md names the option of each rewrite."
        )


def _row(kind: str, count: int, sqnr_db: float | None) -> dict[str, Any]:
    return {"rule": kind, "nodes": count, "sqnr_db": sqnr_db}


def _counted(decisions: Sequence[Decision]) -> list[tuple[str, int]]:
    """Return each kind of rewrite with how often it was applied."""
    kinds = dict.fromkeys(d.rule for d in decisions if d.applied)
    return [(kind, sum(d.applied and d.rule == kind for d in decisions)) for kind in kinds]


class _Meter:
    """Runs one version of a model after the other on the same feeds."""

    def __init__(self, state: RunState, original: ir.Model, known: Reference) -> None:
        """Run the original, unless a large one is known to give these outputs."""
        large = model_bytes(original) > LARGE
        feeds = len(known.feeds) if large else FEEDS  # a fold may have made it large: of two feeds both are known
        fitted, _ = alternate(state.stream.count_up_to(2 * feeds))  # the first are `proof_samples`
        view = SampleView.picked(state.stream, fitted)
        self._feeds, self._number = list(view), view.number
        self._names = list(dict.fromkeys([*decision_values(original), *(str(v.name) for v in original.graph.outputs)]))
        outputs = known.outputs(self._names) if large else None
        self._first = self._last = self._run(original) if outputs is None else outputs

    def step_db(self, model: ir.Model) -> float:
        """Return the signal over the change since the version before."""
        before, self._last = self._last, self._run(model)
        return min(_figures(before, self._last))

    def total_db(self) -> tuple[float, str]:
        """Return the signal over the change since the first version, of the tensor where it is least, and its name."""
        return min(zip(_figures(self._first, self._last), self._names, strict=True))

    def reference(self, names: list[str], feeds: int) -> Reference:
        """Return some outputs of the last version for the first feeds."""
        places = [self._names.index(name) for name in names]
        outputs = [[run[place] for place in places] for run in self._last[:feeds]]
        return Reference(names, self._feeds[:feeds], outputs)

    def _run(self, model: ir.Model) -> Outputs:
        runner = Runner(model, self._names, optimize=False)
        return list(told_runs(runner.run, self._feeds, self._number))


def _figures(before: Outputs, after: Outputs) -> list[float]:
    """Return the signal over the change of every tensor, dB."""
    figures = []
    for index in range(len(before[0])):
        sums = ErrorAccumulator()
        for old, new in zip(before, after, strict=True):
            if np.issubdtype(old[index].dtype, np.floating) and old[index].shape == new[index].shape:
                sums.add(old[index], new[index])
        figures.append(sums.figures().sqnr_db)
    return figures
