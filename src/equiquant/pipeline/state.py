"""What a run carries from stage to stage, and what of it goes into the report."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equiquant.calibrate import AppliedScales, SampleStream, TensorStats
from equiquant.decisions import Decision
from equiquant.recipe import Recipe
from equiquant.report import Stages

__all__ = ["Progress", "RunState"]

Progress = Callable[[str, int, int | None], None]

APPROXIMATE_DB = 40.0  # of the float output left: above, 8-bit rounding hides what is missing


@dataclass
class RunState:
    """One run.

    Attributes:
        input_sha256: Hash of the input model.
        input_path: Where it came from, None for a model given in memory.
        recipe: What to do.
        stream: The samples, or made-up ones.
        stages: Time and memory so far.
        progress: Tells the user (stage, done, total).
        quantize: Quantize after equalizing.
        stats_file: Where the calibration statistics are kept; None for nowhere.
        recalled: Those that were there when the run began; None for none.
        made: Names among the recipe's `nodes_to_quantize` of nodes that are not in the user's model.
        joined: Names of the Concats that join in float, with the reason.
        decisions: What was done and refused so far.
        warnings: What the user must know.
        equalization: The equalization section of the report.
        refinement: The refinement section of the report.
        clips_left: What equalization under Clips left of the float outputs on samples its scales were not found on, dB,
            by the name of what is decided by; empty where that was not measured.
        scales: The equalization itself, for the statistics' file; None where nobody keeps one.
        hardware: One row for each kind of rewrite for the NPU.
        mixed_precision: The section of the report on layers of another precision.
    """

    input_sha256: str
    input_path: str | None
    recipe: Recipe
    stream: SampleStream
    stages: Stages
    progress: Progress
    quantize: bool
    stats_file: Path | None = None
    recalled: TensorStats | None = None
    made: frozenset[str] = frozenset()
    joined: Mapping[str, str] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    equalization: dict[str, Any] = field(default_factory=dict)
    refinement: dict[str, Any] = field(default_factory=dict)
    clips_left: Mapping[str, float] = field(default_factory=dict)
    scales: AppliedScales | None = None
    hardware: list[dict[str, Any]] = field(default_factory=list)
    mixed_precision: dict[str, Any] = field(default_factory=dict)

    @property
    def approximated(self) -> bool:
        """True if what was rewritten for the NPU computes something else than the model the user gave."""
        figures = [row["sqnr_db"] for row in self.hardware if row["rule"] == "together"]
        return any(figure < APPROXIMATE_DB for figure in figures)

    @property
    def reported(self) -> Recipe:
        """The recipe in names that the user's model has."""
        named = (name for name in self.recipe.nodes_to_quantize if name not in self.made)
        return self.recipe.replace(nodes_to_quantize=tuple(named))

    def warn(self, text: str) -> None:
        """Tell the user now and in the report."""
        self.warnings.append(text)
        python_warnings.warn(text, UserWarning, stacklevel=6)
