"""The integer reference against onnxruntime on the same QDQ model.

Two questions. Does the whole model, from input to output, give the same? And does every tensor: each operator is given
the very integers onnxruntime computed before it, so that a difference of one step is not carried on, and its result
must agree to the last bit where float32 holds every sum exactly, and to one step elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.errors import DataError, ModelError
from equiquant.io import Feed, Runner
from equiquant.verify.integer.executor import QUANTIZE, IntegerModel

__all__ = ["INTEGER_FEEDS", "IntegerAgreement", "OutputAgreement", "TensorAgreement", "integer_agreement"]

Array = npt.NDArray[Any]

INTEGER_FEEDS = 16  # enough to see every operator at work; `compare` runs the first of its samples only


@dataclass(frozen=True)
class TensorAgreement:
    """One quantized tensor, computed by both from the same integers.

    Attributes:
        name: The QuantizeLinear's output.
        exact: float32 arithmetic is exact here, so that the two must be equal.
        values: How many values were compared.
        different: How many of them differ.
        largest: The largest difference, in steps.
    """

    name: str
    exact: bool
    values: int
    different: int
    largest: int

    @property
    def agrees(self) -> bool:
        """True if the difference is what float32 rounding explains: none, or one step."""
        return self.largest <= (0 if self.exact else 1)


@dataclass(frozen=True)
class OutputAgreement:
    """One graph output of the whole run.

    Attributes:
        name: Its name.
        values: How many values were compared.
        different: How many of them differ at all.
        largest_error: The largest difference, in real units.
    """

    name: str
    values: int
    different: int
    largest_error: float


@dataclass(frozen=True)
class IntegerAgreement:
    """The integer reference and onnxruntime on one model.

    Attributes:
        feeds: Feeds compared.
        outputs: In graph order.
        tensors: Every quantized tensor, in graph order.
        integer_nodes: Nodes that computed on integers.
        float_nodes: Name of each node that computed in float, with the reason.
    """

    feeds: int
    outputs: tuple[OutputAgreement, ...]
    tensors: tuple[TensorAgreement, ...]
    integer_nodes: int
    float_nodes: Mapping[str, str]

    @property
    def agrees(self) -> bool:
        """True if every tensor agrees as far as float32 arithmetic allows."""
        return all(t.agrees for t in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "agrees": self.agrees,
            "feeds": self.feeds,
            "outputs": [asdict(o) for o in self.outputs],
            "tensors": [{**asdict(t), "agrees": t.agrees} for t in self.tensors],
            "integer_nodes": self.integer_nodes,
            "float_nodes": dict(self.float_nodes),
        }


class _Sums:
    """Running figures of one tensor."""

    def __init__(self) -> None:
        self.values = self.different = 0
        self.largest = 0.0
        self.exact = True

    def add(self, mine: Array, theirs: Array, where: str) -> None:
        if mine.shape != theirs.shape:
            raise ModelError(f"'{where}' has shape {mine.shape} on integers and {theirs.shape} in onnxruntime.")
        gap = np.abs(mine.astype(np.float64) - theirs.astype(np.float64))
        self.values += mine.size
        self.different += int(np.count_nonzero(gap))
        self.largest = max(self.largest, float(gap.max(initial=0.0)))


def integer_agreement(
    model: ir.Model,
    stream: Iterable[Feed],
    *,
    progress: Callable[[int], None] | None = None,
) -> IntegerAgreement:
    """Run a quantized model on integers and in onnxruntime, as written, and compare.

    Args:
        model: A QDQ model with power-of-two scales.
        stream: Feed dicts.
        progress: Called with the number of feeds done.

    Raises:
        ModelError: The model is not one the integer reference runs.
        DataError: The stream is empty.
    """
    reference = IntegerModel(model)
    rounded = [n.outputs[0] for n in model.graph if n.op_type == QUANTIZE]
    names = [str(v.name) for v in rounded]
    runner = Runner(model, [*reference.outputs, *names], optimize=False)
    outputs, tensors = {n: _Sums() for n in reference.outputs}, {n: _Sums() for n in names}
    feeds = 0
    for feed in stream:
        given = runner.run(feed)
        theirs = dict(zip(names, given[len(outputs) :], strict=True))
        free = reference.run(feed)
        for name, mine, other in zip(outputs, free, given, strict=False):
            outputs[name].add(mine, other, name)

        def observe(value: ir.Value, mine: Array, same: bool, theirs: Mapping[str, Array] = theirs) -> Array:
            name = str(value.name)
            tensors[name].add(mine, theirs[name], name)
            tensors[name].exact &= same
            return theirs[name]

        reference.run(feed, observe)
        feeds += 1
        if progress is not None:
            progress(feeds)
    if not feeds:
        raise DataError("There are no samples to compare on.")
    return IntegerAgreement(
        feeds,
        tuple(OutputAgreement(n, s.values, s.different, s.largest) for n, s in outputs.items()),
        tuple(TensorAgreement(n, s.exact, s.values, s.different, int(s.largest)) for n, s in tensors.items()),
        reference.integer_nodes,
        reference.float_nodes,
    )
