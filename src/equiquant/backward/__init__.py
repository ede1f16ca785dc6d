"""An exact backward pass, built in ONNX and run by onnxruntime: noise gains, and what BatchNormalizations see."""

from equiquant.backward.excess import Ends
from equiquant.backward.gains import Gains
from equiquant.backward.measure import measure_gains

__all__ = ["Ends", "Gains", "measure_gains"]
