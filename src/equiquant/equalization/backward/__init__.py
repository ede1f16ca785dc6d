"""Noise gains of tensors by an exact backward pass, built in ONNX and run by onnxruntime."""

from equiquant.equalization.backward.gains import Gains
from equiquant.equalization.backward.measure import measure_gains

__all__ = ["Gains", "measure_gains"]
