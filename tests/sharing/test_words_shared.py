"""Explanations go with an SAE that is pushed, stand on its card as text, and are checked when they are pulled."""

from pathlib import Path

import pytest

from strata_sae.pipeline.commands.push import folder_at
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.export.fetching import pull
from strata_sae.pipeline.export.sending import push
from strata_sae.pipeline.runs.folders import RunFolder
from support.made_up_run import HOSTILE
from support.made_up_words import EXPLAINER, SCORER, latents, write_published, write_words
from support.sealing import edit
from support.small_run import SITE

NAMES = ("interpretation.json", "interpretations.csv", "published.json")


def explain(run: Path, texts: list[str], **changed: object) -> Path:
    folder = RunFolder(run).variant(f"topk@{SITE}").path
    explained = latents(list(range(1, 20)), texts)
    write_words(folder, explained, **changed)
    (folder / "interpretations.csv").write_text("neuron_idx\n", encoding="utf-8")
    write_published(folder, {2: texts[-1], 3: "of others"}, by=texts[0])
    return folder


def test_words_are_pushed_and_pulled(run: Path, tmp_path: Path) -> None:
    folder = explain(run, ["names of methods"])
    pushed = push(folder_at(run / "topk"), str(tmp_path / "there"))
    assert pushed.left_out == []
    found = pull(str(tmp_path / "there"), tmp_path / "out")
    for name in NAMES:
        assert (found.path / name).read_bytes() == (folder / name).read_bytes()
    card = (tmp_path / "there" / "README.md").read_text(encoding="utf-8")
    assert "## What latents mean" in card
    assert f"18 of 19 latents that were drawn are explained by {EXPLAINER}, and scored by {SCORER}" in card
    assert "Detection: median balanced accuracy 0." in card
    rows = [line for line in card.splitlines() if line.endswith(" |") and "names of methods" in line]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 11))
    assert "Others published explanations of 2 of " in card


def test_answers_of_models_stay_here(run: Path, tmp_path: Path) -> None:
    (RunFolder(run).answers).mkdir()
    (RunFolder(run).answers / "1.jsonl").write_text('{"answer": "of the text"}\n', encoding="utf-8")
    push(folder_at(run), str(tmp_path / "there"))
    assert not list((tmp_path / "there").rglob("answers"))
    assert not list((tmp_path / "there").rglob("1.jsonl"))


@pytest.mark.parametrize("name", ["interpretation.json", "published.json"])
def test_words_of_another_sae_are_left_out(run: Path, tmp_path: Path, name: str) -> None:
    folder = explain(run, ["names of methods"])
    edit(folder / name, {"weights_sha256": "0" * 64})
    pushed = push(folder_at(run / "topk"), str(tmp_path / "there"))
    assert [f"{name}: weights_sha256: is 0000" in line for line in pushed.left_out] == [True]
    sent = {path.name for path in (tmp_path / "there").iterdir()}
    left = {name} | ({"interpretations.csv"} if name == NAMES[0] else set())
    assert sent & {*NAMES} == {*NAMES} - left


def test_what_was_forged_before_a_push_is_not_put_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = explain(run, ["names of methods"])
    edit(folder / "published.json", lambda data: data["explanations"][0].update(latent=10**9))
    with monkeypatch.context() as patch:  # an older version that did not look
        patch.setattr("strata_sae.pipeline.runs.chain._check_latents", lambda *arguments: None)
        push(folder_at(run / "topk"), str(tmp_path / "there"))
    with pytest.raises(CheckpointError, match=r"published.json: tells of latent 1000000000") as caught:
        pull(str(tmp_path / "there"), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_card_cannot_be_broken_out_of_by_words(run: Path, tmp_path: Path) -> None:
    hostile = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    hostile += ["| a | b |", "\n\n# Title\n", "[a](https://example.org)", "```", "</table>"]
    explain(run, hostile, explainer=hostile[3], scorer="/home/zaphod/models/heart.gguf")
    push(folder_at(run / "topk"), str(tmp_path / "there"))
    card = (tmp_path / "there" / "README.md").read_text(encoding="utf-8")
    words = card.partition("## What latents mean")[2].partition("\n## ")[0]
    assert "<" not in words
    assert "](http" not in words
    assert "zaphod" not in words
    assert not {"\x00", "\x1b", "\u202e"} & {*words}
    table = [line for line in words.splitlines() if line.startswith("|")]
    assert len(table) == 12
    assert {line.replace("\\|", "").count("|") for line in table} == {5}
    assert not [line for line in words.splitlines()[1:] if line.startswith(("#", "```"))]
