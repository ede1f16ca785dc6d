"""What each calibration method needs to be kept."""

from __future__ import annotations

from equiquant.recipe import Recipe

__all__ = ["HISTOGRAM_METHODS", "needs_histogram"]

HISTOGRAM_METHODS = ("minmse", "percentile", "entropy", "mse", "noise")


def needs_histogram(recipe: Recipe) -> bool:
    """True if the recipe's calibration method needs more than the smallest and largest value."""
    return recipe.calibration in HISTOGRAM_METHODS
