"""The command line's grammar: one module a command, each adding its own parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from equiquant import __version__
from equiquant.cli import compare, demo, equalize, inspect, quantize
from equiquant.cli.options import RECIPE, settable_fields
from equiquant.errors import nearest

__all__ = ["build_parser", "parse"]

COMMANDS = (quantize, equalize, compare, inspect, demo)

EPILOG = (
    "Exit codes: 0 done, 1 refused (one line says why), 2 wrong usage. 'equiquant COMMAND --help' lists all options."
)


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser and those of its commands, by name."""
    parser = argparse.ArgumentParser(
        prog="equiquant",
        description="Accurate INT8 ONNX models by cross-layer equalization, without the training framework.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"equiquant {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    return parser, {command.NAME: command.add_parser(subparsers) for command in COMMANDS}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; an unknown option ends the process with 2 and the nearest known one."""
    parser, commands = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        command = commands[args.command]
        command.error(f"unrecognized arguments: {' '.join(unknown)}.{_hint(unknown[0], command)}")
    return args


def _hint(argument: str, command: argparse.ArgumentParser) -> str:
    """Return what may have been meant by an argument a command does not know: a field, or flags spelled nearly so."""
    flag, equals, value = argument.partition("=")
    if not flag.startswith("-"):
        return ""
    flags = command._option_string_actions  # argparse has no public list of them
    field = flag.lstrip("-").replace("-", "_")
    if "--set" in flags and field in settable_fields():
        mine = {name: action for name, action in flags.items() if action.dest in (RECIPE + field, field)}
        own = [name for name, action in mine.items() if action.const is not False]  # --no-cle is not what --cle means
        if own:
            return f" Did you mean {' or '.join(map(repr, own))}?"
        return f" Without a flag of its own: --set {field}={value if equals else 'VALUE'}."
    return nearest(flag, flags)
