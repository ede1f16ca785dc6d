"""Mean inputs and mean outputs of layers: all that bias correction needs.

A layer is linear, so its mean output is its output for the mean input. Means are over the batch first, then over
positions, so that samples of different sizes count the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.edit import Names
from equiquant.io import Runner
from equiquant.refine.forms import Form

__all__ = ["ChannelMeans", "InputMean", "OutputMeans", "output_means"]

Array = npt.NDArray[Any]

POOLED = frozenset({"Conv", "ConvTranspose", "BatchNormalization"})


class InputMean:
    """The mean input of a layer, of any number of shapes."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, ...], tuple[Array, int]] = {}

    def add(self, inputs: Array) -> None:
        """Add one sample, batch first."""
        shape = inputs.shape[1:]
        total, count = self._sums.get(shape, (np.zeros(shape), 0))
        for one in inputs:
            total += one
        self._sums[shape] = total, count + len(inputs)

    def merge(self, other: InputMean) -> None:
        """Add what another one has seen."""
        for shape, (total, count) in other._sums.items():
            mine, before = self._sums.get(shape, (np.zeros(shape), 0))
            self._sums[shape] = mine + total, before + count

    def columns(self, form: Form, zero: float = 0.0, scale: float = 1.0) -> Array:
        """Return the layer's mean column, (G, K).

        Args:
            form: The layer's.
            zero: Zero point of what was added.
            scale: Scale of what was added.
        """
        samples = sum(count for _, count in self._sums.values())
        images = ((total - zero * count) * (scale / samples) for total, count in self._sums.values())
        return np.asarray(sum(form.mean_column(image[None])[0] for image in images))


@dataclass(frozen=True, eq=False)
class ChannelMeans:
    """The mean of each channel of a tensor, over samples and positions.

    Attributes:
        mean: (channels,) the means.
        positions: Positions of a sample, in the mean.
    """

    mean: Array
    positions: float

    def sizes(self, given: Sequence[int | None]) -> list[int]:
        """Return spatial sizes, those that are open equal, such that there are as many positions."""
        known = math.prod(size for size in given if size is not None)
        open_axes = max(1, sum(size is None for size in given))
        even = max(1, round((self.positions / max(1, known)) ** (1 / open_axes)))
        return [even if size is None else size for size in given]


@dataclass(frozen=True, eq=False)
class OutputMeans:
    """The mean outputs of a network's layers on some samples.

    Attributes:
        sums: (samples, outputs) of each layer, by name: means over positions, summed over the batch.
        counts: (samples,) of each layer: the batches' sizes.
    """

    sums: Mapping[str, Array]
    counts: Mapping[str, Array]

    def of(self, layer: str, samples: int) -> Array:
        """Return a layer's (outputs,) mean output over the first samples."""
        return np.asarray(self.sums[layer][:samples].sum(axis=0) / self.counts[layer][:samples].sum())


def output_means(model: ir.Model, layers: Iterable[str], feeds: Iterable[Mapping[str, Array]]) -> OutputMeans:
    """Run a float model once and return the mean outputs of its layers that are named.

    A layer is a Conv, ConvTranspose, Gemm, or a BatchNormalization, which is a Conv once rewritten for the NPU.

    The means over positions are taken within the graph, so that no activation is held.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    copy = model.clone()
    wanted, names = set(layers), Names(copy.graph)
    nodes = [node for node in copy.graph if node.name in wanted and node.op_type in POOLED | {"Gemm"}]
    if not nodes:
        return OutputMeans({}, {})
    averages = []
    for node in nodes:
        average = node.outputs[0]
        if node.op_type in POOLED:
            pool = ir.Node("", "GlobalAveragePool", [average], name=names.fresh(f"{node.name}_average"))
            average = pool.outputs[0]
            average.name = pool.name
            copy.graph.append(pool)
        averages.append(average)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(dict.fromkeys(averages))
    runner = Runner(copy, optimize=False, disposable=True)
    runs = [runner.run(feed) for feed in feeds]
    sums, counts = {}, {}
    for index, node in enumerate(nodes):
        results = [run[index].reshape(run[index].shape[:2]) for run in runs]
        sums[node.name or ""] = np.stack([r.sum(axis=0, dtype=np.float64) for r in results])
        counts[node.name or ""] = np.array([len(r) for r in results])
    return OutputMeans(sums, counts)
