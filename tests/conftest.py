"""What every test may use."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models beside the checkout; the test is skipped where it is absent."""
    if not (SHARED / "realdata.py").exists():
        pytest.skip("needs the real models in ../shared/data")
    if str(SHARED) not in sys.path:
        sys.path.insert(0, str(SHARED))
    return SHARED
