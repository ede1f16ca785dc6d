"""The warning that a choice was judged on few samples: what does best on one or two may do worse on others."""

from __future__ import annotations

__all__ = ["few_judges"]

FEW = 3  # samples below which there is a warning


def few_judges(judged: str, chosen: str, samples: int, *, apart: bool = True) -> str:
    """Return the warning, empty where none is due; what to do about it is for the caller to add.

    Args:
        judged: Who judged what.
        chosen: What was chosen by it.
        samples: How many judged.
        apart: They are others than those it was made with.

    >>> few_judges("The search judged its trials", "what it found best", 2)
    'The search judged its trials on 2 samples: what it found best may be worse on others.'
    """
    if apart and samples >= FEW:
        return ""
    count = "one sample" if samples == 1 else f"{samples} samples"
    own = "" if apart else " that it was made with"
    return f"{judged} on {count}{own}: {chosen} may be worse on others."
