"""The page's section on the rewrites for the NPU: what was rewritten, and what each kind did to the float function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equiquant.report.markup import Cell, escape, section, table
from equiquant.report.texts import decibels_text, figure, number

__all__ = ["TITLES", "hardware"]

TITLES = {
    "fold_gemm_factors": "alpha and beta of a Gemm folded",
    "bn_to_conv": "BatchNormalization to depthwise Conv",
    "reduce_mean_to_pool": "ReduceMean to GlobalAveragePool",
    "split_large_pool": "large pool split in two",
    "split_to_slice": "Split to Slice",
    "dpu_leaky_relu": "LeakyRelu slope to n/256",
    "dpu_sigmoid": "Sigmoid to HardSigmoid",
    "dpu_hard_sigmoid": "HardSigmoid factor",
    "dpu_average_pool": "average pool factor",
    "dpu_reduce_mean": "ReduceMean factor",
    "dpu_clip": "Clip bounds to whole numbers",
    "together": "all of them together",
}
NOTE = (
    "What the NPU computes instead of these operators. Where it differs from the float model, the figure says how much"
    " of the worst output's signal is left by that alone, before anything is rounded."
)


def hardware(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the section for `Report.hardware` as plain data, nothing where nothing was rewritten."""
    if not rows:
        return ""
    body: list[list[Cell | str]] = [
        [escape(TITLES.get(str(row["rule"]), row["rule"])), figure(row["nodes"]), _effect(row)] for row in rows
    ]
    return section(
        "Rewritten for the NPU", NOTE, table([("Rewrite", ""), ("Nodes", "num"), ("Left of the output", "num")], body)
    )


def _effect(row: Mapping[str, Any]) -> str:
    return "unchanged" if row["sqnr_db"] is None else decibels_text(number(row["sqnr_db"]))
