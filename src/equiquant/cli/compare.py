"""`equiquant compare`: how far a quantized model is from its float original, and where it went wrong."""

from __future__ import annotations

import argparse
from typing import Any

from equiquant.cli.options import add_image_flags, count, image_options

__all__ = ["NAME", "add_parser", "run"]

NAME = "compare"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command."""
    parser = subparsers.add_parser(
        NAME,
        usage="equiquant compare FLOAT QUANT --data PATH [options]",
        help="compare a quantized model with its float original",
        description="Run both models on the same samples; show every output and the worst tensors.",
        epilog="Example: equiquant compare model.onnx model_int8.onnx --data samples.npy",
        allow_abbrev=False,
    )
    parser.add_argument("float_model", metavar="FLOAT", help="the float .onnx file")
    parser.add_argument("quantized_model", metavar="QUANT", help="the quantized .onnx file")
    parser.add_argument(
        "--data",
        metavar="PATH",
        required=True,
        help="samples: a .npy or .npz file, or a folder of .npy files or images",
    )
    parser.add_argument(
        "--worst", metavar="N", type=count, default=10, help="how many tensors to list (default: %(default)s)"
    )
    parser.add_argument(
        "--integer",
        action="store_true",
        help="also run the quantized model with integers and shifts only, and compare; exit code 1 if they disagree",
    )
    parser.add_argument("--json", action="store_true", help="print all figures as JSON instead")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_image_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Compare, then show the figures."""
    image = image_options(args)
    options: dict[str, Any] = {} if image is None else {"image": image}
    from equiquant import api
    from equiquant.cli.console import ProgressBar, show_json
    from equiquant.cli.summary import show_comparison

    options["integer"] = args.integer
    with ProgressBar(args.quiet) as progress:
        comparison = api.compare(args.float_model, args.quantized_model, args.data, progress=progress, **options)
    if args.json:
        show_json(comparison.to_dict())
    else:
        show_comparison(comparison, args.worst)
    return 1 if comparison.integer is not None and not comparison.integer.agrees else 0
