"""These tests need other people's trainers, which have an environment of their own: `make peers`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

NEEDED = ("sae_lens", "dictionary_learning", "tensorstore")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # What the peers warn of is theirs to mend.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} not installed here; run: make peers"))
