"""The small pieces of the page: escaped text, tables and named values."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equiquant.printable import printable
from equiquant.report.texts import decibels_text, grade

__all__ = ["Cell", "code", "escape", "facts", "grade_pill", "names", "section", "table"]

BREAKS, BREAK = re.compile(r"(?<=[^/._:])([/._:])(?=\w)"), r"<wbr>\1"  # never inside an entity such as &lt;
INLINE_NAMES = 2  # names shown in a table cell before they fold away


@dataclass(frozen=True)
class Cell:
    """One table cell of ready markup.

    Attributes:
        markup: HTML, already escaped.
        kind: Its CSS class, e.g. `num`.
    """

    markup: str
    kind: str = ""


def escape(text: object) -> str:
    """Return text safe inside an element or a quoted attribute, without control characters."""
    return html.escape(printable(str(text)), quote=True)


def code(text: object) -> str:
    """Return escaped text in the code face, free to break where the parts of a name meet."""
    return f"<code>{BREAKS.sub(BREAK, escape(text))}</code>"


def grade_pill(sqnr_db: Any, largest_error: Any = None) -> str:
    """Return the figure in its grade's colour, see `decibels_text`."""
    return f'<span class="pill {grade(sqnr_db)}">{escape(decibels_text(sqnr_db, largest_error))}</span>'


def table(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[Cell | str]]) -> str:
    """Return a table that scrolls sideways where the screen is narrow.

    Args:
        head: (title, CSS class) of each column; cells without a class of their own take the column's.
        rows: Cells, or markup.
    """
    titles = "".join(f'<th scope="col" class="{kind}">{escape(title)}</th>' for title, kind in head)
    body = []
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        body.append(
            "<tr>"
            + "".join(
                f'<td class="{cell.kind or kind}">{cell.markup}</td>'
                for cell, (_, kind) in zip(cells, head, strict=True)
            )
            + "</tr>"
        )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def section(title: str, note: str, *parts: str) -> str:
    """Return a section of the page; the note and the parts are markup."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{note}</p>{"".join(parts)}</section>'


def facts(values: Mapping[str, str]) -> str:
    """Return named values, the values as markup."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{v}</dd></div>" for k, v in values.items()) + "</dl>"


def names(found: Sequence[str]) -> str:
    """Return names one below the other, folded away if they are many."""
    if len(found) <= INLINE_NAMES:
        return "<br>".join(code(name) for name in found)
    items = "".join(f"<li>{code(name)}</li>" for name in found)
    return f"<details><summary>{len(found)} places</summary><ul>{items}</ul></details>"
