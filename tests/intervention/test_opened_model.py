"""Which SAEs of a run a text is shown to, which not, and runs whose store is of no model."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml

import strata_sae as strata
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.imports.saes import import_saes
from strata_sae.pipeline.queries.asked_model import Edit
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import read_record, with_fingerprint, write_record
from strata_sae.pipeline.runs.records import Ending, SAERecord
from support import fake_format
from support.asked_run import OTHER, ROUGH, SAME, TEXT, TRANSCODER, asked, make
from support.judged_run import STREAM, rough
from support.tiny_models import D_MODEL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the store, the model and the run, which no test changes."""
    folder = tmp_path_factory.mktemp("made")
    make(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    """A run of the test's own, on that store."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return RunFolder(tmp_path / "runs/small")


def changed(folder: VariantFolder, **training: Any) -> None:
    """The SAE's record with other settings of training, and an ending that fits it."""
    record = read_record(folder.config, SAERecord).record
    trained = record.training.model_copy(update=training)
    other = with_fingerprint(record.model_copy(update={"training": trained}))
    ending = read_record(folder.training, Ending).record
    write_record(folder.config, other)
    write_record(folder.training, ending.model_copy(update={"fingerprint": other.fingerprint}))


def test_saes_of_standardised_rows_are_left_out_by_name(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    changed(run.variant(OTHER), input_scale="per_document")
    model = asked(run)
    assert sorted(model.prompt(TEXT).clean.active) == sorted(name.name for name in run.trained() if name.name != OTHER)
    assert f"{OTHER}: left out: was trained on rows standardised by document" in caplog.text
    with pytest.raises(strata.ConfigError, match=f"{OTHER}: was trained on rows standardised"):
        model.prompt(TEXT, [Edit(OTHER, 0, "ablate")])
    with pytest.raises(strata.ConfigError, match=f"{OTHER}: was trained on rows standardised"):
        asked(run, (OTHER,)).load()


def test_a_training_that_diverged_is_left_out(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder = run.variant(SAME)
    ending = read_record(folder.training, Ending).record
    write_record(folder.training, ending.model_copy(update={"status": "diverged"}))
    assert SAME not in asked(run, ()).prompt(TEXT).clean.active
    assert f"{SAME}: left out: its training has diverged" in caplog.text
    with pytest.raises(strata.ConfigError, match=f"{SAME}: its training has diverged"):
        asked(run, (SAME,)).load()


def test_only_what_is_asked_for_is_read(run: RunFolder) -> None:
    run.variant(OTHER).weights.write_bytes(b"damaged")
    model = asked(run, (ROUGH,))
    assert list(model.prompt(TEXT).clean.active) == [ROUGH]
    assert list(model.opened().whole.sites) == [STREAM]
    with pytest.raises(strata.ConfigError, match="none@x: no trained SAE"):
        asked(run, ("none@x",)).load()
    with pytest.raises(strata.CheckpointError):
        asked(run).load()


def test_an_sae_of_another_store_is_refused(run: RunFolder) -> None:
    folder = run.variant(SAME)
    record = read_record(folder.config, SAERecord).record
    other = with_fingerprint(record.model_copy(update={"store_id": "0" * 64}))
    write_record(folder.config, other)
    write_record(
        folder.training,
        read_record(folder.training, Ending).record.model_copy(update={"fingerprint": other.fingerprint}),
    )
    with pytest.raises(strata.CheckpointError, match="trained on store 0000000000000000"):
        asked(run, (SAME,)).load()


def test_a_run_without_saes_is_refused(run: RunFolder) -> None:
    for folder in run.trained():
        folder.training.unlink()
    with pytest.raises(strata.ConfigError, match="has no SAE that a text can be shown to"):
        asked(run).load()


def test_imported_saes_are_shown(run: RunFolder, tmp_path: Path) -> None:
    fake_format.write(
        tmp_path / "theirs", {"architecture": "relu", "d_sae": 2 * D_MODEL}, rough(D_MODEL, seed=9), site=STREAM
    )
    data = yaml.safe_load(run.config.read_text())
    data["variants"]["theirs"] = {"from": {"format": fake_format.NAME, "path": str(tmp_path / "theirs")}}
    with contextlib.chdir(tmp_path), patch.dict(FORMATS, {fake_format.NAME: fake_format.FAKE}):
        import_saes(TrainConfig.model_validate(data), ["theirs"])
    name = f"theirs@{STREAM}"
    model = asked(run, (name, ROUGH))
    prompted = model.prompt(TEXT, [Edit(name, 3, "steer", 2.0)])
    assert list(prompted.clean.active) == [ROUGH, name]
    assert prompted.kl_S is not None
    assert prompted.kl_S[1:].min() > 0.0


def test_a_store_of_no_model_is_refused(made: Path, run: RunFolder, tmp_path: Path) -> None:
    rows_NM = np.random.default_rng(0).standard_normal((64, D_MODEL)).astype(np.float32)
    strata.write_store(tmp_path / "elsewhere", {STREAM: rows_NM})
    run.config.write_text(run.config.read_text().replace(str(made / "store"), str(tmp_path / "elsewhere")))
    with pytest.raises(strata.ConfigError, match="RUN: the store's plan names no language model"):
        asked(run).load()


def test_another_model_than_that_of_the_store_is_refused(made: Path, run: RunFolder, tmp_path: Path) -> None:
    (theirs,) = made.glob("model-*")
    folder = shutil.copytree(theirs, tmp_path / "other")
    run.config.write_text(run.config.read_text().replace(str(theirs), str(folder)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    with pytest.raises(strata.ConfigError, match="is not the model that the store was made from"):
        asked(run).load()


def test_rows_are_those_of_the_store(run: RunFolder) -> None:
    """A text of the corpus, shown to the model, gives the codes of the rows that extraction stored."""
    model = asked(run, (ROUGH, TRANSCODER))
    store = strata.open_store(model._config.store_path())
    n = min(int(np.flatnonzero(store.token_map("position", 1, 200) == 0)[0]) + 1, 32)  # packed sequences have 32 tokens
    tokens = [store.tokens[int(token_id)] for token_id in store.token_map("token_id", 0, n)]
    text = b"".join(token.data for token in tokens if not token.special).decode()
    active = model.prompt(text).clean.active[ROUGH]
    x_SM = torch.from_numpy(np.array(store.float_rows(STREAM, 0, n)))
    codes_SE = torch.relu(x_SM @ rough(D_MODEL)["W_enc"].T)
    for place in range(len(codes_SE)):
        part = slice(active.offset[place], active.offset[place + 1])
        assert torch.allclose(codes_SE[place][active.latents[part]], torch.from_numpy(active.values[part]), atol=1e-5)
