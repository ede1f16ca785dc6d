"""Looking up, checking and documenting the options of `table`.

An unknown name, a value of the wrong type and a feature that is not available yet are each refused with one line.
`docs/options.md` is `markdown()`; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Literal

import numpy as np

from equiquant.errors import OptionError, nearest
from equiquant.options.kinds import Option
from equiquant.options.table import ARGUMENTS, EXTRA_OPTIONS

__all__ = ["Place", "check", "lookup", "markdown", "plain", "unknown_field"]

Place = Literal["argument", "extra_options"]

_PLAIN: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "any": (object,),
}


def lookup(name: str, place: Place) -> Option:
    """Return the row of a documented name.

    Raises:
        OptionError: No such name; the message gives the nearest ones, and says so when it belongs in the other place.
    """
    here, there = (ARGUMENTS, EXTRA_OPTIONS) if place == "argument" else (EXTRA_OPTIONS, ARGUMENTS)
    if name in here:
        return here[name]
    if name in there:
        right = "a key of extra_options" if place == "argument" else "an argument of QuantizationConfig"
        raise OptionError(f"'{name}' is {right}.")
    what = "argument of QuantizationConfig" if place == "argument" else "key of extra_options"
    raise OptionError(f"Unknown {what} '{name}'.{nearest(str(name), here)} docs/options.md lists them all.")


def unknown_field(name: str, known: Iterable[str]) -> OptionError:
    """Return the error for a name that is no recipe field; a documented name is told the fields it sets.

    Args:
        name: What was given.
        known: The names that are accepted in its place.
    """
    option = ARGUMENTS.get(name) or EXTRA_OPTIONS.get(name)
    fields = option.fields if option is not None else ()
    told = " and ".join(f"'{field}'" for field in fields)
    hint = f" What is documented as '{name}' is {told} here." if fields else nearest(name, known)
    return OptionError(f"Unknown option '{name}'.{hint}")


def plain(value: object) -> object:
    """Return a value of numpy as Python's, any list as a tuple, and else what was given."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def check(option: Option, value: object) -> object:
    """Return the value in its plain form, or refuse it.

    Raises:
        OptionError: Wrong type, or a value that asks for a feature that is not available yet.
    """
    value = plain(value)
    if option.state == "planned":
        return _planned(option, value)
    if value is None and option.default is None:
        return None
    if option.kind == "names":
        return _names(option.name, () if value is None else value)
    if option.kind == "subgraphs":
        return _subgraphs(option.name, () if value is None else value)
    if not isinstance(option.kind, str):
        if isinstance(value, option.kind):
            return value
        choices = ", ".join(f"{k.__name__}.{m.name}" for k in option.kind for m in k)
        raise OptionError(f"'{option.name}' must be one of {choices}. Got {value!r} instead.")
    is_bool, wants_bool = isinstance(value, bool), option.kind == "bool"
    if not isinstance(value, _PLAIN[option.kind]) or (is_bool and not wants_bool and option.kind != "any"):
        raise OptionError(f"'{option.name}' must be of type {option.kind}. Got {value!r} instead.")
    if option.accepts and value not in option.accepts:
        choices = ", ".join(map(repr, option.accepts))
        raise OptionError(f"'{option.name}' must be one of {choices}. Got {value!r} instead.")
    return value


def _planned(option: Option, value: object) -> object:
    if value is None:
        return option.default
    for accepted in option.accepts:
        if value == accepted and isinstance(value, bool) == isinstance(accepted, bool):  # 1 is not True here
            return accepted
    allowed = " or ".join(repr(list(a) if isinstance(a, tuple) else a) for a in option.accepts)
    raise OptionError(
        f"'{option.name}' is not available yet ({option.doc.rstrip('.')}): leave it out, or give {allowed}."
        f" Got {value!r}. docs/options.md lists what is."
    )


def _names(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value):
        return tuple(value)
    raise OptionError(f"'{name}' must be a list of names. Got {value!r} instead.")


def _subgraphs(name: str, value: object) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, list | tuple) and len(v) == 2 for v in value):
        raise OptionError(f"'{name}' must be a list of pairs ([start nodes], [end nodes]). Got {value!r} instead.")
    return tuple((_names(name, start), _names(name, end)) for start, end in value)


_INTRODUCTION = """\
# Options

The options AMD documents for Quark ONNX, some of our own (which say so), and what EquiQuant does with them. An unknown
name is an error that names the nearest known one; so is a value of the wrong type, a contradiction, or a feature that
is not available yet. What others leave without effect is named in a warning. The recipe field is what the option sets
in `equiquant.recipe.Recipe`, which the report saves.
This page is generated from `src/equiquant/options/table.py`:

    python -c "import pathlib, equiquant.options as o; pathlib.Path('docs/options.md').write_text(o.markdown())"
"""


def markdown() -> str:
    """Return both tables as the page `docs/options.md`."""
    lines = [_INTRODUCTION]
    for title, table in (("Arguments of QuantizationConfig", ARGUMENTS), ("Keys of extra_options", EXTRA_OPTIONS)):
        applied = [
            (f"`{o.name}`", o.type_name, _show(o.default), ", ".join(f"`{f}`" for f in o.fields) or "-", o.doc)
            for o in table.values()
            if o.state == "applied"
        ]
        automatic = [
            (f"`{o.name}`", o.type_name, _show(o.default), o.doc) for o in table.values() if o.state == "automatic"
        ]
        planned = [
            (f"`{o.name}`", " or ".join(map(_show, o.accepts)), o.doc) for o in table.values() if o.state == "planned"
        ]
        lines += [f"## {title}", "", *_rows(("name", "type", "default", "recipe field", "meaning"), applied)]
        lines += ["Accepted, nothing to set:", "", *_rows(("name", "type", "default", "why"), automatic)]
        lines += ["Not available yet; only the values listed are accepted, and ask for nothing:", ""]
        lines += _rows(("name", "accepted", "what it is"), planned)
    return "\n".join(lines).rstrip("\n") + "\n"


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(r)} |" for r in (head, ("---",) * len(head), *rows)] + [""]


def _show(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, Enum):
        return f"`{type(value).__name__}.{value.name}`"
    return f"`{list(value) if isinstance(value, tuple) else value!r}`"
