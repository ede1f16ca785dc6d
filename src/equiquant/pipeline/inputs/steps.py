"""Power-of-two steps of the inputs, by measurement: what rounding an input does to the outputs can be run in float.

The noise model guesses it from gains, which say what a small change does. What a range cuts off an input is no small
change, and no neighbour's scale can make up for it: an input's channels keep theirs. Steps of any size gain nothing by
this: the range is never far from the best.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from equiquant.calibrate import SampleStream, SampleView
from equiquant.calibrate.data.feeds import Feed
from equiquant.decisions import Decision
from equiquant.equalization import Ranges, ScaleClasses
from equiquant.numerics.affine import IntType, fake_quantize, power_of_two_params
from equiquant.numerics.statistics.tail import FEW_VALUES
from equiquant.pipeline.measuring.judging import Yardstick, fitted_feeds
from equiquant.pipeline.scales.clip_reach import channel_axis
from equiquant.target import Survey

__all__ = ["InputStep", "input_steps"]

MOST_MEASURED, FEWEST_MEASURED = 64, 8  # feeds
MOST_TRIED = 6  # steps
PATIENCE = 2  # steps in turn that are worse than the best before, after which no finer one is tried
CLEAR_DB = 1.0  # that a finer step has to gain, over a coarser one and over that of the noise model


@dataclass(frozen=True)
class InputStep:
    """The step of an input that measured clearly better than that of the noise model.

    Attributes:
        name: The input.
        end: End of its range, on either side of 0.
        noise: Noise over signal of the outputs, were the input all that is rounded.
        costs: The same by the exponent of the step, of those tried.
        decision: What to say of it.
    """

    name: str
    end: float
    noise: float
    costs: dict[int, float]
    decision: Decision


def input_steps(
    model: ir.Model,
    classes: ScaleClasses,
    survey: Survey,
    samples: SampleStream,
    affordable: int,
    chosen: Sequence[Ranges],
) -> list[InputStep]:
    """Return the steps of the inputs for which a better one is found than was chosen for least noise.

    Inputs that show few values of a channel are left to the noise model, which has room for others.

    Args:
        model: The folded float model; only read.
        classes: Its scale classes.
        survey: What will be quantized.
        samples: All there are. Made-up ones tell nothing, nor does a single one.
        affordable: Feeds that float inference can run in the time it may cost.
        chosen: Ranges chosen for least noise, which compete.
    """
    target = survey.target
    if target.scale_kind != "power_of_two" or target.activation.bits > 8 or samples.synthetic:
        return []
    known = samples.count_up_to(2 * fitted_feeds(model, samples))
    if known < 2:
        return []
    alone = survey.unshared - survey.unsigned
    inputs = {value.name or "": value for value in model.graph.inputs if value.name in alone}
    given = {name: {r.ends["activation", name][0] for r in chosen if ("activation", name) in r.ends} for name in inputs}
    view = SampleView(samples, 0, known)
    spans = {name: _span(view, name, channel_axis(inputs[name], classes)) for name, ends in given.items() if ends}
    told = {name: span for name, span in spans.items() if span.values >= FEW_VALUES and 0 < span.largest < math.inf}
    most = min(MOST_MEASURED, affordable // (MOST_TRIED * max(1, len(told))))
    if not told or most < FEWEST_MEASURED:
        return []
    loudest = {span.loudest for span in told.values()}  # what is rare may be all that a range is for
    measured = SampleView.picked(samples, {*range(0, known, -(-known // most)), *loudest})
    yardstick = Yardstick(model, measured)
    steps = [
        _Steps(yardstick, model, name, target.activation).best(given[name], span.largest) for name, span in told.items()
    ]
    return [step for step in steps if step is not None]


@dataclass(frozen=True)
class _Span:
    """What an input shows: its largest magnitude, in which feed, and how many values of a channel."""

    largest: float
    loudest: int
    values: int


def _span(view: SampleView, name: str, axis: int | None) -> _Span:
    ends, values = [], 0
    for feed in view:
        array = feed[name]
        ends.append(float(abs(array).max(initial=0.0)))
        values += array.size // max(1, array.shape[axis] if axis is not None else 1)
    return _Span(max(ends), ends.index(max(ends)), values)


class _Steps:
    """Steps of one input and how they measure.

    Args:
        yardstick: Measures the outputs.
        model: The float model.
        name: The input.
        kind: Its type.
    """

    def __init__(self, yardstick: Yardstick, model: ir.Model, name: str, kind: IntType) -> None:
        self._yardstick, self._model, self._name, self._kind = yardstick, model, name, kind
        self._levels = kind.qmax - kind.center
        self._measured: dict[int, float] = {}

    def best(self, given: Collection[float], largest: float) -> InputStep | None:
        """Return the best step, the coarsest of those nearly as good; None if it is hardly better than those given.

        Args:
            given: Ends of the ranges that were chosen for least noise.
            largest: Largest magnitude of the input.
        """
        chosen = {self._sqnr_db(round(math.log2(end / self._levels))): end for end in given}
        before = max(chosen)
        coarsest = math.ceil(math.log2(largest / self._levels))
        tried: list[int] = []
        worse = 0
        while worse < PATIENCE and len(tried) < MOST_TRIED:
            finer = coarsest - len(tried)
            worse = worse + 1 if tried and self._sqnr_db(finer) <= max(map(self._sqnr_db, tried)) else 0
            tried.append(finer)
        least = max(map(self._sqnr_db, tried)) - CLEAR_DB
        best = next(step for step in tried if self._sqnr_db(step) >= least)
        after = self._sqnr_db(best)
        if after <= before + CLEAR_DB:
            return None
        end = self._end(best)
        reason = (
            f"rounding it alone leaves {after:.1f} dB of the outputs with a range to ±{end:.5g}, which measured best,"
            f" and {before:.1f} dB with ±{chosen[before]:.5g}, which the model of noise chose"
        )
        costs = {step: float(10 ** (-db / 10)) for step, db in self._measured.items()}
        return InputStep(
            self._name, end, costs[best], costs, Decision("calibrate", "input_step", self._name, True, reason)
        )

    def _end(self, exponent: int) -> float:
        return math.ldexp(self._levels, exponent)

    def _sqnr_db(self, exponent: int) -> float:
        """Return what is left of the outputs where the input alone is rounded."""
        if exponent not in self._measured:
            params = power_of_two_params(self._end(exponent), self._kind)

            def rounded(feed: Feed) -> Feed:
                return {**feed, self._name: fake_quantize(feed[self._name], params)}

            self._measured[exponent] = self._yardstick.sqnr_db(self._model, changed=rounded)
        return self._measured[exponent]
