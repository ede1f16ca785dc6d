"""The noise of a network whose quantizer may choose ranges smaller than the maximum: rounding against clipping.

Every step is a variable beside the log-scales z. With λ = `COHERENCE` (what is cut off a weight is off by one sign),

    weight      Σ h·(d²/12 + λ (|w| − levels·d)₊²),           d = Δw e^{z_in − z_out}
    bias        Σ HB·d²/12 + HC·(|b| − levels·d)₊²,           d = Δb e^{−z_out}
    activation  Σ G·Δ² e^{−2z}/12 + GC·Σ_j share_j (min(u_j, c) − T e^{−z})₊²

where HC and GC are the gains of what is cut off, T is the end of the range on the value's side (Δ = T / levels if
symmetric, (T⁺ + T⁻) / levels if not), and c the bound of the ReLU6 that made the tensor, infinite where there is none.
A channel scaled down under a scalar Clip lets values through that the Clip cut: (min(u, T e^{−z}) − min(u, c))² counts
both. A range that reaches beyond the scalar Clip, whose bound is c e^{z_c}, clips nothing more: there T stands for the
lesser of the two. Everything else is smooth.

`stage` evaluates it for a whole network, `curve` for one weight or tensor and many ranges of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.scales.noise import WeightNoise

__all__ = ["COHERENCE", "RangeNoise", "WeightRange"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

COHERENCE = 4.0  # λ: errors of one sign add up, and count this much more than rounding errors of the same power


@dataclass(frozen=True, eq=False)
class WeightRange:
    """A weight with one step.

    Attributes:
        noise: Its couplings and gains.
        size: (G, P, Q, K) float32 |weight| at z = 0, kernel taps last.
    """

    noise: WeightNoise
    size: Array

    @property
    def name(self) -> str:
        """The layer."""
        return self.noise.name

    def scaled(self, z: Array) -> Array:
        """Return |weight| at z, (G, P, Q, K) float32."""
        rows, columns = z[self.noise.coupling.rows], z[self.noise.coupling.columns]
        factor = np.exp(rows).astype(np.float32)[:, :, None] * np.exp(-columns).astype(np.float32)[:, None, :]
        return np.asarray(self.size * factor[..., None])

    def lines(self, places: Ids) -> tuple[Ids, Ids]:
        """Return the row, of (G, P) laid flat, and the column, of (G, Q), of the weights at places of flat `size`."""
        _, outputs, inputs, taps = self.size.shape
        rows, columns = np.divmod(places // taps, inputs)
        return rows, columns + rows // outputs * inputs

    def gain(self, rows: Ids, columns: Ids) -> Array:
        """Return h of weights in these flat rows and columns: the noise gain of an error of their own."""
        noise = self.noise
        white = noise.white.take(rows) * noise.spread.take(columns)
        return np.asarray((white + noise.constant.take(rows) * noise.mean.take(columns)) / self.size.shape[3])


@dataclass(frozen=True, eq=False)
class RangeNoise:
    """An activation tensor, or a bias with a step of its own.

    Attributes:
        name: The tensor, or the layer.
        ids: (C,) class of each channel.
        gain: (C,) noise gain G; HB for a bias.
        clip_gain: (C,) noise gain GC of what the range cuts off; HC for a bias.
        sides: One or two of (values, share, largest): magnitudes per side of 0, (J,) or (C, J), the share (C, J) of a
            channel's values at each, and its largest (C,). One side if symmetric.
        levels: Steps in the range.
        bound: Bound of the Clip that makes the tensor, infinite where there is none.
        bound_id: Class of that bound.
        yields: The bound may move by itself, and will be out of the range's way.
        kind: `activation` or `bias`.
        also: Names of further tensors whose channels these are, too.
        held: Classes of further bounds of Clips, which move with the tensor.
    """

    name: str
    ids: Ids
    gain: Array
    clip_gain: Array
    sides: tuple[tuple[Array, Array, Array], ...]
    levels: float
    bound: float = np.inf
    bound_id: int = 0
    yields: bool = False
    kind: str = "activation"
    also: tuple[str, ...] = ()
    held: tuple[int, ...] = ()

    def reach(self, z: Array) -> float:
        """Return beyond what end a range clips nothing more, infinite where nothing else clips."""
        return np.inf if self.yields else self.bound * float(np.exp(z[self.bound_id]))
