"""A search on the command line: reading labels, and the table of its trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiquant.cli.console import output
from equiquant.cli.summary import graded, result_table
from equiquant.errors import DataError
from equiquant.report.search import changes_text, score_text
from equiquant.report.texts import seconds_text

if TYPE_CHECKING:
    from equiquant.pipeline import SearchOutcome

__all__ = ["read_labels", "show_trials"]


def read_labels(path: str) -> Any:
    """Return the classes in a .npy file.

    Raises:
        DataError: It cannot be read, or does not hold whole numbers.
    """
    import numpy as np

    from equiquant.io import path_of

    try:
        labels = np.load(path_of(path), allow_pickle=False)
    except OSError as error:
        raise DataError(f"Cannot read the labels in {path}: {error.strerror or error}.") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"Cannot read the labels in {path}: it is not a .npy file of numbers.") from error
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"The labels in {path} must be an array of whole numbers.")
    return labels


def show_trials(found: SearchOutcome) -> None:
    """Show every trial, the kept one marked."""
    console = output()
    scored = found.kind != "sqnr_db"
    titles = ("Trial", *(("Top-1" if found.kind == "top1" else found.metric,) if scored else ()), "SQNR", "Took", "")
    table = result_table(*titles)
    for trial in found.trials:
        name = changes_text(trial.changes) if trial.changes else f"{found.recipe.name} as it is"
        score = score_text(trial.score, found.kind)
        note = trial.refused or ("kept" if trial is found.best else "")
        row = [name, *((score,) if scored else ()), graded(trial.sqnr_db), seconds_text(trial.seconds), note]
        table.add_row(*row)
    console.print(table)
    if not found.complete:
        console.print("The time budget ended the search; run it again to go on.", style="dim")
    console.line()
