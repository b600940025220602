"""How a model goes on after a text, with edits and without: against whole passes, one token after another."""

from pathlib import Path
from typing import Any

import pytest
import torch

import strata_sae as strata
from strata_sae.pipeline.intervention.prompt_tokens import PromptTokens
from strata_sae.pipeline.intervention.run_model import MOST_WAYS, RunModel
from strata_sae.pipeline.language_model.stepping import Stepping
from strata_sae.pipeline.queries.asked_model import MOST_NEW_TOKENS, Edit
from support.asked_run import OTHER, ROUGH, SAME, TEXT, TRANSCODER, asked, make

N = 12
WAYS: list[list[Edit]] = [
    [],
    [Edit(SAME, 5, "steer", 0.0)],
    [Edit(ROUGH, 3, "steer", 30.0)],
    [Edit(ROUGH, 7, "clamp", 9.0), Edit(OTHER, 2, "ablate")],
    [Edit(TRANSCODER, 11, "steer", 40.0), Edit(ROUGH, 3, "ablate")],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RunModel:
    return asked(make(tmp_path_factory.mktemp("asked")))


def by_whole_passes(model: RunModel, way: list[Edit]) -> str:
    """The likeliest token of a whole pass over all tokens so far, N times, by attachments that keep the error."""
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(model._config.model.path, dtype=torch.float32).eval()
    opened = model.opened()
    token_ids = opened.words.words(TEXT).token_ids
    n_given = len(token_ids)
    attached = []
    for name, sae in opened.saes.items():
        own = [edit for edit in way if edit.sae == name]
        changes: dict[str, Any] = {
            "ablate": [edit.latent for edit in own if edit.kind == "ablate"],
            "clamp": {edit.latent: edit.amount for edit in own if edit.kind == "clamp"},
            "add": {edit.latent: edit.amount for edit in own if edit.kind == "steer"},
        }
        if own:
            attached.append(strata.attach(plain, sae, error=True, where=lambda ids_BS: ids_BS != 0, **changes))
    for one in attached:
        one.__enter__()
    with torch.no_grad():
        for _ in range(N):
            token_id = int(plain(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1].argmax())
            if token_id == opened.words.end:
                break
            token_ids.append(token_id)
    return "".join(opened.words.texts(token_ids[n_given:]))


def test_texts_are_those_of_whole_passes(model: RunModel) -> None:
    found = model.continuations(TEXT, WAYS, N)
    assert found == [by_whole_passes(model, way) for way in WAYS]
    assert found[1] == found[0]
    assert len(set(found)) == len(WAYS) - 1
    assert [model.continuations(TEXT, [way], N)[0] for way in WAYS] == found


def test_a_model_without_a_cache_gives_the_same_texts(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, fed = model.continuations(TEXT, WAYS, N), []
    whole = model.opened().whole
    step = whole.step

    def without(token_ids_BS: torch.Tensor, **arguments: Any) -> Any:
        fed.append(token_ids_BS.shape[1])
        output = step(token_ids_BS, **arguments)
        output.past_key_values = None
        return output

    monkeypatch.setattr(whole, "step", without)
    assert model.continuations(TEXT, WAYS, N) == expected
    assert fed == list(range(fed[0], fed[0] + N))


def test_each_step_is_fed_the_newest_tokens(model: RunModel) -> None:
    fed: list[list[list[int]]] = []
    steps = Stepping(model.opened().whole, lambda ids_BS: fed.append(ids_BS.tolist()))
    for ids in ([[5, 6, 7], [5, 6, 7]], [[8], [9]], [[10], [11]]):
        assert steps.logits(torch.tensor(ids)).shape == (2, 300)
    assert fed == [[[5, 6, 7], [5, 6, 7]], [[8], [9]], [[10], [11]]]


def test_a_text_ends_with_the_end_token(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second token that the model gives is declared to be the end; other texts go on."""
    first = model.continuations(TEXT, WAYS[:1], 1)[0]
    second = model.opened().words.words(TEXT + model.continuations(TEXT, WAYS[:1], 2)[0]).token_ids[-1]
    monkeypatch.setattr(PromptTokens, "end", second)
    found = model.continuations(TEXT, [WAYS[0], WAYS[2]], N)
    assert found[0] == first
    assert len(found[1]) > len(first)


@pytest.mark.parametrize(
    ("n", "ways", "said"),
    [
        (0, [[]], "--tokens: 0; a continuation has 1 to 512 tokens"),
        (MOST_NEW_TOKENS + 1, [[]], "--tokens: 513"),
        (2, [], "0 continuations at once"),
        (2, [[]] * (MOST_WAYS + 1), "33 continuations at once"),
        (60, [[]], "60 are to follow; the model was made for 64 in all"),
    ],
)
def test_what_is_too_long_or_too_much_is_refused(model: RunModel, n: int, ways: Any, said: str) -> None:
    with pytest.raises(strata.ConfigError, match=said):
        model.continuations(TEXT, ways, n)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2"])
def test_other_families_too(tmp_path: Path, model_type: str) -> None:
    """Learned positions; windows of attention, whose cache forgets: their 4 tokens are fewer than the text has."""
    model = asked(make(tmp_path, model_type=model_type))
    ways = [WAYS[0], WAYS[1], WAYS[3]]
    assert model.continuations(TEXT, ways, N) == [by_whole_passes(model, way) for way in ways]
    prompted = model.prompt(TEXT, WAYS[1])
    assert prompted.kl_S is not None
    assert not prompted.kl_S.any()
    assert model.prompt(TEXT, WAYS[3]).kl_S[1:].min() > 0
