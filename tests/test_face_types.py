"""A user's own type checker, outside of the checkout, knows the face's types: `mypy --strict` of a small script."""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """\
from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from torch import nn

import strata_sae as strata


def judge(folder: Path, model: nn.Module) -> dict[str, float | None]:
    store = strata.open_store(folder)
    assert_type(store, strata.ActivationStore)
    first, last = store.plan.splits["heldout"]
    rows = torch.from_numpy(store.float_rows("blocks.0.hook_resid_post", first, last))
    sae = strata.load("runs/demo/topk@blocks.0.hook_resid_post", "strata")
    assert_type(sae, strata.TrainedSAE)
    codes = sae.encode(rows, inference="k")
    assert_type(codes, strata.SparseCodes | strata.DenseCodes)
    print(codes.to_dense().shape, sae.decode(codes).shape, sae.provenance.store_ids, sae.threshold)
    either = strata.load("hf://owner/repo")
    assert_type(either, strata.TrainedSAE | strata.ForeignSAE)
    if isinstance(either, strata.ForeignSAE):
        assert_type(either.source.format, str)
    with strata.attach(model, either, add={3: 2.0}, ablate=[4], where=lambda ids: ids > 0) as attached:
        model(rows)
        assert_type(attached, strata.Attached)
        assert_type(attached.codes, strata.PositionCodes)
        assert_type(attached.codes.entries(), strata.CodeEntries)
    made = strata.write_store("data/mine", {"site": np.zeros((4, 2), np.float32)})
    with strata.Batches(made, "site", batch_size=2, seed=0) as batches:
        rows_BM, numbers_B = batches.batch(0)
        print(rows_BM.shape, numbers_B.shape)
    saes = strata.train("config.yaml", only=["a"])
    assert_type(saes, dict[str, strata.TrainedSAE])
    out = strata.export(saes["a@site"], "saelens", "out")
    assert_type(out, Path)
    pooled = strata.pool(made, "site", filters=strata.Filters(drop_bos=True))
    assert_type(pooled, strata.Pooled)
    try:
        return strata.evaluate("config.yaml")["a@site"]
    except (strata.ConfigError, strata.CheckpointError, strata.StoreError) as error:
        print(error)
        return {}
"""
WRONG = {
    "strata.load(3)": "call-overload",
    "strata.opens_store('data/demo')": "attr-defined",
    "strata.attach(model, 'an SAE')": "arg-type",
    "strata.attach(model, sae, add=[3])": "arg-type",
    "strata.attach(model, sae, abl=3)": "call-arg",
    "strata.export(sae, format=1, out='out')": "arg-type",
    "strata.load('a', 'strata').source": "attr-defined",
    "strata.Filters(drop_boss=True)": "call-arg",
    "strata.evaluate('c.yaml').keys() + 1": "operator",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds a copy of the package as a wheel installs it; what it needs is that of the tests."""
    folder = tmp_path_factory.mktemp("outside")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    packages = next((folder / "env").glob("lib*/python*/site-packages"))
    files = shutil.ignore_patterns("__pycache__")
    shutil.copytree((ROOT / "strata_sae").resolve(), packages / "strata_sae", symlinks=False, ignore=files)
    (packages / "needed.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    # Half a minute of reading torch's own types says nothing of ours.
    skipped = "torch.*,scipy.*,sklearn.*,transformers.*,numba.*,zarr.*,obstore.*,huggingface_hub.*"
    (folder / "mypy.ini").write_text(f"[mypy]\n[mypy-{skipped}]\nfollow_imports = skip\n", encoding="utf-8")
    return folder


def checked(outside: Path, text: str) -> list[str]:
    """What mypy prints of a script."""
    (outside / "user.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini", "--no-error-summary"]
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    done = subprocess.run(
        [*command, "--python-executable", "env/bin/python", "user.py"],
        cwd=outside,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_script_against_the_face_is_without_errors_and_wrong_calls_are_found(outside: Path) -> None:
    assert checked(outside, SCRIPT) == []
    imports = "from torch import nn\n\nimport strata_sae as strata\n\n\n"
    head = f"{imports}def f(model: nn.Module, sae: strata.TrainedSAE) -> None:\n"
    found = checked(outside, head + "".join(f"    {call}\n" for call in WRONG))
    for number, (call, code) in enumerate(WRONG.items(), head.count("\n") + 1):
        lines = [line for line in found if line.startswith(f"user.py:{number}: error: ")]
        assert any(f"[{code}]" in line for line in lines), f"{call}: {lines}"
    (next((outside / "env").glob("lib*/python*/site-packages/strata_sae/py.typed"))).unlink()
    shutil.rmtree(outside / ".mypy_cache")
    assert any("py.typed" in line for line in checked(outside, SCRIPT)), (
        "the control: without the marker it knows nothing"
    )
