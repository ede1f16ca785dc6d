"""A console and tables that show text as it is: no markup is read from a name, and no name moves the cursor."""

from __future__ import annotations

from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from equiquant.cli.console import printable

__all__ = ["LineConsole", "LineTable"]


class LineConsole(Console):
    """A console on which a text is one line, styled by us alone. It takes the arguments of `rich`'s."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print each text on one line, without control characters; tables as they are."""
        super().print(*map(_one_line, objects), **options)

    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command, which is done once nobody reads; `rich` would end it as a failure."""
        raise BrokenPipeError


class LineTable(Table):
    """A table whose cells are each one line; titles may have more."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row, without control characters in its texts."""
        super().add_row(*map(_one_line, cells), **options)


def _one_line(shown: Any) -> Any:
    if isinstance(shown, Text):
        shown = shown.copy()
        shown.plain = printable(shown.plain)
        return shown
    return printable(shown) if isinstance(shown, str) else shown
