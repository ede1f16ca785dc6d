"""Nonsense in a recipe is refused where it is written, not deep in a run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from equiquant.errors import OptionError
from equiquant.recipe import ImageOptions, preset


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"calibration_samples": "5"}, "'calibration_samples' option must be an int. Got '5'"),
        ({"calibration_samples": True}, "must be an int"),
        ({"histogram_bins": 2.5}, "must be an int"),
        ({"seed": -1}, "'seed' option must be at least 0"),
        ({"equivalence_tolerance": -1}, "must be at least 0"),
        ({"equivalence_tolerance": math.nan}, "must be a float, and finite"),
        ({"image": 3}, "must be an ImageOptions"),
        ({"nodes_to_exclude": "Conv_c"}, "'nodes_to_exclude' option must be a list. Got 'Conv_c'"),
        ({"nodes_to_exclude": (3,)}, "must be a list, each of them a str"),
        ({"subgraphs_to_exclude": ((("a",),),)}, "must be a list, each of them 2 items"),
        ({"moving_average": True, "calibration": "percentile"}, "averages min-max ranges; calibration is 'percentile'"),
    ],
)
def test_a_recipe(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        preset("a8w8", **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": (224,)}, "must be 2 items"),
        ({"size": (0, 0)}, "a height and a width in pixels"),
        ({"scale": math.nan}, "must be a float, and finite"),
        ({"mean": ("a",)}, "each of them a float"),
    ],
)
def test_images(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        ImageOptions(**options)


def test_what_python_takes_for_the_same_is_taken() -> None:
    assert preset("a8w8", calibration="percentile", percentile=99).percentile == 99
    assert list(preset("a8w8", nodes_to_exclude=["a"]).nodes_to_exclude) == ["a"]
