"""What every test may use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models beside the checkout; the test is skipped where it is absent."""
    if not (SHARED / "realdata.py").exists():
        pytest.skip("needs the real models in ../shared/data")
    if str(SHARED) not in sys.path:
        sys.path.insert(0, str(SHARED))
    return SHARED
