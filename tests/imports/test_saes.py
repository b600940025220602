"""Published SAEs in a run's folder: what is written, left alone, made whole again and refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.formats import reading
from strata_sae.pipeline.formats.foreign import Foreign, Source
from strata_sae.pipeline.formats.hub import Address
from strata_sae.pipeline.imports.folder import write_imported
from strata_sae.pipeline.imports.saes import describe_imports, import_saes
from strata_sae.pipeline.kernels.selection import BREAK_EVEN_DENSITY
from strata_sae.pipeline.runs import claims
from strata_sae.pipeline.runs.chain import check_curves, check_weights, read_config, read_training
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.trained import load
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.stores import ActivationStore, Together
from strata_sae.stores.files.hashing import file_sha256
from support.fake_format import FILES, NAME, write
from support.imported_run import IMPORTED, OUT, TRAINED, TRANSCODER, config_of, folder_of, their
from support.small_run import SITE, TOPK
from support.small_saes import make_sae, rows
from support.small_store import build_store


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file's time and content."""
    return {str(path): (path.stat().st_mtime_ns, file_sha256(path)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", TRAINED)
def test_the_folder_is_what_training_leaves(here: Path, name: str):
    import_saes(config_of(TRAINED | IMPORTED))
    folder = folder_of(f"their-{name}")
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(
        path.name for path in folder_of(name).path.iterdir() if path.name in files_of_training()
    )
    record = read_config(folder).record
    ending = read_training(folder, record).record
    check_weights(folder, ending)
    check_curves(folder, ending)
    assert (ending.status, ending.n_steps, ending.rows) == ("finished", 0, 0)
    assert record.imported is not None
    assert record.imported.sha256 == {file: file_sha256(here / "theirs" / name / file) for file in FILES}
    assert (record.imported.format, record.imported.path) == (NAME, f"theirs/{name}")
    assert record.imported.facts == {"trained_by": "someone"}
    assert (record.objective, record.training.n_steps, record.training.batch_size) == ({}, 0, 0)
    assert folder.weights.read_bytes() == folder_of(name).weights.read_bytes()
    assert load(folder).sae.settings == load(folder_of(name)).sae.settings


def test_paths_that_the_files_name_are_masked(here: Path) -> None:
    said = json.loads((here / "theirs/topk" / FILES[0]).read_text())
    said["facts"] = {"checkpoint_path": "/home/zaphod/sae", "of": [{"text": "file:///home/zaphod/text"}], "d": 3}
    (here / "theirs/topk" / FILES[0]).write_text(json.dumps(said))
    import_saes(config_of({"their-topk": IMPORTED["their-topk"]}))
    folder = folder_of("their-topk")
    imported = read_config(folder).record.imported
    assert imported is not None
    assert "zaphod" not in folder.config.read_text()
    assert imported.facts["d"] == 3


def files_of_training() -> set[str]:
    return {"config.json", "weights.safetensors", "curves.jsonl", "training.json"}


def test_what_is_imported_stays_as_it_is(here: Path, caplog: pytest.LogCaptureFixture):
    config = config_of(IMPORTED)
    import_saes(config)
    before = files(here / "runs")
    caplog.set_level(logging.INFO)
    import_saes(config)
    assert files(here / "runs") == before
    assert f"their-topk@{SITE}: imported already" in caplog.messages
    shutil.rmtree("theirs")
    import_saes(config)
    assert files(here / "runs") == before
    assert [*describe_imports(config)] == [f"{name}@{SITE}: is imported already" for name in IMPORTED]


def test_what_another_process_imports_now_is_waited_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, run = config_of({"their-topk": IMPORTED["their-topk"]}), RunFolder(Path("runs/run"))
    held = claims.claim_in(run, f"their-topk@{SITE}")
    assert held is not None

    def pause() -> None:
        """Meanwhile the other one ends."""
        held.release()
        monkeypatch.setattr(claims, "pause", None)
        import_saes(config)

    monkeypatch.setattr(claims, "pause", pause)
    with caplog.at_level(logging.INFO):
        import_saes(config)
    assert f"their-topk@{SITE}: imported by another process" in caplog.text
    assert folder_of("their-topk").training.is_file()
    assert not run.claims.exists()


def test_the_same_files_may_lie_elsewhere(here: Path):
    import_saes(config_of(IMPORTED))
    Path("theirs").rename("moved")
    with pytest.raises(CheckpointError, match=r"path: was theirs/topk, and moved/none is not there"):
        import_saes(config_of({"their-topk": {"from": {"path": "moved/none"}}}))
    before = files(here / "runs")
    import_saes(config_of({"their-topk": {"from": {"path": "moved/topk"}}}))
    assert files(here / "runs") == before


def test_changed_files_are_refused_in_one_line(here: Path):
    import_saes(config := config_of(IMPORTED))
    weights = Path("theirs/topk") / FILES[1]
    tensors = safetensors.torch.load_file(weights)
    safetensors.torch.save_file({**tensors, "b_dec": tensors["b_dec"] + 1}, weights)
    with pytest.raises(CheckpointError, match="imported from other files than there are now") as refused:
        import_saes(config)
    assert "\n" not in str(refused.value)
    assert "strata runs delete RUN VARIANT" in str(refused.value)
    assert f"{FILES[1]}: sha256 was" in str(refused.value)
    shutil.rmtree(folder_of("their-topk").path)
    import_saes(config)
    assert torch.equal(load(folder_of("their-topk")).sae.b_dec, tensors["b_dec"] + 1)


def test_another_store_is_refused_in_one_line(here: Path):
    import_saes(config := config_of(IMPORTED))
    Path("store").unlink()
    build_store(here / "store", 500, {SITE: 16, OUT: 8})
    with pytest.raises(CheckpointError, match=f"store of {SITE}: was .*, is .*; delete it") as refused:
        import_saes(config)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("left", [["config.json"], ["config.json", "weights.safetensors"]])
def test_what_was_cut_short_is_made_whole(here: Path, left: list[str]):
    """training.json comes last: without it nothing is believed."""
    import_saes(config := config_of(IMPORTED))
    folder = folder_of("their-topk")
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    for path in folder.path.iterdir():
        if path.name not in left:
            path.unlink()
        elif path.name != "config.json":
            path.write_bytes(b"half")
    import_saes(config)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


def test_damaged_files_of_the_run_are_refused(here: Path):
    """Control of the above: with training.json there, the weights must be those that it names."""
    import_saes(config := config_of(IMPORTED))
    folder_of("their-topk").weights.write_bytes(b"half")
    with pytest.raises(CheckpointError, match="the file is damaged"):
        import_saes(config)


def test_a_transcoder_has_a_route(here: Path):
    import_saes(config_of({TRANSCODER: their(TRANSCODER)}))
    folder = folder_of(TRANSCODER, f"{SITE}-to-{OUT}")
    record = read_config(folder).record
    assert ([part.site for part in record.reads], [part.site for part in record.writes]) == ([SITE], [OUT])
    assert (record.d_in, record.d_out) == (16, 8)
    assert record.store_ids.keys() == {SITE, OUT}
    assert load(folder).sae.d_in == 16


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_and_threshold_comes_back(tmp_path: Path, architecture: str):
    sae = make_sae(architecture)
    build_store(tmp_path / "store", 200, {SITE: sae.d_in})
    stores = Together([ActivationStore.open(tmp_path / "store")])
    folder = VariantFolder(tmp_path / f"variants/x@{SITE}")
    foreign = Foreign(sae, Source(format=NAME, path="/some/where", sha256={"a": "0" * 64}))
    write_imported(folder, Route((SITE,), (SITE,)), foreign, stores, BREAK_EVEN_DENSITY)
    found = load(folder)
    assert found.record.imported is not None
    assert found.record.imported.path.startswith("where#"), "no path of this machine"
    codes, known = (one.encode_inference(rows()) for one in (found.sae, sae))
    assert torch.equal(codes.to_dense(), known.to_dense())
    assert torch.equal(found.sae.decode(codes), sae.decode(known))
    assert found.sae.inferences() == sae.inferences()


def test_the_config_may_name_the_sites(here: Path, caplog: pytest.LogCaptureFixture):
    said = json.loads((Path("theirs/topk") / FILES[0]).read_text())
    tensors = safetensors.torch.load_file(Path("theirs/topk") / FILES[1])
    write(here / "theirs/silent", said["sae"], tensors)
    with pytest.raises(ConfigError, match=r"variants\.x\.site: the files of theirs/silent do not say whose rows"):
        import_saes(config_of({"x": their("silent")}))
    import_saes(config_of({"x": their("silent", site=SITE)}))
    assert folder_of("x").training.exists()
    write(here / "theirs/other", said["sae"], tensors, site="blocks.7.hook_resid_post")
    import_saes(config_of({"y": their("other", site=SITE)}))
    assert "y: its files name the site blocks.7.hook_resid_post" in caplog.text
    assert folder_of("y").training.exists()


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"x": their("topk", site=OUT)}, "reads rows of width 16, and those of blocks.1.hook_mlp_out"),
        ({"x": their(TRANSCODER, writes=SITE)}, "writes rows of width 8"),
        ({"x": their("none")}, "variants.x.from: theirs/none"),
        ({"topk": their("topk")}, "holds an SAE that was trained here"),
        ({"x": {"from": {"path": "~nobody-of-that-name/x", "format": NAME}}}, "variants.x.from.path"),
        ({"x": {"from": {"path": "a\0b", "format": NAME}}}, "NUL"),
    ],
)
def test_what_does_not_fit_is_refused(here: Path, variants: dict[str, Any], said: str):
    before = files(here / "runs")
    with pytest.raises((ConfigError, CheckpointError)) as refused:
        import_saes(config_of(variants))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert files(here / "runs") == before


def test_a_site_that_the_store_lacks_is_refused(here: Path):
    said = json.loads((Path("theirs/topk") / FILES[0]).read_text())
    tensors = safetensors.torch.load_file(Path("theirs/topk") / FILES[1])
    write(here / "theirs/deep", said["sae"], tensors, site="blocks.9.hook_resid_post")
    with pytest.raises(ConfigError, match=r"'blocks.9.hook_resid_post' is not in the store .* extract it"):
        import_saes(config_of({"x": their("deep")}))


def test_another_format_is_another_reading(here: Path, monkeypatch: pytest.MonkeyPatch):
    from strata_sae.pipeline.formats import FORMATS

    import_saes(config_of(IMPORTED))
    monkeypatch.setitem(FORMATS, "other", FORMATS[NAME])
    other = {"from": {"format": "other", "path": "theirs/topk"}}
    with pytest.raises(CheckpointError, match="format: was fake, is other"):
        import_saes(config_of({"their-topk": other}))


def test_a_trained_variant_does_not_take_an_imported_ones_folder(here: Path):
    from strata_sae.pipeline.trainer.train import train

    import_saes(config_of(IMPORTED))
    with pytest.raises(CheckpointError, match="made by another config"):
        train(config_of({"their-topk": TOPK}), show_progress=False)


@pytest.mark.parametrize(("model", "is_said"), [("owner/large", True), ("another/Tiny", False)])
def test_files_of_another_model_are_said(here: Path, caplog: pytest.LogCaptureFixture, model: str, is_said: bool):
    Path("store").unlink()
    build_store(here / "store", 500, {SITE: 16, OUT: 8}, provenance={"model": {"model": model}})
    import_saes(config_of({"x": their("topk")}))
    line = f"its files name the model someone/tiny, and the store's rows are of {model}"
    assert (line in caplog.text) == is_said


def test_only_some(here: Path):
    import_saes(config_of(TRAINED | IMPORTED), ["their-t*"])
    assert folder_of("their-topk").training.exists()
    assert not folder_of("their-relu").path.exists()


def test_facts_that_are_too_much_are_left_out(here: Path):
    said = json.loads((Path("theirs/topk") / FILES[0]).read_text())
    tensors = safetensors.torch.load_file(Path("theirs/topk") / FILES[1])
    write(here / "theirs/wordy", said["sae"], tensors, site=SITE, facts={"notes": "x" * 10**6})
    write(here / "theirs/nan", said["sae"], tensors, site=SITE, facts={"loss": float("nan")})
    import_saes(config_of({"x": their("wordy"), "y": their("nan")}))
    for name in ("x", "y"):
        record = read_config(folder_of(name)).record
        assert record.imported is not None
        assert record.imported.facts == {}


def test_a_config_without_training_is_enough_where_nothing_is_trained(here: Path):
    from strata_sae.pipeline.config.run import RunConfig

    data = config_of(IMPORTED).model_dump(mode="json", by_alias=True, exclude={"training", "toy"})
    config = RunConfig.model_validate(data)
    assert TrainConfig.of(config, "c.yaml").training.filters.drop_bos
    mixed = config.model_copy(update={"variants": {**config.variants, **config_of(TRAINED).variants}})
    with pytest.raises(ConfigError, match="training: missing"):
        TrainConfig.of(mixed, "c.yaml")


@pytest.mark.parametrize("address", ["hf://owner/repo@main/layer8", "owner/repo/layer8"])
def test_from_the_hub_once(here: Path, monkeypatch: pytest.MonkeyPatch, address: str):
    """What is imported already is not asked for again, on a machine without a network too."""
    asked: list[str] = []

    def fetch(found: Address, names: Any) -> Path:
        asked.append(str(found))
        return here / "theirs/topk"

    monkeypatch.setattr(reading, "fetched", fetch)
    config = config_of({"x": {"from": {"path": address}}})
    known_as = "hf://" + address.removeprefix("hf://")
    assert [*describe_imports(config)] == [f"x: would be fetched and imported from {known_as}"]
    assert asked == []
    import_saes(config)
    record = read_config(folder_of("x")).record
    assert record.imported is not None
    assert record.imported.path == known_as
    import_saes(config)
    assert asked == [known_as]
    with pytest.raises(CheckpointError, match="path: was hf://owner/repo"):
        import_saes(config_of({"x": {"from": {"path": "hf://owner/other/layer8"}}}))
