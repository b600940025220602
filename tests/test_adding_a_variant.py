"""docs/adding_a_variant.md, done word for word: its files, its dict lines, its YAML, its dense references."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import support.dense_saes as dense_saes
import support.dense_terms as dense_terms
from strata_sae.pipeline.config import load
from strata_sae.pipeline.objective import TERMS
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.pipeline.runs.records import Ending
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.trainer.train import train
from support.gradient_parity import TOLERANCE, largest_difference, make_rows, make_sae, reference, step
from support.small_run import SITE, run_data, store_for_training

PAGE = (Path(__file__).parents[1] / "docs/adding_a_variant.md").read_text(encoding="utf-8")


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a section."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def module(path: Path, text: str) -> ModuleType:
    """A file with this text, imported."""
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Ending:
    """What training.json says of the YAML's one variant, trained on a small store."""
    monkeypatch.chdir(tmp_path)
    variants = yaml.safe_load(text)
    Path("run.yaml").write_text(yaml.safe_dump(run_data(store_for_training(tmp_path / "store"), variants)))
    config = load(Path("run.yaml"))
    train(config, show_progress=False)
    (name,) = variants
    return read_record(tmp_path / f"runs/run/variants/{name}@{SITE}/training.json", Ending).record


def test_the_new_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, dense = blocks("A new architecture", "python")
    made = module(tmp_path / "abs_topk.py", source)
    monkeypatch.setitem(ARCHITECTURES, "abs_topk", made.AbsTopK)
    written = module(
        tmp_path / "dense_abs_topk.py",
        f"from support.dense_saes import *\nfrom support.dense_saes import Any\n\n{dense}",
    )
    monkeypatch.setitem(dense_saes.ENCODERS, "abs_topk", written.abs_topk)
    monkeypatch.setitem(dense_saes.SAE_SETTINGS, "abs_topk", {"k": 4})

    sae, settings = make_sae("abs_topk"), {"reconstruction": TERMS["reconstruction"].Settings()}
    codes_BE = sae.encode(make_rows()).codes.to_dense()
    assert (codes_BE < 0).any(), "control: this is not TopK"
    _, expected = reference(sae, settings, make_rows(), None)
    assert largest_difference(step(settings, sae, make_rows()).gradients, expected) < TOLERANCE

    (text,) = blocks("A new architecture", "yaml")
    assert trained(tmp_path, monkeypatch, text).status == "finished"


def test_the_new_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, dense = blocks("A new loss term", "python")
    made = module(tmp_path / "l2.py", source)
    monkeypatch.setitem(TERMS, "l2", made.L2)
    written = module(tmp_path / "dense_l2.py", f"from support.dense_terms import *\nfrom typing import Any\n\n{dense}")
    monkeypatch.setitem(dense_terms.LOSSES, "l2", written.l2)

    sae = make_sae("topk")
    settings = {"reconstruction": TERMS["reconstruction"].Settings(), "l2": made.L2.Settings(weight=0.1)}
    _, expected = reference(sae, settings, make_rows(), None)
    found = step(settings, sae, make_rows()).gradients
    assert largest_difference(found, expected) < TOLERANCE
    _, without = reference(sae, {"reconstruction": settings["reconstruction"]}, make_rows(), None)
    assert largest_difference(found, without) > 1e-3, "control: the term matters"

    (text,) = blocks("A new loss term", "yaml")
    assert trained(tmp_path, monkeypatch, text).status == "finished"


def test_control_a_page_with_a_mistake_is_seen(tmp_path: Path) -> None:
    source, _ = blocks("A new architecture", "python")
    with pytest.raises(ImportError):
        module(tmp_path / "abs_topk.py", source.replace("sparse_where", "sparse_somewhere"))
