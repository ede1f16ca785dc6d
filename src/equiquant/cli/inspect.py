"""`equiquant inspect`: what a model is, before anything is done to it."""

from __future__ import annotations

import argparse

__all__ = ["NAME", "add_parser", "run"]

NAME = "inspect"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command."""
    parser = subparsers.add_parser(
        NAME,
        usage="equiquant inspect MODEL [--json]",
        help="show what a model is made of",
        description="Show a model's inputs, outputs, operators and size.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="an .onnx file, float or quantized")
    parser.add_argument("--json", action="store_true", help="print as JSON instead")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Show the model."""
    from equiquant import api

    inspection = api.inspect(args.model)
    if args.json:
        from equiquant.report.plain import dumps

        print(dumps(inspection.to_dict()), end="")
    else:
        from equiquant.cli.summary import show_inspection

        show_inspection(inspection)
    return 0
