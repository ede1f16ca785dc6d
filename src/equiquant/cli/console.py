"""What the terminal shows: progress while a command works, warnings, and nothing of either where nobody watches."""

from __future__ import annotations

import codecs
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["ProgressBar", "output", "show_json", "warn"]

UNLIMITED = 10_000  # columns: a file has no width


def output() -> Console:
    """Return the console results go to: standard output, coloured and fitted to its width only on a terminal."""
    from equiquant.cli.lines import LineConsole

    return LineConsole(width=None if sys.stdout.isatty() else UNLIMITED)


def show_json(value: Any) -> None:
    """Print plain data as JSON, with escapes where standard output cannot hold every character."""
    from equiquant.report.plain import dumps

    print(dumps(value, ascii_only=codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8"), end="")


def warn(message: str) -> None:
    """Show a warning on standard error."""
    from rich.text import Text

    from equiquant.cli.lines import LineConsole

    LineConsole(stderr=True, soft_wrap=True).print(Text.assemble(("warning: ", "bold yellow"), (message, "yellow")))


class ProgressBar:
    """Shows the stages of a run with the time left, on standard error and only on a terminal.

    Called as the API's `progress`: with the stage's name, how much is done, and of how much (None if unknown).

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBar:
        if self._shown:
            from rich import progress
            from rich.console import Console

            self._progress = progress.Progress(
                progress.SpinnerColumn(finished_text="[green]✓"),
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` is done in a stage; the stages before it are finished."""
        if self._progress is None:
            return
        if stage not in self._tasks:
            for task in self._progress.tasks:
                finished = task.total if task.total is not None else max(task.completed, 1)
                self._progress.update(task.id, total=finished, completed=finished)
            self._tasks[stage] = self._progress.add_task(stage.capitalize(), total=total, rate="")
        current = self._tasks[stage]
        self._progress.update(current, completed=done, total=total)
        elapsed = self._progress.tasks[current].elapsed
        if done and elapsed and stage == "calibrate":
            self._progress.update(current, rate=f"{done / elapsed:.1f} samples/s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
