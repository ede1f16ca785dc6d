"""Calibration: read the data as a stream, run the float model, keep a few numbers per tensor."""

from equiquant.calibrate.collect import collect
from equiquant.calibrate.methods import ranges
from equiquant.calibrate.stats import ChannelStats, TensorRecord, TensorStats
from equiquant.calibrate.stream import SampleStream, open_samples

__all__ = ["ChannelStats", "SampleStream", "TensorRecord", "TensorStats", "collect", "open_samples", "ranges"]
