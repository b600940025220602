"""The page of what was pushed: every number beside its population, code that runs, and no markup of strangers."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from strata_sae.pipeline.export.card import pages_of
from strata_sae.pipeline.export.card_scores import scores_of
from strata_sae.pipeline.export.markdown import escaped
from strata_sae.pipeline.export.picture import Point, density_picture, frontier_picture
from strata_sae.pipeline.export.sending import push
from strata_sae.pipeline.export.shared import MANIFEST, SharedSAE, shared_run, shared_sae
from strata_sae.pipeline.runs.evaluation_records import Histogram, Model, StoreSummary
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import read_record, write_record
from strata_sae.pipeline.runs.records import ImportedPart
from strata_sae.stores import Bundle, FileRecord
from support.made_up_losses import made_up_losses
from support.made_up_run import HOSTILE
from support.small_run import SITE

TOPK = f"topk@{SITE}"
NAMED = {"model": "org/small", "revision": "abc", "architecture": "llama", "dtype": "float32"}
BUNDLE = Bundle(MANIFEST, {"kind": "variant"}, {"saelens/cfg.json": FileRecord("saelens/cfg.json", 1, "0" * 64)})


def with_store(run: Path, **changes: Any) -> None:
    """store.json with a model and a text that have names."""
    path = RunFolder(run).store
    store = read_record(path, StoreSummary).record.model_dump(mode="json")
    store["corpus"] = {"sources": [{"path": "org/texts", "kind": "dataset", "documents": 41}], "license": "MIT"}
    store["model"] = NAMED
    write_record(path, StoreSummary.model_validate(store | changes))


def card_of(sae: SharedSAE, url: str = "hf://me/saes/one", bundle: Bundle = BUNDLE) -> str:
    return pages_of(sae, bundle, url)["README.md"].decode()


def head_of(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)
    assert found
    head = yaml.safe_load(found[1])
    assert isinstance(head, dict)
    return head


def sae(run: Path) -> SharedSAE:
    return shared_sae(VariantFolder(run / "variants" / TOPK))


def test_a_card_says_what_it_is_of(run: Path) -> None:
    with_store(run)
    made_up_losses(run, TOPK)
    card = card_of(sae(run))
    assert head_of(card) == {
        "base_model": ["org/small"],
        "library_name": "saelens",
        "license": "mit",
        "tags": ["sparse-autoencoder", "interpretability", "strata", "saelens"],
    }
    for words in (
        "| model | org/small, revision abc, computed in float32 |",
        "| text | org/texts |",
        f"`{SITE}`",
        '"architecture": "topk"',
        "| as trained | 163 | 5 | R² | 0.53",
        "| all but special | 163 | 5 | L0 |",
        "- all but special: all rows but those of BOS and special tokens",
        "### Losses of the language model",
        "| all rows but those of special tokens (SAEBench): 637 | 642 | 12 | KL recovered | 0.8813 | 0.8788 to ",
        f"strata pull hf://me/saes/one OUT --expect {BUNDLE.id}",
        'SAE.from_pretrained("me/saes", "one/saelens")',
        "](README.svg)",
        "## Limits",
    ):
        assert words in card, words
    assert "dictionary_learning" not in card.replace('"form": "dictionary_learning"', ""), "its files are not there"
    assert "was not measured" not in card


def test_only_libraries_whose_files_are_there_are_named(run: Path) -> None:
    names = ("saelens/cfg.json", "dictionary_learning/ae.pt")
    for there in ((), names[:1], names[1:], names):
        bundle = Bundle(MANIFEST, {}, {name: FileRecord(name, 1, "0" * 64) for name in ("x", *there)})
        card = card_of(sae(run), "s3://bucket/x", bundle)
        assert ("SAE.load_from_disk(" in card) == (names[0] in there)
        assert ("load_dictionary(" in card) == (names[1] in there)
        assert head_of(card)["library_name"] == ("saelens" if names[0] in there else "strata-sae")


def test_intervals_are_those_of_the_comparisons(run: Path) -> None:
    """And are not shown where there are none: 5 documents are too few."""
    assert all(score.interval is None for score in scores_of(sae(run)))
    from strata_sae.pipeline.export.card_scores import _intervals
    from support.compared_run import Documents

    sums = Documents(40).sums(0.2, 32.0)
    found = _intervals(sums)
    r2, l0 = found["r2_pooled"], found["l0"]
    assert r2 is not None
    assert l0 is not None
    assert r2.low < 0.8 < r2.high
    assert l0.low < 32 < l0.high


def test_a_run_has_a_line_for_each_sae_and_population(run: Path, tmp_path: Path) -> None:
    shared = shared_run(RunFolder(run))
    pages = pages_of(shared, BUNDLE, "s3://bucket/run")
    card = pages["README.md"].decode()
    for name in ("topk", "relu", "batch"):
        assert len(re.findall(rf"^\| `{name}@{SITE}` \| 64 \| ", card, flags=re.MULTILINE)) == 2
    assert "`strata report OUT` writes" in card
    assert "As `config.yaml` asks for them" in card
    assert str(tmp_path.parent) not in card, "the store's path is masked"
    assert {text.text for text in ET.fromstring(pages["README.svg"]).findall(".//{*}text")} >= {"topk", "relu", "batch"}


def test_a_card_cannot_be_broken_out_of(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in [
        *HOSTILE,
        "x\n---\n```\n# big",
        "[a](http://evil)",
        "![a](http://evil)",
        "`",
        "| a | b |",
        "$x$",
        "~~x~~",
    ]:
        named = {"model": text, "revision": text, "dtype": text, "architecture": text}
        monkeypatch.setattr("strata_sae.pipeline.export.card._store_of", lambda _: store)  # noqa: B023
        store = StoreSummary.model_construct(
            **read_record(RunFolder(run).store, StoreSummary).record.__dict__ | {"model": Model(**named)}
        )
        card = card_of(sae(run))
        assert card.count("\n---\n") == 1
        assert card.count("```") == 2 + 2 * 3
        for forbidden in ("<script", "<img", "<h1", r"(?<!\\)\]\(http", "\n# big", "<!--"):
            assert not re.search(forbidden, card), text
        assert head_of(card)["tags"]
        card.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_one_line_without_markup(text: str) -> None:
    found = escaped(text)
    assert "\n" not in found
    assert not re.search(r"[<>]|(?<!\\)[`*_\[\]|~$]", found)


def test_pictures_are_images_whatever_is_drawn() -> None:
    numbers = (0.0, 1.0, 1 + 1e-16, 5e-324, 1e11, -3.0, 1e300)
    for l0 in numbers:
        for r2 in numbers:
            picture = frontier_picture("a <site>", [Point("<b>&\ud800", l0, r2), Point("b" * 200, 3.0, 0.5)])
            assert (picture is None) == (1e300 in (l0, r2))
            if picture:
                ET.fromstring(picture.encode())
    assert frontier_picture("", []) is None
    edges = [-6.0, -3.0, 0.0]
    drawn = density_picture(Histogram(log10_edges=edges, counts=[3, 5]), 100)
    assert drawn is not None
    assert len(ET.fromstring(drawn).findall(".//{*}rect")) == 3, "two bars and the ground"
    assert density_picture(Histogram(log10_edges=edges, counts=[0, 0]), 100) is None


def test_what_a_card_says_to_run_runs(run: Path, tmp_path: Path) -> None:
    from strata_sae.pipeline.commands.push import folder_at
    from strata_sae.pipeline.export.fetching import pull

    pushed = push(folder_at(run / "topk"), str(tmp_path / "there"))
    card = (tmp_path / "there/README.md").read_text()
    (line,) = re.findall(r"^strata pull (\S+) OUT --expect (\S+)$", card, flags=re.MULTILINE)
    assert line[1] == pushed.id
    pull(line[0], Path("OUT"), expected_id=line[1])
    (code,) = re.findall(r"^```python\n(import strata_sae.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"rows": torch.randn(3, 16)}
    exec(code, names)
    assert names["codes"].to_dense().shape == (3, 64)


@pytest.mark.parametrize("n_imported", [0, 1, 3])
def test_a_run_says_which_of_its_saes_another_library_trained(run: Path, n_imported: int) -> None:
    shared = shared_run(RunFolder(run))
    part = ImportedPart(format="saelens", path="theirs", sha256={}, facts={})
    for number, sae in enumerate(shared.saes[:n_imported]):
        record = sae.trained.record.model_copy(update={"imported": part})
        shared.saes[number] = dataclasses.replace(sae, trained=dataclasses.replace(sae.trained, record=record))
    assert len(shared.saes) == 3
    card = pages_of(shared, BUNDLE, "hf://me/saes/one")["README.md"].decode()
    said = f"- Another library trained `{shared.saes[0].name}`, on a text that is not known here."
    assert (said in card) == (n_imported == 1)
    assert ("trained on stored activations" in card) == (n_imported < 3)
