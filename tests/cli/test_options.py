import argparse
from typing import Any, Literal

import pytest

from equiquant.cli.options import parse_value, recipe_overrides
from equiquant.cli.parser import parse
from equiquant.errors import OptionError
from equiquant.recipe import ImageOptions


def overrides(*words: str) -> dict[str, Any]:
    return recipe_overrides(parse(["quantize", "m.onnx", "-o", "o.onnx", *words]))


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (bool, "yes", True),
        (bool, "False", False),
        (int, "-1", -1),
        (int | None, "none", None),
        (int | None, "5", 5),
        (float, "1e-3", 1e-3),
        (str, "a,b", "a,b"),
        (Literal["NCHW", "auto"], "nchw", "NCHW"),
        (tuple[str, ...], "a, b", ("a", "b")),
        (tuple[str, ...], "", ()),
        (tuple[float, ...], "1,2.5", (1.0, 2.5)),
        (tuple[int, int] | None, "224", (224, 224)),
        (tuple[int, int] | None, "10x20", (10, 20)),
        (tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], '[[["a"], ["b"]]]', ((("a",), ("b",)),)),
    ],
)
def test_values_take_the_type_of_their_field(hint: Any, text: str, value: Any) -> None:
    assert parse_value("field", hint, text) == value


@pytest.mark.parametrize(
    ("hint", "text", "says"),
    [
        (bool, "maybe", "true or false"),
        (int, "1.5", "a whole number"),
        (float, "x", "a number"),
        (tuple[int, int], "1x2x3", "a size such as"),
        (tuple[float, ...], "1;2", "numbers separated by commas"),
        (tuple[tuple[str, ...], ...], "a", "JSON"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(hint: Any, text: str, says: str) -> None:
    with pytest.raises(OptionError, match=f"'field' option must be {says}"):
        parse_value("field", hint, text)


def test_nothing_given_overrides_nothing() -> None:
    assert overrides() == {}


def test_flags_set_their_fields() -> None:
    assert overrides("--no-cle", "--per-channel", "--no-optimize", "--no-append-bias", "--replace-clip6-relu") == {
        "cle": False,
        "per_channel": True,
        "optimize": False,
        "cle_append_bias": False,
        "replace_clip6_relu": True,
    }
    assert overrides("--cle-steps", "-1", "--samples", "7", "--calibration", "minmax") == {
        "cle_steps": -1,
        "calibration_samples": 7,
        "calibration": "minmax",
    }
    assert overrides("--exclude-node", "a", "--exclude-node", "b*", "--node", "c", "--op-type", "Conv") == {
        "nodes_to_exclude": ("a", "b*"),
        "nodes_to_quantize": ("c",),
        "op_types_to_quantize": ("Conv",),
    }


def test_image_flags_make_image_options() -> None:
    given = overrides("--mean", "1,2,3", "--size", "8x16", "--color", "BGR", "--set", "image.scale=0.5")
    assert given == {"image": ImageOptions(mean=(1.0, 2.0, 3.0), size=(8, 16), color="BGR", scale=0.5)}


def test_set_reaches_every_field_and_contradicts_none() -> None:
    assert overrides("--cle-steps", "3", "--set", "cle_steps=3", "--set", "seed=4") == {"cle_steps": 3, "seed": 4}
    for words in (("--no-cle", "--set", "cle=true"), ("--set", "seed=1", "--set", "seed=2")):
        with pytest.raises(OptionError, match="is given twice"):
            overrides(*words)
    assert str(overrides("--set", "percentile=nan")) == "{'percentile': nan}"  # refused by the recipe, for what it is


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("cle_step=2", "Unknown option 'cle_step'. Did you mean 'cle_steps'"),
        ("include_cle=false", "What is documented as 'include_cle' is 'cle' here."),
        ("cle_steps", "--set takes FIELD=VALUE"),
        ("cle_steps=two", "a whole number. Got 'two'"),
        ("image=x", "Unknown option 'image'"),
        ("image.means=1", "Did you mean 'image.mean'"),
    ],
)
def test_set_is_strict(setting: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        overrides("--set", setting)
    assert says in str(caught.value)


def test_equalize_has_the_same_types() -> None:
    args = parse(["equalize", "m.onnx", "-o", "o.onnx", "--cle-steps", "3", "--no-append-bias"])
    assert isinstance(args, argparse.Namespace)
    assert vars(args)["recipe.cle_steps"] == 3
    assert vars(args)["recipe.cle_append_bias"] is False


def test_mixed_precision_flags() -> None:
    assert overrides("--keep-float", "2", "--int16", "1") == {"keep_float": 2, "int16": 1}
    assert overrides("--target-sqnr", "20", "--raise-to", "int16") == {"target_sqnr": 20.0, "raise_to": "int16"}
