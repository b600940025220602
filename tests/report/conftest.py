from pathlib import Path

import pytest

from support.browsing import browser, watch
from support.made_up_run import write_run

__all__ = ["browser", "watch"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run of six variants at two sites, one of them diverged."""
    return write_run(tmp_path / "demo")
