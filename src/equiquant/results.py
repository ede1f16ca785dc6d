"""What a run gives back: the finished model, which can be saved, pickled and copied, and its report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from equiquant.errors import OutputError
from equiquant.io import files_of, is_large, load_model, place_of, save_model, to_proto
from equiquant.pipeline import SearchOutcome
from equiquant.report import Report

if TYPE_CHECKING:
    import onnx

__all__ = ["Result", "SearchResult"]


class Result:
    """A finished model and its report.

    Attributes:
        report: What was decided and measured.
        path: Where the model was written, None if it was not.
    """

    def __init__(self, model: ir.Model, report: Report, path: Path | None = None, read: Iterable[Path] = ()) -> None:
        self._ir = model
        self._proto: onnx.ModelProto | None = None
        self._read = frozenset(read)  # by a model that was given in memory
        self.report = report
        self.path = path

    @property
    def model(self) -> onnx.ModelProto:
        """The model as a proto, made on first use; above 2 GB its weights stay in the file beside `path`.

        Raises:
            OutputError: It is larger than 2 GB and was not written; use `save`.
        """
        if self._proto is None:
            self._proto = to_proto(self._ir, self.path)
        return self._proto

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model, whole or not at all; above 2 GB its weights go to `<path>.data`.

        Raises:
            OutputError: The file cannot be written, or is the input; or `<path>.data` is, or belongs to something else
                than a model at `path`.
        """
        self.path = save_model(self._ir, place_of(path), *self._read, *files_of(self.report.input_path))
        return self.path

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle or a copy holds: the model as a proto, since its graph is too deep for either.

        Raises:
            OutputError: The model is larger than 2 GB.
        """
        if is_large(self._ir):
            raise OutputError(
                "The model is larger than 2 GB and cannot be pickled or copied; save it and use its path."
            )
        return {**self.__dict__, "_ir": to_proto(self._ir), "_proto": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take what `__getstate__` returned."""
        self.__dict__.update(state, _ir=load_model(state["_ir"], allow_quantized=True).model)


class SearchResult(Result):
    """The best model of a search, and the search.

    Attributes:
        search: The trials, and the recipe that won: `quantize(model, preset=result.search.recipe, data=data)` gives the
            same model.
    """

    def __init__(self, best: Result, report: Report, found: SearchOutcome) -> None:
        super().__init__(best._ir, report, best.path, best._read)
        self.search = found
