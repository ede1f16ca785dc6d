"""Save what a calibration has done from time to time, so that an interrupted one goes on where it was.

A checkpoint holds the statistics of the first feeds, exactly mergeable with those of the rest, and the hash of those
feeds: it counts only for the same model, options and data. Where several passes are needed, those that are complete
count only if all the feeds are the same. Everything else starts anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from equiquant.calibrate.data.feeds import Feed
from equiquant.calibrate.fingerprint import FeedHash
from equiquant.calibrate.stats import TensorStats
from equiquant.calibrate.store import read_stats, save_stats
from equiquant.errors import DataError

__all__ = ["ALL", "Checkpoint"]

ALL = -1  # feeds of a pass that is complete
INTERVAL = 5.0  # seconds between two checkpoints; writing one takes well under a tenth of a second


class Checkpoint:
    """The checkpoint of one calibration.

    Args:
        path: The file it lives in.
        key: What must be the same for it to count: the hash of the model and the options that decide what is kept.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._saved = time.monotonic()
        self._hash = FeedHash()
        self._finished: dict[int, TensorStats] = {}
        self._expected = self._expected_whole = self._whole = ""
        self._same: bool | None = None
        self._resumed: tuple[int, int, TensorStats] | None = None
        self._open: frozenset[str] = frozenset()  # the tensors of the pass that was cut short
        self._load()

    def _load(self) -> None:
        if not self._path.exists():
            return
        try:
            stats, note = read_stats(self._path)
        except DataError:
            return  # a damaged checkpoint is none
        if note.get("key") == self._key and "open" in note:
            self._expected, self._expected_whole = note["feeds_hash"], note.get("whole_hash", "")
            self._resumed = (note["pass"], note["feeds"], stats)
            self._open = frozenset(note["open"])

    def resume(self, index: int, names: Sequence[str]) -> tuple[int, TensorStats | None]:
        """Return how many feeds of a pass are done, `ALL` if it is complete, and their statistics.

        Under another limit of memory the passes are others: what was complete still counts, and what was not only for
        the very same tensors.
        """
        self._hash = FeedHash()
        if self._resumed is None or self._resumed[0] < index:
            return 0, None
        at, feeds, stats = self._resumed
        complete = stats.tensors.keys() - self._open
        cut_short = index == at and self._open == set(names)
        if not cut_short and not complete.issuperset(names):
            return 0, None
        mine = TensorStats(stats.samples, {name: stats.tensors[name] for name in names})
        return (feeds if cut_short else ALL), mine

    def same(self, feeds: Iterable[Feed]) -> bool:
        """True if all the feeds are those that complete passes were made of; reads them once, runs nothing."""
        if self._same is None:
            self._whole = FeedHash.of(feeds).value()
            self._same = self._whole == self._expected_whole
            if not self._same:
                self._resumed = None
        return self._same

    def skip(self, feeds: Iterable[Feed]) -> bool:
        """Read the feeds that are done; False if they are not those the checkpoint was made of."""
        self._hash = FeedHash.of(feeds)
        if self._hash.value() == self._expected:
            return True
        self._hash, self._resumed = FeedHash(), None
        return False

    def due(self, group: Iterable[Feed]) -> bool:
        """Take in the feeds just done; True if it is time to save."""
        for feed in group:
            self._hash.add(feed)
        return time.monotonic() - self._saved >= INTERVAL

    def save(self, index: int, feeds: int, stats: TensorStats) -> None:
        """Save the statistics of the first feeds of a pass, and those of the passes before."""
        note = {"key": self._key, "pass": index, "feeds": feeds, "feeds_hash": self._hash.value()}
        note["open"] = sorted(stats.tensors)
        for earlier in self._finished.values():
            stats = stats.disjoint(earlier)
        note["whole_hash"] = self._whole
        save_stats(stats, self._path, note)
        self._saved = time.monotonic()

    def finish(self, index: int, stats: TensorStats) -> None:
        """Remember a pass that is complete, and the hash of all the feeds."""
        self._finished[index] = stats
        self._whole = self._whole or self._hash.value()

    def remove(self) -> None:
        """Delete the checkpoint: the calibration is complete."""
        self._path.unlink(missing_ok=True)
