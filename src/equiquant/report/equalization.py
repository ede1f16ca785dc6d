"""The page's section on equalization: what was tried and kept, what became of ranges and noise, what had to stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from equiquant.report.charts import NOISE_ROWS, SPREAD_ROWS, noise_chart, spread_chart
from equiquant.report.markup import code, escape, facts, grade_pill, names, section, table
from equiquant.report.texts import DASH, decibels_text, figure, number, or_low

__all__ = ["equalization", "method_text"]

METHODS = {  # the names a reader understands; others are shown as they are
    "none": "not equalized",
    "before": "not equalized",
    "soft": "global, ReLU6 soft",
}
STEPS = {"+ranges": ", ranges clipped", "+powers": ", powers of two"}
LEGEND = (
    '<div class="legend"><span><i class="dot before"></i>before</span><span><i class="dot after"></i>after</span></div>'
)
NOTE = (
    "Channels of one tensor share one scale, so a channel much smaller than its neighbours is rounded away. "
    "Equalization evens them out{}; spread is the largest channel range over the median one."
)
MEASURED = "Measured: quantized with some of the samples, run on others. "
NOT_HELD = "Measured: on the one feed that was quantized with, since there is no other. "
KEPT, CHANGED, MOVED = (
    " and leaves the float function as it was",
    "; ReLU6 was changed as asked, and with it the float function",
    "; on {inputs} the float function moved by more than the tolerance",
)


def equalization(cle: Mapping[str, Any], recipe: Mapping[str, Any], *, made_up: bool = False) -> str:
    """Return the section for `Report.equalization` as plain data.

    Args:
        cle: That data.
        recipe: The recipe as plain data.
        made_up: The inputs that the model was compared on are.
    """
    title = "Cross-layer equalization"
    if not cle:
        reason = "found nothing to do" if recipe["cle"] else "was off in this run"
        return section(title, f"Equalization {reason}.")
    inputs = "made-up inputs" if made_up else "the samples"
    done = CHANGED if _asked(cle) else MOVED.format(inputs=inputs) if _moved(cle) else KEPT
    note = NOTE.format(done)
    return section(
        title,
        note,
        _summary(cle, inputs),
        _relu6(cle),
        _trials(cle),
        _spread(cle),
        _noise(cle),
        _pinned(cle.get("tensors")),
    )


def method_text(name: Any) -> str:
    """Return the name of a candidate as readers are told it."""
    method, plus, step = str(name).partition("+")
    return METHODS.get(method, method) + STEPS.get(plus + step, plus + step)


def _asked(cle: Mapping[str, Any]) -> bool:
    """True if the function was changed because the recipe says so."""
    return bool(cle.get("replace_clip6_relu")) or cle.get("method") == "soft"


def _moved(cle: Mapping[str, Any]) -> bool:
    return number(cle.get("equivalence_error")) > number(cle.get("tolerance"))


def _summary(cle: Mapping[str, Any], inputs: str) -> str:
    steps, method = number(cle.get("steps")), cle.get("method", DASH)
    allowed = f"allowed {figure(cle.get('tolerance'), 2)}"
    if _moved(cle):
        allowed = "asked for" if method == "soft" else f"on {inputs}; {allowed}"
    shown = {
        "Kept": escape(method_text(method)),
        "Sweeps" if method == "pairwise" else "Solver steps": "until converged" if steps == -1 else figure(steps),
        "Scale classes": figure(cle.get("classes")),
        "Of which rescaled": figure(cle.get("moved")),
        "Largest change of float output": f"{figure(cle.get('equivalence_error'), 2)} ({allowed})",
    }
    if not math.isnan(number(cle.get("clip_sqnr_db"))):
        shown["Worst float output left on other samples (ReLU6)"] = decibels_text(cle["clip_sqnr_db"])
    rolled = cle.get("rolled_back") or []
    if rolled:
        shown["Rolled back"] = names([str(name) for name in rolled])
    return facts(shown)


def _relu6(cle: Mapping[str, Any]) -> str:
    """Say what replacing ReLU6 by Relu did to the float function."""
    damage = cle.get("replace_clip6_relu")
    if not damage:
        return ""
    changed = (
        f"{figure(damage.get('replaced'))} Clip(0, 6) became Relu. That alone, before any rounding, changed a float"
        f" output by {figure(damage.get('error'), 2)} of its magnitude. Left of the worst output:"
    )
    return f"<h3>ReLU6 replaced</h3><p>{changed} {grade_pill(damage.get('sqnr_db'))}</p>"


def _trials(cle: Mapping[str, Any]) -> str:
    """Return what was tried: measured on samples, and how, and predicted by the noise model."""
    how = MEASURED if cle.get("held", True) else NOT_HELD
    trials, predicted = cle.get("trials") or [], cle.get("objective_db") or {}
    measured = {str(t.get("method")): t.get("sqnr_db") for t in trials}
    predicted = {("none" if name == "before" else name): value for name, value in predicted.items()}
    methods = list(measured) or list(predicted)
    if not methods:
        return ""
    kept = cle.get("method")
    rows = [
        [
            escape(method_text(name)),
            *([grade_pill(measured[name])] if measured else []),
            decibels_text(predicted.get(name)),
            '<span class="pill plain">kept</span>' if name == kept else "",
        ]
        for name in methods
    ]
    head = [("Candidate", ""), *([("SQNR measured", "")] if measured else []), ("SQNR predicted", "num"), ("", "")]
    note = (
        f"{how if measured else ''}Predicted: the noise model that the global solver minimises, before biases are"
        " corrected; of candidates with ranges of their own, with what these cut off."
        f" {'Both before' if measured else 'Before'} a final Softmax or Sigmoid."
    )
    return f'<h3>What was tried</h3>{table(head, rows)}<p class="soft note">{note}</p>'


def _spread(cle: Mapping[str, Any]) -> str:
    layers = cle.get("tensors") or []
    chart = spread_chart(layers)
    if not chart:
        return ""
    more = f'<p class="soft">The {SPREAD_ROWS} widest of {len(layers)} layers.</p>' if len(layers) > SPREAD_ROWS else ""
    return f"<h3>Channel range spread per layer</h3>{LEGEND}{chart}{more}"


def _noise(cle: Mapping[str, Any]) -> str:
    """Return the predicted noise of every rounded tensor: the worst drawn, all in a table; nothing if not as kept."""
    rows, kept = cle.get("noise") or [], {"none": "before"}.get(str(cle.get("method")), str(cle.get("method")))
    if not rows or kept not in rows[0]:
        return ""
    methods = [key for key in rows[0] if key not in ("name", "kind")]
    chart = noise_chart(rows, kept)
    note = (
        '<p class="soft">SQNR of the output if this tensor were all that is rounded, as the noise model predicts it;'
        f" the {min(NOISE_ROWS, len(rows))} worst of {len(rows)} tensors.</p>"
    )
    worst = sorted(rows, key=lambda row: or_low(row.get("before")))
    listing = table(
        [("Tensor", ""), ("Kind", ""), *((method_text(name), "num") for name in methods)],
        ([code(row["name"]), escape(row["kind"]), *(decibels_text(row.get(m)) for m in methods)] for row in worst),
    )
    all_rows = f"<details><summary>All {len(rows)} tensors, worst first</summary>{listing}</details>"
    return f"<h3>Predicted noise per tensor</h3>{note}{LEGEND}{chart}{all_rows}"


def _pinned(layers: Sequence[Mapping[str, Any]] | None) -> str:
    """List the layers some of whose channels had to stay as they were, with what held them."""
    held = [layer for layer in layers or () if layer.get("pinned_by")]
    if not held:
        return ""
    rows = (
        [
            code(layer["tensor"]),
            f"{figure(layer.get('free'))} of {figure(layer.get('channels'))}",
            escape(layer["pinned_by"]),
        ]
        for layer in held
    )
    listing = table([("Layer", ""), ("Channels free to move", "num"), ("Held by", "")], rows)
    return f"<details><summary>Layers that could not move freely ({len(held)})</summary>{listing}</details>"
