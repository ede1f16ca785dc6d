"""What a search judges by: a figure of the user's, top-1 of labels, or the signal-to-noise ratio of the decisions."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate import SampleView
from equiquant.calibrate.data.feeds import Feed, batch_size, of_samples
from equiquant.errors import DataError, OptionError
from equiquant.io import Runner

__all__ = ["Metric", "Scorer", "UndefinedScoreError"]

NAME_CHARS = 60  # of a value in the name of a metric
Array = npt.NDArray[Any]
Metric = Callable[[ir.Model], float]
"""The user's figure of a quantized model, higher is better."""


class UndefinedScoreError(OptionError):
    """The metric has no figure for this model, as F1 has none where nothing is found: it returned NaN."""


class Scorer:
    """Judges one quantized model after the other.

    Args:
        metric: The user's figure.
        labels: The class of every sample.

    Attributes:
        kind: `sqnr_db`, `top1`, or `own`: the user's function, whatever that is called.
        name: The kind, or the name of the user's function.
        labels: (samples,) the classes, None without.

    Raises:
        OptionError: Both are given, or the metric cannot be called.
        DataError: The labels are no classes.
    """

    def __init__(self, metric: Metric | None, labels: Sequence[int] | Array | None) -> None:
        if metric is not None and labels is not None:
            raise OptionError("Give either a metric or labels to judge by, not both.")
        if metric is not None and not callable(metric):
            raise OptionError(f"The metric must be a function of a model. Got {metric!r} instead.")
        self._metric = metric
        self.labels = None if labels is None else _classes(labels)
        self.kind = "own" if metric is not None else "sqnr_db" if labels is None else "top1"
        self.name = self.kind if metric is None else _name(getattr(metric, "__wrapped__", metric))

    def match(self, samples: int, *, limited: bool) -> None:
        """Check that there is a label for each sample; of samples that were limited the first labels count.

        Raises:
            DataError: There are more or fewer.
        """
        if self.labels is not None and limited:
            self.labels = self.labels[:samples]
        if self.labels is not None and len(self.labels) != samples:
            raise DataError(f"There are {len(self.labels)} labels for {samples} samples.")

    def check(self, model: ir.Model, held: SampleView) -> None:
        """Check that labels, where they judge, can judge a model's first output, before any trial is paid for.

        Raises:
            DataError: It is not one row of class scores for each sample, or of too few classes.
        """
        if self.labels is not None:
            _top1(model, self.labels, itertools.islice(held, 1))

    def score(self, model: ir.Model, sqnr_db: float, held: SampleView) -> float:
        """Return the figure of a quantized model, higher is better.

        Args:
            model: The model.
            sqnr_db: Its signal-to-noise ratio.
            held: The feeds to judge on: those of the last labels.

        Raises:
            UndefinedScoreError: The metric returns NaN.
            OptionError: It returns something else than one number.
            DataError: The labels are not those of the model's first output.
        """
        if self._metric is not None:
            return _number(self._metric(model), self.name)
        return sqnr_db if self.labels is None else _top1(model, self.labels, held)


def _classes(labels: Sequence[int] | Array) -> Array:
    """Return labels as whole numbers from 0."""
    try:
        array = np.asarray(labels)
    except ValueError as error:  # lists of unlike lengths
        raise DataError(f"The labels must be one whole number for each sample: {error}.") from error
    array = array.reshape(-1)
    if array.dtype.kind not in "iu":
        raise DataError(f"The labels must be whole numbers, the class of each sample. Got {array.dtype.name} instead.")
    if array.size and array.min() < 0:
        raise DataError(f"The labels must be classes, numbered from 0. Got {array.min()}.")
    return array


def _name(metric: Any) -> str:
    """Return what a function of the user's is called; of a partial one with the plain values it is given."""
    if isinstance(metric, functools.partial):
        given = [*map(_told, metric.args), *(f"{key}={_told(value)}" for key, value in metric.keywords.items())]
        return f"{_name(metric.func)}({', '.join(given)})"
    return str(getattr(metric, "__qualname__", type(metric).__name__))


def _told(value: Any) -> str:
    """Return a plain value as it is written, of others the type: their text may hold an address, or be long."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value)[:NAME_CHARS] if plain else type(value).__name__


def _number(value: Any, name: str) -> float:
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError as error:
        raise OptionError(f"The metric '{name}' returned a number too large for a float; scale it down.") from error
    if math.isnan(number):
        error_class = UndefinedScoreError if isinstance(value, Real) else OptionError
        raise error_class(f"The metric '{name}' must return one number, higher is better. It returned {value!r}.")
    return number


def _top1(model: ir.Model, labels: Array, held: Iterable[Feed]) -> float:
    scores = _class_scores(model, held)
    if labels.max() >= scores.shape[1]:
        raise DataError(f"The labels go up to {labels.max()}, but the first output has only {scores.shape[1]} classes.")
    return float((scores.argmax(axis=1) == labels[len(labels) - len(scores) :]).mean())


def _class_scores(model: ir.Model, held: Iterable[Feed]) -> Array:
    """Return the first output of a model as one row of class scores for each sample.

    Raises:
        DataError: It is something else.
    """
    runner = Runner(model, optimize=False)
    rows = []
    for feed in held:
        output = of_samples(runner.run(feed)[0], feed)
        classes = output.ndim >= 2 and sum(size > 1 for size in output.shape[1:]) <= 1
        if not classes or len(output) != batch_size(feed):
            raise DataError(
                "Labels need class scores as the first output, one row for each sample; give a metric instead. Of"
                f" {batch_size(feed)} samples the first output is {list(output.shape)}."
            )
        rows.append(output.reshape(len(output), -1))
    return np.concatenate(rows)
