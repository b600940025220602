"""What is known of latents in words: of both files beside an SAE, of its own weights and codes alone, or nothing."""

import shutil
from pathlib import Path

import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.queries.explanations import Explained, explanations_of
from strata_sae.pipeline.queries.opened import CodedSAE, open_coded
from strata_sae.pipeline.runs.interpretation_records import InterpretationRecord
from strata_sae.pipeline.runs.record_files import read_record
from support.coded_run import RUN, SITE, make
from support.made_up_words import EXPLAINER, latents, write_published, write_words
from support.sealing import edit

TEXTS = ["names of methods", "<script>alert(1)</script>"]
NUMBERS = [1, 5, 8, 40]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(folder := tmp_path_factory.mktemp("coded"))
    return folder / RUN


@pytest.fixture
def sae(made: Path, tmp_path: Path) -> CodedSAE:
    shutil.copytree(made, tmp_path / "run")
    return open_coded(tmp_path / "run").saes[f"topk@{SITE}"]


def test_without_files_nothing_is_known(sae: CodedSAE) -> None:
    found = explanations_of(sae)
    assert len(found) == 0
    assert [found.of(latent) for latent in range(sae.d_sae)] == [None] * sae.d_sae
    assert found.all_of(3) == []


def test_what_was_made_here_has_its_scores(sae: CodedSAE) -> None:
    explained = latents(NUMBERS, TEXTS)
    write_words(sae.folder.path, explained, sae.codes.id)
    found = explanations_of(sae)
    assert len(found) == 3, "the last one failed"
    for place, latent in enumerate(NUMBERS[:3]):
        one, detection = found.of(latent), explained[place].scores["detection"]
        assert detection.balanced_accuracy is not None
        assert detection.interval is not None
        assert one == Explained(
            text=TEXTS[place % 2],
            by=EXPLAINER,
            is_published=False,
            balanced_accuracy=detection.balanced_accuracy,
            lift=detection.balanced_accuracy - 0.6,
            rating=1 + place,
            interval=(detection.interval.low, detection.interval.high),
            n_failed=place % 2,
        )
        assert f"balanced accuracy {detection.balanced_accuracy:.3f} (" in one.score
        assert ("windows without answer" in one.score) == bool(place % 2)
    assert found.of(40) is None
    assert found.of(2) is None


def test_an_explanation_without_scores_has_none(sae: CodedSAE) -> None:
    (one,) = latents([7], TEXTS)
    write_words(sae.folder.path, [one.model_copy(update={"scores": {}})], sae.codes.id)
    found = explanations_of(sae).of(7)
    assert found is not None
    assert (found.balanced_accuracy, found.lift, found.interval) == (None, None, None)
    assert (found.n_failed, found.score) == (0, "")


def test_published_ones_come_after_and_fill_what_is_not_known(sae: CodedSAE) -> None:
    write_words(sae.folder.path, latents(NUMBERS, TEXTS), sae.codes.id)
    write_published(sae.folder.path, {1: "of others", 40: "of others", 47: "the last"})
    found = explanations_of(sae)
    assert len(found) == 5
    assert [one.text for one in found.all_of(1)] == [TEXTS[0], "of others"]
    assert [(one.text, one.is_published) for one in map(found.of, (1, 40, 47)) if one] == [
        (TEXTS[0], False),
        ("of others", True),
        ("the last", True),
    ]
    last = found.of(47)
    assert last is not None
    assert (last.by, last.maker, last.balanced_accuracy, last.score) == (
        "gpt-4o-mini, published",
        "gpt-4o-mini",
        None,
        "",
    )
    write_published(sae.folder.path, {2: "nobody's"}, by="")
    nobodys = explanations_of(sae).of(2)
    assert nobodys is not None
    assert (nobodys.by, nobodys.maker) == ("published", "")


@pytest.mark.parametrize("key", ["sae", "weights_sha256", "store_id", "codes_id"])
def test_words_of_another_sae_are_refused(sae: CodedSAE, key: str) -> None:
    path = write_words(sae.folder.path, latents(NUMBERS, TEXTS), sae.codes.id)
    explanations_of(sae)
    edit(path, lambda data: data.update({key: "0" * 64}))
    with pytest.raises(CheckpointError, match=rf"interpretation.json: {key}: is 0000.*; delete it and run strata"):
        explanations_of(sae)


def test_words_of_other_rows_are_refused(sae: CodedSAE) -> None:
    path = write_words(sae.folder.path, latents(NUMBERS, TEXTS), sae.codes.id)
    assert len(explanations_of(sae)) == 3
    edit(path, lambda data: data["filters"].update(drop_bos=False))
    with pytest.raises(CheckpointError, match=r"interpretation.json: filters: is drop_bos=False .*; delete it and run"):
        explanations_of(sae)


@pytest.mark.parametrize("key", ["sae", "weights_sha256"])
def test_published_words_of_another_sae_are_refused(sae: CodedSAE, key: str) -> None:
    path = write_published(sae.folder.path, {1: "of others"})
    explanations_of(sae)
    edit(path, lambda data: data.update({key: "0" * 64}))
    with pytest.raises(CheckpointError, match=rf"published.json: {key}: is 0000.*; delete it and run strata"):
        explanations_of(sae)


def test_a_latent_that_is_not_there_is_refused(sae: CodedSAE) -> None:
    path = write_words(sae.folder.path, latents([47], TEXTS), sae.codes.id)
    explanations_of(sae)
    edit(path, lambda data: data["latents"][0].update(latent=48))
    with pytest.raises(CheckpointError, match=r"interpretation.json: tells of latent 48, but this SAE has 48"):
        explanations_of(sae)
    path.unlink()
    write_published(sae.folder.path, {4000: "of others"})
    with pytest.raises(CheckpointError, match=r"published.json: tells of latent 4000, but this SAE has 48"):
        explanations_of(sae)


@pytest.mark.parametrize("name", ["interpretation.json", "published.json"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.98])
def test_a_damaged_file_is_named(sae: CodedSAE, name: str, share: float) -> None:
    write_words(sae.folder.path, latents(NUMBERS, TEXTS), sae.codes.id)
    write_published(sae.folder.path, {1: "of others", 3: "more"})
    path = sae.folder.path / name
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=name) as caught:
        explanations_of(sae)
    assert "\n" not in str(caught.value)


def test_control_the_record_is_read_as_it_was_written(sae: CodedSAE) -> None:
    explained = latents(NUMBERS, TEXTS)
    path = write_words(sae.folder.path, explained, sae.codes.id)
    assert read_record(path, InterpretationRecord).record.latents == explained
