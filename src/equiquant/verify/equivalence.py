"""Proof that two float models compute the same function: run both on the same inputs and compare every output.

onnxruntime's graph optimizations are off, so that the nodes run as written. The error is max |Δ| over an output divided
by max |reference| of that output; of an output that is no float, the share of its values that differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.data.feeds import told_runs
from equiquant.graph.query import FLOAT_KINDS
from equiquant.io import Feed, Runner

__all__ = ["Equivalence", "Reference", "equivalence"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Equivalence:
    """How far apart two models are.

    Attributes:
        error: The largest max |Δ| / max |reference| over the outputs, the share that differs of one that is no float;
            infinite if shapes differ or a value is NaN.
        output: The output where it was found.
        samples: Feeds compared.
    """

    error: float
    output: str
    samples: int


class Reference:
    """The outputs of one model on a few inputs, to compare others against.

    Args:
        names: Of the outputs.
        feeds: Inputs, one dict a run.
        outputs: What the model gives for each feed, in the order of the names.

    Attributes:
        names: Of the outputs.
        feeds: The inputs.
    """

    def __init__(self, names: Sequence[str], feeds: Sequence[Feed], outputs: Sequence[Sequence[Array]]) -> None:
        self.names, self.feeds, self._outputs = tuple(names), tuple(feeds), outputs

    @classmethod
    def of(cls, model: ir.Model, feeds: Iterable[Feed], names: Sequence[str] | None = None) -> Self:
        """Run a model on the inputs and keep its outputs, or the values named.

        Raises:
            ModelError: onnxruntime cannot run it.
        """
        if names is not None and not names:
            kept = list(feeds)
            return cls(names, kept, [[] for _ in kept])
        runner = Runner(model, names, optimize=False)
        runs = list(told_runs(lambda feed: (feed, runner.run(feed)), feeds))
        return cls(runner.outputs, [feed for feed, _ in runs], [outputs for _, outputs in runs])

    @property
    def silent(self) -> tuple[str, ...]:
        """Outputs without a single finite value: comparing with them would prove nothing."""
        found = []
        for index, name in enumerate(self.names):
            arrays = [o[index] for o in self._outputs if o[index].dtype.kind in FLOAT_KINDS]
            if any(a.size for a in arrays) and not any(np.isfinite(a).any() for a in arrays):
                found.append(name)
        return tuple(found)

    def first(self, feeds: int) -> Reference:
        """Return what is known of the first feeds."""
        return Reference(self.names, self.feeds[:feeds], self._outputs[:feeds])

    def outputs(self, names: Sequence[str]) -> list[list[Array]] | None:
        """Return the named outputs for each feed, None if one of them is not known."""
        if not set(names) <= set(self.names):
            return None
        return [[run[self.names.index(name)] for name in names] for run in self._outputs]

    def measure(self, model: ir.Model) -> Equivalence:
        """Run another model on the same inputs and return the error.

        Raises:
            ModelError: onnxruntime cannot run it.
        """
        errors = self.errors(model)
        where = max(errors, key=lambda name: errors[name])
        return Equivalence(errors[where], where, len(self.feeds))

    def errors(self, model: ir.Model) -> dict[str, float]:
        """Run another model on the same inputs and return the error of each output.

        Raises:
            ModelError: onnxruntime cannot run it.
        """
        runner = Runner(model, self.names, optimize=False)
        results = [runner.run(feed) for feed in self.feeds]
        return {
            name: _error([outputs[index] for outputs in self._outputs], [outputs[index] for outputs in results])
            for index, name in enumerate(self.names)
        }

    def is_float(self, name: str) -> bool:
        """True for an output of a float type."""
        index = self.names.index(name)
        return all(outputs[index].dtype.kind in FLOAT_KINDS for outputs in self._outputs)


def equivalence(before: ir.Model, after: ir.Model, feeds: Sequence[Feed]) -> Equivalence:
    """Compare two models on the same inputs. See `Equivalence`."""
    return Reference.of(before, feeds).measure(after)


def _error(references: Sequence[Array], results: Sequence[Array]) -> float:
    scale = delta = 0.0
    differing = total = 0
    for reference, result in zip(references, results, strict=True):
        if reference.shape != result.shape:
            return float("inf")
        if reference.dtype.kind not in FLOAT_KINDS:
            differing, total = differing + int((reference != result).sum()), total + reference.size
            continue
        wide, other = reference.astype(np.float64), result.astype(np.float64)
        same = (wide == other) | (np.isnan(wide) & np.isnan(other))
        with np.errstate(invalid="ignore"):  # ∞ − ∞, where both are the same
            difference = np.where(same, 0.0, np.abs(wide - other))
        if not np.isfinite(difference).all():
            return float("inf")
        finite = np.abs(wide[np.isfinite(wide)])
        scale = max(scale, float(finite.max(initial=0.0)))
        delta = max(delta, float(difference.max(initial=0.0)))
    if total:
        return differing / total
    return delta / scale if scale > 0 else delta
