"""The page's section on refinement: what correcting biases and rounding weights gave, and what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equiquant.report.markup import escape, grade_pill, section, table
from equiquant.report.texts import counted, decibels_text, number

__all__ = ["refinement"]

INPUTS = {
    "quantized": " Each layer sees the inputs that the quantized layers before it give.",
    "float": " Each layer sees the inputs of the float network.",
}


def refinement(data: Mapping[str, Any]) -> str:
    """Return the section for `Report.refinement` as plain data; nothing where nothing was to be refined."""
    trials = data.get("trials") or []
    if not trials:
        return ""
    first = number(trials[0]["sqnr_db"])
    rows = [
        [
            escape("as quantized" if trial["name"] == "none" else trial["name"]),
            grade_pill(trial["sqnr_db"]),
            decibels_text(number(trial["sqnr_db"]) - first) if index else "",
            '<span class="pill plain">kept</span>' if trial["name"] == data.get("kept") else "",
        ]
        for index, trial in enumerate(trials)
    ]
    what = " and ".join(data.get("refined") or ("weights", "biases")).capitalize()
    fitted, held = counted(data.get("fitted"), "feed"), counted(data.get("held"), "other")
    on = held if data.get("apart", True) else "the same"
    note = f"{what} of {counted(data.get('layers'), 'layer')} were fitted to {fitted} and measured on {on}."
    note += INPUTS.get(str(data.get("inputs")), "")
    head = [("Candidate", ""), ("SQNR measured", ""), ("Gain", "num"), ("", "")]
    return section("Refinement", note, table(head, rows))
