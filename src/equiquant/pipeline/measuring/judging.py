"""Do no harm: quantize a candidate with a few samples, run it on others, and see how much of the signal is left.

A candidate's scales and biases come from one half of the samples, and it is measured on the other, whatever order they
came in (`splitting`); of a single one on the same. Ranges that are calibrated see both, as they will see all samples in
the end: the more they see the wider they get, so that seeing fewer would flatter them. Where they compete with ranges
chosen by the noise they make, those of the first kind, they come from it too: else only these would clip what they have
not seen.

The figure is the signal-to-noise ratio of the outputs, before a final Softmax or Sigmoid, against the model the user
gave; of several outputs a mean (`statistics.sqnr`): candidates that round the same are compared by the outputs' dB,
what raised layers leave is told by the outputs' noise. Outputs that rounding does not reach, and those that are
infinite for the user's model and not for the first candidate, as a logarithm of 0 may be, would drown all others and
are left out. Where candidates compete, the figure of an output with loud samples is the mean of two: of the dB as it
is, and of those with the loud samples counting less than their power (`statistics.loudness`), lest they drown the
others.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import calibrate, qdq, target
from equiquant.calibrate import SampleStream, SampleView
from equiquant.calibrate.data.feeds import Feed, batch_size, of_samples, told_runs
from equiquant.equalization import Ranges
from equiquant.equalization.saturation import UNLIMITED, saturation
from equiquant.graph.cost import multiplications
from equiquant.graph.decisions import computed_values, rounded_values
from equiquant.io import Runner, release_memory
from equiquant.numerics.statistics.loudness import Loudness, sample_powers
from equiquant.numerics.statistics.sqnr import ErrorAccumulator, mean_db
from equiquant.pipeline.inputs.cuts import cut_inputs, with_cut_inputs
from equiquant.pipeline.measuring.splitting import alternate, held_back
from equiquant.pipeline.scales.solving import chooses_ranges
from equiquant.recipe import Recipe
from equiquant.refine import Original, OutputMeans, Refinement, layers_of, output_means, refine

__all__ = ["EQUAL_DB", "MOST_FITTED", "MOST_HELD", "Judge", "Yardstick", "affordable_feeds", "fitted_feeds"]

Array = npt.NDArray[Any]
Mean = Callable[[Iterable[float]], float]
Changed = Callable[[Feed], Feed]

SECONDS = 1.5  # of float inference that the solvers' statistics may cost
TRIAL_SECONDS = 0.5  # of float inference, of which a candidate may cost half when it is measured
EQUAL_DB = 0.7  # one draw of the rounding is worth as much
MOST_FITTED, MOST_HELD = 128, 32  # feeds that weights are rounded by, at most, and those held back
CORRECTED_FEEDS = 12  # that a candidate's biases are corrected on
CORRECTION_SHARE = 4  # a correction may take half of a candidate's time
CORRECTION = Refinement(correct_bias=True, round_weights=False)
MOST_FEEDS, FEWEST_FEEDS = 48, 1
MOST_MEASURED = 24  # feeds that candidates are measured on
LARGE, MOST_TIMES = 50_000, 8  # values of a feed that shows much; of smaller ones so many times as many are taken
MACS_PER_SECOND = 2e10  # multiplications a second in onnxruntime on two cores, as written, without fusions
LEAST_MACS = 2e7  # a small network's time goes elsewhere


def affordable_feeds(model: ir.Model, stream: SampleStream, seconds: float) -> int:
    """Return how many feeds a usual CPU runs in some seconds: counted, not timed, so that a run can be repeated."""
    batch = batch_size(stream.first(1)[0])
    return int(seconds * MACS_PER_SECOND / (batch * max(sum(map(multiplications, model.graph)), LEAST_MACS)))


def fitted_feeds(model: ir.Model, stream: SampleStream) -> int:
    """Return how many feeds scales are found on, where the data are so many."""
    return max(FEWEST_FEEDS, min(_times(stream) * MOST_FEEDS, affordable_feeds(model, stream, SECONDS) // 2))


def _times(stream: SampleStream) -> int:
    """Return how many times as many feeds are wanted for their being small: each shows few values of a channel."""
    size = sum(array.size for array in stream.first(1)[0].values())
    return max(1, min(MOST_TIMES, LARGE // max(size, 1)))


def _as_it_is(feed: Feed) -> Feed:
    return feed


class Yardstick:
    """Measures models against a reference on some samples.

    Args:
        model: The reference: a float model.
        samples: What to run it on.
        mean: Makes one figure of the dB of several outputs.
        weighed: Candidates are not to be compared by what is left of a few loud samples alone.

    Attributes:
        names: The values compared: outputs, before a final Softmax or Sigmoid; none that hands on an input.
        loudness: How much the samples of each of them count, in this order; empty where all count with their power.
    """

    def __init__(self, model: ir.Model, samples: SampleView, mean: Mean = mean_db, *, weighed: bool = False) -> None:
        self.names = tuple(computed_values(model))
        self._samples, self._mean = samples, mean
        runner = Runner(model, self.names, optimize=False)
        runs = told_runs(lambda feed: (batch_size(feed), _outputs(runner, feed)), samples)
        counts, found = zip(*runs, strict=True)
        self._infinite = frozenset(
            name for i, name in enumerate(self.names) if not all(np.isfinite(outputs[i]).all() for outputs in found)
        )
        self._compared: frozenset[str] | None = None
        values = [v for node in model.graph for v in node.outputs if v.name in self.names]
        spans = {name: _span([outputs[i] for outputs in found]) for i, name in enumerate(self.names)}
        level = saturation(values, spans)
        self._ends = [level.get(name, UNLIMITED) for name in self.names]
        self._expected = [self._told_apart(outputs) for outputs in found]
        self.loudness = [
            Loudness([sample_powers(outputs[i], count) for outputs, count in zip(self._expected, counts, strict=True)])
            for i in range(len(self.names) if weighed else 0)
        ]

    def sqnr_db(self, model: ir.Model, feeds: int | None = None, changed: Changed = _as_it_is) -> float:
        """Return the signal-to-noise ratio of a model, run as it is written, on the samples.

        Outputs that are infinite for the float model and that this one makes others are left out, unless all are.

        Args:
            model: The model.
            feeds: The first so many; None for all.
            changed: What becomes of a feed before it is run.
        """
        return self._mean(self._repeated(self._ratios(model, feeds, changed)).values())

    def each_db(self, model: ir.Model) -> dict[str, float]:
        """Return the same of each of the values, by name."""
        return self._repeated(self._ratios(model))

    def quantized_sqnr_db(self, model: ir.Model) -> float:
        """Return the same of a candidate, without the outputs that rounding does not reach or that it makes infinite.

        They are those of the first candidate for all: one that keeps more in float must not lose the outputs it saves.
        An output that is infinite for the float model, too, counts where the candidate repeats that, as it does a mask.
        Of an output with loud samples it is the mean of the ratio and of that with what these count.
        """
        ratios = self._ratios(model, loudness=self.loudness)
        if self._compared is None:
            rounded = frozenset(rounded_values(model))
            self._compared = rounded - self._lost(ratios) or rounded
        return self._mean(ratio for name, ratio in ratios.items() if name in self._compared)

    def _repeated(self, ratios: dict[str, float]) -> dict[str, float]:
        """Return the ratios without those of infinite outputs that were not repeated, unless all are."""
        lost = self._lost(ratios)
        return {name: ratio for name, ratio in ratios.items() if name not in lost} or ratios

    def _lost(self, ratios: Mapping[str, float]) -> set[str]:
        """Return the outputs that are infinite for the float model and were not repeated."""
        return {name for name in self._infinite if ratios.get(name) == -np.inf}

    def _ratios(
        self,
        model: ir.Model,
        feeds: int | None = None,
        changed: Changed = _as_it_is,
        loudness: Sequence[Loudness] = (),
    ) -> dict[str, float]:
        """Return the ratio of each value that has a signal; given the loudness, of one with loud samples a mean."""
        runner = Runner(model, self.names, optimize=False)
        sums = [ErrorAccumulator() for _ in self.names]
        leveled = {index: ErrorAccumulator() for index, each in enumerate(loudness) if each.loud}
        given = zip(self._expected[:feeds], itertools.islice(self._samples, feeds), strict=True)
        for number, (expected, feed) in enumerate(given):
            results = self._told_apart(_outputs(runner, feed, changed))
            for accumulator, reference, result in zip(sums, expected, results, strict=True):
                accumulator.add(reference, result)
            for index, accumulator in leveled.items():
                accumulator.add(*(loudness[index].weighed(x[index], number) for x in (expected, results)))
        ratios = [accumulator.figures().sqnr_db for accumulator in sums]
        for index, accumulator in leveled.items():
            ratios[index] = (ratios[index] + accumulator.figures().sqnr_db) / 2
        told = zip(self.names, ratios, sums, strict=True)
        return {name: ratio for name, ratio, accumulator in told if not accumulator.silent}

    def _told_apart(self, outputs: Sequence[Array]) -> list[Array]:
        """Return the values, those beyond where a final Sigmoid is level moved there: ranges need not hold them."""
        ends = zip(outputs, self._ends, strict=True)
        return [x if e == UNLIMITED else np.clip(x, -e[1], e[0]) for x, e in ends]


def _outputs(runner: Runner, feed: Feed, changed: Changed = _as_it_is) -> list[Array]:
    """Return a model's outputs for the samples of a feed, which may be changed before."""
    return [of_samples(output, feed) for output in runner.run(changed(feed))]


def _span(arrays: Sequence[Array]) -> tuple[float, float]:
    """Return the smallest and the largest value; those of none are 0."""
    filled = [x for x in arrays if x.size] or [np.zeros(1)]
    return min(float(x.min()) for x in filled), max(float(x.max()) for x in filled)


class Judge:
    """Measures candidates against the float model on samples they were not calibrated on.

    Args:
        model: The reference: the float model as the user gave it, folded.
        stream: The samples.
        recipe: The quantization that will follow.
        mean: Makes one figure of the dB of several outputs.
        weighed: Candidates are not to be compared by what is left of a few loud samples alone.

    Attributes:
        fitted: The samples candidates are calibrated on.
        rest: The others; None where there are none.
        held: The samples they are measured on, some of those.
        affordable: Feeds that float inference can run in the time the solvers' statistics may cost.
    """

    def __init__(
        self, model: ir.Model, stream: SampleStream, recipe: Recipe, mean: Mean = mean_db, *, weighed: bool = False
    ) -> None:
        self._recipe, self._mean, self._weighed = recipe, mean, weighed
        self.affordable = affordable_feeds(model, stream, SECONDS)
        times = _times(stream)
        known = stream.count_up_to(2 * fitted_feeds(model, stream))
        trial = affordable_feeds(model, stream, TRIAL_SECONDS)
        most = max(FEWEST_FEEDS, min(times * MOST_MEASURED, trial // 2))
        fitted, between = alternate(known)
        self.fitted = self.held = self._ranged = SampleView.picked(stream, fitted)
        self.rest: SampleView | None = None
        if between:
            apart = set(held_back(known))  # what is left when there are enough: weights are rounded by those
            some = between if len(between) <= most else [n for n in between if n not in apart]
            held = some[:: -(-len(some) // most)]
            self.rest, self.held = (SampleView.picked(stream, picks) for picks in (between, held))
            self._ranged = SampleView.picked(stream, [*held, *(number ^ 1 for number in held)])
        corrected = min(len(fitted), CORRECTED_FEEDS, trial // CORRECTION_SHARE)
        self._corrected = SampleView.picked(stream, fitted[:corrected]) if corrected else None
        self._reference = model.clone()  # the model itself may be changed before the first candidate comes
        self._means: tuple[ir.Model, list[str], OutputMeans] | None = None  # of the network last aimed at
        self._cut: tuple[dict[str, float], ir.Model, ir.Model] | None = None  # ends, a model, and it with them
        self._known: tuple[weakref.ref[ir.Model], SampleView, Recipe, calibrate.TensorStats] | None = None

    def sqnr_db(
        self,
        model: ir.Model,
        ranges: Ranges | None = None,
        recipe: Recipe | None = None,
        original: Original | None = None,
        refinement: Refinement | None = None,
    ) -> float:
        """Quantize a float model and return its signal-to-noise ratio in dB; the model is not changed.

        Where biases will be corrected they are, on a few samples: candidates differ in how much that can repair.

        Args:
            model: The candidate.
            ranges: Ranges chosen with its scales; the others are calibrated.
            recipe: How to quantize it; None for the judge's own. With another, what ranges leave open (tensors raised
                to 16 bits) is calibrated on all the samples looked at, as ranges of before were.
            original: The network to aim at; None for the candidate itself. Naming one that candidates share saves time.
            refinement: What else is to be done to it, on all the samples it is calibrated on.
        """
        competing = recipe is None and chooses_ranges(self._recipe, model)
        seen, recipe = self.fitted if competing else self._ranged, recipe or self._recipe
        survey = target.survey(model, recipe)
        open_ = target.missing(survey, ranges, synthetic=self._ranged.synthetic)
        stats = self._statistics(model, seen, open_, recipe)
        plan = target.choose(model, survey, stats, recipe, ranges)
        goal, aim = target.target_of(recipe), original or Original(model, {})
        if refinement is not None:
            found = refine(model, plan, goal, self.fitted, refinement, aim)
            model, plan = found.model, found.plan
        elif recipe.bias_correction and self._corrected is not None:
            means = self._output_means(aim.model, [layer.name for layer in layers_of(model, plan)[0]])
            found = refine(model, plan, goal, self._corrected, CORRECTION, aim, means=means)
            model, plan = found.model, found.plan
        quantized = model.clone()
        qdq.insert(quantized, plan)
        release_memory()
        return self.yardstick.quantized_sqnr_db(quantized)

    def aim(self, model: ir.Model, ranges: Ranges | None) -> ir.Model:
        """Return what candidates with these ranges are to aim at: a model, its inputs cut off as the ranges do it."""
        if ranges is None or self._recipe.scale_kind != "power_of_two":
            return model
        keys = [("activation", value.name or "") for value in model.graph.inputs]
        cuts = cut_inputs({key[1]: ranges.ends[key][0] for key in keys if key in ranges.ends}, self.fitted)
        if not cuts:
            return model
        if self._cut is None or self._cut[:2] != (cuts, model):
            self._cut = cuts, model, with_cut_inputs(model, cuts)
        return self._cut[2]

    def _statistics(
        self, model: ir.Model, seen: SampleView, tensors: Sequence[str], recipe: Recipe
    ) -> calibrate.TensorStats:
        """Return the statistics of tensors of a candidate; measured again with other ranges, it shares them."""
        if self._known is not None:
            candidate, view, asked, stats = self._known
            same = candidate() is model and view is seen and asked == recipe
            if same and stats.tensors.keys() >= set(tensors):
                return stats
        stats = calibrate.collect(model, seen, tensors, recipe, sampled=True)  # ranges near the best will do
        self._known = weakref.ref(model), seen, recipe, stats
        return stats

    @functools.cached_property
    def yardstick(self) -> Yardstick:
        """What candidates are measured with."""
        return Yardstick(self._reference, self.held, self._mean, weighed=self._weighed)

    def _output_means(self, model: ir.Model, layers: list[str]) -> OutputMeans:
        """Return the mean outputs of a network's layers; candidates that aim at the same one share them."""
        if self._means is None or self._means[0] is not model or self._means[1] != layers:
            self._means = model, layers, output_means(model, layers, self._corrected or ())
        return self._means[2]

    def float_sqnr_db(self, model: ir.Model, feeds: int | None = None) -> float:
        """Return the signal-to-noise ratio of a model as it is: the cost of what changed its function.

        Args:
            model: The candidate.
            feeds: Measure on the first of the held samples only.
        """
        return self.yardstick.sqnr_db(model, feeds)
