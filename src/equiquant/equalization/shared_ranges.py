"""Noise of tensors that share one range: on targets that align them, a Concat's inputs, or what a pool reads and makes.

A tensor whose range is small beside that of another it shares a step with is rounded by far more than its own range
asks for. With the channels of all of them under one maximum the solver sees that: it scales what is free to fill the
range, and cuts off more of what stretches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.ranges.noise import RangeNoise
from equiquant.numerics.scales.noise import NoiseTerm, TensorNoise

__all__ = ["Groups", "join_ranges", "share_ranges"]

Array = npt.NDArray[Any]
Side = tuple[Array, Array, Array]
Groups = Sequence[Sequence[str]]


def share_ranges(terms: Sequence[NoiseTerm], groups: Groups) -> list[NoiseTerm]:
    """Return the terms, the range of each activation reaching as far as those of its group.

    The channels of the others come after its own and have gain 0: they only stretch the range.

    Args:
        terms: The terms, each with a range of its own.
        groups: Names of the tensors that share one.
    """
    named = {t.name: t for t in terms if isinstance(t, TensorNoise) and t.kind == "activation"}
    stretched: dict[str, TensorNoise] = {}
    for group in groups:
        members = [named[name] for name in group if name in named]
        for own in members:
            others = [other for other in members if other is not own]
            stretched[own.name] = replace(
                own,
                ids=np.concatenate([own.ids, *(t.ids for t in others)]),
                high=np.concatenate([own.high, *(t.high for t in others)]),
                low=np.concatenate([own.low, *(t.low for t in others)]),
                gain=np.concatenate([own.gain, *(np.zeros_like(t.gain) for t in others)]),
                clip_gain=np.concatenate([own.clip_gain, *(np.zeros_like(t.clip_gain) for t in others)]),
            )
    return [stretched.get(t.name, t) if t.kind == "activation" else t for t in terms]


def join_ranges(tensors: Sequence[RangeNoise], groups: Groups) -> list[RangeNoise]:
    """Return the tensors, those of a group as one, in the place of the first.

    Args:
        tensors: Activations and biases, each with a range of its own.
        groups: Names of the tensors that share one.
    """
    named = {t.name: t for t in tensors if t.kind == "activation"}
    joined: dict[str, RangeNoise | None] = {}
    for group in groups:
        members = [named[name] for name in group if name in named]
        if len(members) > 1:
            first, *others = members
            joined |= {first.name: _as_one(members)} | dict.fromkeys((t.name for t in others), None)
    found = (joined.get(t.name, t) if t.kind == "activation" else t for t in tensors)
    return [t for t in found if t is not None]


def _as_one(members: Sequence[RangeNoise]) -> RangeNoise:
    """Return several tensors as one, each cut where its own Clip cuts it."""
    first, *others = members
    count = max(len(t.sides) for t in members)
    sides = [[_side(t, index) for t in members] for index in range(count)]
    return RangeNoise(
        first.name,
        np.concatenate([t.ids for t in members]),
        np.concatenate([t.gain for t in members]),
        np.concatenate([t.clip_gain for t in members]),
        tuple(_stacked(parts) for parts in sides),
        first.levels,
        also=tuple(t.name for t in others),
        held=tuple(t.bound_id for t in members if np.isfinite(t.bound)),
    )


def _side(tensor: RangeNoise, index: int) -> Side:
    """Return one side of a tensor, (C, J), up to its Clip; nothing where it has only the other."""
    size = tensor.ids.size
    if index >= len(tensor.sides):
        return np.zeros((size, 1)), np.zeros((size, 1)), np.zeros(size)
    values, share, largest = tensor.sides[index]
    cut = np.minimum(np.broadcast_to(values, share.shape), tensor.bound)
    return cut, share, np.minimum(largest, tensor.bound)


def _stacked(parts: Sequence[Side]) -> Side:
    """Return the channels of several tensors one below the other; magnitudes that one lacks have no share."""
    width = max(values.shape[1] for values, _, _ in parts)
    values, share = (
        np.concatenate([np.pad(part[k], ((0, 0), (0, width - part[k].shape[1]))) for part in parts]) for k in (0, 1)
    )
    return values, share, np.concatenate([largest for _, _, largest in parts])
