"""Say which outputs have samples so loud that they count less than their power where candidates are measured."""

from __future__ import annotations

from equiquant.decisions import Decision
from equiquant.numerics.statistics.loudness import MEDIANS
from equiquant.pipeline.measuring.judging import Yardstick

__all__ = ["loud_samples"]


def loud_samples(stage: str, yardstick: Yardstick) -> list[Decision]:
    """Return a decision for each output with such samples.

    Args:
        stage: What was measured.
        yardstick: What it was measured with.
    """
    found = zip(yardstick.names, yardstick.loudness, strict=True)
    return [
        Decision(
            stage,
            "loud_samples",
            name,
            True,
            f"the loudest sample has {each.times:.0f} times the power of the median one; candidates are compared by the"
            f" mean of two figures, one of which counts {each.loud} of {each.samples} samples as {MEDIANS:g} medians",
        )
        for name, each in found
        if each.loud
    ]
