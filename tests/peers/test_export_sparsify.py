"""SAEs trained here, exported, in sparsify's hands: the same codes on real rows; and its coders in ours, and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import strata_sae as strata
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.formats import FORMATS
from support.demo_run import VARIANTS, DemoRun
from support.handed_saes import SITE, WRITES, handed, rows
from support.library_parity import agreement

pytestmark = pytest.mark.peers

FITS = {
    "topk",
    "topk_by_contribution",
    "orthogonal",
    "batch_topk_by_k",
    "groupmax",
    "topk_transcoder",
    "groupmax_transcoder",
}


def load(folder: Path) -> Any:
    from sparsify import SparseCoder

    return SparseCoder.load_from_disk(folder)


def theirs_of(coder: Any, x_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions, as its `forward` makes them."""
    with torch.no_grad():
        found = coder.encode(x_BM)
        codes = torch.zeros(len(x_BM), coder.num_latents).scatter(1, found.top_indices, found.top_acts)
        return codes, coder.decode(found.top_acts, found.top_indices)


@pytest.mark.parametrize("name", sorted(FITS))
def test_an_export_is_the_same_coder_in_sparsify(name: str, demo_run: DemoRun, tmp_path: Path) -> None:
    trained, x_BM = strata.load(demo_run.address(name)), demo_run.rows_NM
    coder = load(export(demo_run.address(name), "sparsify", tmp_path / "out"))
    found = agreement(trained.sae, x_BM, *theirs_of(coder, x_BM))
    print(f"{name}: {found}")
    assert (found.codes <= 1e-6, found.flips, found.xhat <= 1e-6) == (True, 0, True), found
    assert coder.cfg.transcode == ("transcoder" in name)
    assert coder.cfg.activation == ("groupmax" if "groupmax" in name else "topk")


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - FITS))
def test_what_sparsify_has_no_coder_for(name: str, demo_run: DemoRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sparsify has the k largest of each row and groupmax"):
        export(demo_run.address(name), "sparsify", tmp_path / "out")


def test_a_weight_that_moved_is_found(demo_run: DemoRun, tmp_path: Path) -> None:
    """The control: a thousandth of one weight, of one latent."""
    trained, x_BM = strata.load(demo_run.address("topk")), demo_run.rows_NM
    coder = load(export(demo_run.address("topk"), "sparsify", tmp_path / "out"))
    latent = int(theirs_of(coder, x_BM)[0].sum(0).argmax())
    coder.encoder.weight.data[latent] *= 1.001
    assert agreement(trained.sae, x_BM, *theirs_of(coder, x_BM)).codes > 1e-6


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize("norms", [0.0, 0.8])
def test_sparsifys_own_to_ours_and_back(activation: str, transcode: bool, norms: float, tmp_path: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    cfg = SparseCoderConfig(activation=activation, k=8, expansion_factor=4, transcode=transcode)
    coder = SparseCoder(64, cfg)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        coder.encoder.weight[::16, 0] += 1.0
        coder.encoder.bias[:] = 0.2 * torch.randn(256, generator=generator)
        coder.W_dec[:] = torch.nn.functional.normalize(torch.randn(256, 64, generator=generator), dim=1)
        coder.W_dec *= torch.exp(norms * torch.randn(256, 1, generator=generator))
        coder.b_dec[:] = rows(256).mean(0)
    coder.save_to_disk(tmp_path / "theirs")
    read, write = FORMATS["sparsify"].read, FORMATS["sparsify"].write
    assert read is not None
    assert write is not None
    found = read(tmp_path / "theirs").sae
    x_BM = rows(4096)
    theirs = theirs_of(coder, x_BM)
    (tmp_path / "again").mkdir()
    write(handed(found, WRITES if transcode else SITE), tmp_path / "again")
    again = load(tmp_path / "again")
    for both in (theirs, theirs_of(again, x_BM)):
        told = agreement(found, x_BM, *both)
        print(activation, transcode, told)
        assert (told.codes <= 1e-6, told.flips, told.xhat <= 1e-6) == (True, 0, True), told
    assert all(torch.equal(a, b) for a, b in zip(coder.state_dict().values(), again.state_dict().values(), strict=True))
    assert found.settings.decoder == ("free" if norms else "unit")
