"""Latents on a plane: principal components as a singular value decomposition finds them, the same every time."""

import importlib
import sys

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries import layout
from strata_sae.pipeline.queries.layout import nearest, pca, umap


def decoder(seed=0, E=300, M=12):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((E, M)) * np.linspace(3, 1, M) + 0.5).astype(np.float32)


class Decoder:
    """As much of an SAE as a decoder is."""

    def __init__(self, W_dec):
        self.W_dec, self.decoder_norm_E = W_dec, np.linalg.norm(W_dec, axis=1)


@pytest.mark.parametrize("block", [4096, 7])
def test_it_is_the_singular_value_decomposition(block, monkeypatch):
    monkeypatch.setattr(layout, "_BLOCK", block)
    W_dec = decoder()
    unit_EM = W_dec.astype(np.float64) / np.linalg.norm(W_dec, axis=1, keepdims=True)
    left, sizes, right = np.linalg.svd(unit_EM - unit_EM.mean(axis=0), full_matrices=False)
    found = pca(W_dec)
    for axis in range(2):
        sign = np.sign(right[axis][np.abs(right[axis]).argmax()])
        assert found.xy[:, axis] == pytest.approx(sign * left[:, axis] * sizes[axis], abs=1e-5)
    assert found.explained == pytest.approx((sizes**2 / (sizes**2).sum())[:2])


def test_size_of_rows_and_order_of_latents_change_nothing():
    W_dec = decoder()
    order = np.random.default_rng(1).permutation(len(W_dec))
    scaled = W_dec * np.float32(2) ** np.arange(-5, 5)[np.arange(len(W_dec)) % 10, None]
    assert pca(scaled).xy == pytest.approx(pca(W_dec).xy, abs=1e-5)
    assert pca(W_dec[order]).xy == pytest.approx(pca(W_dec).xy[order], abs=1e-5)
    assert pca(-W_dec).xy != pytest.approx(pca(W_dec).xy, abs=1e-2)  # control: directions do


def test_zero_rows_have_no_place():
    W_dec = decoder()
    W_dec[5] = 0
    found = pca(W_dec).xy
    assert np.isnan(found[5]).all()
    assert np.isfinite(np.delete(found, 5, axis=0)).all()
    assert found[:5] == pytest.approx(pca(np.delete(W_dec, 5, axis=0)).xy[:5], abs=1e-6)
    assert np.isnan(pca(np.zeros((4, 3), np.float32)).xy).all()


def test_nearest_is_the_sorted_cosine():
    W_dec = decoder()
    W_dec[7] = 0
    unit_EM = W_dec / np.maximum(np.linalg.norm(W_dec, axis=1, keepdims=True), 1e-9)
    cosine_E = unit_EM @ unit_EM[11]
    found = nearest(Decoder(W_dec), 11, 5)
    others = [e for e in np.argsort(-cosine_E, kind="stable").tolist() if e not in (7, 11)]
    assert [latent for latent, _ in found] == others[:5]
    assert [cosine for _, cosine in found] == pytest.approx(cosine_E[others[:5]], abs=1e-6)
    assert nearest(Decoder(W_dec), 7, 5) == []
    assert len(nearest(Decoder(W_dec), 11, 1000)) == len(W_dec) - 2


def test_without_umap_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr(layout, "has_umap", lambda: False)
    with pytest.raises(ConfigError, match="extra `map`"):
        umap(decoder())


def test_umap_is_called_with_a_seed(monkeypatch):
    class UMAP:
        def __init__(self, **settings):
            assert settings == {"metric": "cosine", "random_state": 0, "n_jobs": 1}

        def fit_transform(self, rows):
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", type(sys)("umap"))
    sys.modules["umap"].UMAP = UMAP
    monkeypatch.setattr(layout, "has_umap", lambda: True)
    W_dec = decoder()
    W_dec[5] = 0
    found = umap(W_dec)
    assert found.explained is None
    assert np.isnan(found.xy[5]).all()
    assert (found.xy[:5] == W_dec[:5, :2]).all()


def test_a_folder_named_umap_is_no_umap(tmp_path, monkeypatch):
    (tmp_path / "umap").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # umap-learn itself may be installed
    assert not layout.has_umap()
    (tmp_path / "umap/__init__.py").touch()
    importlib.invalidate_caches()
    assert layout.has_umap()  # control
