"""Compare a float model with its quantized twin on real inputs: per output, and per tensor with the worst first.

Both models run on the same feeds and every pair of tensors is reduced to running sums at once (`statistics.sqnr`), so
the memory needed depends on neither the number of samples nor the number of tensors: both models run in pieces, each
as far as a group of tensors of bounded size.

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

from equiquant.calibrate.data.feeds import batch_size, numbering, of_samples, told_feeds
from equiquant.errors import DataError, ModelError
from equiquant.graph.decisions import decided_by
from equiquant.graph.query import TEXT_KINDS, static_shape
from equiquant.graph.randomness import refuse_random
from equiquant.io import Feed
from equiquant.numerics.parallel import parallel
from equiquant.numerics.statistics.sqnr import ErrorAccumulator, ErrorFigures
from equiquant.verify.equivalence import Reference
from equiquant.verify.found import Found
from equiquant.verify.heard import EVERYTHING
from equiquant.verify.integer import IntegerAgreement
from equiquant.verify.pairs import Pair, compared_pairs, grouped
from equiquant.verify.pieces import Pieces, ends_of
from equiquant.verify.samples import SingleSamples
from equiquant.verify.twins import compared_values, twins_of
from equiquant.verify.unmasked import Unmasked
from equiquant.verify.varied import Varied

__all__ = ["Comparison", "OutputQuality", "TensorQuality", "compare_models"]

Array = npt.NDArray[Any]

INDICES = ("int64", "int32", "bool")  # numpy's types of what is the same or is not, like words
SMALL = 1 << 16  # elements that are added up before threads have started


@dataclass(frozen=True)
class TensorQuality:
    """How well one intermediate tensor survived.

    Attributes:
        name: Its name in the float model.
        compared: The name of the value it was compared with: its dequantized twin where there is one.
        op_type: Kind of the node that produces it, `Input` for a graph input.
        error: The figures. `aligned_sqnr_db` ignores a positive factor per channel, as equalization leaves behind,
            unless channels showed one value each.
    """

    name: str
    compared: str
    op_type: str
    error: ErrorFigures

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; infinities stay floats."""
        return {"name": self.name, "compared": self.compared, "op_type": self.op_type, **asdict(self.error)}


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
        varying_db: Signal over noise where the signal is only what varies between samples, dB: below 0 it were better
            to answer the mean of the samples. None where that tells nothing, see `verify.varied`.
        median_db: Signal over noise of the median sample, dB. None where no sample is loud, see `verify.samples`.
        quartile_db: Signal over noise that a quarter of the samples do not exceed, dB. None of fewer than two.
        found_db: Signal over noise of its few values above 0, dB. None where these are not few, see `verify.found`.
        unmasked_db: Signal over noise beside a mask, dB. None where there is none, see `verify.unmasked`.
    """

    name: str
    error: ErrorFigures
    top1_agreement: float | None
    chosen: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)
    varying_db: float | None = None
    median_db: float | None = None
    quartile_db: float | None = None
    found_db: float | None = None
    unmasked_db: float | None = None

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
        hidden = ("varying_db", "median_db", "quartile_db", "found_db", "unmasked_db")
        return {"name": self.name, **figures, **{name: getattr(self, name) for name in hidden}, **told}


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


def compare_models(
    float_model: ir.Model,
    quantized_model: ir.Model,
    stream: Iterable[Feed],
    *,
    tensors: bool = True,
    expected: Reference | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Run both models on a stream of feeds and measure the difference.

    Args:
        float_model: The reference.
        quantized_model: The model to judge; the same inputs and outputs by name.
        stream: Feed dicts, read once.
        tensors: Compare intermediate tensors too.
        expected: Of the feeds, what the float model gives for its `compared_values`, where that is known: it does not
            run then, whatever has become of its weights. Only without intermediate tensors.
        progress: Called with the number of samples done.

    Raises:
        ModelError: Inputs or outputs differ in name or shape, or a model does not run.
        DataError: The stream is empty.
    """
    refuse_random(float_model)
    _check_same_interface(float_model, quantized_model)
    feeds = iter(stream)
    first = next(feeds, None)
    if first is None:
        raise DataError("There are no samples to compare on.")
    pairs = compared_pairs(float_model, quantized_model, first) if tensors else []
    judge = _Judge((float_model, quantized_model), pairs, stream, None if tensors else expected)
    samples = 0
    for count in judge.run(itertools.chain([first], feeds)):
        samples += count
        if progress is not None:
            progress(samples)
    return judge.result(samples)


class _Judge:
    """Runs both models and holds the running sums."""

    def __init__(
        self,
        models: tuple[ir.Model, ir.Model],
        pairs: Sequence[Pair],
        stream: Iterable[Feed],
        expected: Reference | None,
    ) -> None:
        (self._float, self._quantized), self._expected = models, expected
        self._number = numbering(stream)
        self._ends = twins_of(expected.names if expected else compared_values(self._float), self._quantized)
        self._outputs = list(self._ends)
        self._pairs = pairs
        self._sums: dict[str, ErrorAccumulator] = {name: ErrorAccumulator() for name in self._outputs}
        self._tensor_sums = {pair.name: ErrorAccumulator(channel_axis=1) for pair in pairs}
        self._agree: dict[str, list[int]] = {name: [0, 0] for name in self._outputs}
        self._chosen: set[str] = set()
        self._decided = decided_by(self._float)
        own = [name for name in self._outputs if self._decided.get(name) == [name]]
        self._varied = {name: Varied() for name in own}
        self._single = {name: SingleSamples() for name in self._outputs}
        self._found = {name: Found() for name in own}
        self._unmasked = {name: Unmasked() for name in own}

    def run(self, feeds: Iterable[Feed]) -> Iterator[int]:
        """Run both models over the feeds; yield the number of samples in each."""
        groups = self._pieces()
        shown = self._shown(groups)
        reference = self._reference(self._wanted(groups))
        candidate = Pieces(self._quantized, self._compared(groups)).run
        for number, feed in enumerate(feeds):
            ours, theirs = dict(feed), dict(feed)
            for index, (names, group) in enumerate(zip(shown, groups, strict=True)):
                with told_feeds(self._number(number)):
                    expected = [of_samples(x, feed) for x in reference(index, ours)]
                    got = [of_samples(x, feed) for x in candidate(index, theirs)]
                for name, one, other in zip(names, expected, got, strict=False):
                    self._add_output(name, one, other, batch_size(feed))
                first = len(names)
                self._add_tensors(list(zip(group, expected[first:], got[first:], strict=True)))
                expected, got = [], []  # before the next are made
            yield batch_size(feed)

    def _pieces(self) -> list[list[Pair]]:
        """Return the pairs, group by group, as they are compared; the outputs come with the last."""
        groups = grouped(self._pairs)
        if len(groups) == 1:
            return groups
        ours = ends_of(self._float, self._wanted(groups))
        theirs = ends_of(self._quantized, self._compared(groups))
        joined: list[list[Pair]] = [[]]
        for index, group in enumerate(groups):
            joined[-1] += group
            if index + 1 < len(groups) and ours[index] and theirs[index]:
                joined.append([])
        return joined

    def _shown(self, groups: Sequence[Sequence[Pair]]) -> list[list[str]]:
        """Return the outputs compared in each piece: all of them in the last."""
        return [*([] for _ in groups[1:]), self._outputs]

    def _wanted(self, groups: Sequence[Sequence[Pair]]) -> list[list[str]]:
        """Return the names in the float model of what is compared in each piece."""
        pieces = zip(self._shown(groups), groups, strict=True)
        return [[*names, *(pair.name for pair in group)] for names, group in pieces]

    def _compared(self, groups: Sequence[Sequence[Pair]]) -> list[list[str]]:
        """Return the names in the quantized model of the same."""
        pieces = zip(self._shown(groups), groups, strict=True)
        return [[*(self._ends[name] for name in names), *(pair.compared for pair in group)] for names, group in pieces]

    def _reference(self, wanted: Sequence[Sequence[str]]) -> Callable[[int, dict[str, Array]], Sequence[Array]]:
        """Return what gives the float model's values piece by piece: it runs, unless they are known."""
        if self._expected is None:
            return Pieces(self._float, wanted).run
        known = iter(self._expected.outputs(wanted[0]) or ())
        return lambda *_: next(known)

    def _add_output(self, name: str, expected: Array, output: Array, samples: int) -> None:
        _check_shapes("output", name, expected, output)
        if expected.dtype.kind in TEXT_KINDS or expected.dtype.name in INDICES:
            equal = expected == output
            self._chosen.add(name)
            self._sums[name].add(np.ones(equal.shape, np.float32), equal.astype(np.float32))
            self._agree[name][0] += int(np.count_nonzero(equal))
            self._agree[name][1] += equal.size
            return
        self._sums[name].add(expected, output)
        self._single[name].add(expected, output, samples)
        if name in self._varied:
            self._varied[name].add(expected, samples)
            self._found[name].add(expected, output)
            self._unmasked[name].add(expected, output)
        if expected.ndim == 2 and expected.shape[1] > 1:
            same = np.count_nonzero(expected.argmax(axis=1) == output.argmax(axis=1))
            self._agree[name][0] += int(same)
            self._agree[name][1] += len(expected)

    def _add_tensors(self, values: Sequence[tuple[Pair, Array, Array]]) -> None:
        if sum(expected.size for _, expected, _ in values) > SMALL:
            parallel(self._add_tensor, values)
            return
        for pair in values:
            self._add_tensor(pair)

    def _add_tensor(self, values: tuple[Pair, Array, Array]) -> None:
        pair, expected, output = values
        _check_shapes("tensor", pair.name, expected, output)
        if pair.ends != EVERYTHING:
            expected, output = np.clip(expected, *pair.ends), np.clip(output, *pair.ends)
        self._tensor_sums[pair.name].add(expected, output)

    def result(self, samples: int) -> Comparison:
        """Return the figures of everything seen."""
        outputs = []
        for name in self._outputs:
            same, total = self._agree[name]
            apart = (n for n in self._decided.get(name, ()) if n in self._tensor_sums)
            parts = {n: self._tensor_sums[n].figures().sqnr_db for n in apart}
            error, chosen = self._sums[name].figures(), name in self._chosen
            told = parts if len(parts) > 1 else {}
            hidden = {} if chosen else self._hidden(name, error.sqnr_db)
            agreeing = same / total if total else None
            outputs.append(OutputQuality(name, error, agreeing, chosen, told, **hidden))
        qualities = [
            TensorQuality(p.name, p.compared, p.op_type, self._tensor_sums[p.name].figures()) for p in self._pairs
        ]
        worst = tuple(sorted(qualities, key=lambda t: t.error.aligned_sqnr_db))
        return Comparison(samples, tuple(outputs), worst, tuple(p.name for p in self._pairs))

    def _hidden(self, name: str, sqnr_db: float) -> dict[str, float | None]:
        """Return what the SQNR of an output may hide, by attribute."""
        single = self._single[name]
        if name not in self._varied:
            return {"quartile_db": single.quartile_db() if single.even else None}
        return {
            "varying_db": self._varied[name].decibels(sqnr_db),
            "median_db": single.median_db(),
            "quartile_db": single.quartile_db(),
            "found_db": self._found[name].decibels(),
            "unmasked_db": self._unmasked[name].decibels(),
        }


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
