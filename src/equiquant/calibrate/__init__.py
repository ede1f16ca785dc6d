"""Calibration: read the data as a stream, run the float model, keep a few numbers per tensor."""

from equiquant.calibrate.accumulate import Wanted
from equiquant.calibrate.checkpoint import Checkpoint
from equiquant.calibrate.collect import collect
from equiquant.calibrate.data.files import DATA_SUFFIXES
from equiquant.calibrate.data.stream import SampleStream, SampleView, open_samples
from equiquant.calibrate.fingerprint import model_hash
from equiquant.calibrate.made_up.distilling import Distilled
from equiquant.calibrate.stats import AppliedScales, TensorRecord, TensorStats
from equiquant.calibrate.store import check_model, load_stats, save_stats

__all__ = [
    "DATA_SUFFIXES",
    "AppliedScales",
    "Checkpoint",
    "Distilled",
    "SampleStream",
    "SampleView",
    "TensorRecord",
    "TensorStats",
    "Wanted",
    "check_model",
    "collect",
    "load_stats",
    "model_hash",
    "open_samples",
    "save_stats",
]
