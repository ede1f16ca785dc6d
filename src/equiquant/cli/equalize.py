"""`equiquant equalize`: a float model in, an equalized float model out, for any quantizer."""

from __future__ import annotations

import argparse
from typing import Any

from equiquant.cli.options import CLE_FLAGS, Flag, add_image_flags, add_recipe_flags, image_options

__all__ = ["NAME", "add_parser", "run"]

NAME = "equalize"

FLAGS = (
    Flag(
        "--cle-method",
        "cle_method",
        "the solver: global for the least noise at the output (default), pairwise as documented, auto for what measures"
        " best",
    ),
    *CLE_FLAGS,
)
ARGUMENTS = {  # recipe field to argument of `api.equalize`
    "recipe.cle_method": "method",
    "recipe.cle_steps": "steps",
    "recipe.cle_append_bias": "append_bias",
    "recipe.replace_clip6_relu": "replace_clip6_relu",
    "recipe.clip_mode": "clip_mode",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command."""
    parser = subparsers.add_parser(
        NAME,
        usage="equiquant equalize MODEL -o OUT [--data PATH] [--report DIR] [options]",
        help="equalize a float model for another quantizer",
        description="Even out the channel ranges of a float model without changing what it computes: the same inputs,"
        " outputs and names, for any quantizer (onnxruntime, TensorRT, OpenVINO, QNN).",
        epilog="Example: equiquant equalize model.onnx -o model_equalized.onnx --data calibration_images/",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="the float .onnx file; it is not changed")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="where to write the equalized model")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="samples to choose the scales for and to prove on that the function is kept: a .npy or .npz file, or a"
        " folder of .npy files or images; made up otherwise",
    )
    parser.add_argument("--report", metavar="DIR", help="write report.json and report.html into this folder")
    parser.add_argument("-q", "--quiet", action="store_true", help="show nothing but warnings and errors")
    add_recipe_flags(parser, FLAGS)
    add_image_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Equalize, then show by how much."""
    given = vars(args)
    options: dict[str, Any] = {name: given[key] for key, name in ARGUMENTS.items() if key in given}
    image = image_options(args)
    if image is not None:
        options["image"] = image
    from equiquant import api
    from equiquant.cli.console import ProgressBar
    from equiquant.cli.summary import show_run

    with ProgressBar(args.quiet) as progress:
        result = api.equalize(
            args.model, args.output, data=args.data, report_dir=args.report, progress=progress, **options
        )
    show_run(result.report, args.model, args.output, args.report, args.quiet)
    return 0
