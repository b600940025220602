"""Rows of labelled texts are those of a plain hook on the whole model, and are made once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.intervention import labelled_rows
from strata_sae.pipeline.intervention.labelled_rows import Cut, LabelledText, Labeller
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.reading.labelled import LABELS, check_same_model, labelled_stores, open_labelled
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import StoreError, write_store
from strata_sae.stores.files.claims import Claim, claim
from support.tiny_models import save_tiny_model

SITES = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
TEXTS = [
    LabelledText("the capital of the town"),
    LabelledText("of the king", 0),
    LabelledText("the king " * 30),
    LabelledText("town", -1),
    LabelledText("the <|end|> of", 1),
]
LABEL = {"target": np.array([0, 1, 0, 1, 1], np.int8)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    folder = save_tiny_model(tmp_path_factory.mktemp("models") / "llama", "llama")
    return ModelSettings(path=str(folder), device="cpu", batch_tokens=1)  # one text a batch: equal to the bit


def plain_rows(settings: ModelSettings, sequences: list[list[int]], places: list[int]) -> dict[str, np.ndarray]:
    """By a hook on each layer of the whole model, as transformers loads it, a text at a time."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(settings.path, dtype=torch.float32).eval()
    found: dict[str, list[np.ndarray]] = {site: [] for site in SITES}
    for ids, place in zip(sequences, places, strict=True):
        seen: dict[str, torch.Tensor] = {}

        def keep(site: str, seen: dict[str, torch.Tensor]) -> Callable[..., None]:
            return lambda module, args, out: seen.update({site: out[0] if isinstance(out, tuple) else out})

        layers = {site: model.model.layers[int(site.split(".")[1])] for site in SITES}
        hooks = [layer.register_forward_hook(keep(site, seen)) for site, layer in layers.items()]
        with torch.inference_mode():
            model(input_ids=torch.tensor([ids]), use_cache=False)
        for site in SITES:
            found[site].append(seen[site].reshape(len(ids), -1)[place].numpy())
        for hook in hooks:
            hook.remove()
    return {site: np.stack(rows) for site, rows in found.items()}


@pytest.mark.parametrize("cut", [Cut(20, "left", True), Cut(20, "right", False), Cut()])
def test_rows_are_those_of_a_plain_hook(settings: ModelSettings, tmp_path: Path, cut: Cut) -> None:
    labeller = Labeller(settings, SITES, tmp_path)
    labelled = open_labelled(labeller.store("probing", "task", TEXTS, LABEL, n_train=3, cut=cut).path)
    raw = labeller.tokenizer(["the king " * 30], add_special_tokens=False, verbose=False)["input_ids"][0]
    room = 20 - bool(cut.prepend_bos) if cut.max_tokens == 20 else 64
    sequences = labeller.sequences(TEXTS, cut._replace(max_tokens=min(cut.max_tokens, 64)))
    assert sequences[2][-room:] == (raw[-room:] if cut.truncate == "left" else raw[:room])  # which tokens are cut
    assert len(sequences[2]) == min(20, cut.max_tokens) or cut == Cut()
    assert (sequences[3][0] == 0) is bool(cut.prepend_bos)
    places = [text.at % len(ids) for text, ids in zip(TEXTS, sequences, strict=True)]
    for site, expected in plain_rows(settings, sequences, places).items():
        np.testing.assert_array_equal(labelled.rows(site), expected)
        np.testing.assert_array_equal(labelled.rows(site, "train"), expected[:3])
        np.testing.assert_array_equal(labelled.rows(site, "heldout"), expected[3:])
    np.testing.assert_array_equal(labelled.labels["target"], LABEL["target"])
    kept = [ids[place] for ids, place in zip(sequences, places, strict=True)]
    assert labelled.store.token_map("token_id", 0, 5).tolist() == kept
    assert labelled.store.token_map("position", 0, 5).tolist() == places


def test_batches_change_rows_by_rounding_alone(settings: ModelSettings, tmp_path: Path) -> None:
    one = Labeller(settings, SITES, tmp_path / "one").store("probing", "task", TEXTS, LABEL, n_train=3)
    together = settings.model_copy(update={"batch_tokens": 4096})
    many = Labeller(together, SITES, tmp_path / "many").store("probing", "task", TEXTS, LABEL, n_train=3)
    for site in SITES:
        rows = one.float_rows(site, 0, 5)
        np.testing.assert_allclose(many.float_rows(site, 0, 5), rows, rtol=0, atol=1e-5 * np.abs(rows).max())


def test_a_store_that_is_made_is_not_made_again(
    settings: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Labeller(settings, SITES, tmp_path).store("probing", "task", TEXTS, LABEL, n_train=3)
    with monkeypatch.context() as patched:
        patched.setattr(labelled_rows, "load", lambda *args: pytest.fail("the model was loaded"))
        again = Labeller(settings, SITES, tmp_path).store("probing", "task", TEXTS, LABEL, n_train=3)
    other = Labeller(settings, SITES, tmp_path).store("probing", "task", TEXTS[::-1], LABEL, n_train=3)
    assert (again.id, again.path) == (first.id, first.path)
    assert other.path != first.path
    assert list(labelled_stores(tmp_path, "probing")) == sorted([first.path, other.path])
    assert list(labelled_stores(tmp_path, "first_letter")) == []


def test_a_text_without_its_token_is_named(settings: ModelSettings, tmp_path: Path) -> None:
    labeller = Labeller(settings, SITES, tmp_path)
    with pytest.raises(ConfigError, match="task: text 1 has 0 tokens, and none at place -1"):
        labeller.store(
            "probing",
            "task",
            [TEXTS[0], LabelledText("")],
            {"target": LABEL["target"][:2]},
            n_train=1,
            cut=Cut(prepend_bos=False),
        )


def test_labels_that_are_not_what_was_written_are_refused(settings: ModelSettings, tmp_path: Path) -> None:
    store = Labeller(settings, SITES, tmp_path).store("probing", "task", TEXTS, LABEL, n_train=3)
    (path,) = store.path.glob(f"extras/{LABELS}")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"task"', b'"tusk"'))
    with pytest.raises(StoreError, match=r"labels\.json: its sha256 is not the plan's"):
        open_labelled(store.path)
    rows = {"site": np.ones((4, 2), np.float32)}
    short = write_store(tmp_path / "other", rows, extras={LABELS: b"{}"})
    with pytest.raises(StoreError, match="holds no labels of ours"):
        open_labelled(short.path)


def test_rows_of_another_model_are_refused(settings: ModelSettings, tmp_path: Path) -> None:
    store = Labeller(settings, SITES, tmp_path).store("probing", "task", TEXTS, LABEL, n_train=3)
    labelled = open_labelled(store.path)
    model = json.loads(json.dumps(labelled.about.model))

    class Plan:
        provenance = {"model": model}  # noqa: RUF012

    class Other:
        path, plan = tmp_path, Plan

    check_same_model(labelled, Other)  # type: ignore[arg-type]
    Plan.provenance = {"model": model | {"weights_sha256": "0" * 64}}
    with pytest.raises(CheckpointError, match=r"model\.weights_sha256"):
        check_same_model(labelled, Other)  # type: ignore[arg-type]
    Plan.provenance = {}
    with pytest.raises(CheckpointError, match="does not say which model made it"):
        check_same_model(labelled, Other)  # type: ignore[arg-type]


def test_a_store_that_another_process_makes_is_left_to_it(settings: ModelSettings, tmp_path: Path) -> None:
    labeller = Labeller(settings, SITES, tmp_path)
    made = labeller.store("probing", "task", TEXTS, LABEL, n_train=3)
    assert made is not None
    with held_by_another(made.path.with_name(f".{made.path.name}.maker")):
        assert labeller.store("probing", "task", TEXTS, LABEL, n_train=3, wait=False) is None
        other = labeller.store("probing", "task", TEXTS[::-1], LABEL, n_train=3, wait=False)
        assert other is not None, "another store is not waited for"
    again = labeller.store("probing", "task", TEXTS, LABEL, n_train=3, wait=False)
    assert again is not None, "control"
    assert not list(tmp_path.glob(".*")), "no claim is left"


def held_by_another(path: Path) -> Claim:
    held = claim(path)
    assert held is not None
    return held
