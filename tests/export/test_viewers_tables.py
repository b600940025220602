"""delphi's cache, circuit-tracer's features and parquet: read back as their readers do, equal to the codes."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.export.viewers import circuit_tracer, delphi, parquet
from strata_sae.pipeline.export.viewers.subject import Subject
from strata_sae.pipeline.queries.layout import pca
from support.coded_run import RUN, SITE
from support.viewed_run import NAME, dense, make, viewed
from support.viewer_schemas import Model, cantor_unpaired, delphi_latents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(made := tmp_path_factory.mktemp("viewed"))
    return made


@pytest.fixture
def seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.chdir(folder)
    return viewed()


@pytest.mark.parametrize(("pairs_a_file", "n_files"), [(2**22, 1), (500, 12), (1, 48)])
def test_delphi_reads_the_codes(
    seen: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs_a_file: int, n_files: int
) -> None:
    monkeypatch.setattr(delphi, "_PAIRS_A_FILE", pairs_a_file)
    delphi.write(seen, tmp_path)
    found, tokens = delphi_latents(tmp_path / "latents")
    assert tokens.shape == (4, 256)
    assert (tokens.reshape(-1) == seen.text.token_id[:1024]).all()
    codes_NE = dense(seen)[:1024]
    for latent in range(48):
        rows = np.flatnonzero(codes_NE[:, latent])
        wanted = {divmod(row, 256): float(codes_NE[row, latent]) for row in rows.tolist()}
        assert found.get(latent, {}) == wanted
    module = tmp_path / "latents" / SITE
    n_written = len(list(module.glob("*.safetensors")))
    assert n_written == n_files
    assert json.loads((module / "config.json").read_text())["n_splits"] == n_written


def test_delphi_knows_who_fires_with_whom(seen: Subject, tmp_path: Path) -> None:
    delphi.write(seen, tmp_path)
    fires_NE = (dense(seen) > 0).astype(int)
    together = fires_NE.T @ fires_NE
    neighbours = json.loads((tmp_path / "neighbours" / f"{SITE}-co-occurrence.json").read_text())
    assert [*neighbours] == [str(latent) for latent in range(48)]
    for name, found in neighbours.items():
        latent = int(name)
        wanted = []
        for other in range(48):
            both = together[latent, other]
            if other != latent and both:
                wanted.append((both / (together[latent, latent] + together[other, other] - both), other))
        wanted.sort(key=lambda pair: (-pair[0], pair[1]))
        assert [pair[1] for pair in found] == [other for _, other in wanted]
        np.testing.assert_allclose([pair[0] for pair in found], [jaccard for jaccard, _ in wanted], rtol=1e-12)


def test_delphis_window_is_longer_than_a_store(seen: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(delphi, "_WINDOW", 2048)
    with pytest.raises(ConfigError, match="has 1200 rows, and delphi's windows have 2048 tokens"):
        export(RUN / NAME, "delphi", tmp_path / "out")


def test_a_sequence_is_as_long_as_the_models_if_windows_fill_it(seen: Subject) -> None:
    for context, length in ((None, 256), (64, 64), (100, 256), (4096, 1184)):
        seen.source = seen.source._replace(context_tokens=context)
        assert delphi._sequence_tokens(seen) == length


def test_circuit_tracer_finds_each_latent_by_its_number(seen: Subject, tmp_path: Path) -> None:
    circuit_tracer.write(seen, tmp_path)
    codes_NE = dense(seen)
    paths = [*(tmp_path / "features").iterdir()]
    assert {cantor_unpaired(int(path.stem)) for path in paths} == {(1, latent) for latent in range(48)}
    for path in paths:
        model = Model.model_validate_json(path.read_bytes())
        assert (1, model.index) == cantor_unpaired(int(path.stem))
        values = codes_NE[codes_NE[:, model.index] > 0, model.index]
        assert model.activation_frequency == len(values) / 1160
        assert sum(model.histogram) == len(values)
        assert model.transcoder_id == NAME
        if not len(values):
            assert (model.examples_quantiles, model.quantile_values, model.act_max) == ([], [], 0)
            continue
        assert model.quantile_values == sorted(model.quantile_values)
        assert len(model.quantile_values) == 99
        below = [(values <= bound * (1 + 1e-4)).mean() for bound in model.quantile_values]
        assert all(share >= percent / 100 - 1 / len(values) for percent, share in enumerate(below, 1))
        top = model.examples_quantiles[0]
        assert top.quantile_name == "Top activations"
        assert max(top.examples[0].tokens_acts_list) == model.act_max
        for group in model.examples_quantiles:
            for example in group.examples:
                assert len(example.tokens) == len(example.tokens_acts_list)
                assert example.tokens_acts_list[example.train_token_ind] > 0


def test_a_number_of_two_is_cantors() -> None:
    assert [circuit_tracer.paired(layer, latent) for layer, latent in ((0, 0), (1, 0), (0, 1), (8, 2303))] == [
        0, 1, 2, (8 + 2303) * (8 + 2303 + 1) // 2 + 2303
    ]  # fmt: skip


def test_tables_of_parquet(seen: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_PAIRS_A_GROUP", 500)
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", 700)
    parquet.write(seen, tmp_path)
    codes_NE = dense(seen)
    pairs = pq.ParquetFile(tmp_path / "pairs.parquet")
    assert pairs.num_row_groups > 4
    table = pairs.read()
    latent_P, row_P = np.nonzero(codes_NE.T)
    assert (table["latent"].to_numpy() == latent_P).all()
    assert (table["row"].to_numpy() == row_P).all()
    assert table["value"].to_numpy().tobytes() == codes_NE.T[latent_P, row_P].tobytes()
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert (rows["row"].to_numpy() == np.arange(1200)).all()
    for name in ("document", "position", "token_id"):
        assert (rows[name].to_numpy() == getattr(seen.text, name)).all()
    assert rows["token"].to_pylist()[:40] == [seen.word(token) for token in seen.text.token_id[:40].tolist()]
    assert (rows["is_kept"].to_numpy() == (seen.text.position > 0)).all()


def test_the_table_of_latents(seen: Subject, tmp_path: Path) -> None:
    parquet.write(seen, tmp_path)
    table = pq.read_table(tmp_path / "latents.parquet").to_pydict()
    codes_NE, labels = dense(seen), seen.labels
    assert table["latent"] == [*range(48)]
    count = (codes_NE > 0).sum(axis=0)
    assert table["active_rows"] == count.tolist()
    assert table["density"] == (count / 1160).tolist()
    assert table["max"] == codes_NE.max(axis=0).tolist()
    np.testing.assert_allclose(table["mean"], codes_NE.sum(axis=0, dtype=np.float64) / np.maximum(count, 1), rtol=1e-6)
    assert table["label"] == [seen.label(latent) or None for latent in range(48)]
    assert [value is None for value in table["f1"]] == np.isnan(labels.f1).tolist()
    assert [value for value in table["f1"] if value is not None] == labels.f1[~np.isnan(labels.f1)].tolist()
    xy = pca(seen.sae.W_dec).xy
    assert np.array([table["x"], table["y"]], np.float32).T.tobytes() == np.ascontiguousarray(xy).tobytes()
    unit = seen.sae.W_dec / np.linalg.norm(seen.sae.W_dec, axis=1, keepdims=True)
    for latent, near in enumerate(table["neighbors"]):
        distance = 1 - unit @ unit[latent]
        distance[latent] = 3
        assert near["ids"] == np.argsort(distance, kind="stable")[:15].tolist()
        np.testing.assert_allclose(near["distances"], np.sort(distance)[:15], atol=1e-5)
