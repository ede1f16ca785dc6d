"""Text that stays where it is shown: names in a model may hold characters that a terminal or a browser obeys."""

from __future__ import annotations

__all__ = ["printable"]

CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}")  # C0, DEL and C1


def printable(text: str) -> str:
    r"""Return a text that stays on its line and sends no commands.

    >>> printable("conv\x1b[31m")
    'conv�[31m'
    """
    return text.translate(CONTROLS)
