import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from support.small_store import build_store

# Before torch is loaded, here and in every process that a test starts: threads that spin while they wait for each other
# take a busy machine's processors from those they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Triton reads this when a kernel is defined: where there is no GPU, its interpreter runs the kernels on the CPU.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def logging_of_tests() -> Iterator[None]:
    """The command line sets up logging for its process; here that is the tests'.

    Levels are put back before a test as well: what a module's fixture ran may have set them.
    """
    handlers = logging.getLogger().handlers[:]
    _no_levels()
    yield
    logging.getLogger().handlers[:] = handlers
    _no_levels()


def _no_levels() -> None:
    for name in ("strata_sae",):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """Builds a finished store under the test's folder: `make_store(name="store", n_rows=1000, sites={...}, ...)`."""

    def make(name: str = "store", **options: Any) -> Path:
        return build_store(tmp_path / name, **options)

    return make
