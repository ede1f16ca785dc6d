"""The bookkeeping behind scale classes: ids that flow through the graph, edges between them, constants that absorb.

Every channel of every tensor carries a class id. A tensor's ids are an integer array of the tensor's rank whose
dimensions are 1 (the same along that axis) or full; it broadcasts against the tensor. A single id without dimensions
stands for the whole tensor, whatever its rank. Rules (the `rules` folder) make new ids, pass them on, unite them, or
pin them to class 0, whose log-scale is zero. Every pinned source has an id and a reason of its own, so that whatever
is united with it can say why it may not move. Unions are only noted as edges; `resolve` finds the connected components
at the end.

A `Slot` says how one constant absorbs the factors: constant'[…] = constant[…] · e^(z[gain] − z[loss]).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy import sparse
from scipy.sparse import csgraph

from equiquant.graph import query

__all__ = ["PINNED", "ClassBuilder", "ClipSite", "Ids", "Pin", "Slot", "compress", "widen"]

Ids = npt.NDArray[np.int64]

PINNED = np.zeros((), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Slot:
    """A constant operand and the factors it absorbs.

    Attributes:
        node: The node that reads the constant.
        index: Its position among the node's inputs.
        gain: Ids whose scale multiplies the constant; broadcasts against it, or it is expanded to them.
        loss: Ids whose scale divides it.
        role: `weight` (couples input to output channels), `bias` (added), or `factor` (everything else).
        groups: Number of independent groups of a weight; as many as channels for a per-channel factor.
        out_axis: Axis of the output channels of a weight.
    """

    node: ir.Node
    index: int
    gain: Ids
    loss: Ids
    role: str
    groups: int = 1
    out_axis: int = 0

    @property
    def value(self) -> ir.Value:
        """The constant."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value

    @property
    def data(self) -> ir.Value | None:
        """What a weight is multiplied by: the other one of its node's first two inputs."""
        return self.node.inputs[1 - self.index]


@dataclass(frozen=True, eq=False)
class ClipSite:
    """A Clip(0, c), c > 0: its channels keep their class if their scale never moves a value across c.

    Attributes:
        node: The Clip.
        ids: Of its channels.
        bound: c.
        bound_id: Of the bound itself, shape (): all channels may move with it as one. 0 if the bound is an attribute.
    """

    node: ir.Node
    ids: Ids
    bound: float
    bound_id: Ids


@dataclass(frozen=True, eq=False)
class Pin:
    """Why some ids are pinned: at which node (or graph input, or constant), for which reason."""

    node: str
    reason: str


@dataclass
class ClassBuilder:
    """Collects ids, unions and slots while the rules walk the graph."""

    values: dict[ir.Value, Ids] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    clips: list[ClipSite] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    count: int = 1
    _edges: list[tuple[Ids, Ids]] = field(default_factory=list)
    _pinned: list[tuple[int, Ids]] = field(default_factory=list)
    _fixed: set[int] = field(default_factory=lambda: {0})
    _constants: dict[ir.Value, Ids] = field(default_factory=dict)

    def ids(self, value: ir.Value | None) -> Ids:
        """Return the ids of a value; a constant that no slot rescales is pinned."""
        if value is None:
            return PINNED
        found = self.values.get(value)
        if found is None:
            found = self._constants.get(value)
        if found is None:
            found = self._constants[value] = self.fixed(value.name or "", "a constant that keeps its scale")
        return found

    def new(self, shape: tuple[int, ...]) -> Ids:
        """Return an array of new ids."""
        size = int(np.prod(shape, dtype=np.int64))
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64).reshape(shape)

    def fresh(self, size: int, rank: int, axis: int) -> Ids:
        """Return `size` new ids along `axis` of a tensor of `rank` dimensions."""
        shape = [1] * rank
        shape[axis] = size
        return self.new(tuple(shape))

    def fixed(self, node: ir.Node | str, reason: str) -> Ids:
        """Return one new id for a whole tensor that keeps its scale."""
        ids = self.new(())
        self.pin(ids, node, reason)
        return ids

    def is_fixed(self, ids: Ids) -> bool:
        """True if all these ids are known to be pinned already; others may still turn out to be."""
        return all(i in self._fixed for i in ids.reshape(-1).tolist())

    def set(self, value: ir.Value, ids: Ids) -> None:
        """Give a value its ids."""
        self.values[value] = ids

    def unite(self, left: Ids, right: Ids) -> None:
        """Note that ids at the same (broadcast) place are one class."""
        left, right = np.broadcast_arrays(left, right)
        differ = left != right
        if differ.any():
            self._edges.append((left[differ], right[differ]))

    def pin(self, ids: Ids, node: ir.Node | str, reason: str) -> None:
        """Note that these ids must keep their scale."""
        flat = ids.reshape(-1)
        free = np.unique(flat[flat != 0])
        if free.size:
            self._pinned.append((len(self.pins), free))
            self._fixed.update(free.tolist())
            self.pins.append(Pin(node if isinstance(node, str) else query.label(node), reason))

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Pin everything the node touches."""
        for value in node.inputs:
            if value in self.values:
                self.pin(self.ids(value), node, reason)
        for output in node.outputs:
            self.set(output, self.fixed(node, reason))

    def channels(self, ids: Ids, axis: int, size: int) -> Ids:
        """Return ids as a vector of `size` along `axis`, uniting what varies along the other axes."""
        return np.array(np.broadcast_to(self.collapse(ids, (axis,)).reshape(-1), (size,)))

    def collapse(self, ids: Ids, keep: tuple[int, ...]) -> Ids:
        """Unite ids along every axis but those in `keep`; return them with size 1 there."""
        keep = tuple(k % ids.ndim for k in keep) if ids.ndim else ()
        for axis in range(ids.ndim):
            if axis not in keep and ids.shape[axis] > 1:
                head = np.take(ids, [0], axis=axis)
                self.unite(ids, head)
                ids = head
        return ids

    def slot(
        self, node: ir.Node, index: int, gain: Ids, loss: Ids, role: str, groups: int = 1, out_axis: int = 0
    ) -> None:
        """Note how a constant absorbs factors (see `Slot`)."""
        self.slots.append(Slot(node, index, gain, loss, role, groups, out_axis))

    def resolve(self) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Return the class of every id (0 pinned, others numbered from 1 without gaps) and the pin behind each id.

        The second array holds, for each id that ends up in class 0, the index into `pins` of what pinned it (−1
        otherwise).
        """
        heads = [a for a, _ in self._edges] + [np.zeros_like(ids) for _, ids in self._pinned]
        tails = [b for _, b in self._edges] + [ids for _, ids in self._pinned]
        head = np.concatenate(heads) if heads else np.zeros(0, dtype=np.int64)
        tail = np.concatenate(tails) if tails else np.zeros(0, dtype=np.int64)
        graph = sparse.coo_matrix((np.ones(head.size, dtype=np.int8), (head, tail)), shape=(self.count, self.count))
        _, labels = csgraph.connected_components(graph, directed=False)
        labels = labels.astype(np.int64)
        _, first, dense = np.unique(labels, return_index=True, return_inverse=True)
        order = np.argsort(first)  # id 0 is the first of its component, so class 0 stays 0
        renumber = np.empty_like(order)
        renumber[order] = np.arange(order.size)
        return renumber[dense], self._culprits(graph)

    def _culprits(self, graph: sparse.coo_matrix) -> npt.NDArray[np.int64]:
        """Walk outward from class 0: every id inherits the pin of the neighbour it was reached through."""
        culprit = np.full(self.count, -1, dtype=np.int64)
        for index, ids in reversed(self._pinned):
            culprit[ids] = index
        order, before = csgraph.breadth_first_order(graph, 0, directed=False, return_predecessors=True)
        for node in order[1:]:
            if before[node] != 0:
                culprit[node] = culprit[before[node]]
        return culprit


def widen(ids: Ids, rank: int) -> Ids:
    """Return a tensor's ids as numpy would broadcast the tensor to `rank` dimensions."""
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape) if ids.ndim else ids


def compress(ids: Ids) -> Ids:
    """Return ids with size 1 along every axis where they do not differ."""
    for axis in range(ids.ndim):
        head = np.take(ids, [0], axis=axis) if ids.shape[axis] > 1 else ids
        if head is not ids and (ids == head).all():
            ids = head
    return np.array(ids)
