"""The result of a command on one screen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from equiquant.cli.console import output, warn
from equiquant.cli.latency import latencies
from equiquant.cli.lines import LineTable, Name
from equiquant.report.equalization import method_text
from equiquant.report.hardware import TITLES
from equiquant.report.mixing import measured_on, mixing_cost
from equiquant.report.texts import (
    FAIR_DB,
    TIMES,
    bytes_text,
    calibrated_on,
    compared_on,
    counted,
    decibels_text,
    figure,
    grade,
    number,
    percent,
    scattered,
    seconds_text,
    spread_text,
)

if TYPE_CHECKING:
    from rich.console import Console

    from equiquant.report import Inspection, Report
    from equiquant.verify.compare import Comparison
    from equiquant.verify.integer import IntegerAgreement

__all__ = ["COLORS", "graded", "result_table", "show_comparison", "show_inspection", "show_run"]

Fact = tuple[str, Text | str]
"""A title and what is told under it."""

COLORS = {"good": "green", "fair": "yellow", "poor": "red"}
DECIDED = "before a final Softmax or Sigmoid"  # where candidates are measured
CALIBRATED = (
    ("Data", "data"),
    ("Statistics", "statistics"),
    ("Scales", "scales"),
    ("Ranges", "noise"),
    ("Ranges", "no_data"),
)  # what the summary tells of the decisions of calibration: its title and their rule
NAME_COLUMN = 11
LEAST_NAME = 12  # columns that a name keeps on a narrow terminal
NUMERIC = frozenset(
    {"Largest error", "Cosine", "Top-1 agreement", "SQNR", "Free", "Spread", "Equalized", "SQNR\nequalized", "Gain"}
)


def show_run(
    report: Report, source: str, target: str, report_dir: str | None, quiet: bool, latency: bool = False
) -> None:
    """Show what a quantize or equalize run did, with the models' latency if asked for; its warnings even when quiet."""
    for message in report.warnings:
        warn(message)
    if quiet:
        return
    console = output()
    kind = report.recipe.name if report.tensors else "equalized, still float"
    console.print(Text.assemble((Path(source).name, "bold"), "  ", (kind, "cyan")))
    _facts(console, _run_facts(report, source, target, report_dir, latency))


def _run_facts(report: Report, source: str, target: str, report_dir: str | None, latency: bool) -> Iterable[Fact]:
    yield from _changed(report)
    yield from _tried(report.equalization)
    yield from _calibrated(report)
    yield from _refined(report)
    refused = sum(not d.applied for d in report.decisions)
    if refused:
        yield "Left as is", f"{refused}, each with its reason in the report{'' if report_dir else ' (--report DIR)'}"
    quality = report.quality or {}
    yield from (("Quality", _quality(row, quality)) for row in quality.get("outputs", ()))
    yield from _costs(report, source, target, latency)
    yield "Model", target
    if report_dir is not None:
        yield "Report", str(Path(report_dir) / "report.html")


def _changed(report: Report) -> Iterable[Fact]:
    """Say what inputs were made up, and what was done to the float model."""
    yield from (("No data", d.reason) for d in report.decisions if d.rule == "distill")
    folded = Counter(d.rule for d in report.decisions if d.applied and d.stage == "canonical")
    if folded:
        yield "Folded", ", ".join(f"{rule.replace('_', ' ')} ({count})" for rule, count in folded.most_common())
    for row in report.hardware:
        if row["rule"] != "together":
            left = decibels_text(row["sqnr_db"])
            told = "" if row["sqnr_db"] is None else f": {left} of the worst float output are left by it"
            yield "NPU", f"{TITLES[row['rule']]} ({row['nodes']}){told}"
    equalized = _equalized(report.equalization, made_up=bool((report.quality or {}).get("synthetic")))
    if equalized:
        yield "Equalized", equalized


def _calibrated(report: Report) -> Iterable[Fact]:
    """Say what ranges were found on, and what was quantized."""
    for title, rule in CALIBRATED:
        yield from ((title, d.reason) for d in report.decisions if (d.stage, d.rule) == ("calibrate", rule))
    if report.tensors:
        seen = ""
        if report.samples is not None:
            seen = f", calibrated on {calibrated_on(report.samples, made_up=report.samples_made_up)}"
        yield "Quantized", counted(len(report.tensors), "tensor") + seen
    joined = [d.where for d in report.decisions if d.rule == "join_in_float" and d.applied]
    if joined:
        where = ", ".join(joined)
        yield "Joined", f"{counted(len(joined), 'last node')} in float, where one scale would lose an input: {where}"


def _refined(report: Report) -> Iterable[Fact]:
    """Say what weights and biases were fitted to, and which layers were raised."""
    for decision in (d for d in report.decisions if (d.stage, d.rule) == ("refine", "no_data")):
        yield "Refined" if decision.applied else "Unrefined", decision.reason
    kept = report.refinement.get("kept")
    trials = [
        f"{'before' if trial['name'] == 'none' else trial['name']} {decibels_text(trial['sqnr_db'])}"
        f"{' (kept)' if trial['name'] == kept else ''}"
        for trial in report.refinement.get("trials") or ()
    ]
    if trials:
        yield "Refined", ", ".join(trials)
    mixed = report.mixed_precision
    if mixed:
        before, after = decibels_text(mixed["sqnr_before_db"]), decibels_text(mixed["sqnr_db"])
        yield "Mixed", f"{mixing_cost(mixed)}: {before} → {after} on {measured_on(mixed)}, {DECIDED}"


def _costs(report: Report, source: str, target: str, latency: bool) -> Iterable[Fact]:
    """Say what the model and the run take."""
    before, after = _size(source), _size(target)
    if before and after:
        yield "Size", f"{bytes_text(before)} → {bytes_text(after)} ({after / before:.2f} of the float model)"
    if report.stages:
        peaks = [s.peak_bytes for s in report.stages if s.peak_bytes]
        memory = f", {bytes_text(max(peaks))} peak memory" if peaks else ""
        yield "Took", seconds_text(sum(s.seconds for s in report.stages)) + memory
    if latency:
        batch, (before_s, after_s) = latencies(report.input_shapes, source, target)
        each = "a sample" if batch == 1 else f"a batch of {batch}"
        yield "Latency", f"{seconds_text(before_s)} → {seconds_text(after_s)} {each} in onnxruntime on this CPU"


def _equalized(cle: Any, *, made_up: bool) -> str:
    if cle.get("classes") == 0:
        return "nothing: no channel is free to take a scale; the report says what holds each"
    parts = []
    before, after = number(cle.get("spread_before")), number(cle.get("spread_after"))
    if not math.isnan(before + after):
        why = " (the least noise, not spread, was sought)" if after > before else ""
        told = f"{spread_text(before)} → {spread_text(after)}{why}"
        parts.append(f"largest channel range spread of the layers that can move {told}")
    if not math.isnan(number(cle.get("equivalence_error"))):
        inputs = " on made-up inputs" if made_up else ""
        parts.append(f"float output changed by {figure(cle['equivalence_error'], 2)} of its magnitude{inputs}")
    if cle.get("rolled_back"):
        parts.append(f"{len(cle['rolled_back'])} rolled back")
    return ", ".join(parts)


def _tried(cle: Mapping[str, Any]) -> Iterable[Fact]:
    """Say what replacing ReLU6 cost, what was tried, and what of it was kept."""
    damage = cle.get("replace_clip6_relu")
    if damage:
        left = decibels_text(damage.get("sqnr_db"))
        yield (
            "ReLU6",
            f"{figure(damage.get('replaced'))} became Relu; {left} of the worst float output are left by that alone",
        )
    kept = cle.get("method")
    measured = [
        f"{method_text(name)} {decibels_text(trial['sqnr_db'])}{' (kept)' if name == kept else ''}"
        for trial in cle.get("trials") or ()
        for name in [trial["method"]]
    ]
    if measured:
        yield "Tried", f"{', '.join(measured)}; {DECIDED}"
    predicted = cle.get("objective_db") or {}
    if not measured and "before" in predicted and kept in predicted:
        before, after = decibels_text(predicted["before"]), decibels_text(predicted[kept])
        yield "Predicted", f"{before} → {after} SQNR at the output when quantized to 8 bits with one scale a tensor"


def _quality(row: Any, quality: Any) -> Text:
    inputs = compared_on(quality)
    if row.get("chosen"):
        return Text(f"{percent(row['top1_agreement'])} of '{row['name']}' as in float on {inputs}")
    text = Text.assemble(graded(row["sqnr_db"], row["max_abs_error"]), f" SQNR at '{row['name']}'")
    if row["parts"]:
        text.append(f" ({', '.join(f'{decibels_text(db)} of its part {name}' for name, db in row['parts'].items())})")
    if row.get("top1_agreement") is None:
        text.append(f" on {inputs}")
    else:
        text.append(f", top-1 agrees with float on {percent(row['top1_agreement'])} of {inputs}")
    return text.append(f", a quarter of them {decibels_text(row['quartile_db'])} or less") if scattered(row) else text


def _size(path: str) -> int:
    """Return the bytes on disk, weight files included; 0 where it cannot be told."""
    from equiquant.io.size import files_bytes

    try:
        return files_bytes(path)
    except OSError:
        return 0


def show_comparison(comparison: Comparison, worst: int) -> None:
    """Show every output and the worst tensors."""
    console = output()
    outputs = result_table("Output", "SQNR", "Top-1 agreement", "Largest error", "Cosine")
    for o in comparison.outputs:
        e = o.error
        outputs.add_row(
            Name(o.name),
            graded(e.sqnr_db, e.max_abs_error),
            percent(o.top1_agreement),
            figure(e.max_abs_error),
            f"{e.cosine:.5f}",
        )
        if scattered(o.to_dict()):
            outputs.add_row(Name("of a quarter of its samples, at most"), graded(o.quartile_db), "", "", "")
        for name, sqnr_db in o.parts.items():
            outputs.add_row(Name(f"of its part {name}"), graded(sqnr_db), "", "", "")
    console.print(outputs)
    shown = comparison.tensors[:worst]
    if shown:
        tensors = result_table("Tensor", "SQNR", "Produced by")
        for t in shown:
            tensors.add_row(Name(t.name), graded(t.error.aligned_sqnr_db, t.error.max_abs_error), t.op_type)
        console.line()
        console.print(f"The {len(shown)} worst of {len(comparison.tensors)} tensors", style="bold")
        console.print(tensors)
    if comparison.integer is not None:
        _facts(console, _integer_facts(comparison.integer))
    console.line()
    console.print(
        f"{counted(comparison.samples, 'sample')}. Below {FAIR_DB:.0f} dB the noise is over 10% of the energy.",
        style="dim",
    )


def _integer_facts(found: IntegerAgreement) -> Iterable[Fact]:
    """Say how far the integer reference agrees with onnxruntime, and which nodes it ran in float."""
    exact = [t for t in found.tensors if t.exact]
    wrong = [t for t in found.tensors if not t.agrees]
    verdict = Text("agrees", COLORS["good"]) if found.agrees else Text(f"{len(wrong)} tensors disagree", COLORS["poor"])
    yield "Integers", verdict.append(f" with onnxruntime, {figure(found.feeds)} feeds")
    rest = len(found.tensors) - len(exact)
    yield (
        "Tensors",
        f"{len(exact)} where float32 is exact: {sum(t.different for t in exact):,} values differ; {rest} others:"
        f" {sum(t.different for t in found.tensors) - sum(t.different for t in exact):,} differ,"
        f" by at most {max((t.largest for t in found.tensors if not t.exact), default=0)} steps",
    )
    for tensor in wrong[:5]:
        yield "Wrong", f"{tensor.name}: {tensor.different:,} of {tensor.values:,}, by up to {tensor.largest} steps"
    for row in found.outputs:
        yield "Output", f"{row.name}: {row.different:,} of {row.values:,} values differ in the whole run"
    yield "Nodes", f"{found.integer_nodes} on integers, {len(found.float_nodes)} in float"
    for node, why in found.float_nodes.items():
        yield "In float", f"{node}: {why}"


def show_inspection(inspection: Inspection) -> None:
    """Show a model's interface and operators."""
    console = output()
    kinds = ", ".join(f"{bytes_text(size)} {name}" for name, size in inspection.parameter_types.items()) or "none"
    facts: list[Fact] = [
        ("File", inspection.path or "in memory"),
        ("Producer", inspection.producer),
        ("Opset", ", ".join(f"{domain} {version}" for domain, version in inspection.opsets.items())),
        ("State", "already quantized" if inspection.quantized else "float"),
        *(("Input", _tensor(i)) for i in inspection.inputs),
        *(("Output", _tensor(o)) for o in inspection.outputs),
        ("Weights", f"{inspection.parameters:,} in {kinds}"),
        ("Operators", ", ".join(f"{count} {name}" for name, count in inspection.ops.items())),
        ("SHA-256", inspection.sha256),
    ]
    _facts(console, facts)


def _tensor(info: Any) -> str:
    shape = "?" if info.shape is None else f" {TIMES} ".join(str(d) for d in info.shape) or "scalar"
    return f"{info.name}  {info.dtype}  {shape}"


def _facts(console: Console, facts: Iterable[Fact]) -> None:
    """Show named facts in two columns; where nobody watches, one fact a line and nothing wrapped."""
    grid = LineTable.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    previous = ""
    for name, value in facts:
        text = value if isinstance(value, Text) else Text(value)
        if console.is_terminal:
            grid.add_row(name if name != previous else "", text)
        else:
            console.print(f"{name:<{NAME_COLUMN}}", text, sep="", soft_wrap=True)
        previous = name
    if console.is_terminal:
        console.print(grid)


def result_table(*titles: str) -> LineTable:
    """Return an empty table without rules; figures are aligned right, and only names and remarks give way."""
    table = LineTable(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(
            title,
            justify="right" if title in NUMERIC else "left",
            no_wrap=title not in (titles[0], ""),
            overflow="fold",
            min_width=LEAST_NAME if title == titles[0] else None,
        )
    return table


def graded(sqnr_db: float | None, largest_error: float | None = None) -> Text:
    """Return a signal-to-noise ratio in the colour of its grade, see `report.texts.decibels_text`."""
    return Text(decibels_text(sqnr_db, largest_error), style=COLORS[grade(sqnr_db)])
