"""Closed forms, batch independence, and a float64 loop beside every metric."""

import math

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.metric import PerBatch
from strata_sae.pipeline.evaluation.metrics import METRICS
from strata_sae.pipeline.evaluation.of_latents import FracDeadAt10kRows
from strata_sae.pipeline.evaluation.of_libraries import OF_LIBRARIES
from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, TargetRows, WeightFacts, max_cosine
from strata_sae.pipeline.evaluation.scores import BINS_PER_DECADE, DECADES, density_histogram
from strata_sae.pipeline.evaluation.totals import Batching, Totals
from strata_sae.pipeline.kernels.codes import Codes, DenseCodes
from strata_sae.pipeline.saes import ARCHITECTURES
from support.small_saes import make_sae

N_ROWS, D_MODEL, D_SAE, BATCH_ROWS, FIXED = 300, 8, 40, 40, 90


@pytest.fixture
def rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_BM, codes as values_BE, xhat_BM, W_dec: an SAE that is neither good nor trivial, off-centre rows."""
    generator = torch.Generator().manual_seed(3)
    x_BM = torch.randn(N_ROWS, D_MODEL, generator=generator) + 2.0
    values_BE = (torch.randn(N_ROWS, D_SAE, generator=generator) - 1.0).relu()
    values_BE[:, :5] = 0.0
    W_dec = torch.randn(D_SAE, D_MODEL, generator=generator)
    xhat_BM = 0.3 * values_BE @ W_dec + 0.5 * x_BM + 0.7
    return x_BM, values_BE, xhat_BM, W_dec


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    """Of per-batch metrics: seven whole batches and a shorter one, which does not count. A fixed count within them."""
    monkeypatch.setattr(Totals, "batch_rows", BATCH_ROWS)
    monkeypatch.setattr(FracDeadAt10kRows, "at_rows", FIXED)
    monkeypatch.setattr("strata_sae.pipeline.evaluation.totals.FIXED_ROWS", (FIXED, 100_000))


def scores(
    x_BM: Tensor, values_BE: Tensor, xhat_BM: Tensor, W_dec: Tensor, batch: int = N_ROWS, W_enc: Tensor | None = None
) -> dict[str, float | None]:
    W_enc = encoder_of(W_dec) if W_enc is None else W_enc
    weights = WeightFacts(max_cosine(W_dec, tile_rows=16), max_cosine(W_enc, tile_rows=7))
    totals, batching = Totals(weights), Batching()
    for start in range(0, len(x_BM), batch):
        part = slice(start, start + batch)
        cuts = list(batching.cuts(len(x_BM[part])))
        targets = TargetRows(x_BM[part], (stop for _, stop, _ in cuts))
        rows = ScoredRows(targets, codes_of(values_BE[part]), xhat_BM[part])
        totals.update([rows], [batching.segment([targets], (slice(a, b),), ends) for a, b, ends in cuts])
        totals.add_tokens("special", rows, torch.arange(start, start + targets.n_rows) % 10 == 0)
    if (last := batching.last()) is not None:
        totals.end_batch(last)
    return {name: metric(totals).value() for name, metric in METRICS.items()}


def near(found: float | None, wanted: float | None, relative: float, absolute: float = 0.0) -> bool:
    return found is wanted if wanted is None else found == pytest.approx(wanted, rel=relative, abs=absolute)


def codes_of(values_BE: Tensor) -> Codes:
    """Entries where few are active, the full matrix otherwise: both kinds are tested."""
    codes = DenseCodes(values_BE)
    return codes.to_sparse() if codes.n_active() < 0.2 * values_BE.numel() else codes


PER_BATCH = [name for name, metric in METRICS.items() if issubclass(metric, PerBatch) and name not in OF_LIBRARIES]


def encoder_of(W_dec: Tensor) -> Tensor:
    """A W_enc that is another matrix, of other width."""
    return torch.cat([W_dec.flip(0) * 2, W_dec.square()[:, :3]], dim=1)


def largest_cosines(W_EM: Tensor) -> list[float]:
    """Of each row the largest cosine to another one, in rising order; every pair by itself."""
    rows = W_EM.double().tolist()

    def cosine(a: list[float], b: list[float]) -> float:
        dot, square_a, square_b = (
            math.fsum(x * y for x, y in zip(u, v, strict=True)) for u, v in ((a, b), (a, a), (b, b))
        )
        return dot / math.sqrt(square_a * square_b) if square_a and square_b else 0.0

    return sorted(max(cosine(a, b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows))


def batch_by_batch(x_rows: list[list[float]], xhat_rows: list[list[float]]) -> dict[str, float | None]:
    """What libraries that score batch by batch report: whole batches only, or the one that there is."""
    n, d = len(x_rows), len(x_rows[0])
    size = min(BATCH_ROWS, n)
    found: dict[str, list[float]] = {name: [] for name in PER_BATCH}
    for start in range(0, n - size + 1, size):
        x, xhat = x_rows[start : start + size], xhat_rows[start : start + size]
        e = [[a - b for a, b in zip(u, v, strict=True)] for u, v in zip(x, xhat, strict=True)]
        mean = [math.fsum(row[i] for row in x) / size for i in range(d)]
        error_mean = [math.fsum(row[i] for row in e) / size for i in range(d)]
        sse = math.fsum(value**2 for row in e for value in row)
        spread = math.fsum((row[i] - mean[i]) ** 2 for row in x for i in range(d))
        centred = math.fsum((row[i] - error_mean[i]) ** 2 for row in e for i in range(d))
        dot = math.fsum(a * b for u, v in zip(x, xhat, strict=True) for a, b in zip(u, v, strict=True))
        if spread > 1e-9:
            found["normalised_mse_per_batch"].append(sse / spread)
            found["frac_variance_explained_per_batch"].append(1 - (centred / (size - 1)) / (spread / (size - 1)))
        if dot:
            square = math.fsum(value**2 for row in xhat for value in row)
            found["relative_reconstruction_bias_per_batch"].append(square / dot)
        distances = [math.fsum((row[i] - mean[i]) ** 2 for i in range(d)) for row in x]
        shares = [
            1 - math.fsum(value**2 for value in row) / distance
            for row, distance in zip(e, distances, strict=True)
            if distance
        ]
        if shares:
            found["explained_variance_legacy"].append(math.fsum(shares) / len(shares))
    return {name: math.fsum(values) / len(values) if values else None for name, values in found.items()}


def as_libraries(
    x_rows: list[list[float]], xhat_rows: list[list[float]], values: list[list[float]]
) -> dict[str, float | None]:
    """The numbers of SAEBench and dictionary_learning that are not among ours, by their own formulas."""
    n, d = len(x_rows), len(x_rows[0])
    size = min(BATCH_ROWS, n)
    starts = range(0, n - size + 1, size)
    whole = slice(0, len(starts) * size)
    ours = batch_by_batch(x_rows, xhat_rows)
    pairs = list(zip(x_rows[whole], xhat_rows[whole], strict=True))

    def norm(row: list[float]) -> float:
        return math.sqrt(math.fsum(value**2 for value in row))

    def mean(found: list[float | None]) -> float | None:
        return None if None in found else math.fsum(value or 0.0 for value in found) / len(found)

    def ratio(a: float, b: float) -> float | None:
        return a / b if b else None

    errors = [norm([a - b for a, b in zip(x, xhat, strict=True)]) for x, xhat in pairs]
    square, residual = mean([norm(x) ** 2 for x, _ in pairs]), mean([error**2 for error in errors])
    dots = [math.fsum(a * b for a, b in zip(x, xhat, strict=True)) for x, xhat in pairs]
    cosine = mean([ratio(dot, norm(x) * norm(xhat)) for dot, (x, xhat) in zip(dots, pairs, strict=True)])
    l0 = mean([float(sum(value != 0 for value in row)) for row in values[whole]])
    bias, columns = ours["relative_reconstruction_bias_per_batch"], list(zip(*values, strict=True))
    return {
        "sb_explained_variance": 1 - residual / (square - (square / d) ** 2),
        "sb_explained_variance_legacy": ours["explained_variance_legacy"],
        "sb_mse": residual / size,
        "sb_cossim": cosine,
        "sb_l2_norm_in": mean([norm(x) for x, _ in pairs]),
        "sb_l2_norm_out": mean([norm(xhat) for _, xhat in pairs]),
        "sb_l2_ratio": mean([norm(xhat) / (norm(x) if norm(x) >= 1e-4 else 1.0) for x, xhat in pairs]),
        "sb_relative_reconstruction_bias": bias,
        "sb_l0": l0,
        "sb_l1": mean([math.fsum(row) for row in values[whole]]),
        "sb_frac_alive": sum(max(column) > 0 for column in columns) / len(columns),
        "dl_l2_loss": mean(errors),
        "dl_l1_loss": mean([math.fsum(abs(value) for value in row) for row in values[whole]]),
        "dl_l0": l0,
        "dl_frac_variance_explained": ours["frac_variance_explained_per_batch"],
        "dl_cossim": cosine,
        "dl_l2_ratio": mean([ratio(norm(xhat), norm(x)) for x, xhat in pairs]),
        "dl_relative_reconstruction_bias": bias,
        "dl_frac_alive": sum(math.fsum(column) != 0 for column in columns) / len(columns),
    }


def brute_force(
    x_BM: Tensor, values_BE: Tensor, xhat_BM: Tensor, W_dec: Tensor, W_enc: Tensor | None = None
) -> dict[str, float | None]:
    """Every metric by its definition, row by row in Python floats."""
    x_rows, xhat_rows = x_BM.double().tolist(), xhat_BM.double().tolist()
    n, d = len(x_rows), len(x_rows[0])

    def dot(a: list[float], b: list[float]) -> float:
        return math.fsum(left * right for left, right in zip(a, b, strict=True))

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    errors = [[a - b for a, b in zip(x, xhat, strict=True)] for x, xhat in zip(x_rows, xhat_rows, strict=True)]
    centre = [mean([x[i] for x in x_rows]) for i in range(d)]
    sse = mean([dot(e, e) for e in errors])
    variance = mean([dot(x, x) for x in x_rows]) - dot(centre, centre)
    error_mean = [mean([e[i] for e in errors]) for i in range(d)]
    centred = [[value - error_mean[i] for i, value in enumerate(e)] for e in errors]
    pairs = list(zip(x_rows, xhat_rows, strict=True))
    active_rows = [sum(row[e] != 0.0 for row in values_BE.tolist()) for e in range(values_BE.shape[1])]
    alive = sorted(count for count in active_rows if count)
    half = len(alive) // 2
    decoder, encoder = largest_cosines(W_dec), largest_cosines(encoder_of(W_dec) if W_enc is None else W_enc)
    special = mean([dot(e, e) for e in errors[::10]]) / d
    at_fixed = [sum(row[e] != 0.0 for row in values_BE[:FIXED].tolist()) for e in range(values_BE.shape[1])]
    return {
        **batch_by_batch(x_rows, xhat_rows),
        **as_libraries(x_rows, xhat_rows, values_BE.double().tolist()),
        "mse_special": special,
        "mse_special_log2": math.log2(special) if special else None,
        "mse_template": None,
        "mse_template_log2": None,
        "frac_dead_at_10k_rows": at_fixed.count(0) / len(at_fixed) if n >= FIXED else None,
        **{name: None for name in METRICS if name.endswith(("100k_rows", "1m_rows"))},
        "l0": sum(active_rows) / n,
        "l1": mean([math.fsum(abs(value) for value in row) for row in values_BE.double().tolist()]),
        "r2_pooled": 1 - sse / variance,
        "fvu": sse / variance,
        "frac_variance_explained": 1 - mean([dot(c, c) for c in centred]) / variance,
        "sse": sse,
        "mse_per_dim": sse / d,
        "cosine_similarity": mean([dot(x, h) / math.sqrt(dot(x, x) * dot(h, h) or 1.0) for x, h in pairs]),
        "norm_ratio": mean([math.sqrt(dot(h, h) / dot(x, x)) for x, h in pairs]),
        "relative_reconstruction_bias": mean([dot(h, h) for _, h in pairs]) / mean([dot(x, h) for x, h in pairs]),
        "dead_latents": active_rows.count(0),
        "alive_latents": len(alive),
        "frac_alive": len(alive) / len(active_rows),
        "frac_rare": sum(count / n < 1e-4 for count in active_rows) / len(active_rows),
        "density_median": (alive[half] + alive[-1 - half]) / 2 / n,
        "decoder_max_cosine_mean": mean(decoder),
        "decoder_max_cosine_p95": decoder[round(0.95 * (len(decoder) - 1))],
        "decoder_max_cosine_max": decoder[-1],
        "encoder_max_cosine_mean": mean(encoder),
        "encoder_max_cosine_p95": encoder[round(0.95 * (len(encoder) - 1))],
        "encoder_max_cosine_max": encoder[-1],
    }


def test_every_metric_equals_its_definition_row_by_row(rows):
    measured, expected = scores(*rows), brute_force(*rows)
    assert measured.keys() == expected.keys() == METRICS.keys()
    for name in METRICS:
        tolerance = 1e-6 if "max_cosine" in name else 1e-12  # cosines are float32 products
        assert near(measured[name], expected[name], tolerance), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_metric_of_an_sae_with_dead_dense_and_zero_latents(architecture: str):
    """Of its own codes: some latents are never active, some on every row, and some have rows of zeros."""
    sae, generator = make_sae(architecture), torch.Generator().manual_seed(4)
    x_BM = torch.randn(130, sae.d_out, generator=generator, dtype=torch.float64) + 0.5
    bias_E = {"gated": "b_gate"}.get(architecture, "b_enc")
    if sae.learns:
        getattr(sae, bias_E)[:3] -= 100.0
        getattr(sae, bias_E)[3:5] += 100.0
        for parameter in (sae.W_enc, sae.W_dec):
            parameter[5:7] = 0.0
    codes = sae.encode_inference(x_BM)
    found = (x_BM, codes.to_dense(), sae.decode(codes), sae.W_dec)
    measured, expected = scores(*found, batch=50, W_enc=sae.W_enc), brute_force(*found, W_enc=sae.W_enc)
    assert measured.keys() == expected.keys()
    for name in METRICS:
        assert near(measured[name], expected[name], 1e-9, 1e-12), name
    if sae.learns:
        assert measured["dead_latents"] >= 3
        assert codes.to_dense()[:, 3:5].all() or architecture in ("gated", "groupmax")


@pytest.mark.parametrize("batch", [1, 7, 128])
def test_many_batches_equal_one(rows, batch):
    one, many = scores(*rows), scores(*rows, batch=batch)
    for name in METRICS:
        assert near(many[name], one[name], 1e-12), name


def test_perfect_reconstruction(rows):
    x_BM, values_BE, _, W_dec = rows
    measured = scores(x_BM, values_BE, x_BM, W_dec)
    assert measured["r2_pooled"] == 1.0
    assert measured["sse"] == measured["mse_per_dim"] == 0.0
    assert measured["cosine_similarity"] == pytest.approx(1.0, abs=1e-15)
    assert measured["norm_ratio"] == measured["relative_reconstruction_bias"] == 1.0
    assert measured["relative_reconstruction_bias_per_batch"] == measured["explained_variance_legacy"] == 1.0
    assert measured["frac_variance_explained"] == measured["frac_variance_explained_per_batch"] == 1.0
    assert measured["fvu"] == measured["normalised_mse_per_batch"] == 0.0


def test_zero_reconstruction_has_no_nan(rows):
    x_BM, values_BE, _, W_dec = rows
    measured = scores(x_BM, torch.zeros_like(values_BE), torch.zeros_like(x_BM), W_dec)
    square = float(x_BM.double().square().sum(1).mean())
    variance = square - float(x_BM.double().mean(0).square().sum())
    assert measured["r2_pooled"] == pytest.approx(1 - square / variance)
    assert measured["r2_pooled"] < 0
    assert measured["cosine_similarity"] == measured["norm_ratio"] == measured["l0"] == 0.0
    assert measured["relative_reconstruction_bias"] is None
    assert measured["density_median"] is None
    assert measured["dead_latents"] == D_SAE
    assert (measured["frac_alive"], measured["frac_rare"], measured["l1"]) == (0.0, 1.0, 0.0)
    assert measured["fvu"] == pytest.approx(square / variance)
    assert measured["normalised_mse_per_batch"] > 1.0
    assert measured["frac_variance_explained"] == pytest.approx(0.0, abs=1e-12)  # the error varies as x does
    assert measured["frac_variance_explained_per_batch"] == pytest.approx(0.0, abs=1e-12)
    assert measured["explained_variance_legacy"] < measured["r2_pooled"]
    assert measured["relative_reconstruction_bias_per_batch"] is None


def test_scaled_reconstruction(rows):
    x_BM, values_BE, _, W_dec = rows
    measured = scores(x_BM, values_BE, 0.5 * x_BM, W_dec)
    assert measured["cosine_similarity"] == pytest.approx(1.0, abs=1e-15)
    assert measured["norm_ratio"] == pytest.approx(0.5)
    assert measured["relative_reconstruction_bias"] == pytest.approx(0.5)
    assert measured["sse"] == pytest.approx(float((0.5 * x_BM).double().square().sum(1).mean()))
    assert measured["relative_reconstruction_bias_per_batch"] == pytest.approx(0.5)
    assert measured["frac_variance_explained"] == pytest.approx(0.75)
    assert measured["frac_variance_explained_per_batch"] == pytest.approx(0.75)
    assert measured["fvu"] == pytest.approx(0.25 * scores(x_BM, values_BE, torch.zeros_like(x_BM), W_dec)["fvu"])


def test_a_constant_error_counts_in_r2_pooled_but_not_in_the_batch_variance_definition(rows):
    x_BM, values_BE, _, W_dec = rows
    offset = torch.full((D_MODEL,), 0.5)
    error_BM = -offset.expand_as(x_BM)
    forgiving = 1 - error_BM.var(dim=0).sum() / x_BM.var(dim=0).sum()  # dictionary_learning's frac_variance_explained
    assert forgiving == 1.0
    variance = float(x_BM.double().var(dim=0, correction=0).sum())
    measured = scores(x_BM, values_BE, x_BM + offset, W_dec)
    assert measured["r2_pooled"] == pytest.approx(1 - D_MODEL * 0.25 / variance, rel=1e-6)
    assert measured["frac_variance_explained"] == pytest.approx(1.0, abs=1e-6)
    assert measured["frac_variance_explained_per_batch"] == pytest.approx(1.0, abs=1e-6)


def test_rows_without_variance_have_no_r2():
    x_BM = torch.full((50, D_MODEL), 0.1)
    measured = scores(x_BM, torch.ones(50, D_SAE), 0.9 * x_BM, torch.ones(D_SAE, D_MODEL))
    for name in ("r2_pooled", "fvu", "frac_variance_explained", *PER_BATCH[:2]):
        assert measured[name] is None, name
    assert measured["frac_rare"] == 0.0
    assert measured["decoder_max_cosine_mean"] == pytest.approx(1.0)


def test_zero_rows_do_not_poison_the_means(rows):
    x_BM, values_BE, xhat_BM, W_dec = rows
    with_zero = scores(
        torch.cat([x_BM, torch.zeros(1, D_MODEL)]),
        torch.cat([values_BE, values_BE[:1]]),
        torch.cat([xhat_BM, xhat_BM[:1]]),
        W_dec,
    )
    without = scores(*rows)
    assert with_zero["norm_ratio"] == pytest.approx(without["norm_ratio"])
    assert with_zero["cosine_similarity"] == pytest.approx(without["cosine_similarity"] * N_ROWS / (N_ROWS + 1))


@pytest.mark.parametrize("huge", [1e160, math.inf])
def test_what_overflows_has_no_value(rows, huge):
    """A record could not be written with it: JSON has no infinity."""
    x_BM, values_BE, xhat_BM, W_dec = rows
    found = scores(x_BM.double() * huge, values_BE, xhat_BM, W_dec)
    assert found["sse"] is None
    assert all(value is None or math.isfinite(value) for value in found.values())
    assert found["l0"] is not None  # control: what the rows do not enter is measured


def test_no_row_means_no_value():
    totals = Totals(WeightFacts(torch.zeros(3), torch.zeros(3)))
    assert all(metric(totals).value() is None for metric in METRICS.values())


def test_every_metric_states_its_definition_and_unit():
    assert all(metric.__doc__ and metric.unit for metric in METRICS.values())
    assert len({metric.__doc__ for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("tile_rows", [1, 7, 16, 40, 64])
def test_max_cosine_equals_the_full_matrix_for_every_tile(rows, tile_rows):
    W_dec = rows[3].double()
    unit_EM = W_dec / W_dec.norm(dim=1, keepdim=True)
    full_EE = unit_EM @ unit_EM.T
    with_itself = full_EE.amax(dim=1)
    full_EE.fill_diagonal_(-1.0)
    assert torch.allclose(max_cosine(W_dec, tile_rows), full_EE.amax(dim=1), atol=1e-14)
    assert not torch.allclose(max_cosine(W_dec, tile_rows), with_itself, atol=1e-3)  # the diagonal matters


def test_max_cosine_of_orthogonal_and_zero_rows():
    assert max_cosine(torch.eye(5)).tolist() == [0.0] * 5
    assert max_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])).tolist() == [1.0, 0.0, 1.0]


def test_density_histogram_counts_every_alive_latent_once():
    active_rows_E = torch.tensor([0, 1, 10, 10, 99, 100, 1000])
    histogram = density_histogram(active_rows_E, 1000)
    edges, counts = histogram.log10_edges, histogram.counts
    assert len(edges) == len(counts) + 1 == BINS_PER_DECADE * DECADES + 1
    assert sum(counts) == 6
    assert counts[edges.index(-3.0)] == 1
    assert counts[edges.index(-2.0)] == 2
    assert counts[-1] == 1  # active on every row
    assert density_histogram(torch.tensor([1]), 10**9).counts[0] == 1
