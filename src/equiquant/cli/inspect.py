"""`equiquant inspect`: what a model is, and what equalization could do for it, before anything is done."""

from __future__ import annotations

import argparse
from typing import Any

from equiquant.cli.options import add_image_flags, count, image_options
from equiquant.recipe import PRESETS

__all__ = ["NAME", "add_parser", "run"]

NAME = "inspect"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command."""
    parser = subparsers.add_parser(
        NAME,
        usage="equiquant inspect MODEL [--data PATH] [--json] [options]",
        help="show what a model is, and what equalization could do for it",
        description="Show a model's inputs, outputs, operators and size, how far the channel ranges of every layer are"
        " spread, which layers equalization can help and by how much, and which it must leave and why. Nothing is"
        " written.",
        epilog="Example: equiquant inspect model.onnx --data calibration_images/",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="an .onnx file, float or quantized")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="samples to predict from, a few are enough: a .npy or .npz file, or a folder of .npy files or images; made"
        " up otherwise",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(name for name, recipe in PRESETS.items() if not recipe.weight_only),
        default="xint8",
        help="the quantization to predict for (default: %(default)s)",
    )
    parser.add_argument(
        "--worst",
        metavar="N",
        type=count,
        default=10,
        help="how many activation tensors to list (default: %(default)s)",
    )
    parser.add_argument("--brief", action="store_true", help="only describe the model; predict nothing")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    add_image_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Show the model."""
    image = image_options(args)
    options: dict[str, Any] = {} if image is None else {"image": image}
    from equiquant import api
    from equiquant.cli.console import show_json

    inspection = api.inspect(args.model, args.data, preset=args.preset, outlook=not args.brief, **options)
    if args.json:
        show_json(inspection.to_dict())
    else:
        from equiquant.cli.outlook import show_outlook
        from equiquant.cli.summary import show_inspection

        show_inspection(inspection)
        if not args.brief:
            show_outlook(inspection, args.worst)
    return 0
