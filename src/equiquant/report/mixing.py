"""The page's section on mixed precision: what each layer's rounding costs, what was raised, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equiquant.report.markup import Cell, code, escape, facts, grade_pill, section, table
from equiquant.report.texts import DASH, bytes_text, counted, decibels_text, figure, number, percent

__all__ = ["measured_on", "mixed_precision", "mixing_cost"]

SHOWN = 12  # layers listed in the open
NOTE = (
    "SQNR of the decisions if this layer alone were rounded. Estimated: by the noise model. Measured: on {inputs},"
    " with its weight, bias and inputs rounded; for int16, with only the activations it reads and writes. Of"
    " several decisions: of their mean noise over signal. What changed the function on purpose counts for no layer."
)


def measured_on(mixed: Mapping[str, Any]) -> str:
    """Return what layers and candidates were measured on."""
    if mixed.get("made_up"):
        return "made-up inputs"
    if not mixed.get("held", True):
        return "the calibration samples"
    return counted(mixed["judges"], "held-back sample") if "judges" in mixed else "held-back samples"


def mixing_cost(mixed: Mapping[str, Any]) -> str:
    """Return what was raised and what it costs, in one line."""
    share, count = mixed["share_of_multiplications"], len(mixed["layers"])
    parts = []
    if mixed["float"]:
        more = f"{percent(share['float'])} of the multiplications, {bytes_text(mixed['extra_bytes'])} more"
        parts.append(f"{len(mixed['float'])} of {count} layers float ({more})")
    if mixed["int16"]:
        parts.append(
            f"{len(mixed['int16'])} of {count} layers with int16 activations ({percent(share['int16'])} of the"
            " multiplications)"
        )
    return " and ".join(parts) or f"none of {count} layers raised: the target is reached without"


def mixed_precision(mixed: Mapping[str, Any]) -> str:
    """Return the section for `Report.mixed_precision` as plain data; empty where nothing was to be chosen."""
    if not mixed:
        return ""
    summary = facts(
        {
            "Raised": escape(mixing_cost(mixed)),
            "With none of them raised": grade_pill(mixed["sqnr_before_db"]),
            "With them": grade_pill(mixed["sqnr_db"]),
        }
    )
    kinds = [kind for kind in ("float", "int16") if any(f"measured_{kind}_db" in row for row in mixed["layers"])]
    head = [("Layer", ""), ("Kind", ""), ("Kept in", "")]
    for kind in kinds:
        head += [(f"Estimated, {kind}", "num"), (f"Measured, {kind}", "")]
    head += [("Multiplications", "num"), ("Weights", "num")]
    rows = [_row(layer, kinds) for layer in sorted(mixed["layers"], key=lambda layer: _worst(layer, kinds))]
    parts = [table(head, rows[:SHOWN])]
    if len(rows) > SHOWN:
        parts.append(
            f"<details><summary>The other {len(rows) - SHOWN} layers</summary>{table(head, rows[SHOWN:])}</details>"
        )
    return section("Mixed precision", NOTE.format(inputs=measured_on(mixed)), summary, *parts)


def _worst(layer: Mapping[str, Any], kinds: list[str]) -> float:
    """Return the lowest figure of a layer; measured ones come first."""
    found = [number(layer[f"measured_{k}_db"]) for k in kinds if layer[f"measured_{k}_db"] is not None]
    return min(found) if found else 1e3 + min(number(layer[f"estimated_{k}_db"]) for k in kinds)


def _row(layer: Mapping[str, Any], kinds: list[str]) -> list[Cell | str]:
    precision = layer["precision"]
    raised = escape(precision) if precision == "int8" else f'<span class="pill plain">{escape(precision)}</span>'
    row: list[Cell | str] = [code(layer["layer"]), escape(layer["op_type"]), raised]
    for kind in kinds:
        measured = layer[f"measured_{kind}_db"]
        row += [decibels_text(layer[f"estimated_{kind}_db"]), DASH if measured is None else grade_pill(measured)]
    return [*row, figure(layer["multiplications"]), figure(layer["weights"])]
