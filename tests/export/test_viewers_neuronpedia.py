"""Neuronpedia's files: the fields of its records, and what is in them by brute force."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.export.viewers import neuronpedia
from strata_sae.pipeline.export.viewers.beside import partners
from strata_sae.pipeline.export.viewers.subject import Subject
from strata_sae.pipeline.queries.windows import texts
from support.viewed_run import dense, make, viewed
from support.viewer_schemas import ACTIVATION, EXPLANATION, FEATURE, HEADS, wrong

PLACE = Path("out/none/1-res-topk")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def seen(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    with pytest.MonkeyPatch.context() as patch:
        make(folder := tmp_path_factory.mktemp("viewed"))
        patch.chdir(folder)
        patch.setattr(neuronpedia, "_LATENTS_A_BATCH", 20)
        neuronpedia.write(subject := viewed(), folder / "out")
        subject.out = folder / PLACE  # type: ignore[attr-defined]
    return subject


def read(seen: Subject, part: str) -> Rows:
    found: Rows = []
    for number in range(3):
        data = (seen.out / part / f"batch-{number}.jsonl.gz").read_bytes()  # type: ignore[attr-defined]
        assert data[3:8] == bytes(5), "no name and no time"
        found += map(json.loads, gzip.decompress(data).decode().split("\n")[:-1])
    return found


def test_every_record_has_the_fields_of_its_class(seen: Subject) -> None:
    for name, kinds in HEADS.items():
        (line,) = (seen.out / f"{name}.jsonl").read_text().splitlines()  # type: ignore[attr-defined]
        assert wrong(json.loads(line), kinds) == []
    for part, kinds in (("features", FEATURE), ("activations", ACTIVATION), ("explanations", EXPLANATION)):
        rows = read(seen, part)
        assert [fault for row in rows for fault in wrong(row, kinds)] == []
        assert {(row["modelId"], row["layer"]) for row in rows} == {("none", "1-res-topk")}
    ids = [row["id"] for part in ("activations", "explanations") for row in read(seen, part)]
    assert len({*ids}) == len(ids)
    assert {len(name) for name in ids} == {25}


def test_the_check_of_fields_finds_what_is_wrong() -> None:
    good = {name: None for name in EXPLANATION} | dict.fromkeys(
        ("id", "modelId", "layer", "index", "description", "authorId", "createdAt"), "a"
    )
    assert wrong(good, EXPLANATION) == []
    for bad in (good | {"index": 1}, good | {"more": "a"}, good | {"notes": 1.0}, good | {"embedding": "a"}):
        assert len(wrong(bad, EXPLANATION)) == 1
    assert wrong({key: value for key, value in good.items() if key != "id"}, EXPLANATION) == ["id: missing"]


def test_features_are_counted_over_all_kept_rows(seen: Subject) -> None:
    codes_NE, features = dense(seen), read(seen, "features")
    assert [feature["index"] for feature in features] == [str(latent) for latent in range(48)]
    unit = seen.sae.W_dec / np.linalg.norm(seen.sae.W_dec, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    for feature, codes in zip(features, codes_NE.T, strict=True):
        values = codes[codes > 0]
        assert feature["frac_nonzero"] == len(values) / 1160
        assert feature["maxActApprox"] == float(f"{values.max(initial=0):.5g}")
        assert sum(feature["freq_hist_data_bar_heights"]) == len(values)
        latent = int(feature["index"])
        nearest = np.argsort(-cosine[latent], kind="stable")[:10]
        assert feature["topkCosSimIndices"] == nearest.tolist()
        np.testing.assert_allclose(feature["topkCosSimValues"], cosine[latent][nearest], rtol=1e-4)
        assert feature["neuron_alignment_indices"] == np.argsort(-seen.sae.W_dec[latent], kind="stable")[:3].tolist()


def test_correlated_features_are_those_of_firing(seen: Subject) -> None:
    fires_NE = (dense(seen) > 0)[seen.text.position > 0].astype(np.float64)
    together = (fires_NE.T @ fires_NE).astype(int)
    union = fires_NE.sum(0)[:, None] + fires_NE.sum(0) - together
    np.fill_diagonal(together, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.atleast_2d(np.corrcoef(fires_NE.T))
    n_found = 0
    for feature in read(seen, "features"):
        latent = int(feature["index"])
        order = sorted(range(48), key=lambda other: (-together[latent, other], other))
        wanted = [other for other in order if together[latent, other]][:10]
        assert feature["correlated_features_indices"] == wanted
        np.testing.assert_allclose(feature["correlated_features_pearson"], correlation[latent][wanted], rtol=1e-4)
        both = together[latent][wanted]
        cosine = both / np.sqrt(fires_NE.sum(0)[latent] * fires_NE.sum(0)[wanted])
        np.testing.assert_allclose(feature["correlated_features_l1"], cosine, rtol=1e-4)
        np.testing.assert_allclose(partners(seen, latent, 10).jaccard, both / union[latent][wanted], rtol=1e-12)
        n_found += len(wanted)
    assert n_found > 200


def test_activations_are_the_codes_of_the_text_around(seen: Subject) -> None:
    codes_NE, n_shown = dense(seen), 0
    for row in read(seen, "activations"):
        at, centre, latent = int(row["dataIndex"]), row["qualifyingTokenIndex"], int(row["index"])
        start = at - centre
        rows = slice(start, start + len(row["tokens"]))
        assert (seen.text.document[rows] == seen.text.document[at]).all()
        assert rows.start % 30 == 0, "47 tokens before are more than a document has"
        wanted = [float(f"{value:.5g}") for value in codes_NE[rows, latent].tolist()]
        assert row["values"] == wanted
        assert (row["maxValue"], row["minValue"]) == (max(wanted), min(wanted))
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
        assert len(row["tokens"]) == len(texts(seen.text, rows.start, rows.stop))
        n_shown += 1
    assert n_shown > 500


def test_which_rows_are_shown(seen: Subject) -> None:
    codes_NE = dense(seen)
    groups: dict[tuple[int, float, float], list[int]] = defaultdict(list)
    shares: dict[tuple[int, float, float], float] = {}
    for row in read(seen, "activations"):
        key = int(row["index"]), row["binMin"], row["binMax"]
        groups[key].append(int(row["dataIndex"]))
        shares[key] = row["binContains"]
    for (latent, low, high), rows in groups.items():
        values = codes_NE[:, latent]
        assert len({*rows}) == len(rows), "each once"
        if low == -1:
            order = sorted(np.flatnonzero(values).tolist(), key=lambda row: (-values[row], row))
            assert rows == distinct(seen, order, 20)
            assert shares[latent, low, high] == -1
        else:
            eps = 1e-4 * values.max()
            assert all(low - eps < values[row] <= high + eps for row in rows)
            within = ((values > low + eps) & (values <= high - eps)).sum()
            around = ((values > low - eps) & (values <= high + eps)).sum()
            assert within / 1160 - 1e-4 <= shares[latent, low, high] <= around / 1160 + 1e-4
            assert len(rows) <= 5
    assert sum(low == -1 for _, low, _ in groups) == (codes_NE.max(axis=0) > 0).sum()


def distinct(seen: Subject, rows: list[int], n: int) -> list[int]:
    """By the definition of queries/examples: the same tokens from 6 before to 2 after are one context."""
    found: dict[tuple[int, ...], int] = {}
    for row in rows:
        around = range(row - 6, row + 3)
        context = tuple(int(seen.text.token_id[at]) if at // 30 == row // 30 else -1 for at in around)
        found.setdefault(context, row)
    return [*found.values()][:n]


def test_explanations_are_the_labels(seen: Subject) -> None:
    labels, explanations = seen.labels, {int(row["index"]): row for row in read(seen, "explanations")}
    assert {*explanations} == {latent for latent in range(48) if labels.token_ids[latent, 0] >= 0}
    assert explanations
    for latent, row in explanations.items():
        assert row["typeName"] == "strata_token-set"
        first = seen.word(int(labels.token_ids[latent, 0]))
        assert row["description"].startswith(first)
        f1 = labels.f1[latent]
        assert row["notes"] == ("too few rows for a score" if np.isnan(f1) else f"F1 {f1:.3f} on held-out documents")
