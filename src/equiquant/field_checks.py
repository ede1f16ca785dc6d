"""Check the fields of a frozen configuration against their annotations: what does not fit is named, with what would."""

from __future__ import annotations

import dataclasses
import math
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from equiquant.errors import OptionError

__all__ = ["as_tuples", "check_fields"]


def check_fields(owner: object) -> None:
    """Check every field of a dataclass; an int does for a float, a list for a tuple.

    Raises:
        OptionError: A field is of another type, or a number that is not finite.
    """
    hints = get_type_hints(type(owner))
    for field in dataclasses.fields(owner):  # type: ignore[arg-type]
        value = getattr(owner, field.name)
        wanted = _unmet(value, hints[field.name])
        if wanted is not None:
            raise OptionError(f"The '{field.name}' option must be {wanted}. Got {value!r} instead.")


def as_tuples(value: Any) -> Any:
    """Return a value read from JSON with tuples for its lists, as frozen fields have them."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def _unmet(value: Any, hint: Any) -> str | None:
    """Return what the value should be; None if it is."""
    inner = get_args(hint)
    if NoneType in inner:
        (hint,) = (h for h in inner if h is not NoneType)
        return None if value is None else _unmet(value, hint)
    if get_origin(hint) is Literal:
        return None if value in inner else "one of " + ", ".join(repr(choice) for choice in inner)
    if get_origin(hint) is tuple:
        return _unmet_items(value, inner)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float:
        return None if number and math.isfinite(value) else "a float, and finite"
    if isinstance(value, hint) and (hint is not int or number):
        return None
    return f"{'an' if hint.__name__[0] in 'aeiouAEIOU' else 'a'} {hint.__name__}"


def _unmet_items(value: Any, inner: tuple[Any, ...]) -> str | None:
    """Return what a tuple should be: of one kind and any length, or of one item for each kind."""
    if len(inner) == 2 and inner[1] is Ellipsis:
        hints, what = [inner[0]] * (len(value) if isinstance(value, tuple | list) else 0), "a list"
    else:
        hints, what = list(inner), f"{len(inner)} items"
    if not isinstance(value, tuple | list) or len(value) != len(hints):
        return what
    wanted = next((w for item, hint in zip(value, hints, strict=True) if (w := _unmet(item, hint)) is not None), None)
    return None if wanted is None else f"{what}, each of them {wanted}"
