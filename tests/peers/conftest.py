"""These tests need other people's trainers, which have an environment of their own: `make peers`."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from torch._subclasses.fake_tensor import FakeTensor

from support import demo_run as making
from support.demo_run import DemoRun

NEEDED = ("sae_lens", "dictionary_learning", "tensorstore", "sparsify")
AS_TORCH_HAS_IT = FakeTensor.__new__


@pytest.fixture(autouse=True, scope="module")
def torch_as_it_is() -> None:
    """Without what nnsight, which dictionary_learning imports, puts in the place of a part of torch for good.

    That part takes fewer arguments than torch gives it, so no model could be surveyed any more in this process.
    """
    FakeTensor.__new__ = AS_TORCH_HAS_IT  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """Trained on real rows, for every library; not to be changed."""
    FakeTensor.__new__ = AS_TORCH_HAS_IT  # type: ignore[method-assign]  # a test of this module may have imported nnsight
    return making.make(tmp_path_factory.mktemp("demo_run"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # What the peers warn of is theirs to mend.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} not installed here; run: make peers"))
