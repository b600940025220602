"""Explanations on the screens: beside the token labels, who wrote them and how well they do; hostile ones are inert."""

import shutil

import pytest

from strata_sae.pipeline.explore import words
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.explore.static import export_pages
from strata_sae.pipeline.queries.explanations import Explained, Explanations
from strata_sae.pipeline.runs.interpretation_records import PublishedExplanation, PublishedRecord
from strata_sae.pipeline.runs.record_files import write_record
from support import coded_run
from support.asked_models import FakeModel
from support.exploring import HOSTILE_WORDS, PORT, TOKEN, client_of, text_of, world_in

SAE, WIDE = "topk@blocks.1.hook_resid_post", "wide@blocks.1.hook_resid_post"
MADE = Explained("seventh words", "model-b", False, 0.75, 0.125, 4, (0.7, 0.8), 3)
PUBLISHED = Explained("Words of the SEVENTH kind", "model-c, published", True, None, None, None)
SHORT = "detection: balanced accuracy 0.750 (0.70 to 0.80)"


def worlds_words(monkeypatch, known):
    """Let a world's SAEs have explanations. known: SAE -> latent -> explanations."""
    words.explanations.cache_clear()
    monkeypatch.setattr(words, "explanations_of", lambda sae: Explanations(known.get(sae.name, {})))


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    words.explanations.cache_clear()


@pytest.fixture
def client(small_world, monkeypatch):
    worlds_words(monkeypatch, {SAE: {7: [MADE, PUBLISHED], 8: [PUBLISHED]}})
    return client_of(small_world)


def shown(client, path, status=200):
    answer = client.get(f"/{TOKEN}{path}")
    assert answer.status_code == status
    return answer.text


def test_a_latent_shows_all_that_is_said_of_it(client):
    said = text_of(shown(client, f"/run/{SAE}/7"))
    assert f"seventh words by model-b; {SHORT} on other documents, +0.125 over its token label" in said
    assert "3 windows without answer; rated 4 of 5" in said
    assert "Words of the SEVENTH kind by model-c, published; not scored here" in said
    assert 'class="explanation"' not in shown(client, f"/run/{SAE}/9")  # control


def test_the_table_shows_the_best_and_finds_by_words(client):
    page = shown(client, f"/run/{SAE}?sort=latent&order=rising")
    assert page.count('class="in-words"') == 2
    assert f'title="seventh words (by model-b; {SHORT}' in page
    found = text_of(shown(client, f"/run/{SAE}?words=WORDS+of"))
    assert "1 latent " in found
    assert "Words of the SEVENTH kind" in found
    assert 'name="words"' in page
    assert 'name="words"' not in shown(client, f"/run/{WIDE}")  # nothing to find there


def test_a_search_finds_words_too(client):
    said = text_of(shown(client, "/search?q=SeVenth"))
    assert "No token of the store holds this text." in said
    assert "In 2 explanations" in said
    assert said.index("seventh words") < said.index("Words of the SEVENTH kind")  # what is scored comes first
    assert "explanation" not in text_of(shown(client, "/search?q=+w3"))


def test_other_screens_show_them_beside_the_latent(small_world, monkeypatch):
    known = {name: {e: [MADE] for e in range(sae.d_sae)} for name, sae in small_world.runs["run"].saes.items()}
    worlds_words(monkeypatch, known)
    world = World.of(list(small_world.runs.values()), [FakeModel({SAE: 48, WIDE: 96})])
    client = client_of(world)
    for path in (f"/run/compare/{SAE}/{WIDE}", "/run/document/3?row=95", f"/run/{SAE}/7"):
        assert "seventh words" in shown(client, path), path
    asked = client.post(f"/{TOKEN}/run/prompt", data={"text": "a b"}, headers={"origin": f"http://127.0.0.1:{PORT}"})
    assert "seventh words" in asked.text


def test_hostile_words_are_only_text(small_world, monkeypatch):
    hostile = [Explained(text[:2000], text[:100], True, None, None, None) for text in HOSTILE_WORDS]
    many = {name: {e: [hostile[e % len(hostile)]] for e in range(48)} for name in (SAE, WIDE)}
    worlds_words(monkeypatch, many)
    client = client_of(small_world)
    for path in (f"/run/{SAE}", f"/run/{SAE}/7", "/search?q=script", f"/run/compare/{SAE}/{WIDE}", "/run/document/3"):
        page = shown(client, path)
        assert page.count("<script") == 1, path
        assert "\u202e" not in page
        assert len(page) <= 200_000


def test_an_export_holds_them(small_world, monkeypatch, tmp_path):
    worlds_words(monkeypatch, {SAE: {e: [MADE] for e in range(48)}})
    export_pages(small_world, tmp_path / "pages", 3)
    assert "seventh words" in (tmp_path / "pages" / "run" / f"{SAE}.html").read_text(encoding="utf-8")


def test_what_lies_beside_an_sae_is_shown(small_folder, tmp_path):
    """From the file to the page."""
    shutil.copytree(small_folder, tmp_path / "copy")
    run = world_in(tmp_path / "copy").runs["run"]
    sae = run.saes[SAE]
    said = [PublishedExplanation(latent=7, text="of the seventh kind", by="a person")]
    record = PublishedRecord(
        sae=sae.record.fingerprint,
        weights_sha256=sae.training.sha256.weights,
        source="neuronpedia",
        files={"a.jsonl": "0" * 64},
        n_latents=1,
        explanations=said,
    )
    write_record(tmp_path / "copy" / coded_run.RUN / "variants" / SAE / "published.json", record)
    page = shown(client_of(world_in(tmp_path / "copy")), f"/run/{SAE}/7")
    assert "of the seventh kind by a person, published; not scored here" in text_of(page)
