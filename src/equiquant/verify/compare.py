"""Compare a float model with its quantized twin on real inputs: per output, and per tensor with the worst first.

Both models run on the same feeds and every pair of tensors is reduced to running sums at once (`numerics.sqnr`), so the
memory needed depends on neither the number of samples nor the number of tensors: intermediate tensors are exposed in
groups of bounded size, one pass over the stream for each group.

The quantized model runs as it is written, without onnxruntime's own optimizations, so that the figures do not depend on
which integer kernels this CPU has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.feeds import batch_size, numbering, of_samples, told_feeds
from equiquant.errors import DataError, ModelError
from equiquant.graph.decisions import decided_by
from equiquant.graph.edit import infer_shapes
from equiquant.graph.query import TEXT_KINDS, static_shape
from equiquant.graph.randomness import refuse_random
from equiquant.graph.varying import varying
from equiquant.io.runtime import Runner
from equiquant.numerics.parallel import parallel
from equiquant.numerics.sqnr import ErrorAccumulator, ErrorFigures
from equiquant.verify.equivalence import Reference
from equiquant.verify.heard import EVERYTHING, Ends, heard
from equiquant.verify.integer import IntegerAgreement
from equiquant.verify.twins import compared_values, twin, twins_of

__all__ = ["Comparison", "OutputQuality", "TensorQuality", "compare_models"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

RETURNED = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)  # the floats onnxruntime hands to Python
INDICES = ("int64", "int32", "bool")  # numpy's types of what is the same or is not, like words
GROUP_BYTES = 128 * 1024 * 1024  # float activations alive at once, both models together


@dataclass(frozen=True)
class TensorQuality:
    """How well one intermediate tensor survived.

    Attributes:
        name: Its name in the float model.
        compared: The name of the value it was compared with: its dequantized twin where there is one.
        op_type: Kind of the node that produces it, `Input` for a graph input.
        error: The figures. `aligned_sqnr_db` ignores a positive factor per channel, as equalization leaves behind,
            unless channels showed one value each.
        samples: Samples it was compared on; of what does not fit into memory with the outputs perhaps fewer than they.
    """

    name: str
    compared: str
    op_type: str
    error: ErrorFigures
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; infinities stay floats."""
        told = {"compared": self.compared, "op_type": self.op_type, "samples": self.samples}
        return {"name": self.name, **told, **asdict(self.error)}


@dataclass(frozen=True)
class OutputQuality:
    """How well one graph output survived.

    Attributes:
        name: Its name.
        error: The figures.
        top1_agreement: Fraction of samples whose largest class is the same; None unless shaped (samples, classes). Of
            classes, indices and words themselves: the fraction of elements that are the same; the figures are then
            those of ones, 0 where they are not.
        chosen: It is such classes, indices or words.
        parts: Where it joins what was decided apart, such as boxes and scores, each with its own SQNR in dB, by name.
    """

    name: str
    error: ErrorFigures
    top1_agreement: float | None
    chosen: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> tuple[str, float]:
        """What is said of the part of which least is left, and its SQNR in dB; of the whole where it has none."""
        heard = [(name, sqnr_db) for name, sqnr_db in self.parts.items() if math.isfinite(sqnr_db)]  # not silent ones
        name, sqnr_db = min(heard, key=lambda part: part[1], default=("", math.inf))
        whole = f"the output '{self.name}'"
        if sqnr_db >= self.error.sqnr_db:
            return whole, self.error.sqnr_db
        return f"'{name}', a part of {whole},", sqnr_db

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; infinities stay floats."""
        figures = asdict(self.error)
        figures.pop("aligned_sqnr_db")  # an output is never rescaled
        told = {"top1_agreement": self.top1_agreement, "chosen": self.chosen, "parts": dict(self.parts)}
        return {"name": self.name, **figures, **told}


@dataclass(frozen=True)
class Comparison:
    """A float model and its quantized twin, compared.

    Attributes:
        samples: Samples the outputs were compared on.
        outputs: In graph order.
        tensors: Intermediate tensors by aligned SQNR, worst first.
        order: Names of the tensors in graph order.
        integer: The quantized model against its integer reference, where that was asked for.
    """

    samples: int
    outputs: tuple[OutputQuality, ...]
    tensors: tuple[TensorQuality, ...]
    order: tuple[str, ...]
    integer: IntegerAgreement | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; each tensor carries its `position` in graph order."""
        position = {name: i for i, name in enumerate(self.order)}
        plain: dict[str, Any] = {
            "samples": self.samples,
            "outputs": [o.to_dict() for o in self.outputs],
            "tensors": [{**t.to_dict(), "position": position[t.name]} for t in self.tensors],
        }
        return plain if self.integer is None else {**plain, "integer": self.integer.to_dict()}


@dataclass(frozen=True)
class _Pair:
    name: str
    compared: str
    op_type: str
    bytes: int
    ends: Ends


def compare_models(
    float_model: ir.Model,
    quantized_model: ir.Model,
    stream: Iterable[Feed],
    *,
    tensors: bool = True,
    expected: Reference | None = None,
    limit: int | None = None,
    runs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Run both models on a stream of feeds and measure the difference.

    Args:
        float_model: The reference.
        quantized_model: The model to judge; the same inputs and outputs by name.
        stream: Feed dicts. With intermediate tensors of a large model it is read more than once.
        tensors: Compare intermediate tensors too.
        expected: Of the feeds, what the float model gives for its `compared_values`, where that is known: it does not
            run then, whatever has become of its weights. Only without intermediate tensors.
        limit: Stop after the feed that reaches this many samples.
        runs: How often both models may run for tensors that do not fit into memory with the outputs, however many feeds
            there are; None for all the feeds.
        progress: Called with the number of samples done, scaled to one pass.

    Raises:
        ModelError: Inputs or outputs differ in name or shape, or a model does not run.
        DataError: The stream is empty, or is an iterator where several passes are needed.
    """
    refuse_random(float_model)
    _check_same_interface(float_model, quantized_model)
    one_shot = isinstance(stream, Iterator)
    feeds = iter(stream)
    first = next(feeds, None)
    if first is None:
        raise DataError("There are no samples to compare on.")
    pairs = _pairs(float_model, quantized_model, first) if tensors else []
    groups = _groups(pairs)
    if len(groups) > 1 and one_shot:
        raise DataError(
            f"Comparing this model's tensors takes {len(groups)} passes over the data; an iterator can be read once."
            " Give a list, an array or a folder, or compare outputs only (tensors=False)."
        )
    judge = _Judge((float_model, quantized_model), stream, None if tensors else expected)
    samples = 0
    for index, group in enumerate(groups):
        seen = 0
        passing = itertools.chain([first], feeds) if index == 0 else iter(stream)
        if index and runs is not None:
            passing = itertools.islice(passing, max(1, runs // (len(groups) - 1)))
        for count in judge.run(group, passing, outputs=index == 0):
            seen += count
            if progress is not None:
                progress((index * samples + seen) // len(groups))
            if limit is not None and seen >= limit:
                break
        samples = max(samples, seen)
    return judge.result(samples, pairs)


class _Judge:
    """Holds the running sums while the groups pass by."""

    def __init__(self, models: tuple[ir.Model, ir.Model], stream: Iterable[Feed], expected: Reference | None) -> None:
        (self._float, self._quantized), self._expected = models, expected
        self._number = numbering(stream)
        self._ends = twins_of(expected.names if expected else compared_values(self._float), self._quantized)
        self._outputs = list(self._ends)
        self._sums: dict[str, ErrorAccumulator] = {name: ErrorAccumulator() for name in self._outputs}
        self._tensor_sums: dict[str, ErrorAccumulator] = {}
        self._seen: dict[str, int] = {}
        self._agree: dict[str, list[int]] = {name: [0, 0] for name in self._outputs}
        self._chosen: set[str] = set()

    def run(self, group: Sequence[_Pair], feeds: Iterable[Feed], outputs: bool) -> Iterator[int]:
        """Run one group over the feeds; yield the number of samples in each."""
        names = self._outputs if outputs else []
        inner = [p for p in group if p.op_type != "Input"]
        wanted = [*names, *(p.name for p in inner)]
        results = self._results(wanted)
        compared = [*(self._ends[name] for name in names), *(p.compared for p in group)]
        candidate = Runner(self._quantized, compared, optimize=False).run if compared else lambda _: []
        for pair in group:
            self._tensor_sums[pair.name], self._seen[pair.name] = ErrorAccumulator(channel_axis=1), 0
        for index, feed in enumerate(feeds):
            with told_feeds(self._number(index)):
                expected = {name: of_samples(x, feed) for name, x in zip(wanted, results(feed), strict=True)}
                got = [of_samples(x, feed) for x in candidate(feed)]
            for name, output in zip(names, got, strict=False):
                self._add_output(name, expected[name], output)
            references = [expected[p.name] if p.name in expected else of_samples(feed[p.name], feed) for p in group]
            parallel(self._add_tensor, zip(group, references, got[len(names) :], strict=True))
            del expected, got, references  # before the next feed's are made
            for pair in group:
                self._seen[pair.name] += batch_size(feed)
            yield batch_size(feed)

    def _results(self, wanted: Sequence[str]) -> Callable[[Feed], Sequence[Array]]:
        """Return what gives the float model's values for one feed after the other; of none nothing can be run."""
        if self._expected is not None:
            known = iter(self._expected.outputs(wanted) or ())
            return lambda _: next(known)
        return Runner(self._float, wanted, optimize=False).run if wanted else lambda _: []

    def _add_output(self, name: str, expected: Array, output: Array) -> None:
        _check_shapes("output", name, expected, output)
        if expected.dtype.kind in TEXT_KINDS or expected.dtype.name in INDICES:
            equal = expected == output
            self._chosen.add(name)
            self._sums[name].add(np.ones(equal.shape, np.float32), equal.astype(np.float32))
            self._agree[name][0] += int(np.count_nonzero(equal))
            self._agree[name][1] += equal.size
            return
        self._sums[name].add(expected, output)
        if expected.ndim == 2 and expected.shape[1] > 1:
            same = np.count_nonzero(expected.argmax(axis=1) == output.argmax(axis=1))
            self._agree[name][0] += int(same)
            self._agree[name][1] += len(expected)

    def _add_tensor(self, values: tuple[_Pair, Array, Array]) -> None:
        pair, expected, output = values
        _check_shapes("tensor", pair.name, expected, output)
        if pair.ends != EVERYTHING:
            expected, output = np.clip(expected, *pair.ends), np.clip(output, *pair.ends)
        self._tensor_sums[pair.name].add(expected, output)

    def result(self, samples: int, pairs: Sequence[_Pair]) -> Comparison:
        """Return the figures of everything seen."""
        outputs, decided = [], decided_by(self._float)
        for name in self._outputs:
            same, total = self._agree[name]
            parts = {n: self._tensor_sums[n].figures().sqnr_db for n in decided.get(name, ()) if n in self._tensor_sums}
            agreement = same / total if total else None
            told = parts if len(parts) > 1 else {}
            outputs.append(OutputQuality(name, self._sums[name].figures(), agreement, name in self._chosen, told))
        qualities = [
            TensorQuality(p.name, p.compared, p.op_type, self._tensor_sums[p.name].figures(), self._seen[p.name])
            for p in pairs
        ]
        worst = tuple(sorted(qualities, key=lambda t: t.error.aligned_sqnr_db))
        return Comparison(samples, tuple(outputs), worst, tuple(p.name for p in pairs))


def _check_shapes(kind: str, name: str, expected: Array, output: Array) -> None:
    if expected.shape != output.shape:
        raise ModelError(
            f"The {kind} '{name}' has shape {expected.shape} in the float model, {output.shape} in the quantized one."
        )


def _check_same_interface(float_model: ir.Model, quantized_model: ir.Model) -> None:
    for kind in ("inputs", "outputs"):
        ours, theirs = (_interface(model, kind) for model in (float_model, quantized_model))
        if ours.keys() != theirs.keys() or not all(_alike(ours[name], theirs[name]) for name in ours):
            listed = [", ".join(map(_described, side.values())) or "none" for side in (ours, theirs)]
            raise ModelError(
                f"The two models have different {kind}: {listed[0]} in the float model, {listed[1]} in the quantized"
                " one. Compare a model with its own quantized version."
            )


def _interface(model: ir.Model, kind: str) -> dict[str, ir.Value]:
    """Return the inputs a caller must give, or the outputs, by name."""
    graph = model.graph
    values = graph.outputs if kind == "outputs" else [v for v in graph.inputs if v.name not in graph.initializers]
    return {str(v.name): v for v in values}


def _alike(one: ir.Value, other: ir.Value) -> bool:
    """True unless no tensor can have both shapes."""
    ours, theirs = static_shape(one), static_shape(other)
    if ours is None or theirs is None:
        return True
    return len(ours) == len(theirs) and all(None in (a, b) or a == b for a, b in zip(ours, theirs, strict=True))


def _described(value: ir.Value) -> str:
    return str(value.name) if value.shape is None else f"{value.name} [{', '.join(map(str, value.shape))}]"


def _pairs(float_model: ir.Model, quantized_model: ir.Model, feed: Feed) -> list[_Pair]:
    """Return the float tensors both models have by name, in graph order; not those in a number that may differ."""
    public = {v.name for v in float_model.graph.outputs}
    twins = {v.name: twin(v) for v in quantized_model.graph.inputs}
    twins |= {v.name: twin(v) for node in quantized_model.graph for v in node.outputs}
    sized = _with_shapes(float_model, feed)
    unlike = varying(sized)
    found: list[tuple[ir.Value, str]] = [
        (v, "Input") for v in sized.graph.inputs if v.name and v.name in feed and twins.get(v.name) != v.name
    ]
    found += [(v, node.op_type) for node in sized.graph if node.op_type != "Constant" for v in node.outputs]
    ends = heard([value for value, _ in found], quantized_model)
    known = [size for value, _ in found if (size := _elements(value)) is not None]
    guess = max(known, default=1)  # a tensor of unknown shape is taken for the largest one
    return [
        _Pair(v.name, twins[v.name], op_type, 2 * 4 * (_elements(v) or guess), ends.get(v.name, EVERYTHING))
        for v, op_type in found
        if v.name
        and v.name not in public
        and v.name in twins
        and isinstance(v.type, ir.TensorType)
        and v.type.dtype in RETURNED
        and v not in unlike
    ]


def _with_shapes(model: ir.Model, feed: Feed) -> ir.Model:
    """Return a copy whose shapes are those of this feed."""
    copy = model.clone()
    for value in copy.graph.inputs:
        if value.name and value.name in feed:
            value.shape = ir.Shape(np.asarray(feed[value.name]).shape)
    infer_shapes(copy)
    return copy


def _elements(value: ir.Value) -> int | None:
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return math.prod(d for d in value.shape if isinstance(d, int))


def _groups(pairs: Sequence[_Pair]) -> list[list[_Pair]]:
    """Cut the pairs into groups of at most `GROUP_BYTES`; always at least one, perhaps empty, group.

    The smallest come first, with the outputs: they show too few values to be compared on fewer feeds.
    """
    groups: list[list[_Pair]] = [[]]
    size = 0
    for pair in sorted(pairs, key=lambda pair: pair.bytes):
        if groups[-1] and size + pair.bytes > GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(pair)
        size += pair.bytes
    return groups
