"""The run: the stages in order, and what passes between them."""

from equiquant.pipeline.inspecting import foresee
from equiquant.pipeline.run import Outcome, run
from equiquant.pipeline.search.searching import SearchOutcome, Trial, search
from equiquant.pipeline.state import Progress

__all__ = ["Outcome", "Progress", "SearchOutcome", "Trial", "foresee", "run", "search"]
