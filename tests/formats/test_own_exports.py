"""What is exported and read back: equal bits where a format says it all, or refused with the reason before a byte."""

from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.formats.foreign import DoesNotFit, Foreign, Handed
from strata_sae.pipeline.saes.base import SAE
from support.handed_saes import ROUTES, SETTINGS, SITE, WIDTH, WRITES, handed, made, rows, transcoder

FITS = {
    "saelens": {name for name in SETTINGS if name.partition(" ")[0] not in ("groupmax", "two_child_topk", "identity")},
    "sparsify": {"topk", "topk with k falling", "batch_topk by k", "groupmax"},
}
FITS_ROUNDED = {"sparsify": {"topk without pre_bias", "groupmax without pre_bias"}}
"""sparsify always takes b_dec from the rows of an SAE, so b_enc holds a sum, rounded once."""
TRANSCODERS = {"saelens": {"relu", "topk by threshold", "batch_topk", "jump_relu"}, "sparsify": {"topk", "groupmax"}}
CASES = [(format, name) for format in FITS for name in SETTINGS]
ROUTE_CASES = [(format, name) for format in TRANSCODERS for name in ROUTES]


def through(format: str, given: Handed, folder: Path) -> Foreign:
    one = FORMATS[format]
    assert one.write is not None
    assert one.read is not None
    one.write(given, folder)
    assert one.is_one(folder)
    return one.read(folder)


def assert_equal(ours: SAE, theirs: SAE) -> None:
    x_BM = rows(512)
    codes, theirs_codes = ours.encode_inference(x_BM), theirs.encode_inference(x_BM)
    assert torch.equal(codes.to_dense(), theirs_codes.to_dense())
    assert torch.equal(ours.decode(codes), theirs.decode(theirs_codes))
    assert 0 < int(codes.to_dense().count_nonzero()) < codes.to_dense().numel(), "a control: neither all nor none"


@pytest.mark.parametrize(("format", "name"), [case for case in CASES if case[1] in FITS[case[0]]])
def test_an_sae_comes_back_bit_by_bit(format: str, name: str, tmp_path: Path) -> None:
    sae = made(name)
    found = through(format, handed(sae), tmp_path)
    assert_equal(sae, found.sae)
    assert (found.source.site, found.source.writes, found.source.model) == (SITE, None, "some/model")
    assert found.sae.settings.decoder == "unit"
    assert sorted(found.source.sha256) == sorted(path.name for path in tmp_path.iterdir())
    assert "5b" * 32 in str(found.source.facts)


@pytest.mark.parametrize(("format", "name"), [case for case in ROUTE_CASES if case[1] in TRANSCODERS[case[0]]])
def test_a_transcoder_comes_back_bit_by_bit(format: str, name: str, tmp_path: Path) -> None:
    sae = transcoder(name, d_out=48 if format == "saelens" else WIDTH)
    found = through(format, handed(sae, WRITES), tmp_path)
    assert_equal(sae, found.sae)
    assert (found.source.site, found.source.writes, found.sae.d_out) == (SITE, WRITES, sae.d_out)


@pytest.mark.parametrize("name", sorted(FITS_ROUNDED["sparsify"]))
def test_a_folded_bias_is_rounded_once(name: str, tmp_path: Path) -> None:
    sae, x_BM = made(name), rows(512)
    found = through("sparsify", handed(sae), tmp_path).sae
    assert found.settings.pre_bias
    codes, theirs = sae.encode_inference(x_BM).to_dense(), found.encode_inference(x_BM).to_dense()
    assert float((codes - theirs).abs().max() / codes.max()) < 1e-6
    assert not torch.equal(codes, theirs)


def refused(format: str, given: Handed, folder: Path) -> str:
    write = FORMATS[format].write
    assert write is not None
    with pytest.raises(DoesNotFit) as said:
        write(given, folder)
    assert list(folder.iterdir()) == []
    assert given.name in str(said.value)
    return str(said.value)


@pytest.mark.parametrize(
    ("format", "name"), [case for case in CASES if case[1] not in FITS[case[0]] | FITS_ROUNDED.get(case[0], set())]
)
def test_what_does_not_fit_is_refused_by_name(format: str, name: str, tmp_path: Path) -> None:
    said = refused(format, handed(made(name)), tmp_path)
    architecture = name.partition(" ")[0]
    assert architecture in said
    other = {"saelens": "sparsify", "sparsify": "saelens"}[format]
    fits_there = name in FITS[other] | FITS_ROUNDED.get(other, set())
    assert (f"--format {other}" in said) == fits_there, "where it does fit"


@pytest.mark.parametrize(("format", "name"), [case for case in ROUTE_CASES if case[1] not in TRANSCODERS[case[0]]])
def test_a_transcoder_that_does_not_fit_is_refused(format: str, name: str, tmp_path: Path) -> None:
    said = refused(format, handed(transcoder(name), WRITES), tmp_path)
    other = {"saelens": "sparsify", "sparsify": "saelens"}[format]
    assert name.partition(" ")[0] in said
    assert (f"--format {other}" in said) == (name in TRANSCODERS[other]), "where it does fit"


def test_sparsify_has_one_width(tmp_path: Path) -> None:
    assert "one width" in refused("sparsify", handed(transcoder("topk", d_out=48), WRITES), tmp_path)


@pytest.mark.parametrize("format", FITS)
def test_contributions_of_rows_that_have_other_norms(format: str, tmp_path: Path) -> None:
    by_rank = {"rank_by": "contribution", "decoder": "free", "inference": "k"}
    final = made("topk", **by_rank)
    found = through(format, handed(final), tmp_path).sae
    x_BM = rows(512)
    codes, theirs = final.encode_inference(x_BM).to_dense(), found.encode_inference(x_BM).to_dense()
    assert float((codes - theirs).abs().max() / codes.max()) < 1e-6
    (empty := tmp_path / "empty").mkdir()
    final.W_dec[3] *= 1.5
    assert "contribution" in refused(format, handed(final), empty)


def test_a_threshold_that_is_not_there_yet(tmp_path: Path) -> None:
    sae = made("batch_topk")
    sae.threshold = None
    assert "finish its training" in refused("saelens", handed(sae), tmp_path)


def test_a_threshold_below_0_is_one_of_0(tmp_path: Path) -> None:
    sae = made("batch_topk")
    sae.threshold = torch.tensor(-0.5, dtype=torch.float64)
    found = through("saelens", handed(sae), tmp_path).sae
    assert found.threshold is not None
    assert not bool(found.threshold.any())
    assert torch.equal(sae.encode_inference(rows(64)).to_dense(), found.encode_inference(rows(64)).to_dense())


@pytest.mark.parametrize("format", FITS)
def test_the_same_sae_gives_the_same_bytes(format: str, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        through(format, handed(made("topk")), folder)
    a, b = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert a == b
