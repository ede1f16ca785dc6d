"""The network to aim at where the range of an input cuts off values that make no difference.

Biases that make up for what was cut off, in the mean, would shift all the values that were not: the silence of a
spectrum, which a Relu never hears, that of everything else. So the layers' means are those of the float network on
inputs that are cut off, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from equiquant.calibrate.data.feeds import Feed
from equiquant.graph.edit import Names, add_initializer

__all__ = ["cut_inputs", "with_cut_inputs"]

CLEARLY = 1.25  # largest value over the end of the range


def cut_inputs(ends: Mapping[str, float], feeds: Iterable[Feed]) -> dict[str, float]:
    """Return those ends that clearly cut off an input.

    Args:
        ends: Ends of ranges, on either side of 0, by input.
        feeds: Some samples.
    """
    largest = dict.fromkeys(ends, 0.0)
    for feed in feeds if ends else ():
        largest = {name: max(seen, float(abs(feed[name]).max(initial=0.0))) for name, seen in largest.items()}
    return {name: end for name, end in ends.items() if largest[name] > CLEARLY * end}


def with_cut_inputs(model: ir.Model, cuts: Mapping[str, float]) -> ir.Model:
    """Return a model whose inputs are cut off at some ends, on either side of 0; itself where none is."""
    if not cuts:
        return model
    result = model.clone()
    names = Names(result.graph)
    for value in result.graph.inputs:
        end = cuts.get(value.name or "")
        if end is None:
            continue
        readers = list(value.uses())
        low, high = (
            add_initializer(result.graph, names.fresh(f"{value.name}_{side}"), np.array(bound, np.float32))
            for side, bound in (("low", -end), ("high", end))
        )
        cut = ir.node("Clip", [value, low, high], name=names.fresh(f"{value.name}_cut"))
        cut.outputs[0].name = names.fresh(f"{value.name}_cut_output")
        cut.outputs[0].type, cut.outputs[0].shape = value.type, value.shape
        for node, index in readers:
            node.replace_input_with(index, cut.outputs[0])
        result.graph.insert_before(result.graph[0], cut)
    return result
