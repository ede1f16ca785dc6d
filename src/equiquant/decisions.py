"""What a stage did or declined to do, and where: the raw material of the report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Decision"]


@dataclass(frozen=True)
class Decision:
    """One rewrite applied, or one refused.

    Attributes:
        stage: The room that decided: `canonical`, `fold`, `hardware`, `equalize`, `calibrate`, `target`, `refine`.
        rule: The rule's name, as its file is called, e.g. `fold_batch_norm`.
        where: The node or tensor concerned.
        applied: True if it was done, False if it was refused.
        reason: What was done, or why not and what would make it work.
    """

    stage: str
    rule: str
    where: str
    applied: bool
    reason: str
