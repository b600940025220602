"""A text in the model of a run: its tokens, every SAE's codes, the next tokens, and what edits make of them."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import strata_sae as strata
from strata_sae.pipeline.intervention.edited_pass import EditedPass
from strata_sae.pipeline.intervention.prompt_passes import PromptPasses
from strata_sae.pipeline.intervention.run_model import RunModel, _following
from strata_sae.pipeline.queries.asked_model import Active, Edit, Prompted
from support.asked_run import (
    CROSSCODER,
    LAYER,
    OTHER,
    ROUGH,
    SAME,
    TEXT,
    TRANSCODER,
    asked,
    logits_of,
    make,
    rows_written,
)
from support.attaching import rows_of
from support.judged_run import identity, rough
from support.tiny_models import D_MODEL

ORDINARY = slice(1, None)
"""Of the tokens of TEXT: the first is BOS."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RunModel:
    return asked(make(tmp_path_factory.mktemp("asked")))


@pytest.fixture(scope="module")
def plain(model: RunModel) -> Any:
    """The model itself, as transformers loads it: none of our hooks."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model._config.model.path, dtype=torch.float32).eval()


def dense(active: Active, d_sae: int) -> np.ndarray:
    """Codes [S, d_sae], put together entry by entry."""
    codes_SE = np.zeros((len(active.offset) - 1, d_sae), np.float32)
    for place in range(len(codes_SE)):
        for entry in range(active.offset[place], active.offset[place + 1]):
            codes_SE[place, active.latents[entry]] = active.values[entry]
    return codes_SE


def codes_by_hand(x_SM: Tensor, weights: dict[str, Tensor]) -> Tensor:
    return torch.relu((x_SM - weights["b_dec"]) @ weights["W_enc"].T)


def kl_by_hand(clean_SV: Tensor, edited_SV: Tensor) -> Tensor:
    log_p_SV, log_q_SV = clean_SV.double().log_softmax(-1), edited_SV.double().log_softmax(-1)
    return (log_p_SV.exp() * (log_p_SV - log_q_SV)).sum(-1)


def strongest(prompted: Prompted, name: str) -> int:
    """The latent with the largest value on an ordinary token."""
    return int(dense(prompted.clean.active[name], 128)[ORDINARY].max(axis=0).argmax())


# ---- the text


def test_tokens_are_those_of_extraction(model: RunModel) -> None:
    """BOS first, as the corpus has it; then the text alone, whose spelling of a special token is text."""
    prompted = model.prompt("the <|end|> of\u00fc")
    store = strata.open_store(model._config.store_path())
    assert (prompted.token_ids[0], prompted.is_special[0]) == (0, True)
    assert int(store.token_map("token_id", 0, 1)[0]) == 0
    assert not any(prompted.is_special[1:])
    assert 0 not in prompted.token_ids[1:]
    assert "".join(prompted.texts[1:]) == "the <|end|> of\u00fc"


def test_a_character_of_several_tokens_is_whole(model: RunModel) -> None:
    prompted = model.prompt("\U0001f600")
    assert len(prompted.token_ids) == 5
    assert prompted.texts[1:] == ["", "", "", "\U0001f600"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\udcff", "no UTF-8"),
        ("x" * 65, "at most 64 can be shown"),
        ("x" * 100_000, "at most 1,024 tokens"),
    ],
)
def test_texts_that_cannot_be_shown_are_refused(model: RunModel, text: str, said: str) -> None:
    with pytest.raises(strata.ConfigError, match=f"TEXT: .*{said}"):
        model.prompt(text)


# ---- a clean pass


def test_codes_are_those_of_the_rows_that_the_model_computes(model: RunModel, plain: Any) -> None:
    prompted = model.prompt(TEXT)
    ids_BS = torch.tensor([prompted.token_ids])
    (x_SM,), (before_SM,) = rows_of(plain, ids_BS, LAYER), rows_of(plain, ids_BS, "model.layers.0")
    other = {**rough(D_MODEL, seed=5), "b_dec": torch.linspace(-1, 1, D_MODEL)}
    expected = {
        ROUGH: codes_by_hand(x_SM, rough(D_MODEL)),
        OTHER: codes_by_hand(x_SM, other),
        SAME: codes_by_hand(x_SM, identity(D_MODEL)),
        TRANSCODER: torch.relu(before_SM @ rough(D_MODEL, seed=3)["W_enc"].T),
        CROSSCODER: codes_by_hand(torch.cat([before_SM, x_SM], dim=1), rough(2 * D_MODEL, seed=4)),
    }
    assert list(prompted.clean.active) == sorted(expected)
    for name, codes_SE in expected.items():
        found = prompted.clean.active[name]
        assert np.allclose(dense(found, codes_SE.shape[1]), codes_SE.numpy(), atol=1e-5), name
        for start, stop in zip(found.offset[:-1], found.offset[1:], strict=True):
            assert (np.diff(found.values[start:stop]) <= 0).all()
    assert prompted.edited is None
    assert prompted.kl_S is None


def test_next_tokens_are_the_likeliest(model: RunModel, plain: Any) -> None:
    prompted = model.prompt(TEXT, n_following=7)
    p_SV = logits_of(plain, torch.tensor([prompted.token_ids]))[0].softmax(-1)
    expected = p_SV.topk(7)
    assert np.array_equal(prompted.clean.following.token_ids, expected.indices.numpy())
    assert np.allclose(prompted.clean.following.probabilities, expected.values.numpy(), rtol=1e-5)
    assert [len(texts) for texts in prompted.clean.following.texts] == [7] * len(prompted.token_ids)


def test_of_equally_likely_tokens_the_smaller_ids_come_first(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of few values, as bfloat16 makes them: `topk` alone takes any of the equals, in any order."""
    logits_SV = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0)).round()
    logits_SV[0] = 0.0
    monkeypatch.setattr(model.opened().words, "alone", str)
    for n in (1, 10, 40):
        found = _following(model.opened(), logits_SV, n)
        p_SV = logits_SV.softmax(-1)
        expected = p_SV.sort(dim=-1, descending=True, stable=True)
        assert np.array_equal(found.token_ids, expected.indices[:, :n].numpy())
        assert np.array_equal(found.probabilities, expected.values[:, :n].numpy())
        assert np.array_equal(found.token_ids[:, 0], logits_SV.argmax(-1).numpy()), "as continuations take it"
    assert not np.array_equal(p_SV.topk(10).indices.numpy(), expected.indices[:, :10].numpy()), "the control"
    whole = _following(model.opened(), logits_SV[:, :7], 100)
    assert np.array_equal(whole.token_ids[0], np.arange(7)), "no more than there are"


# ---- edits


KINDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ablate": lambda x_SM, z_S, d_M: x_SM - z_S[:, None] * d_M,
    "clamp": lambda x_SM, z_S, d_M: x_SM + (2.5 - z_S)[:, None] * d_M,
    "steer": lambda x_SM, z_S, d_M: x_SM + 2.5 * d_M,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_its_definition(model: RunModel, plain: Any, kind: Any) -> None:
    """On every token but BOS: x + (new code - code) d; brute force by a hook on the model itself."""
    weights, latent = rough(D_MODEL), strongest(model.prompt(TEXT), ROUGH)
    prompted = model.prompt(TEXT, [Edit(ROUGH, latent, kind, 2.5)])
    ids_BS = torch.tensor([prompted.token_ids])

    def write(x_BSM: Tensor) -> Tensor:
        x_SM = x_BSM[0].clone()
        z_S = codes_by_hand(x_SM, weights)[:, latent]
        x_SM[ORDINARY] = KINDS[kind](x_SM, z_S, weights["W_dec"][latent])[ORDINARY]
        return x_SM[None]

    clean_BSV = logits_of(plain, ids_BS)
    with rows_written(plain, LAYER, write):
        edited_BSV = logits_of(plain, ids_BS)
    assert prompted.kl_S is not None
    assert prompted.edited is not None
    assert np.allclose(prompted.kl_S, kl_by_hand(clean_BSV[0], edited_BSV[0]).numpy(), atol=1e-6)
    assert prompted.kl_S[0] == 0.0
    assert prompted.kl_S[ORDINARY].max() > 1e-4
    expected = edited_BSV[0].softmax(-1).topk(10)
    assert np.allclose(prompted.edited.following.probabilities, expected.values.numpy(), atol=1e-6)


def test_of_an_edited_pass_codes_are_of_what_the_model_went_on_with(model: RunModel) -> None:
    """The edited SAE shows its edited codes, another one at the site encodes the edited rows; what reads earlier only
    is left out."""
    clean = model.prompt(TEXT)
    latent = strongest(clean, ROUGH)
    prompted = model.prompt(TEXT, [Edit(ROUGH, latent, "clamp", 7.0)])
    assert prompted.edited is not None
    assert sorted(prompted.edited.active) == sorted([ROUGH, OTHER, SAME, CROSSCODER])
    before_SE, after_SE = (dense(seen.active[ROUGH], 64) for seen in (clean.clean, prompted.edited))
    expected_SE = before_SE.copy()
    expected_SE[ORDINARY, latent] = 7.0
    assert np.array_equal(after_SE, expected_SE)
    x_SM = torch.tensor(dense(clean.clean.active[SAME], 64)) @ identity(D_MODEL)["W_dec"]
    z_S = torch.tensor(before_SE[:, latent])
    x_SM[ORDINARY] += ((7.0 - z_S)[:, None] * rough(D_MODEL)["W_dec"][latent])[ORDINARY]
    assert np.allclose(dense(prompted.edited.active[SAME], 64), codes_by_hand(x_SM, identity(D_MODEL)), atol=1e-5)


def test_edits_of_two_saes_at_one_site_act_by_name(model: RunModel, plain: Any) -> None:
    """As nested attachments do, whichever is named first; positions by `where`, the error kept."""
    edits = [Edit(ROUGH, 3, "clamp", 2.0), Edit(OTHER, 9, "clamp", 3.0)]
    found = [model.prompt(TEXT, order).kl_S for order in (edits, edits[::-1])]
    assert np.array_equal(found[0], found[1])
    saes = model.opened().saes
    ids_BS = torch.tensor([model.prompt(TEXT).token_ids])
    how: dict[str, Any] = {"error": True, "where": lambda ids_BS: ids_BS != 0}
    with (
        strata.attach(plain, saes[OTHER], clamp={9: 3.0}, **how),
        strata.attach(plain, saes[ROUGH], clamp={3: 2.0}, **how),
    ):
        nested_BSV = logits_of(plain, ids_BS)
    expected = kl_by_hand(logits_of(plain, ids_BS)[0], nested_BSV[0]).numpy()
    assert np.allclose(found[0], expected, atol=1e-6)
    with (
        strata.attach(plain, saes[ROUGH], clamp={3: 2.0}, **how),
        strata.attach(plain, saes[OTHER], clamp={9: 3.0}, **how),
    ):
        other_BSV = logits_of(plain, ids_BS)
    assert not torch.allclose(other_BSV, nested_BSV, atol=1e-4)


def test_a_transcoder_is_edited_where_it_writes(model: RunModel, plain: Any) -> None:
    weights = rough(D_MODEL, seed=3)
    latent = strongest(model.prompt(TEXT), TRANSCODER)
    prompted = model.prompt(TEXT, [Edit(TRANSCODER, latent, "ablate")])
    ids_BS = torch.tensor([prompted.token_ids])
    z_S = torch.relu(rows_of(plain, ids_BS, "model.layers.0")[0] @ weights["W_enc"].T)[:, latent]
    z_S[0] = 0.0
    clean_BSV = logits_of(plain, ids_BS)
    with rows_written(plain, f"{LAYER}.mlp", lambda y_BSM: y_BSM - z_S[:, None] * weights["W_dec"][latent]):
        edited_BSV = logits_of(plain, ids_BS)
    assert prompted.kl_S is not None
    assert prompted.edited is not None
    assert np.allclose(prompted.kl_S, kl_by_hand(clean_BSV[0], edited_BSV[0]).numpy(), atol=1e-6)
    assert prompted.kl_S.max() > 1e-5
    assert dense(prompted.edited.active[TRANSCODER], 64)[ORDINARY, latent].max() == 0.0
    # A site in a block runs whole passes; the stream behind it is edited, too.
    both = model.prompt(TEXT, [Edit(TRANSCODER, latent, "ablate"), Edit(ROUGH, 3, "steer", 2.0)])
    assert not np.allclose(both.kl_S, prompted.kl_S, atol=1e-4)


NOTHING = [Edit(ROUGH, 3, "steer", 0.0), Edit(SAME, 5, "steer", 0.0), Edit(TRANSCODER, 2, "steer", 0.0)]


@pytest.mark.parametrize("edits", [*([edit] for edit in NOTHING), NOTHING], ids=[ROUGH, SAME, TRANSCODER, "all"])
def test_alpha_0_changes_no_bit(model: RunModel, edits: list[Edit]) -> None:
    """Also of an SAE that reconstructs badly; a negative control follows."""
    token_ids = model.prompt(TEXT).token_ids
    passes = PromptPasses(model.opened())
    clean, edited = passes.clean(token_ids), passes.edited(token_ids, edits)
    assert torch.equal(clean.logits_SV, edited.logits_SV)
    assert all(torch.equal(clean.rows[site], edited.rows[site]) for site in clean.rows)
    kl_S = model.prompt(TEXT, edits).kl_S
    assert kl_S is not None
    assert kl_S.tobytes() == bytes(kl_S.nbytes)
    other = passes.edited(token_ids, [edits[0]._replace(amount=1e-3)])
    assert not torch.equal(clean.logits_SV, other.logits_SV)


def test_of_the_identity_sae_an_edit_is_of_one_number_of_a_row(model: RunModel, plain: Any) -> None:
    prompted = model.prompt(TEXT, [Edit(SAME, 5, "steer", 0.75)])
    shift_M = torch.zeros(D_MODEL)
    shift_M[5] = 0.75
    ids_BS = torch.tensor([prompted.token_ids])
    places_S1 = torch.arange(ids_BS.shape[1])[:, None] > 0
    with rows_written(plain, LAYER, lambda x_BSM: x_BSM + places_S1 * shift_M):
        edited_BSV = logits_of(plain, ids_BS)
    passes = PromptPasses(model.opened())
    assert torch.equal(passes.edited(prompted.token_ids, [Edit(SAME, 5, "steer", 0.75)]).logits_SV, edited_BSV[0])


def test_passes_from_a_block_on_have_the_bits_of_whole_ones(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    token_ids, edits = model.prompt(TEXT).token_ids, [Edit(ROUGH, 3, "clamp", 2.0), Edit(OTHER, 9, "ablate")]
    from_block = PromptPasses(model.opened()).edited(token_ids, edits)
    calls: list[Any] = []
    monkeypatch.setattr(PromptPasses, "_beginning", lambda self, site: calls.append(site))
    whole = PromptPasses(model.opened()).edited(token_ids, edits)
    assert calls == [ROUGH.partition("@")[2]]
    assert torch.equal(from_block.logits_SV, whole.logits_SV)
    assert from_block.rows.keys() == whole.rows.keys()
    assert all(torch.equal(from_block.rows[site], whole.rows[site]) for site in whole.rows)


def test_the_clean_pass_of_a_text_runs_once(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, n_ran = model.opened().whole, []
    run = whole.run
    monkeypatch.setattr(whole, "run", lambda *arguments: n_ran.append(1) or run(*arguments))
    first = model.prompt("the town of the king")
    assert len(n_ran) == 1
    again = model.prompt("the town of the king")
    assert len(n_ran) == 1
    assert again.clean is first.clean
    model.prompt("the town")
    assert len(n_ran) == 2


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([Edit("none@x", 0, "ablate")], "is no SAE of this run"),
        ([Edit(ROUGH, 64, "ablate")], "there is no latent 64; .* 0 to 63"),
        ([Edit(ROUGH, -1, "ablate")], "there is no latent -1"),
        ([Edit(ROUGH, 1, "clamp", float("inf"))], "is no amount"),
        ([Edit(ROUGH, 1, "steer", float("nan"))], "is no amount"),
        ([Edit(ROUGH, 1, "steer", 1e39)], "is no amount; the largest is 1,000,000"),
        ([Edit(ROUGH, 1, "ablate"), Edit(ROUGH, 1, "steer", 2.0)], "edited twice"),
        ([Edit(CROSSCODER, 1, "ablate")], "writes 2 sites at once"),
    ],
)
def test_edits_that_cannot_be_made_are_refused(model: RunModel, edits: list[Edit], said: str) -> None:
    with pytest.raises(strata.ConfigError, match=said):
        model.prompt(TEXT, edits)
    with pytest.raises(strata.ConfigError, match=said):
        model.continuations(TEXT, [edits], 2)
    assert model.prompt(TEXT).token_ids


def test_what_reads_after_it_writes_is_refused(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = model.opened()
    backwards = opened.routes[TRANSCODER]
    monkeypatch.setitem(opened.routes, TRANSCODER, type(backwards)(backwards.writes, backwards.reads))
    with pytest.raises(strata.ConfigError, match="runs before"):
        EditedPass(opened, [[Edit(TRANSCODER, 1, "ablate")]])


@pytest.mark.parametrize("n", [0, 101])
def test_the_number_of_next_tokens_is_bounded(model: RunModel, n: int) -> None:
    with pytest.raises(strata.ConfigError, match="1 to 100 next tokens"):
        model.prompt(TEXT, n_following=n)


def test_threads_get_the_answers_of_their_own_questions(model: RunModel) -> None:
    questions = [("the king", Edit(ROUGH, 3, "clamp", 2.0)), ("of town", Edit(OTHER, 9, "clamp", 3.0))] * 4
    alone = [model.prompt(text, [edit]).kl_S for text, edit in questions]
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        text, edit = questions[number]
        found[number] = model.prompt(text, [edit]).kl_S

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], alone[number]) for number in range(len(questions)))


def test_numbers_that_are_no_longer_finite_are_told(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, edits = model.opened().saes[ROUGH].sae, [Edit(ROUGH, 1, "steer", 1e6)]
    assert model.prompt(TEXT, edits).kl_S is not None
    monkeypatch.setattr(sae, "W_dec", sae.W_dec * 1e35)
    for ask in (lambda: model.prompt(TEXT, edits), lambda: model.continuations(TEXT, [[], edits], 2)):
        with pytest.raises(strata.ConfigError, match="no longer finite with them; take smaller amounts"):
            ask()


def test_nothing_is_left_on_the_model(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.opened().whole

    def hooks() -> int:
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in whole.model.modules())

    before = hooks()
    model.prompt(TEXT, NOTHING)
    model.continuations(TEXT, [NOTHING], 2)
    monkeypatch.setattr(EditedPass, "write", lambda self, site, y_BSM: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.prompt(TEXT, NOTHING)
    with pytest.raises(ZeroDivisionError):
        model.prompt(TEXT, NOTHING[2:])
    assert hooks() == before
