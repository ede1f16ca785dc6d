"""`equiquant demo`: the bundled network, quantized plainly, with equalization and with all there is, and measured."""

from __future__ import annotations

import argparse

__all__ = ["NAME", "add_parser", "run"]

NAME = "demo"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command."""
    parser = subparsers.add_parser(
        NAME,
        usage="equiquant demo [-o DIR] [--json]",
        help="quantize the bundled example and measure it",
        description="Quantize a small bundled network without and with equalization; show accuracy, size and latency.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", default="demo-output", help="where to write it all (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo and show its table."""
    from equiquant import demo
    from equiquant.cli.console import ProgressBar, output, show_json

    with ProgressBar() as progress:
        result = demo.run(args.output, progress=progress)
    if args.json:
        show_json(result.to_dict())
    else:
        demo.render(output(), result)
    return 0
