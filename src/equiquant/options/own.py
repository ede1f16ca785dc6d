"""Options of our own, for features no documented name covers: rows like those of `table`."""

from __future__ import annotations

from equiquant.options.kinds import applied

__all__ = ["OWN"]

OWN = (
    applied("KeepFloat", "int", 0, "keep_float", "Our own: leave this many layers float, the most harmful."),
    applied("Int16Layers", "int", 0, "int16", "Our own: 16-bit activations for this many layers, the most harmful."),
    applied(
        "TargetSQNR",
        "float",
        None,
        "target_sqnr",
        "Our own: raise as few layers as reach this many dB on held-back samples, to what RaiseTo says.",
    ),
    applied("RaiseTo", "str", "float", "raise_to", "Our own: what TargetSQNR raises layers to.", ("float", "int16")),
    applied(
        "CalibMemoryLimit",
        "int",
        None,
        "calibration_memory",
        "Our own: MiB that the activations of one feed may take; more are collected in several passes. Default a"
        " quarter of the machine's memory.",
    ),
    applied(
        "CalibExactHistograms",
        "bool",
        False,
        "exact_histograms",
        "Our own: count every element of an activation instead of a sample of large ones.",
    ),
)
