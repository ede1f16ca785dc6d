"""The limits of a target's shifters on one network: which hold, and the positions that satisfy them all together.

A limit of the hardware table speaks of roles (`weight`, `input`, `output`, ...). Here each role at each node becomes a
variable: the position of a group of activations, of a constant operand, of a weight or of a bias. `numerics.positions`
solves for them; what this module adds is the way from the graph to the variables and back, and the report.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph import query
from equiquant.numerics.affine import QuantParams
from equiquant.numerics.positions import Limit, Terms, solve_positions
from equiquant.target.table.hardware import Shift
from equiquant.target.table.ops import activation_inputs, data_outputs, row_of

__all__ = ["Bound", "LimitReport", "Moved", "Roles", "Tensor", "enforce", "position"]

Array = npt.NDArray[Any]


def position(params: QuantParams) -> int:
    """Return −log2 of a power-of-two scale."""
    return 1 - int(np.frexp(float(params.scale))[1])


@dataclass(eq=False)
class Tensor:
    """A quantized tensor, or several that share their parameters.

    Attributes:
        name: The tensor, or `node[input]`.
        params: Its parameters; a power-of-two scale.
        cost: Noise of a scale 2.0**e relative to the signal, asked only where a limit is violated.
    """

    name: str
    params: QuantParams
    cost: Callable[[int], float]

    @property
    def position(self) -> int:
        """−log2 of the scale."""
        return position(self.params)

    def move(self, position: int) -> None:
        """Change the scale to 2**−position."""
        scale = np.ldexp(np.ones_like(self.params.scale), -position)
        self.params = dataclasses.replace(self.params, scale=scale)


@dataclass(frozen=True)
class Bound:
    """A limit that decided something: violated by the best scales of single tensors, or met with nothing to spare.

    Attributes:
        option: Its documented option.
        name: What is limited.
        node: Where.
        before: The value with every tensor at its own best scale.
        value: The value now.
        low: Least value allowed now.
        high: Largest value allowed now.
    """

    option: str
    name: str
    node: str
    before: int
    value: int
    low: int | None
    high: int | None


@dataclass(frozen=True)
class Moved:
    """A tensor whose scale the limits changed: by positions `before` and `after`."""

    tensor: str
    before: int
    after: int


@dataclass(frozen=True)
class LimitReport:
    """What the limits of the target did.

    Attributes:
        target: The row of the hardware table.
        checked: Limits that hold now, by option: at how many nodes.
        violated: Of these, how many the best scales of single tensors violate.
        bounds: The limits that decided something.
        moved: The tensors that moved.
        broken: Limits that no scales satisfy together with the others.
        noise_before: Summed relative noise of the tensors in reach of a violated limit, at their own best scales.
        noise_after: The same now.
    """

    target: str
    checked: Mapping[str, int] = field(default_factory=dict)
    violated: Mapping[str, int] = field(default_factory=dict)
    bounds: tuple[Bound, ...] = ()
    moved: tuple[Moved, ...] = ()
    broken: tuple[Bound, ...] = ()
    noise_before: float = 0.0
    noise_after: float = 0.0

    def with_counts(self, checked: Mapping[str, int], violated: Mapping[str, int]) -> LimitReport:
        """Return the report with counts of limits that were kept elsewhere put first."""
        return dataclasses.replace(self, checked={**checked, **self.checked}, violated={**violated, **self.violated})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Site:
    """One limit at one node."""

    shift: Shift
    node: str
    limit: Limit

    def bound(self, before: Array, now: Array) -> Bound:
        value, (low, high) = self.limit.value(now), self.limit.bounds(now)
        return Bound(self.shift.option, self.shift.name, self.node, self.limit.value(before), value, low, high)


def enforce(
    model: ir.Model,
    nodes: Sequence[str],
    shifts: Sequence[Shift],
    activations: Mapping[str, Tensor],
    constants: Mapping[tuple[str, int], Tensor],
    target: str,
) -> LimitReport:
    """Move the tensors, in place, to the positions of least noise that satisfy all limits, and say what that took.

    Args:
        model: The model; only read.
        nodes: Names of the quantized nodes.
        shifts: The limits.
        activations: Value name to tensor; values that share a scale share the tensor.
        constants: (node name, input index) to tensor.
        target: Its name, for the report.
    """
    tensors = list(dict.fromkeys([*activations.values(), *constants.values()]))
    numbers = {tensor: index for index, tensor in enumerate(tensors)}
    graph = Roles(model, frozenset(nodes), activations, constants, numbers)
    sites = [site for node in model.graph if node.name in graph.nodes for site in graph.sites(node, shifts)]
    before = [tensor.position for tensor in tensors]
    known: dict[tuple[int, int], float] = {}

    def cost(variable: int, position: int) -> float:
        if (variable, position) not in known:
            known[variable, position] = tensors[variable].cost(-position)
        return known[variable, position]

    found = solve_positions(before, cost, [site.limit for site in sites])
    now = found.positions.tolist()
    moved = []
    for tensor, old, new in zip(tensors, before, now, strict=True):
        if new != old:
            tensor.move(new)
            moved.append(Moved(tensor.name, old, new))
    start = np.asarray(before)
    bounds = [(site, site.bound(start, found.positions)) for site in sites]
    violated = [not site.limit.holds(start) for site in sites]
    return LimitReport(
        target,
        dict(Counter(site.shift.option for site in sites)),
        dict(Counter(site.shift.option for site, bad in zip(sites, violated, strict=True) if bad)),
        tuple(b for (_, b), bad in zip(bounds, violated, strict=True) if bad or b.value in (b.low, b.high)),
        tuple(moved),
        tuple(bounds[index][1] for index in found.broken),
        sum(cost(v, before[v]) for v in sorted(found.touched)),
        sum(cost(v, now[v]) for v in sorted(found.touched)),
    )


class Roles:
    """From nodes to the variables of their roles."""

    def __init__(
        self,
        model: ir.Model,
        nodes: frozenset[str],
        activations: Mapping[str, Tensor],
        constants: Mapping[tuple[str, int], Tensor],
        numbers: Mapping[Tensor, int],
    ) -> None:
        self.model, self.nodes = model, nodes
        self._activations, self._constants, self._numbers = activations, constants, numbers

    def sites(self, node: ir.Node, shifts: Sequence[Shift]) -> Iterator[_Site]:
        """Yield the limits at a node whose tensors are all quantized."""
        wanted = [s for s in shifts if node.op_type in s.ops and _applies(s, node)]
        if not wanted:
            return
        operands, roles = self._roles(node)
        for shift in wanted:
            values = [
                terms
                for least in (operands if any(role == "least" for role, _ in shift.terms) else [None])
                if (terms := _terms(shift.terms, {**roles, "least": least})) is not None
            ]
            if not values:
                continue
            softer = None
            if shift.softer is not None and not self._followed_by(node, shift.hard_before):
                terms = _terms(shift.softer[0], roles)
                softer = None if terms is None else (terms, shift.softer[1])
            yield _Site(shift, query.label(node), Limit(tuple(values), shift.low, shift.high, softer))

    def _roles(self, node: ir.Node) -> tuple[list[int | None], dict[str, int | None]]:
        """Return the variables of the operands, and of every role the node has."""
        row = row_of(node)
        assert row is not None
        name = node.name or ""
        operands = [self._operand(name, index, value) for index, value in activation_inputs(node, row)]
        roles: dict[str, int | None] = {"output": self._output(node)}
        if row.weight is not None:
            roles["weight"] = self._constant(name, row.weight)
            roles["bias"] = None if row.bias is None else self._constant(name, row.bias)
        roles["input"] = operands[0] if operands else None
        if len(operands) == 2:
            roles["a"], roles["b"] = operands
        return operands, roles

    def _operand(self, node: str, index: int, value: ir.Value) -> int | None:
        tensor = self._constants.get((node, index)) or self._activations.get(value.name or "")
        return None if tensor is None else self._numbers[tensor]

    def _constant(self, node: str, index: int) -> int | None:
        tensor = self._constants.get((node, index))
        return None if tensor is None else self._numbers[tensor]

    def _output(self, node: ir.Node) -> int | None:
        """Return the variable of what the node hands on, behind the activations fused into it."""
        value = data_outputs(node)[0]
        while (value.name or "") not in self._activations:
            reader = query.sole_consumer(value)
            if reader is None or reader.name not in self.nodes:
                return None
            value = reader.outputs[0]
        return self._numbers[self._activations[value.name or ""]]

    def _followed_by(self, node: ir.Node, ops: frozenset[str]) -> bool:
        reader = query.sole_consumer(node.outputs[0])
        return reader is not None and reader.op_type in ops


def _terms(terms: Sequence[tuple[str, int]], roles: Mapping[str, int | None]) -> Terms | None:
    """Return a sum over roles as one over variables, None where a role is not quantized."""
    sums: dict[int, int] = {}
    for role, coefficient in terms:
        variable = roles.get(role)
        if variable is None:
            return None
        sums[variable] = sums.get(variable, 0) + coefficient
    return tuple(sums.items())


def _applies(shift: Shift, node: ir.Node) -> bool:
    if shift.gate_only:
        return any(query.is_gate(use.node) for value in node.inputs if value is not None for use in value.uses())
    return node.op_type != "HardSigmoid" or query.is_gate(node)
