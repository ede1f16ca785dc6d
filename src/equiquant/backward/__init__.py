"""An exact backward pass, built in ONNX and run by onnxruntime: noise gains, and what BatchNormalizations see."""

from equiquant.backward.gains import Gains
from equiquant.backward.measure import measure_gains

__all__ = ["Gains", "measure_gains"]
