"""A toy's truth as sae_lens.synthetic measures it, on equal numbers; and its generator beside ours."""

from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.config.toy import Hierarchy
from strata_sae.pipeline.evaluation.truth.detection import Detection
from strata_sae.pipeline.evaluation.truth.matching import assigned, cosines, mean_correlation, uniqueness
from strata_sae.pipeline.toy.generators import drawn, features
from strata_sae.pipeline.toy.hierarchy import hierarchy_tensors, zipf

pytestmark = pytest.mark.peers

SHAPES = [(40, 24, 16), (16, 24, 16), (24, 24, 64)]
"""Latents, features, width: more latents than features, fewer, and as many."""
TOLERANCE = 1e-7


def made_up(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decoder, features, codes of 500 rows, true amplitudes; some latents dead, dense, or of a row of zeros."""
    n_latents, n_features, width = shape
    rng = np.random.default_rng(sum(shape))
    W_dec, directions = rng.standard_normal((n_latents, width)), rng.standard_normal((n_features, width))
    codes = rng.random((500, n_latents)) * (rng.random((500, n_latents)) < 0.2)
    codes[:, 0], codes[:, 1], W_dec[2] = 0.0, 1.0, 0.0
    amplitude = rng.random((500, n_features)) * (rng.random((500, n_features)) < 0.1)
    amplitude[:, 3] = 0.0
    as_tensor = torch.from_numpy
    return as_tensor(W_dec), as_tensor(directions), as_tensor(codes), as_tensor(amplitude)


def ours(W_dec: Any, directions: Any, codes: Any, amplitude: Any) -> dict[str, float]:
    cosine = cosines(W_dec, directions)
    pairs = assigned(cosine)
    detection = Detection(cosine, pairs)
    for start in range(0, len(codes), 200):
        detection.update(codes[start : start + 200] != 0, amplitude[start : start + 200] > 0)
    precision, recall, f1 = detection.of_latents()
    assert precision is not None
    assert recall is not None
    assert f1 is not None
    return {
        "mcc": mean_correlation(cosine, pairs), "uniqueness": uniqueness(cosine), "precision": precision,
        "recall": recall, "f1": f1,
    }  # fmt: skip


def theirs(W_dec: Any, directions: Any, codes: Any, amplitude: Any) -> dict[str, float]:
    from sae_lens.synthetic.evals import (
        compute_classification_metrics,
        feature_uniqueness,
        mean_correlation_coefficient,
    )

    found = compute_classification_metrics(codes, amplitude, W_dec, directions)
    return {
        "mcc": mean_correlation_coefficient(W_dec, directions), "uniqueness": feature_uniqueness(W_dec, directions),
        "precision": found.precision, "recall": found.recall, "f1": found.f1_score,
    }  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shared_metrics_are_saelens(shape: tuple[int, int, int]):
    data = made_up(shape)
    one, other = ours(*data), theirs(*data)
    worst = max(abs(one[name] - other[name]) for name in one)
    print(f"{shape}: largest difference {worst:.1e}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_control_one_code_more_or_directions_a_little_off_are_seen(shape: tuple[int, int, int]):
    W_dec, directions, codes, amplitude = made_up(shape)
    other = theirs(W_dec, directions, codes, amplitude)
    changed = codes.clone()
    changed[codes[:, 5].argmin(), 5] = 1.0
    of_code = ours(W_dec, directions, changed, amplitude)
    assert max(abs(of_code[name] - other[name]) for name in ("precision", "recall", "f1")) > TOLERANCE
    turned = W_dec + 0.01 * directions[0]
    assert abs(ours(turned, directions, codes, amplitude)["mcc"] - other["mcc"]) > TOLERANCE


def source(settings: Hierarchy) -> Any:
    """SAELens' model with the settings that are ours under other names."""
    from sae_lens.synthetic import SyntheticModel, SyntheticModelConfig
    from sae_lens.synthetic.firing_magnitudes import FoldedNormalMagnitudeConfig, LinearMagnitudeConfig
    from sae_lens.synthetic.firing_probabilities import ZipfianFiringProbabilityConfig
    from sae_lens.synthetic.hierarchy import HierarchyConfig
    from sae_lens.synthetic.synthetic_model import LowRankCorrelationConfig

    return SyntheticModel(
        SyntheticModelConfig(
            num_features=settings.n_features,
            hidden_dim=settings.d_model,
            firing_probability=ZipfianFiringProbabilityConfig(
                settings.zipf_exponent, settings.max_probability, settings.min_probability
            ),
            hierarchy=HierarchyConfig(
                total_root_nodes=settings.n_roots,
                branching_factor=settings.n_children,
                max_depth=settings.depth,
                mutually_exclusive_portion=settings.exclusive_share,
                compensate_probabilities=settings.compensate,
                scale_children_by_parent=settings.scale_by_parent,
            ),
            correlation=LowRankCorrelationConfig(settings.correlation_rank, settings.correlation_scale),
            mean_firing_magnitudes=LinearMagnitudeConfig(settings.first_magnitude, settings.last_magnitude),
            std_firing_magnitudes=FoldedNormalMagnitudeConfig(settings.magnitude_std, settings.magnitude_std),
            bias=settings.bias_norm,
            seed=0,
        )
    )


def test_what_our_hierarchy_draws_from_is_saelens():
    """Tree and probabilities, number by number; amplitudes by their distribution's parameters."""
    settings = Hierarchy(n_features=300, n_roots=3)
    model = source(settings)
    known = hierarchy_tensors(settings, np.random.default_rng(0))
    parent = np.full(300, -1)

    def walk(nodes: Any, above: int) -> None:
        for node in nodes:
            parent[node.feature_index] = above
            assert bool(node.mutually_exclusive_children) == bool(known["exclusive"][node.feature_index])
            walk(node.children, node.feature_index)

    walk(model.hierarchy.roots, -1)
    assert parent.tolist() == known["parent"].tolist()
    generator = model.activation_generator
    np.testing.assert_allclose(zipf(settings), model.cfg.firing_probability.generate(300).numpy(), rtol=2e-5)
    np.testing.assert_allclose(known["probability"], generator.firing_probabilities.numpy(), rtol=2e-5)
    np.testing.assert_allclose(known["magnitude_mean"], generator.mean_firing_magnitudes.numpy(), rtol=1e-6)


def test_our_rows_are_on_as_often_as_saelens():
    """Of 20,000 rows each: rates of every feature within 6 standard errors of a difference, and the mean amplitude."""
    settings, n = Hierarchy(), 20_000
    torch.manual_seed(0)
    _, amplitude = source(settings).sample_with_features(n)
    made = drawn(settings, features(settings, 0), 0, 0, n)
    assert made.amplitude is not None
    on = np.zeros((n, settings.n_features), bool)
    np.put_along_axis(on, np.where(made.active < 0, 0, made.active), made.active >= 0, axis=1)
    on[:, 0] = (made.active == 0).any(axis=1)
    theirs_on = (amplitude > 0).numpy()
    error = np.sqrt((on.mean(0) + theirs_on.mean(0)).clip(min=2e-4) / n)
    distance = np.abs(on.mean(0) - theirs_on.mean(0)) / error
    assert distance[:60].max() < 6, "correlations differ from seed to seed, so that rare children may, too"
    assert on.sum(1).mean() == pytest.approx(theirs_on.sum(1).mean(), rel=0.05)
    mean = made.amplitude[made.amplitude > 0].mean()
    assert mean == pytest.approx(float(amplitude[amplitude > 0].mean()), rel=0.03)


def test_directions_are_pushed_apart_as_saelens_does_it():
    from sae_lens.synthetic.feature_dictionary import orthogonalize_embeddings

    from strata_sae.pipeline.toy.hierarchy import _pushed_apart

    settings = Hierarchy(orthogonal_steps=30, orthogonal_rate=0.003)
    start = np.random.default_rng(1).standard_normal((80, 24))
    theirs = orthogonalize_embeddings(torch.from_numpy(start), num_steps=30, lr=0.003, chunk_size=1024).numpy()
    np.testing.assert_allclose(_pushed_apart(settings, start), theirs, atol=1e-9)
    begun = start / np.linalg.norm(start, axis=1, keepdims=True)
    assert np.abs(theirs - begun).max() > 1e-3, "control: the steps do something"
