"""SAEs trained here, exported, in SAELens' own hands: the same codes on real rows; and its SAEs in ours, and back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import strata_sae as strata
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.formats.foreign import Foreign
from strata_sae.pipeline.saes.base import SAE
from support.demo_run import SITE, VARIANTS, WRITES, DemoRun
from support.handed_saes import handed, rows
from support.library_parity import agreement

pytestmark = pytest.mark.peers

CLASSES = {
    "relu": "StandardSAE",
    "relu_tied": "StandardSAE",
    "gated": "GatedSAE",
    "topk": "TopKSAE",
    "topk_by_threshold": "JumpReLUSAE",
    "topk_by_contribution": "TopKSAE",
    "orthogonal": "TopKSAE",
    "batch_topk": "JumpReLUSAE",
    "batch_topk_by_k": "TopKSAE",
    "matryoshka": "JumpReLUSAE",
    "jump_relu": "JumpReLUSAE",
    "relu_transcoder": "Transcoder",
    "jump_relu_transcoder": "JumpReLUTranscoder",
    "batch_topk_transcoder": "JumpReLUTranscoder",
}
REFUSED = set(VARIANTS) - set(CLASSES)


def load(folder: Path) -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(folder)


def theirs_of(sae: Any, x_BM: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        codes = sae.encode(x_BM)
        return codes, sae.decode(codes)


def read(folder: Path) -> Foreign:
    reader = FORMATS["saelens"].read
    assert reader is not None
    return reader(folder)


@pytest.mark.parametrize("name", CLASSES)
def test_an_export_is_the_same_sae_in_saelens(name: str, demo_run: DemoRun, tmp_path: Path) -> None:
    trained = strata.load(demo_run.address(name))
    sae = load(export(demo_run.address(name), "saelens", tmp_path / "out"))
    assert type(sae).__name__ == CLASSES[name]
    x_BM = demo_run.rows_NM
    found = agreement(trained.sae, x_BM, *theirs_of(sae, x_BM))
    l0 = float((trained.encode(x_BM).to_dense() != 0).sum(1).float().mean())
    print(f"{name}: {type(sae).__name__}, L0 {l0:.1f}, {found}")
    assert l0 > 1
    assert found.codes <= 1e-6
    assert found.flips == 0
    assert found.xhat <= 1e-6
    metadata = sae.cfg.metadata
    assert metadata.strata["weights_sha256"] == trained.provenance.weights_sha256
    assert (metadata.hook_name, metadata.hook_layer, metadata.prepend_bos) == (SITE, 8, True)
    assert metadata.hook_name_out == (WRITES if "transcoder" in name else None)
    assert (metadata.context_size, metadata.dataset_path) == (64, "python_docs")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_saelens_has_no_class_for(name: str, demo_run: DemoRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SAELens has no"):
        export(demo_run.address(name), "saelens", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_moved_is_found(demo_run: DemoRun, tmp_path: Path) -> None:
    """The control: a thousandth of one weight, of one latent."""
    trained = strata.load(demo_run.address("topk"))
    sae, x_BM = load(export(demo_run.address("topk"), "saelens", tmp_path / "out")), demo_run.rows_NM
    latent = int(theirs_of(sae, x_BM)[0].sum(0).argmax())
    sae.W_enc.data[:, latent] *= 1.001
    assert agreement(trained.sae, x_BM, *theirs_of(sae, x_BM)).codes > 1e-6


KINDS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard without b_dec": {"apply_b_dec_to_input": False},
    "topk": {"k": 12},
    "topk rescaled": {"k": 12, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {},
    "gated": {},
    "transcoder": {"d_out": 48, "apply_b_dec_to_input": False},
    "jumprelu_transcoder": {"d_out": 48, "apply_b_dec_to_input": False},
}


@pytest.fixture(params=KINDS)
def foreign(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An SAE made by SAELens, with random weights whose decoder rows have norms of 0.3 to 3."""
    from sae_lens.registry import get_sae_class

    architecture = request.param.partition(" ")[0]
    kind, config = get_sae_class(architecture)
    sae = kind(config(d_in=64, d_sae=256, **KINDS[request.param]))
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    d_out = sae.W_dec.shape[1]
    with torch.no_grad():
        norms = torch.exp(torch.linspace(-1.2, 1.1, 256))
        sae.W_dec[:] = torch.nn.functional.normalize(drawn(256, d_out), dim=1) * norms[:, None]
        sae.W_enc[:] = drawn(64, 256) / 8
        sae.W_enc[0, ::16] += 1.0  # the large column: codes are then as large as rows, as those of trained SAEs are
        sae.b_dec[:] = rows(256, d_out).mean(0)
        centre = rows(256).mean(0) @ sae.W_enc
        for name in ("b_enc", "b_gate", "b_mag"):
            if getattr(sae, name, None) is not None:
                getattr(sae, name)[:] = 0.2 * drawn(256) - (0 if sae.cfg.apply_b_dec_to_input else centre)
        if hasattr(sae, "r_mag"):
            sae.r_mag[:] = 0.3 * drawn(256)
        if hasattr(sae, "threshold"):
            sae.threshold[:] = drawn(256)  # also below 0, where it is none
    sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out = SITE, WRITES if d_out == 48 else None
    return sae


def test_saelens_own_to_ours_and_back(foreign: Any, tmp_path: Path) -> None:
    foreign.save_model(tmp_path / "theirs")
    found = read(tmp_path / "theirs")
    assert (found.source.site, found.source.writes) == (SITE, foreign.cfg.metadata.hook_name_out)
    x_BM, scale = rows(4096), torch.ones(256)
    codes_BE, xhat_BM = theirs_of(foreign, x_BM)
    told = agreement(found.sae, x_BM, codes_BE * scale, xhat_BM)
    print(f"{foreign.cfg.architecture()}: to ours {told}")
    assert (told.codes <= 1e-6, told.flips, told.xhat <= 1e-6) == (True, 0, True), told
    (tmp_path / "again").mkdir()
    write = FORMATS["saelens"].write
    assert write is not None
    write(handed(found.sae, found.source.writes or SITE), tmp_path / "again")
    again = load(tmp_path / "again")
    assert type(again) is type(foreign)
    told = agreement(found.sae, x_BM, *theirs_of(again, x_BM))
    assert (told.codes <= 1e-6, told.flips, told.xhat <= 1e-6) == (True, 0, True), told
    both = theirs_of(again, x_BM)
    assert float((both[1] - xhat_BM).abs().max() / xhat_BM.abs().max()) <= 1e-6
    assert count(found.sae, x_BM) > 1


def count(sae: SAE, x_BM: Tensor) -> float:
    return float((sae.encode_inference(x_BM).to_dense() != 0).sum(1).float().mean())
