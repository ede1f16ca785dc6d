"""What a run did, decided, cost and achieved: one value, a strict JSON file and a page to read."""

from equiquant.report.inspection import Held, Inspection, LayerOutlook, Outlook, TensorOutlook, inspect_model
from equiquant.report.report import REPORT_FILES, Report, versions
from equiquant.report.stages import StageCost, Stages

__all__ = [
    "REPORT_FILES",
    "Held",
    "Inspection",
    "LayerOutlook",
    "Outlook",
    "Report",
    "StageCost",
    "Stages",
    "TensorOutlook",
    "inspect_model",
    "versions",
]
