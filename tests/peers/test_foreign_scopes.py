"""Gemma Scope and Llama Scope as SAELens' own loaders read them, from the same files."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.formats import gemma_scope, llama_scope
from support.foreign_folders import NORM_IN, write_gemma_scope, write_llama_scope
from support.handed_saes import LATENTS, WIDTH, rows
from support.library_parity import agreement

pytestmark = pytest.mark.peers

OVERRIDES = {"d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "reshape_activations": "none"}
"""The last: rows of hook_z, all heads side by side, are given as ours are."""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that SAELens takes for the hub: a file of a repository is the one of that name in it."""
    from sae_lens.loading import pretrained_sae_loaders

    def download(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(tmp_path / Path(repo_id).name / subfolder / filename)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", download)
    return tmp_path


def by_saelens(loader: str, repo_id: str, folder: str, factor: float | None = None) -> Any:
    """As SAE.from_pretrained makes one, which needs a release of its list."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    load = loaders.NAMED_PRETRAINED_SAE_LOADERS[loader]
    config, state, _ = load(repo_id, folder, device="cpu", cfg_overrides=dict(OVERRIDES))
    config = loaders.handle_config_defaulting(config)
    if "d_out" in config:
        config["d_out"] = WIDTH
    settings = SAE.get_sae_config_class_for_architecture(config["architecture"]).from_dict(config)
    sae = SAE.get_sae_class_for_architecture(settings.architecture())(settings)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    if factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    return sae


def theirs_of(sae: Any, x_BM: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        codes_BE = sae.encode(x_BM)
        return codes_BE, sae.decode(codes_BE)


GEMMA = {
    "gemma-scope-2b-pt-res": ("gemma_2", "layer_20/width_16k/average_l0_71"),
    "gemma-scope-9b-pt-mlp": ("gemma_2", "layer_3/width_131k/average_l0_7"),
    "gemma-scope-2b-pt-att": ("gemma_2", "layer_0/width_16k/average_l0_104"),
    "gemma-scope-2b-pt-transcoders": ("gemma_2_transcoder", "layer_4/width_16k/average_l0_76"),
}


@pytest.mark.parametrize("name", GEMMA)
def test_gemma_scope(name: str, repository: Path) -> None:
    loader, place = GEMMA[name]
    (folder := repository / name / place).mkdir(parents=True)
    write_gemma_scope(folder)
    theirs, found, x_BM = by_saelens(loader, f"google/{name}", place), gemma_scope.read(folder), rows(4096)
    told = agreement(found.sae, x_BM, *theirs_of(theirs, x_BM))
    print(f"{name}: {told}")
    assert (told.codes <= 1e-6, told.flips, told.xhat <= 1e-6) == (True, 0, True), told
    metadata = theirs.cfg.metadata
    assert (found.source.site, found.source.writes) == (metadata.hook_name, metadata.hook_name_out)
    assert found.source.model == f"google/{metadata.model_name}"
    theirs.b_enc.data[0] += 0.1
    theirs.threshold.data[:] = 0
    assert agreement(found.sae, x_BM, *theirs_of(theirs, x_BM)).flips > 0, "a control"


def test_llama_scope_with_decoder_rows_of_norm_1(repository: Path) -> None:
    """Reconstructions and active latents are equal; SAELens' codes are those of scaled rows, by one factor larger."""
    name, place = "Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L15R-8x"
    (folder := repository / name / place).mkdir(parents=True)
    factor = math.sqrt(WIDTH) / NORM_IN
    # Rows of norm 1 in the model's units, once the library has loaded them.
    write_llama_scope(folder, norms=0.0)
    theirs, found, x_BM = by_saelens("llama_scope", f"fnlp/{name}", place, factor), llama_scope.read(folder), rows(4096)
    codes_BE, xhat_BM = theirs_of(theirs, x_BM)
    told = agreement(found.sae, x_BM, codes_BE / factor, xhat_BM)
    print(f"llama_scope: factor {factor}, {told}")
    # SAELens multiplies its float32 weights by the factor, so that they are rounded once more than those here.
    assert (told.codes <= 2e-6, told.flips, told.xhat <= 1e-6) == (True, 0, True), told
    assert agreement(found.sae, x_BM, codes_BE, xhat_BM).codes > 0.1, "a control: the factor is seen"
    assert (found.source.site, found.source.model) == (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.model_name)


def test_llama_scope_selects_otherwise_there_where_norms_are_not_1(repository: Path) -> None:
    """What docs say of it: SAELens leaves decoder norms where they are, so its threshold cuts other codes."""
    name, place = "Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L15R-8x"
    (folder := repository / name / place).mkdir(parents=True)
    write_llama_scope(folder, norms=0.3)
    theirs = by_saelens("llama_scope", f"fnlp/{name}", place, math.sqrt(WIDTH) / NORM_IN)
    x_BM = rows(4096)
    ours_BE = llama_scope.read(folder).sae.encode_inference(x_BM).to_dense()
    assert float(((ours_BE != 0) != (theirs_of(theirs, x_BM)[0] != 0)).float().mean()) > 1e-3
