"""A console and tables that show text as it is: no markup is read from a name, and no name moves the cursor.

A name too long for its column is cut in its middle: both ends tell it apart. A figure is never cut: where there is no
room for all columns of figures, the last are left out.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, NoReturn

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from equiquant.printable import printable
from equiquant.report.texts import shorten

__all__ = ["LineConsole", "LineTable", "Name"]


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

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the table, without the last of several columns of figures where there is no room for them."""
        columns = list(self.columns)
        while sum(self._least(c, console, options) for c in columns) > options.max_width:
            figures = [column for column in columns if column.no_wrap]
            if len(figures) < 2:
                break
            columns.remove(figures[-1])
        shown = copy.copy(self)
        shown.columns = [dataclasses.replace(column, _index=index) for index, column in enumerate(columns)]
        yield from Table.__rich_console__(shown, console, options)

    def _least(self, column: Column, console: Console, options: ConsoleOptions) -> int:
        """Return what a column cannot do without, padding included: one that does not wrap needs all it holds."""
        sizes = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        wrapped = column.min_width or max(size.minimum for size in sizes)
        return (max(size.maximum for size in sizes) if column.no_wrap else wrapped) + sum(self.padding[1::2])


class Name:
    """A name in a table, as long as its column has room for."""

    def __init__(self, name: str) -> None:
        self._name = printable(name)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the columns it can do with, and those it has use for."""
        return Measurement(1, max(1, cell_len(self._name)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the name, or what there is room for: characters of the far East take two columns."""
        whole = len(self._name)
        lengths = (whole, *range(min(whole - 1, options.max_width), 0, -1))
        fitting = (short for short in (shorten(self._name, n) for n in lengths) if cell_len(short) <= options.max_width)
        yield Text(next(fitting, ""), no_wrap=True)


def _one_line(shown: Any) -> Any:
    if isinstance(shown, Text):
        shown = shown.copy()
        shown.plain = printable(shown.plain)
        return shown
    return printable(shown) if isinstance(shown, str) else shown
