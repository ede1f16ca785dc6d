"""Search: run the pipeline with one combination of options after another, and keep what measures best.

The trials are a walk through a fixed list of dimensions: for each, its alternatives are tried on top of the best so
far. What the user fixed is not varied, so a search from `xint8` stays `xint8`. The first two thirds of the samples
calibrate, the last third judges: by a metric of the user's, by labels (top-1), or by the signal-to-noise ratio of the
decisions, which also decides between equals. Nothing is random; a time budget only says how far the walk comes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate import SampleStream, SampleView, model_hash
from equiquant.calibrate.data.feeds import batch_size, filling
from equiquant.calibrate.fingerprint import FeedHash
from equiquant.errors import DataError, EquiQuantError, OptionError
from equiquant.io import ModelLike, load_model, release_memory
from equiquant.pipeline.measuring.few_judges import few_judges
from equiquant.pipeline.measuring.judging import Yardstick
from equiquant.pipeline.network.folding import canonical_form
from equiquant.pipeline.run import run
from equiquant.pipeline.search.scoring import Metric, Scorer, UndefinedScoreError
from equiquant.pipeline.state import Progress
from equiquant.recipe import Recipe
from equiquant.report import StageCost, Stages, versions
from equiquant.report.plain import dumps, write_atomically

__all__ = ["SearchOutcome", "Trial", "search"]

Array = npt.NDArray[Any]
FORMAT = 1
FEWEST_FEEDS = 3
MOST_HELD = 256  # feeds a trial is judged on
CLEAR_DB = 0.1  # a gain below is no reason to leave the simpler recipe
ONE_SAMPLE_DB = 3.0  # the same where one sample is all that judges; of more it goes by their number

DIMENSIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("clip_mode", ("soft", "per_channel")),
    ("calibration", ("noise", "minmax", "percentile", "mse", "minmse", "nonoverflow")),
    ("cle", (False,)),
    ("per_channel", (True,)),
    ("weight_rounding", ("nearest",)),
    ("bias_correction", (False,)),
)
"""Fields of the recipe and what to try for them, in order."""


@dataclass(frozen=True)
class Trial:
    """One combination and how it did.

    Attributes:
        changes: Fields that differ from the recipe the search began with.
        score: The metric, None where the combination cannot be run.
        sqnr_db: Signal-to-noise ratio of the decisions on the held-back samples.
        seconds: What it took when it ran.
        refused: Why it cannot be run, empty where it could.
    """

    changes: Mapping[str, Any]
    score: float | None
    sqnr_db: float | None
    seconds: float
    refused: str = ""


@dataclass(frozen=True, eq=False)
class SearchOutcome:
    """What a search found.

    Attributes:
        recipe: The best recipe.
        best: Its trial.
        trials: All trials in the order of the walk.
        metric: What the score is: `sqnr_db`, `top1`, or the name of the user's function.
        kind: `sqnr_db`, `top1` or, for a function of the user's, `own`.
        judges: Number of samples the trials were judged on.
        complete: False if the time budget ended the walk.
        stages: What it took, the making of the best apart.
    """

    recipe: Recipe
    best: Trial
    trials: tuple[Trial, ...]
    metric: str
    kind: str
    judges: int
    complete: bool
    stages: tuple[StageCost, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to tell of how far the choice can be trusted."""
        told = few_judges("The search judged its trials", "what it found best", self.judges)
        return (f"{told} Give more samples; a third of them judges.",) if told else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the trials as plain data, `kept` being what the best one changes."""
        trials = [asdict(trial) for trial in self.trials]
        told = {"metric": self.metric, "kind": self.kind, "judges": self.judges, "complete": self.complete}
        return {**told, "trials": trials, "kept": dict(self.best.changes)}


def search(
    source: ModelLike,
    recipe: Recipe,
    stream: SampleStream,
    *,
    fixed: Sequence[str] = (),
    metric: Metric | None = None,
    labels: Sequence[int] | Array | None = None,
    time_budget: float | None = None,
    trials_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> SearchOutcome:
    """Return the best of the combinations of options for a model.

    Args:
        source: The model; never changed.
        recipe: Where the search begins: it decides the target.
        stream: The samples.
        fixed: Fields of the recipe that are not to be varied.
        metric: Judges a quantized model, higher is better.
        labels: The class of every sample: the metric is top-1 of the first output.
        time_budget: Seconds after which no further trial begins.
        trials_file: Trials are kept in this JSON file; those already in it are not run again, but for the refused.
        progress: Called with (stage, done, total).

    Raises:
        DataError: There are too few samples, or labels do not match them.
        OptionError: Options contradict each other, or the file is of another search.
        EquiQuantError: Not even the first recipe can be run.
    """
    scorer = Scorer(metric, labels)
    if recipe.weight_only:
        raise OptionError("A search has nothing to vary where weights alone are quantized; compare w4 and w8 yourself.")
    if recipe.target_sqnr is not None:
        raise OptionError(
            "A search looks for the most dB, which target_sqnr would reach with more layers raised. Search without it,"
            " then quantize with the recipe found and target_sqnr."
        )
    number = isinstance(time_budget, Real) and not isinstance(time_budget, bool)
    if time_budget is not None and not (number and time_budget > 0):  # nor is NaN
        raise OptionError(f"The time budget must be a positive number of seconds. Got {time_budget!r}.")
    stages = Stages()
    with stages("search"):
        bench = _Bench(source, recipe, stream, scorer)
        kept = _TrialFile(trials_file, bench.key)
        walk = _Walk(bench, kept, recipe, time_budget, progress or (lambda *_: None))
        first = walk.visit({})
        if first is None or first.score is None:
            why = "" if first is None else first.refused
            raise OptionError(f"The recipe the search begins with cannot be run: {why}")
        for name, values in DIMENSIONS:
            if name not in fixed and bench.concerns(name):
                walk.try_all(name, values)
    best = recipe.replace(**walk.best.changes)
    done = tuple(walk.done)
    return SearchOutcome(best, walk.best, done, scorer.name, scorer.kind, bench.judges, walk.complete, stages.costs)


class _Walk:
    """Goes through the trials, on top of the best so far."""

    def __init__(
        self, bench: _Bench, kept: _TrialFile, recipe: Recipe, budget: float | None, progress: Progress
    ) -> None:
        self._bench, self._kept, self._recipe, self._progress = bench, kept, recipe, progress
        self._budget, self._begin = budget, time.monotonic()
        self.done: list[Trial] = []
        self.complete = True
        self.best: Trial

    def try_all(self, name: str, values: Sequence[Any]) -> None:
        """Try every value of one field, each in place of the best recipe's."""
        base = dict(self.best.changes)
        for value in values:
            if value == "minmax" and self._recipe.scale_kind == "power_of_two":
                continue  # there the same as nonoverflow
            if getattr(self._recipe.replace(**base), name) != value:
                self.visit({**base, name: value})

    def visit(self, changes: Mapping[str, Any]) -> Trial | None:
        """Run one trial, or take it from the file; None where it makes no sense, or time is up."""
        try:
            recipe = self._recipe.replace(**changes)
        except OptionError:
            return None  # the target does not have it: power-of-two methods with float scales, and so on
        trial = self._kept.find(changes)
        if trial is None:
            if self.done and self._budget is not None and time.monotonic() - self._begin > self._budget:
                self.complete = False
                return None
            self._progress("search", len(self.done), None)
            trial = self._bench.run(changes, recipe)
            self._kept.add(trial)
        self.done.append(trial)
        if len(self.done) == 1 or self._better(trial):
            self.best = trial
        return trial

    def _better(self, trial: Trial) -> bool:
        """True if the score is higher, or the same and the signal-to-noise ratio clearly higher."""
        if trial.score is None or trial.sqnr_db is None or self.best.score is None or self.best.sqnr_db is None:
            return False
        if self._bench.scored and trial.score != self.best.score:
            return trial.score > self.best.score
        return trial.sqnr_db > self.best.sqnr_db + self._bench.clear_db


class _Bench:
    """Runs and judges trials."""

    def __init__(
        self,
        source: ModelLike,
        recipe: Recipe,
        stream: SampleStream,
        scorer: Scorer,
    ) -> None:
        loaded = load_model(source)
        self._source, self._scorer = loaded.model.clone(), scorer
        sizes = [batch_size(feed) + filling(feed) for feed in stream]
        feeds = len(sizes)
        if feeds < FEWEST_FEEDS:
            what = "samples" if max(sizes) == 1 else "batches of samples"
            raise DataError(f"A search needs at least {FEWEST_FEEDS} {what}, to calibrate on some and judge on others.")
        scorer.match(stream.samples, limited=recipe.calibration_samples is not None)
        cut = feeds - min(feeds // 3, MOST_HELD)
        self._fitted, held = SampleView(stream, 0, cut), SampleView(stream, cut, feeds)
        folded = loaded.model
        canonical_form(folded, recipe, optimize=recipe.optimize)
        self._has_clips = any(node.op_type == "Clip" for node in folded.graph)
        self._held, self._yardstick = held, Yardstick(folded, held)
        self.scored = scorer.kind != "sqnr_db"
        self.judges = sum(batch_size(feed) for feed in held)
        self.clear_db = max(CLEAR_DB, ONE_SAMPLE_DB / self.judges)
        scorer.check(folded, held)
        self.key = self._identity(recipe, stream)

    def concerns(self, name: str) -> bool:
        """True if a field can make a difference here."""
        return name != "clip_mode" or self._has_clips

    def _identity(self, recipe: Recipe, stream: SampleStream) -> str:
        """Return what makes trials comparable: the model, the samples, the first recipe, the metric, the versions."""
        digest = hashlib.sha256()
        labels = b"" if self._scorer.labels is None else self._scorer.labels.astype(np.int64).tobytes()
        samples = FeedHash.of(stream).value()
        told = [json.dumps(part) for part in (recipe.to_dict(), versions())]
        for part in (model_hash(self._source), samples, *told, self._scorer.kind, self._scorer.name):
            digest.update(str(part).encode())
        digest.update(labels)
        return digest.hexdigest()

    def run(self, changes: Mapping[str, Any], recipe: Recipe) -> Trial:
        """Quantize with the first part of the samples and judge on the others.

        Raises:
            EquiQuantError: The metric or the labels cannot be used, or the metric is NaN for the first recipe.
        """
        start = time.monotonic()
        try:
            model = run(self._source, recipe, self._fitted).model
            sqnr = self._yardstick.quantized_sqnr_db(model)
        except EquiQuantError as error:
            return Trial(dict(changes), None, None, time.monotonic() - start, str(error))
        else:
            try:
                score = self._scorer.score(model, sqnr, self._held)  # its other errors are no fault of the recipe
            except UndefinedScoreError as error:
                if not changes:
                    raise
                return Trial(dict(changes), None, None, time.monotonic() - start, str(error))
            return Trial(dict(changes), score, sqnr, time.monotonic() - start)
        finally:
            release_memory()


def _kept(path: Path, key: str) -> list[Trial]:
    """Return the trials of a file.

    Raises:
        OptionError: It is none of ours, is damaged, or is of another search.
    """
    none = f"{path} is not a file of trials"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"Cannot read the trials in {path}: {error.strerror or error}. Name another file.") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{none}: it is not JSON. Name another.") from error
    if not isinstance(data, dict) or not {"format", "key", "trials"} <= data.keys():
        raise OptionError(f"{none}: it holds other JSON. Name another.")
    if (data["format"], data["key"]) != (FORMAT, key):
        raise OptionError(
            f"The trials in {path} are of another model, other data or options, or of another version."
            " Delete the file, or name another."
        )
    try:
        return [_trial(**row) for row in data["trials"]]
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{none}: it is damaged. Delete it, or name another.") from error


def _trial(changes: Any, score: Any, sqnr_db: Any, seconds: Any, refused: Any) -> Trial:
    """Return a trial of a file, in which an infinity is a word.

    Raises:
        TypeError: It is none.
        ValueError: A figure is not a number.
        OverflowError: A figure is too large for a float.
    """
    if not isinstance(changes, dict) or not isinstance(refused, str):
        raise TypeError
    if not refused:
        score, sqnr_db = float(score), float(sqnr_db)
    return Trial(changes, score, sqnr_db, float(seconds), refused)


class _TrialFile:
    """The trials of one search on disk, rewritten whole after each."""

    def __init__(self, path: str | os.PathLike[str] | None, key: str) -> None:
        self._path, self._key = None if path is None else Path(path), key
        self._trials: list[Trial] = []
        if self._path is None or not self._path.exists():
            return
        self._trials = [trial for trial in _kept(self._path, key) if not trial.refused]  # the reason may be gone

    def find(self, changes: Mapping[str, Any]) -> Trial | None:
        """Return the trial of a combination, None if it was not run."""
        return next((trial for trial in self._trials if trial.changes == changes), None)

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self._trials.append(trial)
        if self._path is not None:
            data = {"format": FORMAT, "key": self._key, "trials": [asdict(t) for t in self._trials]}
            write_atomically(self._path, dumps(data))
