"""The target of a run: a row of the hardware table with the types and scales the recipe chose from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from equiquant.errors import OptionError
from equiquant.numerics.affine import INT_TYPES, IntType
from equiquant.recipe import CalibrationMethod, Recipe, ScaleKind
from equiquant.target.table.hardware import Hardware, Shift, hardware_of

__all__ = ["PER_AXIS_OPSET", "SIXTEEN_BIT_OPSET", "Target", "required_opset", "target_of"]

PER_AXIS_OPSET = 13  # QuantizeLinear and DequantizeLinear take an axis
SIXTEEN_BIT_OPSET = 21  # and 16-bit types


@dataclass(frozen=True)
class Target:
    """What a run quantizes to.

    Attributes:
        name: The row of the hardware table.
        activation: Storage type of activations.
        activation_symmetric: Zero point at the type's center.
        weight: Storage type of weights.
        weight_symmetric: Zero point 0 (the center, for uint8) for weights.
        per_channel: One weight scale per output channel.
        bias: Type whose values biases take; int32 means scale s_x·s_w, the others have a scale of their own.
        widened: Biases are stored as int32 at scale s_x·s_w although they take the values of `bias`.
        scale_kind: Any float32 scale, or powers of two.
        method: How ranges become scales.
        quantized: Op types quantized by default.
        lazy: Op types among them that stay float when nobody reads the result as integers.
        float_output: Op types with an integer kernel that can return float when nobody reads the result as integers.
        fused: Activations computed before the producer's result is rounded: no QuantizeLinear in between.
        factors: The factor the NPU multiplies a mean by belongs to it: no QuantizeLinear in between.
        aligned: Op types whose inputs and output share one scale although the op need not merely move data, with the
            option that says so.
        shifts: Limits on the positions of power-of-two scales.
    """

    name: str
    activation: IntType
    activation_symmetric: bool
    weight: IntType
    weight_symmetric: bool
    per_channel: bool
    bias: IntType
    widened: bool
    scale_kind: ScaleKind
    method: CalibrationMethod
    quantized: frozenset[str]
    lazy: frozenset[str]
    float_output: frozenset[str]
    fused: frozenset[str]
    factors: bool
    aligned: Mapping[str, str]
    shifts: tuple[Shift, ...]

    @property
    def activation_levels(self) -> int:
        """Steps of an activation's range; of one side of 0 where it is symmetric."""
        zero = self.activation.center if self.activation_symmetric else self.activation.qmin
        return self.activation.qmax - zero

    @property
    def unclipped(self) -> Target:
        """The same with ranges that cover all that was seen."""
        return replace(self, method="nonoverflow" if self.scale_kind == "power_of_two" else "minmax")

    @property
    def integer_clips(self) -> bool:
        """True if Relu, Clip and Min belong behind QuantizeLinear, to let the layer before them run on integers.

        Runtimes that take int8 activations alone know them in front of it; with int8 biases no layer has such a kernel.
        """
        return self.widened or (self.bias.name == "int32" and self.activation.name == "uint8")


def target_of(recipe: Recipe) -> Target:
    """Return the target a recipe describes.

    Raises:
        OptionError: The hardware cannot run what the recipe asks for.
    """
    hardware = hardware_of(recipe)
    _check(recipe, hardware)
    widened = hardware.power_of_two and recipe.bias_type == "int32"
    off = frozenset(recipe.limits_off)
    return Target(
        name=hardware.name,
        activation=INT_TYPES[recipe.activation_type],
        activation_symmetric=recipe.activation_symmetric,
        weight=INT_TYPES[recipe.weight_type],
        weight_symmetric=recipe.weight_symmetric,
        per_channel=recipe.per_channel,
        bias=INT_TYPES["int8" if widened else recipe.bias_type],
        widened=widened,
        scale_kind=recipe.scale_kind,
        method=recipe.calibration,
        quantized=hardware.quantized,
        lazy=hardware.lazy,
        float_output=hardware.float_output,
        fused=hardware.fused - {*recipe.separate},
        factors=recipe.npu,
        aligned={o: name for o, name in hardware.aligned.items() if recipe.npu_limits and name not in off},
        shifts=tuple(s for s in hardware.shifts if recipe.npu_limits and s.option not in off),
    )


def _check(recipe: Recipe, hardware: Hardware) -> None:
    """Refuse what the hardware does not have, naming what it has."""
    types = (
        ("activation_type", recipe.activation_type, hardware.activations),
        ("weight_type", recipe.weight_type, hardware.weights),
        ("bias_type", recipe.bias_type, hardware.biases),
    )
    for field, asked, known in types:
        if asked not in known:
            choices = ", ".join(sorted(known))
            raise OptionError(f"The target '{hardware.name}' has no {field}='{asked}', only {choices}.")
    rules = (
        (hardware.power_of_two and recipe.scale_kind != "power_of_two", "scale_kind='power_of_two'"),
        (hardware.symmetric and not recipe.activation_symmetric, "activation_symmetric=True"),
        (hardware.symmetric and not recipe.weight_symmetric, "weight_symmetric=True"),
        (recipe.per_channel and not hardware.per_channel, "per_channel=False"),
    )
    for broken, needed in rules:
        if broken:
            raise OptionError(f"The target '{hardware.name}' needs {needed}.")


def required_opset(recipe: Recipe) -> int:
    """Return the least operator set the quantized model needs; convert before the survey, conversion renames values."""
    kinds = (INT_TYPES[recipe.activation_type], INT_TYPES[recipe.weight_type], INT_TYPES[recipe.bias_type])
    wide = recipe.raises_to_int16 or recipe.weight_only or any(k.bits == 16 for k in kinds)
    return SIXTEEN_BIT_OPSET if wide else PER_AXIS_OPSET
