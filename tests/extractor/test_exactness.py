"""Stored rows equal a plain forward hook's output exactly, for every family, mode and encoding."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.language_model.inputs import Span, batches, groups, packed_spans
from strata_sae.stores import ActivationStore
from support.extraction import extraction_config
from support.tiny_models import CONFIGS

SITES = [
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_post",
    "blocks.1.hook_attn_out",
    "blocks.0.hook_mlp_out",
    "blocks.1.mlp.hook_post",
    "blocks.0.attn.hook_z",
    "blocks.1.attn.hook_q",
    "blocks.0.attn.hook_k",
    "blocks.0.attn.hook_v",
]


def hooked_forward(config: RunConfig, hooks: dict[str, str], token_ids_BS: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of plain hooks on the whole, untouched model.

    `hooks`: site -> "output of PATH" or "input of PATH", or ", part N of 3" of it, ", ... of each of 4 heads".
    """
    from transformers import AutoModelForCausalLM

    from strata_sae.pipeline.language_model.transformers_library import quiet

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=getattr(torch, config.model.dtype))
    seen: dict[str, torch.Tensor] = {}

    def keep(site: str, value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        value = value.detach().clone().reshape(*token_ids_BS.shape, -1)
        if part := re.search(r", part (\d) of 3(?: of each of (\d+) heads)?$", hooks[site]):
            heads = value.split(value.shape[-1] // int(part[2] or 1), dim=-1)
            value = torch.cat([head.chunk(3, dim=-1)[int(part[1]) - 1] for head in heads], dim=-1)
        seen[site] = value

    for site, place in hooks.items():
        side, path = place.split(",")[0].split(" of ")
        module = model.get_submodule(path)
        if side == "output":
            module.register_forward_hook(lambda module, args, out, site=site: keep(site, out))
        else:
            module.register_forward_pre_hook(
                lambda module, args, kwargs, site=site: keep(site, args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
    with torch.no_grad():
        model(input_ids=token_ids_BS)
    return seen


def expected_rows(config: RunConfig, store: ActivationStore, spans: list[Span]) -> dict[str, np.ndarray]:
    """Rows of a whole store from plain hooks, in the batches the plan gives."""
    plan = store.plan
    hooks = plan.provenance["model"]["hooks"]
    tokens = torch.from_numpy(store.token_map("token_id", 0, plan.n_rows).astype(np.int64))
    rows = {site: torch.full((plan.n_rows, width), torch.nan) for site, width in plan.sites.items()}
    for group in groups(spans, config.model.batch_tokens):
        for batch in batches(group, config.model.batch_tokens):
            ids_BS = torch.zeros((len(batch), batch[0].length), dtype=torch.int64)
            for row, span in enumerate(batch):
                ids_BS[row, : span.length] = tokens[span.start : span.stop]
            for site, values_BSM in hooked_forward(config, hooks, ids_BS).items():
                for row, span in enumerate(batch):
                    rows[site][span.start : span.stop] = values_BSM[row, : span.length].float()
    return {site: values.numpy() for site, values in rows.items()}


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_stored_rows_equal_a_plain_hook_for_every_family(model_type: str, tmp_path: Path) -> None:
    config = extraction_config(
        tmp_path, model_type=model_type, corpus={"n_tokens": 300}, store={"sites": SITES, "shard_bytes": 2**20}
    )
    extract(config, show_progress=False)
    store = ActivationStore.open(config.store_path())
    assert store.plan.n_units == 1
    spans = packed_spans(store.plan.splits, config.corpus.context_length, (0, store.plan.n_rows))
    for site, rows_NM in expected_rows(config, store, spans).items():
        found_NM = store.float_rows(site, 0, store.plan.n_rows)
        assert np.array_equal(found_NM, rows_NM), f"{site}: off by {np.abs(found_NM - rows_NM).max()}"
        assert not np.array_equal(found_NM[1:], rows_NM[:-1]), "the comparison must see rows off by one"


@pytest.mark.parametrize(
    ("dtype", "encoding"), [("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("float32", "float16")]
)
def test_rows_are_rounded_once_to_the_stored_type(dtype: str, encoding: str, tmp_path: Path) -> None:
    config = extraction_config(
        tmp_path, model={"dtype": dtype}, corpus={"n_tokens": 200}, store={"encoding": encoding, "shard_bytes": 2**20}
    )
    extract(config, show_progress=False)
    store = ActivationStore.open(config.store_path())
    spans = packed_spans(store.plan.splits, config.corpus.context_length, (0, store.plan.n_rows))
    for site, rows_NM in expected_rows(config, store, spans).items():
        rounded_NM = torch.from_numpy(rows_NM).to(getattr(torch, encoding)).float().numpy()
        assert np.array_equal(store.float_rows(site, 0, store.plan.n_rows), rounded_NM)


def test_a_sequential_document_is_stored_as_it_is_alone(tmp_path: Path) -> None:
    config = extraction_config(tmp_path, corpus={"mode": "sequential", "n_tokens": 900, "context_length": 64})
    extract(config, show_progress=False)
    store = ActivationStore.open(config.store_path())
    plan = store.plan
    assert plan.n_units > 1
    starts = [*np.flatnonzero(store.token_map("position", 0, plan.n_rows) == 0).tolist(), plan.n_rows]
    tokens = torch.from_numpy(store.token_map("token_id", 0, plan.n_rows).astype(np.int64))
    lengths = set()
    for start, stop in itertools.pairwise(starts):
        lengths.add(stop - start)
        alone = hooked_forward(config, plan.provenance["model"]["hooks"], tokens[None, start:stop])
        for site, values_BSM in alone.items():
            np.testing.assert_allclose(store.float_rows(site, start, stop), values_BSM[0].numpy(), rtol=0, atol=2e-5)
    assert len(lengths) > 3, "documents of several lengths share a batch"


def test_units_give_the_rows_of_one_large_unit(tmp_path: Path) -> None:
    small = extraction_config(tmp_path, corpus={"n_tokens": 1000}, store={"path": str(tmp_path / "many")})
    large = extraction_config(
        tmp_path, corpus={"n_tokens": 1000}, store={"path": str(tmp_path / "one"), "shard_bytes": 2**20}
    )
    for config in (small, large):
        extract(config, show_progress=False)
    many, one = ActivationStore.open(tmp_path / "many"), ActivationStore.open(tmp_path / "one")
    assert (many.plan.n_units, one.plan.n_units) == (4, 1)
    for site in many.plan.sites:
        np.testing.assert_allclose(many.float_rows(site, 0, 1000), one.float_rows(site, 0, 1000), rtol=0, atol=2e-5)
