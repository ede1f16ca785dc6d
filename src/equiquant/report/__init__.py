"""What a run did, decided, cost and achieved: one value, a strict JSON file and a page to read."""

from equiquant.report.inspection import Inspection, inspect_model
from equiquant.report.report import Report, versions
from equiquant.report.stages import StageCost, Stages

__all__ = ["Inspection", "Report", "StageCost", "Stages", "inspect_model", "versions"]
