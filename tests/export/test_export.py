"""`strata export`: a whole folder or none, the same bytes each time, and where the SAE came from in it."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import strata_sae as strata
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.export import exporting
from strata_sae.pipeline.export.exporting import export, export_sae
from strata_sae.pipeline.formats import FORMATS, Format
from strata_sae.pipeline.formats.foreign import Handed
from strata_sae.pipeline.runs.records import ImportedPart, SitePart
from support import sealing
from support.made_up_losses import made_up_losses
from support.scored_run import SAES
from support.small_run import SITE

TOPK, BATCH = f"topk@{SITE}", f"batch@{SITE}"
OUT = Path("out/of here")


def command(run: Path, name: str = TOPK, format: str = "saelens", out: Path = OUT) -> Result:
    return CliRunner().invoke(
        app, ["--quiet", "export", str(run / name), "--format", format, "--out", str(out)], catch_exceptions=False
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said_by(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "cfg.json").read_text())["metadata"]["strata"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("address", [TOPK, f"variants/{TOPK}", "topk"])
def test_all_addresses_give_the_sae(run: Path, address: str) -> None:
    assert command(run, address).exit_code == 0
    ours, theirs = strata.load(run / TOPK), FORMATS["saelens"].read
    assert theirs is not None
    x_BM = torch.randn(100, 16) * 5
    assert torch.equal(ours.encode(x_BM).to_dense(), theirs(OUT).sae.encode_inference(x_BM).to_dense())
    assert sorted(path.name for path in OUT.parent.iterdir()) == [OUT.name], "nothing is left beside it"


def test_the_same_bytes_each_time_and_into_an_empty_folder(run: Path) -> None:
    for out in ("a", "b"):
        Path(out).mkdir()
        assert export(run / BATCH, "saelens", Path(out)) == Path(out)
    assert contents(Path("a")) == contents(Path("b"))
    export(run / TOPK, "saelens", Path("c"))
    assert contents(Path("a")) != contents(Path("c"))


def test_where_it_came_from(run: Path, made: Any) -> None:
    export(run / BATCH, "saelens", OUT)
    trained, said = strata.load(run / BATCH), said_by(OUT)
    origin = trained.provenance
    assert said["store_ids"] == {SITE: origin.store_ids[SITE]}
    assert said["config_fingerprint"] == origin.config.fingerprint
    assert said["weights_sha256"] == origin.weights_sha256
    assert (said["run"], said["variant"], said["training_steps"]) == ("run", "batch", 20)
    assert said["plan_id"] == origin.config.plan_id
    assert said["config"]["sae"]["k"] == 4
    assert said["strata_version"]
    metrics = json.loads((trained.folder.metrics).read_text())
    for name, of in (("as_trained", metrics), ("all_but_special", metrics["all_but_special"])):
        part = said["scores"]["populations"][name]
        assert (part["n_rows"], part["n_documents"]) == (of["n_rows"], of["n_documents"])
        assert part["metrics"]["r2_pooled"] == of["metrics"]["r2_pooled"] | {"interval": None}, "5 documents have none"
    text = (OUT / "cfg.json").read_text()
    assert "zaphod" in str(made.folder)
    assert "zaphod" not in text
    assert str(Path.home()) not in text


def test_intervals_and_losses_go_with_the_scores(run: Path) -> None:
    def widened(record: dict[str, Any]) -> None:
        for table in record["tables"]:
            for sae in table["saes"]:
                if table["metric"] == "r2_pooled" and sae["name"] == TOPK:
                    sae["value"]["interval"] = {"low": 0.25, "high": 0.75}

    sealing.edit(run / "comparisons.json", widened)
    made_up_losses(run, TOPK)
    export(run / TOPK, "saelens", OUT)
    scores = said_by(OUT)["scores"]
    assert scores["populations"]["as_trained"]["metrics"]["r2_pooled"]["interval"] == [0.25, 0.75]
    recovered = scores["with_model"]["forms"]["saebench"]["kl_recovered"]
    losses = json.loads((run / "variants" / TOPK / "model_metrics.json").read_text())["forms"]["saebench"]
    measured = losses["kl_recovered"]
    assert recovered == {
        "value": measured["value"],
        "interval": [measured["interval"]["low"], measured["interval"]["high"]],
    }
    assert scores["with_model"]["n_documents"] == 12


def test_model_and_text_are_those_of_the_store(run: Path) -> None:
    def named(record: dict[str, Any]) -> None:
        record["model"]["model"] = "some/model"
        record["corpus"]["sources"] = [{"kind": "dataset", "path": "some/text"}, {"kind": "python_docs"}]
        record["config"]["corpus"] = {"mode": "packed", "context_length": 64, "prepend_bos": True}

    sealing.edit(run / "store.json", named)
    export(run / TOPK, "saelens", OUT)
    metadata = json.loads((OUT / "cfg.json").read_text())["metadata"]
    assert (metadata["model_name"], metadata["dataset_path"]) == ("some/model", "some/text, python_docs")
    assert (metadata["context_size"], metadata["prepend_bos"]) == (64, True)
    sealing.edit(run / "store.json", {"store_id": "00" * 32})
    export(run / TOPK, "saelens", Path("other"))
    metadata = json.loads((Path("other") / "cfg.json").read_text())["metadata"]
    assert (metadata["model_name"], metadata["context_size"]) == ("none", 512), "of config.yaml: it is another store's"


def test_an_sae_without_scores_and_kept_weights(run: Path) -> None:
    kept = next((run / "variants" / TOPK / "checkpoints").iterdir())
    export(kept, "saelens", Path("kept"))
    assert (said_by(Path("kept"))["scores"], said_by(Path("kept"))["training_steps"]) == ({}, 10)
    for name in ("metrics.json", "features.safetensors"):
        (run / "variants" / TOPK / name).unlink()
    export(run / TOPK, "saelens", OUT)
    assert said_by(OUT)["scores"] == {}
    assert contents(OUT)["sae_weights.safetensors"] != contents(Path("kept"))["sae_weights.safetensors"]


def full(run: Path) -> None:
    OUT.mkdir(parents=True)
    (OUT / "a file").touch()


def a_file(run: Path) -> None:
    OUT.parent.mkdir()
    OUT.touch()


def a_link(run: Path) -> None:
    OUT.parent.mkdir()
    OUT.symlink_to(run)


def damaged_weights(run: Path) -> None:
    path = run / "variants" / TOPK / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def scores_of_another(run: Path) -> None:
    (run / "variants" / TOPK / "metrics.json").write_bytes((run / "variants" / BATCH / "metrics.json").read_bytes())


def torn_store(run: Path) -> None:
    (run / "store.json").write_text("{")


Damage = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("damage", "arguments", "code", "said"),
    [
        (full, {}, 2, "is there already; name a folder that does not exist, or is empty"),
        (a_file, {}, 2, "is there already"),
        (a_link, {}, 2, "is there already"),
        (a_file, {"out": OUT / "x"}, 2, "of here is a file, so x cannot lie in it"),
        (None, {"format": "saelen"}, 2, "did you mean 'saelens'?"),
        (None, {"name": f"nobody@{SITE}"}, 2, "no trained SAE"),
        (None, {"name": BATCH, "format": "sparsify"}, 2, "--format saelens has a class for it"),
        (None, {"name": SAES[-1]}, 1, "training diverged at step 1"),
        (damaged_weights, {}, 1, "the file is damaged"),
        (scores_of_another, {}, 1, "metrics.json: sae: is"),
        (torn_store, {}, 1, "store.json: not readable as JSON"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(
    run: Path, damage: Damage | None, arguments: dict[str, Any], code: int, said: str
) -> None:
    if damage is not None:
        damage(run)
    before = contents(Path())
    result = command(run, **arguments)
    assert result.exit_code == code
    assert said in result.output
    assert len(result.output.splitlines()) == 1
    assert contents(Path()) == before


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt(), ValueError("a bug")])
def test_a_folder_is_whole_or_not_there(run: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(_: Handed, out: Path) -> None:
        (out / "cfg.json").write_text("half")
        raise error

    monkeypatch.setitem(exporting.FORMATS, "saelens", Format(lambda _: False, None, broken))
    with pytest.raises(type(error)):
        export(run / TOPK, "saelens", OUT)
    assert list(OUT.parent.iterdir()) == []


def test_a_file_that_may_not_grow_is_told_as_one(run: Path) -> None:
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from strata_sae.pipeline.export.exporting import export\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "try:\n"
        f"    export(Path({str(run / TOPK)!r}), 'dictionary_learning', Path('out'))\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "File too large"), done.stderr
    assert not Path("out").exists()


def test_what_no_format_can_say(run: Path) -> None:
    trained = strata.load(run / TOPK)
    record = trained.record
    parts = [SitePart(site=site, width=16, scale=1.0) for site in ("a", "b")]
    per_document = record.training.model_copy(update={"input_scale": "per_document"})
    for changes, said in (
        ({"training": per_document}, "per_document standardises rows by their document"),
        ({"reads": parts, "writes": parts}, "reads 2 sites and writes 2"),
    ):
        other = dataclasses.replace(trained, record=record.model_copy(update=changes))
        for format in ("saelens", "sparsify"):
            with pytest.raises(ConfigError, match=said):
                export_sae(other, format, OUT)
    diverged = dataclasses.replace(trained, training=trained.training.model_copy(update={"status": "diverged"}))
    with pytest.raises(ConfigError, match="diverged"):
        export_sae(diverged, "saelens", OUT)
    assert not OUT.exists()


def test_an_imported_sae_says_whose_it_is(run: Path) -> None:
    trained = strata.load(run / TOPK)
    imported = ImportedPart(format="saelens", path="/home/zaphod/sae", sha256={"cfg.json": "5b" * 32}, facts={"a": 1})
    export_sae(
        dataclasses.replace(trained, record=trained.record.model_copy(update={"imported": imported})), "saelens", OUT
    )
    said = said_by(OUT)["config"]["imported"]
    assert said["sha256"] == {"cfg.json": "5b" * 32}
    assert set(said) == {"format", "path", "sha256"}
    assert "zaphod" not in (OUT / "cfg.json").read_text()
    assert json.loads((OUT / "cfg.json").read_text())["metadata"]["dataset_path"] is None


def test_a_record_that_is_not_the_sae_beside_it(run: Path) -> None:
    sealing.edit(run / "variants" / TOPK / "training.json", {"fingerprint": "00" * 32})
    with pytest.raises(CheckpointError, match="does not belong to the config beside it"):
        export(run / TOPK, "saelens", OUT)


def test_neither_model_nor_peers_are_loaded(run: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('transformers', 'datasets', 'sae_lens', 'huggingface_hub'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from strata_sae.pipeline.export.exporting import export\n"
        f"export(Path({str(run / TOPK)!r}), 'saelens', Path('out'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(contents(Path("out"))) == ["cfg.json", "sae_weights.safetensors"]
