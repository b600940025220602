"""A run with codes, opened: what it says of rows is what its SAEs say."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.queries.opened import CodedRun
from strata_sae.stores import Token, write_store
from support.coded_run import RUN, SITE, WORDS, make, opened, rows, token_map


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(folder := tmp_path_factory.mktemp("coded"))
    return folder


@pytest.fixture(scope="module")
def run(made: Path) -> CodedRun:
    return opened(made)


@pytest.mark.parametrize("name", ["topk", "wide"])
def test_codes_are_those_of_the_sae(run: CodedRun, name: str) -> None:
    sae = run.saes[f"{name}@{SITE}"]
    rows_NM = torch.from_numpy(np.array(run.stores.stores[0].rows(SITE, 0, run.text.n_rows)))
    dense_NE = sae.trained.encode(rows_NM).to_dense().numpy()
    for latent in range(sae.d_sae):
        rows, values = sae.codes.rows_of(latent)
        assert rows.tolist() == np.flatnonzero(dense_NE[:, latent]).tolist()
        assert values.tobytes() == dense_NE[rows, latent].tobytes()


def test_populations_differ_by_bos(run: CodedRun) -> None:
    sae = run.saes[f"topk@{SITE}"]
    assert sae.kept("all").all()
    assert (sae.kept() == (run.text.position > 0)).all()


ASKED = {
    "codes": ["codes", "runs/run"],
    "analyze": ["analyze", f"runs/run/topk@{SITE}", "pairs"],
    "explore": ["explore", "runs/run", "--export", "pages", "--latents", "1"],
    "export": ["export", f"runs/run/topk@{SITE}", "--format", "delphi", "--out", "cached"],
}


@pytest.mark.parametrize("asked", ASKED)
def test_codes_are_never_read_beside_another_store(
    asked: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows would be shown as the text of the codes. Control: the same command with the store that they are of."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / RUN / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(f"{made}/store", "store"), encoding="utf-8")
    assert CliRunner().invoke(app, ["--quiet", *ASKED[asked]]).exit_code == 0
    for name in ("pages", "cached"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    shutil.rmtree("store")
    vocabulary = {number: Token(f" other{number}".encode(), special=False) for number in range(len(WORDS))}
    write_store("store", {SITE: rows()[::-1]}, tokens=token_map(), vocabulary=vocabulary)
    result = CliRunner().invoke(app, ["--quiet", *ASKED[asked]])
    assert result.exit_code == 1
    assert "set store.path to the store" in result.stderr
    assert not (tmp_path / "pages").exists()
    assert not (tmp_path / "cached").exists()
