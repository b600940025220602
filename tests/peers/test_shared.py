"""What was pushed is loaded as its card says: by SAELens from the hub, by dictionary_learning from disk."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import strata_sae as strata
from strata_sae.pipeline.commands.push import folder_at
from strata_sae.pipeline.export.fetching import pull
from strata_sae.pipeline.export.sending import push
from support import scored_run
from support.fake_hub import FakeHub
from support.sharing_places import hub
from support.small_run import SITE

pytestmark = pytest.mark.peers
__all__ = ["hub"]
RELATIVE = 1e-6
"""Of the largest code."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    scored_run.make(folder)
    return folder


@pytest.fixture
def rows(made: Path) -> torch.Tensor:
    store = strata.open_store(made / "store")
    return torch.from_numpy(store.rows(SITE, 0, 512)).float()


def test_what_was_pushed_is_loaded_as_the_card_says(
    made: Path, rows: torch.Tensor, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.chdir(tmp_path)
    push(folder_at(made / "runs/run/batch"), "hf://me/saes/one")
    card = hub.commits["me/saes"][-1]["README.md"].decode()
    pull("hf://me/saes/one", Path("OUT"))
    ours_BE = strata.load(f"OUT/batch@{SITE}").encode(rows).to_dense()
    torch.save(rows, "rows.pt")
    for library, codes_of in (("sae_lens", from_the_hub), ("dictionary_learning", from_disk)):
        (code,) = re.findall(rf"^```python\n(from {library}.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
        theirs_BE = codes_of(code, hub)
        assert (theirs_BE - ours_BE).abs().max() <= RELATIVE * ours_BE.abs().max()
        assert torch.equal(theirs_BE != 0, ours_BE != 0)


def from_the_hub(code: str, hub: FakeHub) -> torch.Tensor:
    """The codes of a process that reads where the hub is when it imports what asks it."""
    script = f"import torch\nrows = torch.load('rows.pt')\n{code}\ntorch.save(sae.encode(rows).detach(), 'codes.pt')\n"
    # Off line is what other libraries' evaluators are run; they say so to the whole process.
    environment = {
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(Path("hub").absolute()),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    codes = torch.load("codes.pt")
    assert isinstance(codes, torch.Tensor)
    return codes


def from_disk(code: str, _: FakeHub) -> torch.Tensor:
    names: dict[str, Any] = {}
    exec(code, names)
    codes = names["sae"].encode(torch.load("rows.pt")).detach()
    assert isinstance(codes, torch.Tensor)
    return codes
