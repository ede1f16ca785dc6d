"""The canonical graph: one fold a file, each with its pattern, its check and its refusals; the order is in `recipe`."""

from equiquant.canonical.recipe import WHOLES, canonicalize, settle_constants

__all__ = ["WHOLES", "canonicalize", "settle_constants"]
