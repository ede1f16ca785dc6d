"""Options of the command line made from the recipe's own fields.

A flag says which field it sets and why one would; its type and choices come from the field's annotation. Every field
without a flag can be set with `--set FIELD=VALUE`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from equiquant.errors import OptionError
from equiquant.field_checks import as_tuples
from equiquant.recipe import IMAGE_RECIPES, ImageOptions, Recipe

__all__ = [
    "CLE_FLAGS",
    "RECIPE",
    "Flag",
    "add_image_flags",
    "add_recipe_flags",
    "count",
    "image_options",
    "parse_value",
    "recipe_overrides",
    "settable_fields",
]

RECIPE, IMAGE = "recipe.", "image."
"""Prefixes of argparse destinations."""


@dataclass(frozen=True)
class Flag:
    """A flag and the field it sets.

    Attributes:
        name: The flag, e.g. `--cle-steps`; a bool's `--no-...` sets False.
        field: The recipe's field.
        help: One line for the user.
        metavar: What its value is called in the help; choices and bools need none.
    """

    name: str
    field: str
    help: str
    metavar: str | None = None


IMAGE_FLAGS = (
    Flag("--size", "size", "height and width after resizing; the model's own otherwise", "HxW"),
    Flag("--scale", "scale", "multiply pixels by this first (default: 1/255)", "X"),
    Flag("--mean", "mean", "then subtract this from each channel (default: 0)", "R,G,B"),
    Flag("--std", "std", "then divide each channel by this (default: 1)", "R,G,B"),
    Flag("--layout", "layout", "order of the dimensions (default: from the model's input)"),
    Flag("--color", "color", "order of the channels in the model; mean and std stay R,G,B (default: RGB)"),
    Flag("--resize", "resize", "crop the center, stretch to the size, or letterbox (default: crop)"),
)
CLE_FLAGS = (
    Flag(
        "--cle-steps", "cle_steps", "sweeps of the pairwise solver; -1 sweeps until nothing changes (default: 1)", "N"
    ),
    Flag("--no-append-bias", "cle_append_bias", "leave the bias out of a channel's range"),
    Flag(
        "--replace-clip6-relu",
        "replace_clip6_relu",
        "replace ReLU6 by Relu so that scales can pass; changes the function, and the report says by how much",
    ),
    Flag(
        "--clip-mode",
        "clip_mode",
        "what to do with ReLU6: exact (default) moves only channels that never reach 6; soft moves the others too,"
        " which changes the function; per_channel gives every channel a bound of its own (per_channel:N in the first"
        " N only), exact with a Min more; relu removes the bound",
        "MODE",
    ),
)
TRUE, FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


def parse_value(name: str, hint: Any, text: str) -> Any:
    """Return the text of an option as its field's type.

    Lists are separated by commas, a size may be `224` or `224x320` (height x width), nothing is `none`; a field with
    nested lists takes JSON.

    Raises:
        OptionError: The text does not fit the type.

    >>> parse_value("size", tuple[int, int] | None, "224x320")
    (224, 320)
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in args:
            return None
        (hint,) = (a for a in args if a is not type(None))
        return parse_value(name, hint, text)
    if origin is Literal:
        return next((c for c in args if str(c).lower() == text.lower()), text)
    try:
        if origin is tuple and args[1] is Ellipsis and args[0] in (str, float, int):
            return tuple(args[0](part.strip()) for part in text.split(",") if part.strip())
        return READERS.get(hint, _nested)(text)
    except (ValueError, ZeroDivisionError) as error:
        raise OptionError(f"The '{name}' option must be {_describe(hint)}. Got '{text}' instead.") from error


def _truth(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise ValueError
    return text.lower() in TRUE


def _number(text: str) -> float:
    return float(Fraction(text)) if "/" in text else float(text)


def _size(text: str) -> tuple[int, int]:
    parts = [int(part) for part in re.split("[x,]", text)]
    height, width = parts * 2 if len(parts) == 1 else parts
    return height, width


def _nested(text: str) -> Any:
    return as_tuples(json.loads(text))


READERS: Mapping[Any, Callable[[str], Any]] = {
    bool: _truth,
    str: str,
    float: _number,
    int: int,
    tuple[int, int]: _size,
}
"""How fields of a type are read; of one that is not here they take JSON."""


def _describe(hint: Any) -> str:
    if hint == tuple[int, int]:
        return "a size such as 224 or 224x320"
    if get_origin(hint) is tuple and get_args(hint)[0] in (int, float):
        return "numbers separated by commas"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "JSON")


def add_recipe_flags(parser: argparse._ActionsContainer, flags: Sequence[Flag]) -> None:
    """Add flags that set fields of the recipe."""
    _add(parser, flags, Recipe, RECIPE)


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how image files become inputs."""
    group = parser.add_argument_group("folders of images")
    group.add_argument(
        "--image-recipe", choices=tuple(IMAGE_RECIPES), help="a known preparation; the options below change it"
    )
    _add(group, IMAGE_FLAGS, ImageOptions, IMAGE)


def _add(parser: argparse._ActionsContainer, flags: Sequence[Flag], owner: type, prefix: str) -> None:
    hints = get_type_hints(owner)
    for flag in flags:
        hint = hints[flag.field]
        settings: dict[str, Any]
        if hint is bool:
            settings = {"action": "store_false" if flag.name.startswith("--no-") else "store_true"}
        elif hint == tuple[str, ...]:
            settings = {"action": "append", "metavar": flag.metavar}
        elif get_origin(hint) is Literal:
            settings = {"choices": get_args(hint)}
        else:
            settings = {"type": _Typed(flag.field, hint), "metavar": flag.metavar}
        parser.add_argument(flag.name, dest=prefix + flag.field, default=argparse.SUPPRESS, help=flag.help, **settings)


class _Typed:
    """An argparse type whose complaint is ours."""

    def __init__(self, name: str, hint: Any) -> None:
        self._name, self._hint = name, hint

    def __call__(self, text: str) -> Any:
        try:
            return parse_value(self._name, self._hint, text)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """Return a number of things, at least 0: an argparse type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 0. Got '{text}' instead.")
    return int(text)


def image_options(args: argparse.Namespace) -> ImageOptions | None:
    """Return the image options given on the command line, None if none were.

    Raises:
        OptionError: A value does not fit.
    """
    return _prepared(args, _given(args, IMAGE))


def _prepared(args: argparse.Namespace, given: dict[str, Any]) -> ImageOptions | None:
    if args.image_recipe is None:
        return ImageOptions(**given) if given else None
    return dataclasses.replace(IMAGE_RECIPES[args.image_recipe], **given)


def settable_fields() -> dict[str, Any]:
    """Return the types of the fields that `--set` takes, by name: the recipe's, and those of its `image`."""
    image = {f"{IMAGE}{name}": hint for name, hint in get_type_hints(ImageOptions).items()}
    return {k: h for k, h in get_type_hints(Recipe).items() if k not in ("image", "name")} | image


def recipe_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe fields set on the command line.

    Raises:
        OptionError: `--set` names an unknown field, gives it a value of the wrong type, or another one than was given.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in _given(args, RECIPE).items()}
    image = _given(args, IMAGE)
    settable = settable_fields()
    for setting in args.set:
        key, equals, text = setting.partition("=")
        if not equals:
            raise OptionError(f"--set takes FIELD=VALUE. Got '{setting}' instead.")
        if key not in settable:
            from equiquant.options import unknown_field  # takes half a second to import

            raise unknown_field(key, settable)
        value = parse_value(key, settable[key], text)
        told, name = (image, key.removeprefix(IMAGE)) if key.startswith(IMAGE) else (fields, key)
        if name in told and told[name] != value:
            raise OptionError(f"{key} is given twice: as {told[name]!r} and, with --set, as {value!r}.")
        told[name] = value
    options = _prepared(args, image)
    if options is not None:
        fields["image"] = options
    return fields


def _given(args: argparse.Namespace, prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in vars(args).items() if key.startswith(prefix)}
