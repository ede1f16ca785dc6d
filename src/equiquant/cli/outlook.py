"""What equalization could do for a model, on the terminal: every layer, the worst activations, and what is held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.text import Text

from equiquant.cli.console import output
from equiquant.cli.lines import Name
from equiquant.cli.summary import COLORS, graded, result_table
from equiquant.report.texts import DASH, MINUS, NOTICEABLE_DB, grade, shorten, spread_text

if TYPE_CHECKING:
    from rich.console import Console

    from equiquant.report import Inspection, LayerOutlook, Outlook, TensorOutlook

__all__ = ["show_outlook"]

LAYER_CHARS = 40
NAMED = 3  # layers named beside a reason; --json names them all
SHOWN = {"none": "as it is", "pairwise": "pairwise", "global": "global"}  # methods whose figures are told
WIDE = 16  # a spread that costs a typical channel half of its eight bits


def show_outlook(inspection: Inspection, worst: int) -> None:
    """Show the outlook of a model, with the `worst` activation tensors; or why there is none."""
    console = output()
    outlook = inspection.outlook
    console.line()
    if outlook is None:
        console.print(f"Equalization cannot be predicted: {inspection.no_outlook}")
        return
    kind = "made-up input" if outlook.synthetic else "sample"
    inputs = f"{outlook.samples} {kind}{'' if outlook.samples == 1 else 's'}"
    console.print(Text.assemble(("Equalization", "bold"), f", predicted for {outlook.preset} from {inputs}"))
    for line in _verdict(outlook):
        console.print(line)
    _layers(console, outlook.layers)
    _tensors(console, outlook.tensors, worst)
    _held(console, outlook.layers, outlook.sqnr_db.get("per_channel"))
    if outlook.synthetic:
        console.line()
        console.print("Inputs were made up: give real samples with --data for figures to rely on.", style="yellow")


def _verdict(outlook: Outlook) -> Iterable[str | Text]:
    free = sum(layer.free > 0 for layer in outlook.layers)
    helped = sum(layer.helped for layer in outlook.layers)
    yield f"{free} of {len(outlook.layers)} layers can be rescaled; the noise of {helped} falls"
    if outlook.sqnr_db:
        known = ((outlook.sqnr_db.get(m), label) for m, label in SHOWN.items())
        told = [Text.assemble(graded(ratio), f" {label}") for ratio, label in known if ratio is not None]
        yield Text.assemble("SQNR of the output: ", Text(", ").join(told))


def _layers(console: Console, layers: tuple[LayerOutlook, ...]) -> None:
    if not layers:
        return
    table = result_table("Layer", "Op", "Free", "Spread", "Equalized", "SQNR", "SQNR\nequalized", "Gain")
    for layer in layers:
        known = layer.sqnr_before_db is not None
        table.add_row(
            Name(layer.name),
            layer.op_type,
            f"{layer.free}/{layer.channels}",
            Text(spread_text(layer.spread_before), style="yellow" if layer.spread_before > WIDE else ""),
            spread_text(layer.spread_after),
            graded(layer.sqnr_before_db) if known else DASH,
            graded(layer.sqnr_after_db) if known else "no gradient" if layer.quantized else "stays float",
            _gain(layer.sqnr_before_db, layer.sqnr_after_db),
        )
    console.line()
    console.print(table)
    console.print(
        "Free: channels that may be rescaled. Spread: largest over median channel range. SQNR: of the output, if this"
        " were all that is rounded.",
        style="dim",
    )
    if any(layer.quantized and layer.sqnr_before_db is None for layer in layers):
        console.print(
            "No gradient: quantized, but no finite gradient of the output tells what that costs.", style="dim"
        )


def _named(console: Console, name: str) -> str:
    """Return a name that fits a terminal; whole where nobody watches."""
    return shorten(name, LAYER_CHARS) if console.is_terminal else name


def _gain(before: float | None, after: float | None) -> Text:
    if before is None or after is None:
        return Text(DASH)
    gain = after - before
    lost = gain < -NOTICEABLE_DB and grade(after) != "good"  # noise moved to where there was room costs nothing
    style = COLORS["good"] if gain > NOTICEABLE_DB else COLORS["poor"] if lost else "dim"
    return Text(f"{gain:+.1f}".replace("-", MINUS), style=style)


def _tensors(console: Console, tensors: tuple[TensorOutlook, ...], worst: int) -> None:
    shown = sorted(tensors, key=lambda t: t.sqnr_before_db)[:worst]
    if not shown:
        return
    table = result_table("Activation", "SQNR", "SQNR\nequalized", "Gain")
    for tensor in shown:
        before, after = tensor.sqnr_before_db, tensor.sqnr_after_db
        table.add_row(Name(tensor.name), graded(before), graded(after), _gain(before, after))
    console.line()
    console.print(f"The {len(shown)} worst of {len(tensors)} activation tensors", style="bold")
    console.print(table)


def _held(console: Console, layers: tuple[LayerOutlook, ...], freed: float | None) -> None:
    """Show what must keep its scale, one line a reason; `freed`: dB of the output if no Clip held any."""
    reasons: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for layer in layers:
        for part in layer.held:
            reasons[part.reason].append((part.channels, layer.name))
    if not reasons:
        return
    console.line()
    console.print("Channels that keep their scale", style="bold")
    for reason, parts in reasons.items():
        channels = sum(count for count, _ in parts)
        names = ", ".join(_named(console, name) for _, name in parts[:NAMED])
        more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
        console.print(Text(f"{channels:,} channels, {reason}: {names}{more}"), soft_wrap=True)
    if any("Clip(0," in reason for reason in reasons):
        told = Text() if freed is None else Text.assemble(" (", graded(freed), " of the output)")
        console.print(
            Text.assemble(
                "--clip-mode per_channel, where the backend takes a Min, frees those at a Clip",
                told,
                "; so does soft, in part.",
            )
        )
