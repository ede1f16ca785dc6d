"""The documented options: a table of every name with its default and what it does here, and looking names up in it."""

from equiquant.options.kinds import Option, PowerOfTwoMethod
from equiquant.options.names import Place, check, lookup, markdown, plain, unknown_field
from equiquant.options.table import ARGUMENTS, EXTRA_OPTIONS

__all__ = [
    "ARGUMENTS",
    "EXTRA_OPTIONS",
    "Option",
    "Place",
    "PowerOfTwoMethod",
    "check",
    "lookup",
    "markdown",
    "plain",
    "unknown_field",
]
