"""What the equalizer has to know of the quantizer that follows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from equiquant.equalization.shared_ranges import Groups

__all__ = ["QuantizerModel"]


@dataclass(frozen=True)
class QuantizerModel:
    """Which nodes and tensors are rounded, and how.

    Attributes:
        nodes: Names of the nodes whose weights are quantized.
        tensors: Names of the activation tensors that are rounded.
        weight_levels: Largest integer of a weight, 127 for int8.
        activation_levels: Steps in an activation's range: 127 for symmetric 8 bits, 255 for asymmetric.
        symmetric: Activation ranges are symmetric about 0.
        per_channel: Weights have one step an output channel.
        unsigned: Names of the tensors that are never negative and use the whole range of their type.
        unsigned_levels: Steps in theirs.
        bias_levels: Largest integer of a bias with a scale of its own, None where biases are as good as exact.
        bias_corrected: The mean error of every output channel will be taken away by its bias.
        shared: Names of the tensors of each group that has one range.
    """

    nodes: Collection[str]
    tensors: Collection[str]
    weight_levels: float = 127.0
    activation_levels: float = 255.0
    symmetric: bool = False
    per_channel: bool = False
    bias_levels: float | None = None
    bias_corrected: bool = False
    unsigned: Collection[str] = frozenset()
    unsigned_levels: float = 255.0
    shared: Groups = ()
