import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from small_store import build_store

# Before torch is loaded, here and in every process that a test starts: threads that spin while they wait for each other
# take a busy machine's processors from those they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command line sets up logging for its process; here that is the tests'."""
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in ("pipeline", "stores")}
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """Builds a finished store under the test's folder: `make_store(name="store", n_rows=1000, sites={...}, ...)`."""

    def make(name: str = "store", **options: Any) -> Path:
        return build_store(tmp_path / name, **options)

    return make
