"""A stream of labelled feeds, before anything of it is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equiquant.calibrate.made_up.distilling import Distilled
from equiquant.errors import DataError
from equiquant.io.runtime import InputSpec

__all__ = ["LabelledFeed", "Source", "lone_input", "numbered"]

LabelledFeed = tuple[str, Mapping[str, Any]]
"""What to call the feed in an error, and its arrays by input name, not yet checked."""


@dataclass(frozen=True)
class Source:
    """A stream of feeds.

    Attributes:
        start: Begins a pass; call once if not `replayable`.
        replayable: Every pass gives the same feeds cheaply, straight from memory or from a file.
        synthetic: The inputs are made up.
        distilled: How they came to fit the model, where they do.
        units: Why they are made up in other units than usual; empty where they are not.
        count: Samples it will give, if that is known beforehand.
        images: They are prepared as the image options say.
        skipped: Files of the folder that hold no samples.
    """

    start: Callable[[], Iterator[LabelledFeed]]
    replayable: bool
    synthetic: bool = False
    distilled: Distilled | None = None
    units: str = ""
    count: int | None = None
    images: bool = False
    skipped: int = 0


def numbered(feeds: Iterable[Mapping[str, Any]]) -> Iterator[LabelledFeed]:
    """Yield the feeds, called by their numbers."""
    for number, feed in enumerate(feeds):
        yield f"sample {number}", feed


def lone_input(specs: Sequence[InputSpec], what: str) -> str:
    """Return the name of the model's only input.

    Args:
        specs: The model's inputs.
        what: What can feed only one, for the error.

    Raises:
        DataError: The model has several.
    """
    if len(specs) != 1:
        names = ", ".join(f"'{s.name}'" for s in specs)
        raise DataError(f"The model has {len(specs)} inputs ({names}): give feed dicts instead of {what}.")
    return specs[0].name
