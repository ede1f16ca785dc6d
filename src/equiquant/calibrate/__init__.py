"""Calibration: read the data as a stream, run the float model, keep a few numbers per tensor."""

from equiquant.calibrate.collect import collect
from equiquant.calibrate.methods import ranges
from equiquant.calibrate.sketches import sketch_tensors
from equiquant.calibrate.stats import TensorRecord, TensorStats
from equiquant.calibrate.stream import SampleStream, SampleView, open_samples

__all__ = [
    "SampleStream",
    "SampleView",
    "TensorRecord",
    "TensorStats",
    "collect",
    "open_samples",
    "ranges",
    "sketch_tensors",
]
