"""Magnitudes beyond which whatever reads a tensor makes the same of any value: HardSwish of all that is below −3 is 0.

What a range cuts off there is no noise. Between a tensor and the operators that read more than one of its values at a
time lie functions of single values, Sigmoid or Add(3), Clip(0, 6) and Mul, and they are computed, whatever their
operators, for magnitudes between the least and the largest that were seen. A function counts as level where it changes
by less than the rounding of what it makes.

An exponential tells by its ratios: a depth, the size of a box, or what a Softmax divides by the sum of as small ones.
Only where layers of weights read it, which round it, are its small values nothing beside the largest; else it is level
where it changes by little of what it is there.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.errors import ModelError
from equiquant.graph import query
from equiquant.graph.decisions import COPYING, MOVING
from equiquant.io import Runner

__all__ = ["SINGLE_VALUED", "UNLIMITED", "saturation"]

Array = npt.NDArray[np.float32]

ARITHMETIC = {"Abs", "Add", "Clip", "Div", "Identity", "Log", "Max", "Min", "Mul", "Neg", "Pow"}
ARITHMETIC |= {"Reciprocal", "Sqrt", "Sub"}
SMOOTH = {"Celu", "Elu", "Erf", "Exp", "Gelu", "Mish", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh"}
BROKEN = {"HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "ThresholdedRelu"}
SINGLE_VALUED = frozenset(ARITHMETIC | SMOOTH | BROKEN)
"""Op types each of whose results depends on one value of each tensor they read."""

EXPONENTIAL = {"Exp", "Softplus"}  # their results tell by their ratios, and so does what arithmetic makes of them
SHIFTING = {"Add", "Sub"}  # but where it is divided by: 1/(1 + exp(-x)) is a Sigmoid
MOST_NODES = 24  # that a function is made of: a form of GELU has 8
POINTS = 256  # magnitudes of a side that a function is computed for
SMALLEST = 1 / 1024  # of these, as a part of the largest, where values of both signs are seen
LEVEL = 1 / 2048  # of the largest value of a function: an eighth of a step of 8 bits; of its own where ratios tell
UNLIMITED = np.inf, np.inf
"""Of a tensor that is heard whole, on either side of 0."""


@dataclass(frozen=True, eq=False)
class _Function:
    """What is computed of single values of a tensor, and the values that others read; whether these tell by ratios."""

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    results: Mapping[ir.Value, bool]


def saturation(values: Iterable[ir.Value], spans: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Return the magnitudes, above and below 0, beyond which nothing changes for what reads a tensor; infinite if none.

    Args:
        values: The tensors, of one graph. Those without such magnitudes are left out of what is returned.
        spans: The smallest and the largest value of each, by name.
    """
    tensors = [value for value in values if value.name in spans and value.dtype == ir.DataType.FLOAT]
    if not tensors or tensors[0].graph is None:
        return {}
    place = {node: index for index, node in enumerate(tensors[0].graph)}
    functions = [f for f in (_function(value, place) for value in tensors) if f is not None]
    if not functions:
        return {}
    grids = [_grid(*spans[f.source.name or ""]) for f in functions]
    try:
        computed = _compute(functions, grids, tensors[0].graph.opset_imports)
    except ModelError:  # onnxruntime has no kernel for one of them alone
        return {}
    found = {}
    for function, grid, results in zip(functions, grids, computed, strict=True):
        found_of = zip(results, function.results.values(), strict=True)
        ends = [max(sides) for sides in zip(*(_levels(r, grid, by_ratio=ratio) for r, ratio in found_of), strict=True)]
        if np.isfinite(ends).any():
            found[function.source.name or ""] = (ends[0], ends[1])
    return found


def _function(value: ir.Value, place: Mapping[ir.Node, int]) -> _Function | None:
    """Return the function of single values that comes after a tensor; None where something reads the tensor itself."""
    members, nodes, results = {value}, list[ir.Node](), dict[ir.Value, None]()
    pending = [(place[node], node) for node in set(value.consumers()) if node in place]
    heapq.heapify(pending)
    reached = {node for _, node in pending}
    if query.is_public(value):
        return None
    while pending:
        _, node = heapq.heappop(pending)
        if len(nodes) < MOST_NODES and _of_single_values(node, members):
            nodes.append(node)
            (output,) = node.outputs
            members.add(output)
            if query.is_public(output):
                results[output] = None
            for reader in output.consumers():
                if reader in place and reader not in reached:
                    reached.add(reader)
                    heapq.heappush(pending, (place[reader], reader))
        else:
            results.update(dict.fromkeys(v for v in node.inputs if v in members))
    if not results or value in results:
        return None
    told = {v: _exponential(v, nodes) and _unrounded(v, nodes) for v in results}
    return _Function(value, tuple(nodes), told)


def _exponential(result: ir.Value, nodes: Collection[ir.Node]) -> bool:
    """True for an exponential, and for what Log and arithmetic with constants make of one but a Sigmoid."""
    node, divided = result.producer(), False
    while node is not None and node in nodes and node.op_type in ARITHMETIC:
        computed = [v for v in node.inputs if v is not None and query.constant(v) is None]
        if len(computed) != 1 or (divided and node.op_type in SHIFTING):
            return False
        divided |= node.op_type in ("Pow", "Reciprocal") or (
            node.op_type == "Div" and node.inputs[0] is not computed[0]
        )
        node = computed[0].producer()
    return node is not None and node in nodes and node.op_type in EXPONENTIAL


def _unrounded(result: ir.Value, nodes: Collection[ir.Node]) -> bool:
    """True if anything but these nodes and the layers of weights, which read integers, reads a result, moved or not."""
    pending = [result]
    for reached in pending:  # which grows
        if query.is_public(reached):
            return True
        for node in reached.consumers():
            if node.domain == "" and node.op_type in MOVING | COPYING:
                pending += [v for v in node.outputs if v not in pending]
            elif node not in nodes and node.op_type not in query.LINEAR_OPS:
                return True
    return False


def _of_single_values(node: ir.Node, members: set[ir.Value]) -> bool:
    """True if every value the node makes depends on a single one of those it reads."""
    if node.domain != "" or node.op_type not in SINGLE_VALUED:
        return False
    others = [query.constant(v) for v in node.inputs if v is not None and v not in members]
    return all(array is not None and array.size == 1 for array in others)


def _grid(lowest: float, highest: float) -> Array:
    """Return magnitudes of both sides, (2, POINTS), the largest last; zeros on a side where there are no values."""
    sides = []
    for least, largest in ((lowest, highest), (-highest, -lowest)):
        usable = 0.0 < largest < np.inf
        sides.append(
            np.geomspace(least if least > 0.0 else SMALLEST * largest, largest, POINTS) if usable else np.zeros(POINTS)
        )
    return np.array(sides, np.float32)


def _compute(functions: list[_Function], grids: list[Array], opsets: Mapping[str, int]) -> list[list[Array]]:
    """Return the results of each function for its magnitudes, above 0 and below it, each (2, POINTS)."""
    inputs: list[ir.Value] = []
    outputs: list[ir.Value] = []
    nodes: list[ir.Node] = []
    constants: dict[ir.Value, ir.Value] = {}
    for function in functions:
        made = {function.source: ir.Value(name=f"x{len(inputs)}", type=function.source.type, shape=ir.Shape([None]))}
        inputs.append(made[function.source])
        for node in function.nodes:
            for value in node.inputs:
                if value is not None and value not in made and value not in constants:
                    tensor = ir.tensor(np.asarray(query.constant(value)).reshape(()))
                    scalar = ir.Value(
                        name=f"c{len(constants)}", type=value.type, shape=ir.Shape([]), const_value=tensor
                    )
                    constants[value] = scalar
            sources = [None if v is None else made.get(v) or constants[v] for v in node.inputs]
            result = ir.Value(name=f"y{len(nodes)}", type=node.outputs[0].type)
            nodes.append(ir.Node("", node.op_type, sources, node.attributes.values(), outputs=[result]))
            made[node.outputs[0]] = result
        outputs += [made[value] for value in function.results]
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=[*constants.values()], opset_imports=dict(opsets), name="functions"
    )
    runner = Runner(ir.Model(graph, ir_version=10), threads=1, optimize=False, disposable=True)
    feed = {v.name or "": np.concatenate([g[0], -g[1]]) for v, g in zip(inputs, grids, strict=True)}
    computed = iter([array.reshape(2, POINTS) for array in runner.run(feed)])
    return [[next(computed) for _ in function.results] for function in functions]


def _levels(result: Array, grid: Array, *, by_ratio: bool) -> Iterator[float]:
    """Yield the least magnitudes from which a function stays where it ends, above and below 0; infinite if none."""
    seen = grid[:, -1] > 0
    largest = np.abs(result[seen]).max(initial=0.0)
    for side in (0, 1):
        level = np.inf
        small = LEVEL * (np.abs(result[side, -1]) if by_ratio else largest)
        if seen[side] and np.isfinite(small):
            start = int(np.flatnonzero(np.abs(result[side] - result[side, -1]) > small).max(initial=-1)) + 1
            level = float(grid[side, start]) if start < POINTS - 1 else np.inf
        yield level
