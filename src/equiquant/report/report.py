"""The report of a run: recipe, versions, decisions, figures and costs, in one frozen value.

`write(folder)` leaves `report.json`, for programs, and `report.html`, for people: one file without scripts or anything
fetched, so that it can be mailed, printed and kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from equiquant.decisions import Decision
from equiquant.errors import EquiQuantError, ModelError, OutputError
from equiquant.field_checks import as_tuples
from equiquant.io import path_of, place_of
from equiquant.recipe import ImageOptions, Recipe
from equiquant.report.page import page
from equiquant.report.plain import dumps, plain, write_atomically
from equiquant.report.stages import StageCost

__all__ = ["FORMAT", "REPORT_FILES", "Report", "versions"]

FORMAT = 1
REPORT_FILES = ("report.json", "report.html")


def versions() -> dict[str, str]:
    """Return the versions a result depends on, by distribution name."""
    found = {}
    for name in ("equiquant", "onnx", "onnx-ir", "onnxruntime", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a source tree on the path, or a build under another name
            found[name] = "unknown"
    return found


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a run did and what came of it.

    Attributes:
        recipe: The exact recipe.
        input_sha256: Hash of the input model.
        input_path: Where it came from, None for a model given in memory.
        decisions: What each stage did or refused, and why.
        equalization: Empty when equalization was off. Keys read by the page, all optional: `method`, `steps`,
            `classes` (scale classes that were free to move), `tensors` (one `{tensor, channels, spread_before,
            spread_after, free, pinned_by}` per layer; spread = largest over median channel range), `spread_before`
            and `spread_after` (the largest of the layers that have free channels; None where none has),
            `equivalence_error`, `tolerance`, `moved` (classes), `rolled_back` (a list of names), `trials` (one
            `{method, sqnr_db}` per candidate; `held`: on others than it was quantized with), `objective_db` (predicted
            noise by method), `noise` (the same per term),
            `replace_clip6_relu` (what that alone cost), `clip_sqnr_db` (what is left of the worst float output on
            samples the scales were not found on, if any), `held_by_clips` (channels that keep their scale under a
            Clip), `clip_strays` (channels that move under one, and how many of them one half of the samples drives
            much farther than the other).
        refinement: Empty when nothing was to be refined. Keys, all optional: `trials` (one `{name, sqnr_db}` per
            candidate, first the one without), `kept` (its name), `layers`, `refined` (`weights`, `biases` or both),
            `inputs` (whose the layers were fitted to: of the `float` network, or the `quantized`), `fitted` and `held`
            (samples), `apart` (False if these are the same).
        hardware: One `{rule, nodes, sqnr_db}` for each kind of rewrite for the NPU: how much of the signal of the worst
            output is left by it alone, None where the function is kept; the last row, `together`, is all of them.
        mixed_precision: Empty unless layers of another precision were chosen. `layers` (one `{layer, op_type,
            precision, multiplications, weights}` each, with `estimated_float_db`, `measured_float_db` and the same for
            `int16` where it was weighed), `float` and `int16` (names), `sqnr_before_db`, `sqnr_db` (what is
            measured is of the mean noise over signal where there are several outputs), `share_of_multiplications`,
            `share_of_weights_float` and `extra_bytes`; `made_up`, `held` and `judges` (samples) say what was measured
            on.
        tensors: One `{name, scale, zero_point, type, low, high}` per quantized tensor; `axis` where per channel; of a
            weight in blocks also `block_size` and the number of `scales`, `scale` being the smallest and the largest.
        target: `LimitReport.to_dict()`: what the limits of the target did; empty where it has none.
        quality: `Comparison.to_dict()`, with `synthetic` true if its inputs were made up, and `held` if no weight was
            fitted to them; None when nothing was compared.
        warnings: What the user must know.
        stages: Time and memory per stage.
        search: Empty unless options were searched for: `metric` (`sqnr_db`, `top1` or a function's name), `kind` (the
            same, `own` for a function), `trials` (one `{changes, score, sqnr_db, seconds, refused}` each), `kept` (the
            changes of the best) and `complete`.
        input_shapes: Shape of each input in the first sample.
        samples: How many samples ranges were calibrated on, None where none were.
        samples_made_up: These were made up; of a file's that is what the file says, whatever the comparison ran on.
        versions: Versions of this package and of what it stands on.
    """

    recipe: Recipe
    input_sha256: str
    input_path: str | None = None
    decisions: Sequence[Decision] = ()
    equalization: Mapping[str, Any] = field(default_factory=dict)
    refinement: Mapping[str, Any] = field(default_factory=dict)
    hardware: Sequence[Mapping[str, Any]] = ()
    mixed_precision: Mapping[str, Any] = field(default_factory=dict)
    tensors: Sequence[Mapping[str, Any]] = ()
    target: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] | None = None
    warnings: Sequence[str] = ()
    stages: Sequence[StageCost] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    samples: int | None = None
    samples_made_up: bool = False
    versions: Mapping[str, str] = field(default_factory=versions)

    def to_dict(self) -> dict[str, Any]:
        """Return strict plain data: NaN is None, infinities are `"Infinity"` and `"-Infinity"`."""
        result: dict[str, Any] = plain(
            {
                "format": FORMAT,
                "input": {"path": self.input_path, "sha256": self.input_sha256, "shapes": self.input_shapes},
                "recipe": self.recipe,
                "versions": self.versions,
                "samples": self.samples,
                "samples_made_up": self.samples_made_up,
                "warnings": self.warnings,
                "quality": self.quality,
                "equalization": self.equalization,
                "refinement": self.refinement,
                "hardware": self.hardware,
                "mixed_precision": self.mixed_precision,
                "search": self.search,
                "decisions": self.decisions,
                "target": self.target,
                "tensors": self.tensors,
                "stages": self.stages,
            }
        )
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Rebuild a report from `to_dict()`.

        Raises:
            ModelError: The data are not a report of this format.
        """
        try:
            if data["format"] != FORMAT:
                raise ModelError(f"This report has format {data['format']}; this version reads format {FORMAT}.")
            return cls(
                recipe=_recipe(data["recipe"]),
                input_sha256=data["input"]["sha256"],
                input_path=data["input"]["path"],
                decisions=tuple(Decision(**d) for d in data["decisions"]),
                equalization=data["equalization"],
                refinement=data["refinement"],
                hardware=tuple(data["hardware"]),
                mixed_precision=data.get("mixed_precision", {}),
                tensors=tuple(data["tensors"]),
                target=data.get("target", {}),
                quality=data["quality"],
                warnings=tuple(data["warnings"]),
                stages=tuple(StageCost(**s) for s in data["stages"]),
                search=data.get("search", {}),
                input_shapes=data["input"].get("shapes", {}),
                samples=data.get("samples"),
                samples_made_up=data.get("samples_made_up", False),
                versions=data["versions"],
            )
        except EquiQuantError:
            raise
        except (KeyError, TypeError) as error:
            raise ModelError(f"Not an EquiQuant report: {type(error).__name__} {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a `report.json`, or the folder that holds one.

        Raises:
            ModelError: No such file, or not a report.
            DataError: The path is empty.
        """
        file = path_of(path)
        file = file / "report.json" if file.is_dir() else file
        try:
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ModelError(f"Cannot read the report {file}: {error.strerror or error}.") from error
        except ValueError as error:  # not JSON, not UTF-8; OptionError is both ours and a ValueError
            raise ModelError(f"{file} is not an EquiQuant report: {error}.") from error

    def to_html(self) -> str:
        """Return the page."""
        return page(self.to_dict())

    def write(self, folder: str | Path) -> Path:
        """Write `report.json` and `report.html` into a folder, made if need be; return the folder.

        Raises:
            OutputError: The folder or a file cannot be written.
        """
        target = place_of(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make the report folder {target}: {error.strerror or error}.") from error
        for name, text in zip(REPORT_FILES, (dumps(self.to_dict()), self.to_html()), strict=True):
            write_atomically(target / name, text)
        return target


def _recipe(data: Mapping[str, Any]) -> Recipe:
    """Rebuild the frozen recipe: JSON has lists where the recipe has tuples."""
    fields = {key: as_tuples(value) for key, value in data.items()}
    fields["image"] = ImageOptions(**{key: as_tuples(value) for key, value in data["image"].items()})
    return Recipe(**fields)
