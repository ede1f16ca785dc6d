"""What a documented option is: its name, type, default, meaning, and what giving it does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

__all__ = ["Kind", "Option", "PowerOfTwoMethod", "applied", "automatic", "planned"]

Kind = str | tuple[type[Enum], ...]


class PowerOfTwoMethod(Enum):
    """Calibration methods that choose power-of-two scales.

    `NonOverflow` takes the smallest power of two that holds the range; `MinMSE` the one with the least squared error.
    """

    NonOverflow = 0
    MinMSE = 1


@dataclass(frozen=True, slots=True)
class Option:
    """One documented option.

    Attributes:
        name: As documented.
        state: What giving it does, see the module.
        kind: What values it takes: `bool`, `int`, `float`, `str`, `names` (a list of strings), `subgraphs`, `any`, or
            enums.
        default: The documented default; None also where it depends on other options, as `doc` says.
        doc: One sentence.
        fields: The `Recipe` fields it sets.
        accepts: For a planned option: the values that ask for nothing. For another: the only values, empty for any of
            its kind.
    """

    name: str
    state: Literal["applied", "automatic", "planned"]
    kind: Kind
    default: object
    doc: str
    fields: tuple[str, ...] = ()
    accepts: tuple[object, ...] = ()

    @property
    def type_name(self) -> str:
        """How the documentation names the type."""
        return self.kind if isinstance(self.kind, str) else " or ".join(k.__name__ for k in self.kind)


def applied(name: str, kind: Kind, default: object, fields: str, doc: str, accepts: tuple[object, ...] = ()) -> Option:
    """Return an option that sets recipe fields, named with spaces between."""
    return Option(name, "applied", kind, default, doc, tuple(fields.split()), accepts)


def automatic(doc: str, kind: Kind, **defaults: object) -> list[Option]:
    """Return options, name=default, that change nothing here."""
    return [Option(name, "automatic", kind, default, doc) for name, default in defaults.items()]


def planned(doc: str, accepts: tuple[object, ...], names: str) -> list[Option]:
    """Return options, names with spaces between, of a feature not built yet; `accepts` begins with the default."""
    return [Option(name, "planned", "any", accepts[0], doc, (), accepts) for name in names.split()]
