"""Documents packed into one sequence have the rows they have alone, in every family and attention implementation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import strata_sae.pipeline.language_model.capture as capture_module
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.capture import Capture, isolates
from strata_sae.pipeline.language_model.inputs import restarted_positions
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.language_model.probe import SAME_ROW, check_isolation
from strata_sae.pipeline.language_model.sites import FAMILIES
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.settings import ModelSettings

SITES = ["blocks.0.hook_attn_out", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post"]
LENGTHS = [[7, 1, 12, 5, 9], [20, 14]]  # longer than a sliding window of 4, shorter than it, and of one token
SettingsOf = Callable[..., ModelSettings]


def documents(lengths: list[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 300, (length,), generator=generator) for length in lengths]


def largest_errors(capture: Capture, *, isolated: bool) -> dict[str, float]:
    """Site -> |packed row - row alone| / |row alone|, the largest; two packed sequences in one batch."""
    batch = [documents(lengths, seed) for seed, lengths in enumerate(LENGTHS)]
    starts = [torch.tensor([0, *map(len, texts[:-1])]).cumsum(0).tolist() for texts in batch]
    positions_BS = torch.stack([restarted_positions(begins, sum(LENGTHS[0])) for begins in starts])
    packed = capture.forward(torch.stack([torch.cat(texts) for texts in batch]), positions_BS if isolated else None)
    errors = dict.fromkeys(packed, 0.0)
    for row, (texts, begins) in enumerate(zip(batch, starts, strict=True)):
        for text, begin in zip(texts, begins, strict=True):
            for site, alone_BSM in capture.forward(text[None]).items():
                alone_SM, found_SM = alone_BSM[0].float(), packed[site][row, begin : begin + len(text)].float()
                error = ((found_SM - alone_SM).norm(dim=1) / alone_SM.norm(dim=1)).max()
                errors[site] = max(errors[site], float(error))
    return errors


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_packed_documents_are_run_as_if_alone(
    model_type: str, dtype: str, attention: str, settings_of: SettingsOf
) -> None:
    capture = load(settings_of(model_type, dtype=dtype), SITES)
    if model_type != "gemma2":  # which has eager attention only
        with quiet():
            capture.model.set_attn_implementation(attention)
    isolated, joined = largest_errors(capture, isolated=True), largest_errors(capture, isolated=False)
    for site in SITES:
        assert isolated[site] <= (1e-5 if dtype == "float32" else SAME_ROW[dtype]), site
        assert joined[site] > 0.2, f"{site}: the comparison must see documents that see each other"
    check_isolation(capture)


def test_positions_start_again_with_each_document() -> None:
    assert restarted_positions([0, 3, 4], 7).tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert restarted_positions([2], 5).tolist() == [0, 1, 0, 1, 2]
    assert restarted_positions([], 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_a_model_that_joins_documents_anyway_is_refused(
    model_type: str, settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = load(settings_of(model_type), SITES)
    monkeypatch.setattr("strata_sae.pipeline.language_model.capture.isolating_arguments", lambda *_: {})
    with pytest.raises(ConfigError, match="lets packed documents see each other"):
        check_isolation(capture)


def test_opt_needs_its_mask(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = load(settings_of("opt"), SITES)
    monkeypatch.setattr(capture_module, "_MASK_IGNORES_POSITIONS", ())
    with pytest.raises(ConfigError, match="lets packed documents see each other"):
        check_isolation(capture)


def test_only_known_families_and_attentions_isolate() -> None:
    assert all(isolates(model_type, attention) for model_type in FAMILIES for attention in ("sdpa", "eager"))
    assert not isolates("llama", "flash_attention_2")
    assert not isolates("mamba", "sdpa")
