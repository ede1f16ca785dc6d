"""The report as one HTML page: the verdict first, then where the error is, what was done, and what it cost.

Everything that comes from a model or a user is escaped; there are no scripts and nothing is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from equiquant.report.charts import sqnr_chart
from equiquant.report.equalization import equalization
from equiquant.report.hardware import hardware
from equiquant.report.markup import Cell, code, escape, facts, grade_pill, names, section, table
from equiquant.report.mixing import mixed_precision
from equiquant.report.refinement import refinement
from equiquant.report.search import search
from equiquant.report.style import STYLE
from equiquant.report.target import target
from equiquant.report.texts import (
    MINUS,
    TIMES,
    bytes_text,
    calibrated_on,
    compared_on,
    decibels_text,
    figure,
    grade,
    number,
    or_low,
    percent,
    power_of_two,
    scattered,
    seconds_text,
    shorten,
    spread_text,
)

__all__ = ["page"]

TILE_CHARS = 40  # of a name on a tile; the tables have it whole
WORST = 12  # tensors listed under the chart


def page(data: Mapping[str, Any]) -> str:
    """Return the page for `Report.to_dict()`."""
    path = data["input"]["path"]
    name = PurePath(path).name if path else "model in memory"
    recipe = data["recipe"]
    body = "".join(
        (
            _head(name, data),
            _warnings(data["warnings"]),
            _tiles(data),
            _quality(data["quality"]),
            hardware(data["hardware"]),
            equalization(data["equalization"], recipe, made_up=_made_up(data)),
            target(data.get("target") or {}),
            refinement(data["refinement"]),
            mixed_precision(data["mixed_precision"]),
            search(data.get("search") or {}),
            _decisions(data["decisions"]),
            _scales(data["tensors"]),
            _costs(data["stages"]),
            _recipe(recipe),
            _foot(data),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · EquiQuant report</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _made_up(data: Mapping[str, Any]) -> bool:
    """True if the inputs that the model was compared on are."""
    return bool((data["quality"] or {}).get("synthetic"))


def _head(name: str, data: Mapping[str, Any]) -> str:
    recipe = data["recipe"]
    if not data["tensors"]:
        return f'<h1>{escape(name)}</h1><p class="lead">Equalized; still a float model.</p>'
    if recipe["weight_only"]:
        return (
            f'<h1>{escape(name)}</h1><p class="lead"><span class="pill plain">{escape(recipe["name"])}</span> '
            f"{escape(recipe['weight_type'])} weights in blocks of {recipe['block_size']}, float activations</p>"
        )
    scales = "power-of-two scales" if recipe["scale_kind"] == "power_of_two" else "float scales"
    weights = "per channel" if recipe["per_channel"] else "per tensor"
    samples, made_up = data.get("samples"), data.get("samples_made_up", False)
    seen = "" if samples is None else f" on {calibrated_on(samples, made_up=made_up)}"
    told = any((d["stage"], d["rule"]) == ("calibrate", "noise") for d in data["decisions"])
    plain = "minmax" if made_up else "mse"
    calibration = plain if told and recipe["calibration"] == "noise" else recipe["calibration"]
    return (
        f'<h1>{escape(name)}</h1><p class="lead"><span class="pill plain">{escape(recipe["name"])}</span> '
        f"{escape(recipe['activation_type'])} activations, {escape(recipe['weight_type'])} weights {weights}, "
        f"{escape(recipe['bias_type'])} bias, {scales}, {escape(calibration)} calibration{seen}</p>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(w)}</li>" for w in warnings)
    return f'<div class="warnings" role="alert"><strong>Read this first</strong><ul>{items}</ul></div>'


def _tiles(data: Mapping[str, Any]) -> str:
    tiles = []
    quality, cle = data["quality"], data["equalization"]
    if quality and quality.get("outputs"):
        outputs = [o for o in quality["outputs"] if not o.get("chosen")] or quality["outputs"]
        worst = min(outputs, key=lambda o: or_low(o.get("sqnr_db")))
        name = shorten(worst["name"], TILE_CHARS)
        note = "output SQNR" if len(quality["outputs"]) == 1 else f"SQNR of the worst output, {name}"
        tiles.append(_tile(decibels_text(worst["sqnr_db"], worst["max_abs_error"]), note, grade(worst["sqnr_db"])))
        agreement = [a for o in outputs if not math.isnan(a := number(o.get("top1_agreement")))]
        if agreement:
            tiles.append(_tile(percent(min(agreement)), f"top-1 agreement with float on {compared_on(quality)}"))
    before, after = number(cle.get("spread_before")), number(cle.get("spread_after"))
    if not math.isnan(before + after):
        note = "largest channel range spread of the layers that can move, equalized"
        tiles.append(_tile(f"{spread_text(before)} → {spread_text(after)}", note))
    if not math.isnan(number(cle.get("equivalence_error"))):
        note = "largest change of the float output by equalization" + (", on made-up inputs" if _made_up(data) else "")
        tiles.append(_tile(figure(cle["equivalence_error"], 2), note, _changed(cle)))
    if data["tensors"]:
        tiles.append(_tile(figure(len(data["tensors"])), "tensors quantized"))
    if data["stages"]:
        peaks = [p for s in data["stages"] if not math.isnan(p := number(s["peak_bytes"]))]
        memory = f", {bytes_text(max(peaks))} peak memory" if peaks else ""
        tiles.append(_tile(seconds_text(sum(number(s["seconds"]) for s in data["stages"])), f"total time{memory}"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _changed(cle: Mapping[str, Any]) -> str:
    """Return the colour of a change of the float output: one beyond the tolerance must be seen, asked for or not."""
    return "fair" if number(cle["equivalence_error"]) > number(cle.get("tolerance")) else ""


def _tile(figure_text: str, note: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><b>{escape(figure_text)}</b><span>{escape(note)}</span></div>'


def _output(o: Mapping[str, Any]) -> Iterator[list[Cell | str]]:
    """Yield the row of an output, and those of the parts it joins."""
    yield [
        code(o["name"]),
        grade_pill(o["sqnr_db"], o["max_abs_error"]),
        percent(o.get("top1_agreement")),
        figure(o["max_abs_error"]),
        f"{number(o['cosine']):.5f}",
    ]
    if scattered(o):
        yield ["of a quarter of its samples, at most", grade_pill(o["quartile_db"]), "", "", ""]
    for name, sqnr_db in o.get("parts", {}).items():
        yield [f"of its part {code(name)}", grade_pill(sqnr_db), "", "", ""]


def _quality(quality: Mapping[str, Any] | None) -> str:
    if not quality:
        return ""
    outputs = table(
        [("Output", ""), ("SQNR", ""), ("Top-1 agreement", "num"), ("Largest error", "num"), ("Cosine", "num")],
        [row for o in quality["outputs"] for row in _output(o)],
    )
    note = (
        f"Quantized against float on {compared_on(quality)}: a sanity check, not an accuracy. Measure accuracy on"
        " held-out data."
    )
    tensors = quality.get("tensors") or []
    if not tensors:
        return section("Quality", note, outputs)
    worst = sorted(tensors, key=lambda t: or_low(t.get("aligned_sqnr_db")))[:WORST]
    rows = (
        [code(t["name"]), escape(t["op_type"]), grade_pill(t["aligned_sqnr_db"], t["max_abs_error"])] for t in worst
    )
    legend = (
        '<div class="legend"><span><i class="good"></i>20 dB and more: noise under 1% of the energy</span>'
        '<span><i class="fair"></i>10 to 20 dB: under 10%</span><span><i class="poor"></i>below 10 dB</span></div>'
    )
    return section(
        "Quality",
        note,
        outputs,
        "<h3>Signal to quantization noise, tensor by tensor</h3>",
        legend,
        sqnr_chart(tensors),
        f"<h3>The {len(worst)} worst of {len(tensors)} tensors</h3>",
        table([("Tensor", ""), ("Produced by", ""), ("SQNR", "")], rows),
    )


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    applied = [d for d in decisions if d["applied"]]
    refused = [d for d in decisions if not d["applied"]]
    if not decisions:
        return ""
    parts = []
    if refused:
        parts.append(f"<h3>Refused ({len(refused)})</h3>{_refused(refused)}")
    if applied:
        parts.append(f"<details><summary>Applied ({len(applied)})</summary>{_applied(applied)}</details>")
    note = f"{len(applied)} applied, {len(refused)} refused. A refusal leaves that part of the model as it was."
    return section("Decisions", note, *parts)


def _refused(decisions: Iterable[Mapping[str, Any]]) -> str:
    """Return a row per reason: the same obstacle is often met in many places."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for d in decisions:
        groups.setdefault((d["stage"], d["rule"], d["reason"]), []).append(d["where"])
    rows: list[list[Cell | str]] = [
        [escape(stage), _rule(rule), Cell(escape(reason), "reason"), names(where)]
        for (stage, rule, reason), where in groups.items()
    ]
    return table([("Stage", ""), ("Rule", ""), ("Reason", ""), ("Where", "")], rows)


def _applied(decisions: Iterable[Mapping[str, Any]]) -> str:
    """Return a row per rule, with what it did in each place."""
    groups: dict[tuple[str, str], list[str]] = {}
    for d in decisions:
        item = f"<li>{code(d['where'])} {escape(d['reason'])}</li>"
        groups.setdefault((d["stage"], d["rule"]), []).append(item)
    rows: list[list[Cell | str]] = [
        [escape(stage), _rule(rule), figure(len(items)), Cell(f"<ul>{''.join(items)}</ul>", "reason")]
        for (stage, rule), items in groups.items()
    ]
    return table([("Stage", ""), ("Rule", ""), ("Times", "num"), ("Where, and what was done", "")], rows)


def _rule(name: str) -> Cell:
    return Cell(f"<code>{escape(name)}</code>", "fixed")


def _scales(tensors: Sequence[Mapping[str, Any]]) -> str:
    if not tensors:
        return ""
    rows = (
        [
            code(t["name"]),
            escape(t["type"]),
            _scale(t["scale"], t.get("scales")),
            _zero_point(t["zero_point"]),
            figure(t.get("low")),
            figure(t.get("high")),
        ]
        for t in tensors
    )
    head = [("Tensor", ""), ("Type", ""), ("Scale", "num"), ("Zero point", "num"), ("Low", "num"), ("High", "num")]
    listing = f"<details><summary>All {len(tensors)}</summary>{table(head, rows)}</details>"
    return section("Scales", f"Real value = (integer {MINUS} zero point) {TIMES} scale.", listing)


def _scale(scale: Any, count: int | None = None) -> str:
    if isinstance(scale, list):
        values = [number(s) for s in scale] or [math.nan]
        if len(values) > 1:
            return f"{count or len(values)} scales, {figure(min(values), 3)} to {figure(max(values), 3)}"
        scale = values[0]
    exponent = power_of_two(number(scale))
    return figure(scale) if exponent is None else f"2<sup>{exponent:d}</sup>".replace("-", MINUS)


def _zero_point(zero: Any) -> str:
    if isinstance(zero, list):
        return figure(zero[0]) if len(set(zero)) == 1 else f"{figure(min(zero))} to {figure(max(zero))}"
    return figure(zero)


def _costs(stages: Sequence[Mapping[str, Any]]) -> str:
    if not stages:
        return ""
    longest = max(number(s["seconds"]) for s in stages) or 1.0
    rows: list[list[Cell | str]] = [
        [
            escape(s["name"]),
            seconds_text(s["seconds"]),
            bytes_text(s["peak_bytes"]),
            Cell(f'<div class="bar" style="width:{100 * number(s["seconds"]) / longest:.1f}%"></div>', "fill"),
        ]
        for s in stages
    ]
    head = [("Stage", ""), ("Time", "num"), ("Peak memory", "num"), ("", "fill")]
    return section("Cost", "Peak memory is that of the whole process up to the stage's end.", table(head, rows))


def _recipe(recipe: Mapping[str, Any]) -> str:
    flat = {k: v for k, v in recipe.items() if k != "image"}
    flat |= {f"image.{k}": v for k, v in recipe["image"].items()}
    settings = facts({k: code(_setting(v)) for k, v in flat.items()})
    return section("Recipe", "Every setting of this run; report.json holds the same.", settings)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_setting(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _foot(data: Mapping[str, Any]) -> str:
    versions = " · ".join(f"{escape(name)} {escape(version)}" for name, version in data["versions"].items())
    where = f"{escape(data['input']['path'])}<br>" if data["input"]["path"] else ""
    return f"<footer>{versions}<br>{where}Input SHA-256 {code(data['input']['sha256'])}</footer>"
