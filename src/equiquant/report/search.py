"""The page's section on a search: every combination of options that was tried, and how it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equiquant.report.markup import Cell, escape, section, table
from equiquant.report.texts import decibels_text, figure, percent, seconds_text

__all__ = ["changes_text", "score_text", "search"]

NOTE = (
    "Each combination was calibrated on two thirds of the samples and judged on the others; the one kept was made anew"
    " with all of them."
)


def changes_text(changes: Mapping[str, Any]) -> str:
    """Return what a trial changes of the recipe a search began with."""
    return ", ".join(f"{key}={value}" for key, value in changes.items()) or "as it is"


def score_text(score: Any, kind: str) -> str:
    """Return a trial's score: a share of samples, dB, or the user's own figure."""
    return {"top1": percent, "sqnr_db": decibels_text}.get(kind, figure)(score)


def search(found: Mapping[str, Any]) -> str:
    """Return the section for `Report.search` as plain data; empty where nothing was searched."""
    if not found:
        return ""
    kind = found.get("kind", found["metric"])  # reports written before had the name alone
    scored = kind != "sqnr_db"
    rows: list[list[Cell | str]] = []
    for trial in found["trials"]:
        kept = trial["changes"] == found["kept"]
        name = escape(changes_text(trial["changes"]))
        row: list[Cell | str] = [f"<strong>{name}</strong>" if kept else name]
        row += [score_text(trial["score"], kind)] if scored else []
        row += [decibels_text(trial["sqnr_db"]), seconds_text(trial["seconds"])]
        rows.append([*row, escape(trial["refused"] or ("kept" if kept else ""))])
    head = [("Trial", ""), *([(escape("Top-1" if kind == "top1" else found["metric"]), "num")] if scored else [])]
    head += [("SQNR", "num"), ("Took", "num"), ("", "")]
    note = NOTE if found["complete"] else f"{NOTE} The time budget ended the search early."
    return section("Search", note, table(head, rows))
