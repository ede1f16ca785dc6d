"""`equiquant quantize`: a float model in, an INT8 model out."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from equiquant.cli.options import CLE_FLAGS, Flag, add_image_flags, add_recipe_flags, recipe_overrides
from equiquant.errors import OptionError
from equiquant.recipe import PRESETS

__all__ = ["NAME", "add_parser", "goes_on", "run"]

NAME = "quantize"

FLAGS = (
    Flag(
        "--calibration",
        "calibration",
        "how an activation's range is chosen (default: the preset's): minmse or nonoverflow with xint8, the others with"
        " the presets that have float scales",
    ),
    Flag("--samples", "calibration_samples", "use this many samples, to the end of the last batch", "N"),
    Flag("--per-channel", "per_channel", "one weight scale per output channel instead of one per tensor"),
    Flag(
        "--bias-type",
        "bias_type",
        "with xint8: int8 for the NPU (default), int32 for the same numbers on a CPU's integer kernels, or int16",
    ),
    Flag("--no-npu-limits", "npu_limits", "with xint8: do not keep the scales within the NPU's shift limits"),
    Flag("--unsigned-relu", "unsigned_relu", "results of Relu use the whole range of their type, even when symmetric"),
    Flag("--block-size", "block_size", "weights that share a scale, with the presets w4 and w8 (default: 32)", "N"),
    Flag("--no-optimize", "optimize", "leave the graph as it is: fold nothing"),
)
EQUALIZATION_FLAGS = (
    Flag("--no-cle", "cle", "do not equalize"),
    Flag(
        "--cle-method",
        "cle_method",
        "the solver: pairwise as documented, global for the least noise at the output, auto for the better (default)",
    ),
    Flag(
        "--cle-accept",
        "cle_accept",
        "drop equalization that measures more than 0.7 dB below the best (measured, the default), or always keep it",
    ),
    *CLE_FLAGS,
)
REFINEMENT_FLAGS = (
    Flag("--bias-correction", "bias_correction", "set biases so that means match, where that is better (default)"),
    Flag("--no-bias-correction", "bias_correction", "leave the biases as they are"),
    Flag(
        "--weight-rounding",
        "weight_rounding",
        "nearest; optimal for the inputs the weights meet, where that measures better; auto (default) is optimal unless"
        " the network is very large",
    ),
)
MIXED_FLAGS = (
    Flag("--keep-float", "keep_float", "leave the N layers float whose rounding does most harm", "N"),
    Flag("--int16", "int16", "give N layers 16-bit activations, those whose rounding does most harm", "N"),
    Flag(
        "--target-sqnr",
        "target_sqnr",
        "raise as few layers as reach this signal-to-noise ratio in dB on held-back samples",
        "DB",
    ),
    Flag("--raise-to", "raise_to", "what --target-sqnr raises layers to (default: float)"),
)
SELECTION_FLAGS = (
    Flag("--node", "nodes_to_quantize", "quantize only this node; may be repeated, takes globs and re:PATTERN", "NAME"),
    Flag("--exclude-node", "nodes_to_exclude", "keep this node in float; the same", "NAME"),
    Flag("--op-type", "op_types_to_quantize", "quantize only this kind of operator; may be repeated", "TYPE"),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command."""
    parser = subparsers.add_parser(
        NAME,
        usage="equiquant quantize MODEL -o OUT [--data PATH] [--preset NAME] [--report DIR] [options]",
        help="quantize a float model to INT8",
        description="Quantize a float ONNX model to INT8 QuantizeLinear/DequantizeLinear form.",
        epilog="Example: equiquant quantize model.onnx -o model_int8.onnx --data calibration_images/ --report report/",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="the float .onnx file; it is not changed")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="where to write the quantized model")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="calibration samples: a .npy or .npz file, or a folder of .npy files or images;"
        " without them the ranges are a guess",
    )
    parser.add_argument(
        "--preset", choices=(*PRESETS, "auto"), default="xint8", help="the recipe to start from (default: %(default)s)"
    )
    parser.add_argument(
        "--stats",
        metavar="FILE",
        help="calibration statistics: used if the file exists, else written; an interrupted calibration goes on from"
        " the checkpoint beside it",
    )
    parser.add_argument("--report", metavar="DIR", help="write report.json and report.html into this folder")
    parser.add_argument("-q", "--quiet", action="store_true", help="show nothing but warnings and errors")
    add_recipe_flags(parser, FLAGS)
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="set any field of the recipe, e.g. --set bias_type=int32; may be repeated",
    )
    add_recipe_flags(parser.add_argument_group("cross-layer equalization"), EQUALIZATION_FLAGS)
    add_recipe_flags(parser.add_argument_group("refinement of weights and biases"), REFINEMENT_FLAGS)
    _add_search_flags(parser.add_argument_group("search"))
    mixed = parser.add_argument_group("mixed precision")
    add_recipe_flags(mixed, MIXED_FLAGS)
    mixed.add_argument("--latency", action="store_true", help="time both models in onnxruntime, for the summary")
    add_recipe_flags(parser.add_argument_group("what to quantize"), SELECTION_FLAGS)
    add_image_flags(parser)
    parser.set_defaults(run=run)
    return parser


def _add_search_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--auto",
        action="store_true",
        help="try combinations of options on two thirds of the samples, judge them on the rest, keep the best; options"
        " and preset given are kept to",
    )
    group.add_argument("--labels", metavar="FILE", help="a .npy file with the class of every sample: judge by top-1")
    group.add_argument("--time-budget", metavar="SECONDS", type=float, help="begin no further trial after this long")
    group.add_argument(
        "--trials",
        metavar="FILE",
        help="where trials are kept, so that a search that was cut off goes on (default: OUT.trials.json)",
    )


def run(args: argparse.Namespace) -> int:
    """Quantize, then show what came out."""
    overrides = recipe_overrides(args)
    if _searches(args):
        return _search(args, overrides)
    for name in ("labels", "time_budget", "trials"):
        if getattr(args, name) is not None:
            raise OptionError(f"--{name.replace('_', '-')} belongs to a search; give --auto as well.")
    from equiquant import api
    from equiquant.cli.console import ProgressBar
    from equiquant.cli.summary import show_run

    with ProgressBar(args.quiet) as progress:
        result = api.quantize(
            args.model,
            args.output,
            data=args.data,
            preset=args.preset,
            report_dir=args.report,
            progress=progress,
            calibration_cache=args.stats,
            **overrides,
        )
    show_run(result.report, args.model, args.output, args.report, args.quiet, args.latency)
    return 0


def goes_on(args: argparse.Namespace) -> bool:
    """True if there is a file from which the same command goes on where it was cut off."""
    if _searches(args):
        return Path(_trials_file(args)).is_file()
    return args.stats is not None and any(Path(args.stats + end).is_file() for end in ("", ".partial"))


def _searches(args: argparse.Namespace) -> bool:
    return bool(args.auto or args.preset == "auto")


def _trials_file(args: argparse.Namespace) -> str:
    return f"{args.output}.trials.json" if args.trials is None else str(args.trials)


def _search(args: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Search, then show the trials and what came out of the best."""
    if args.stats is not None:
        raise OptionError("A search calibrates many models; --stats holds the statistics of one.")
    from equiquant import api
    from equiquant.cli.console import ProgressBar
    from equiquant.cli.summary import show_run
    from equiquant.cli.trials import read_labels, show_trials
    from equiquant.io import check_writable, path_of

    if args.labels is not None:
        for place in (args.output, _trials_file(args)):
            check_writable(place, path_of(args.labels))
    with ProgressBar(args.quiet) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of every trial; those of the result are shown below
        result = api.search(
            args.model,
            args.output,
            data=args.data,
            preset=args.preset,
            labels=None if args.labels is None else read_labels(args.labels),
            time_budget=args.time_budget,
            trials_file=_trials_file(args),
            report_dir=args.report,
            progress=progress,
            **overrides,
        )
    if not args.quiet:
        show_trials(result.search)
    show_run(result.report, args.model, args.output, args.report, args.quiet, args.latency)
    return 0
