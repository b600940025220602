"""First-letter absorption against SAEBench 0.6.0: the same rows, codes and probes; prompts of the same seed; Adam."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.absorption import probes as ours
from strata_sae.pipeline.evaluation.absorption.latents import f1, letter_latents
from strata_sae.pipeline.evaluation.absorption.letters import Codes, RowProbe, SeedRows, of_letter
from strata_sae.pipeline.reading.first_letters import QUESTION, letter_words, prompts_of

pytestmark = pytest.mark.peers
LETTERS = "abcde"
N_TRAIN, N_TEST, D, E = 300, 120, 24, 64
WORDS = [f" {letter}{first}{second}" for first in "aeiou" for second in "klmnpr" for letter in LETTERS][:N_TEST]


class Side(NamedTuple):
    """What both sides are given."""

    rows: SeedRows
    probe: ours.Probe
    ranking_CE: Tensor
    sae: "StubSAE"


class StubSAE:
    """A ReLU SAE with what SAEBench reads of one. Two latents are dead, the decoder row of one is 0."""

    device, dtype = "cpu", torch.float32

    def __init__(self, letter_axes_CM: Tensor) -> None:
        generator = torch.Generator().manual_seed(5)
        W_dec = torch.nn.functional.normalize(torch.randn(E, D, generator=generator), dim=1)
        W_dec[: len(LETTERS)] = torch.nn.functional.normalize(letter_axes_CM, dim=1)
        W_dec[10 : 10 + len(LETTERS)] = torch.nn.functional.normalize(
            letter_axes_CM + 0.5 * torch.randn(letter_axes_CM.shape, generator=generator), dim=1
        )
        self.W_enc, self.W_dec, self.b_enc = W_dec.T.clone(), W_dec, torch.full((E,), -0.8)
        self.b_enc[: len(LETTERS)] = -2.0  # the letters' own latents are silent in some rows
        self.b_enc[40:42] = -1e9
        self.W_dec[40] = 0.0
        self.cfg = type("cfg", (), {"d_sae": E})

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_enc + self.b_enc).relu()


class StubModel:
    """The row of a word does not depend on its prompt, and is known."""

    tokenizer = "any"

    def __init__(self, row_of: dict[str, Tensor]) -> None:
        self.row_of = row_of

    def to_tokens(self, text: str) -> Tensor:
        return torch.zeros(1, 8)

    def run_with_cache(self, texts: list[str], names_filter: list[str]) -> tuple[None, dict[str, Tensor]]:
        words = [text.split("\n")[-1].removesuffix(QUESTION) for text in texts]
        return None, {names_filter[0]: torch.stack([self.row_of[word] for word in words])[:, None].expand(-1, 6, -1)}


@pytest.fixture(scope="module")
def side() -> Side:
    generator = torch.Generator().manual_seed(1)
    axes_CM = 2.5 * torch.nn.functional.normalize(torch.randn(len(LETTERS), D, generator=generator), dim=1)
    letters = [torch.arange(n) % len(LETTERS) for n in (N_TRAIN, N_TEST)]
    x = [axes_CM[letter] + 0.7 * torch.randn(len(letter), D, generator=generator) for letter in letters]
    again_NM = x[1] + 0.2 * torch.randn(x[1].shape, generator=generator)
    rows = SeedRows(0, "labelled", x[0], x[1], again_NM, *letters)
    is_NC = letters[0][:, None] == torch.arange(len(LETTERS))
    probe = ours.trained(rows.train_NM, is_NC, ours.ROW_PENALTY, ours.ROW_TRAINING, generator)
    sae = StubSAE(axes_CM)
    ranking = ours.trained(sae.encode(rows.train_NM), is_NC, ours.CODE_PENALTY, ours.Training(32), generator)
    return Side(rows, probe, ranking.W_CM, sae)


@pytest.fixture
def saebench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """SAEBench's modules, of an alphabet of five letters."""
    import sae_bench.evals.absorption.feature_absorption as fa
    import sae_bench.evals.absorption.k_sparse_probing as ks

    for module in (fa, ks):
        monkeypatch.setattr(module, "LETTERS", LETTERS)
    return type("saebench", (), {"fa": fa, "ks": ks})


def their_probe(probe: ours.Probe) -> Any:
    from sae_bench.evals.absorption.probing import LinearProbe

    theirs = LinearProbe(probe.W_CM.shape[1], len(probe.W_CM))
    with torch.no_grad():
        theirs.fc.weight.copy_(probe.W_CM)
        theirs.fc.bias.copy_(probe.b_C)
    return theirs


def of_saebench(saebench: Any, side: Side, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """Their whole chain after the probes: k-sparse probes, F1, split features, words, absorption, means."""
    from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
    from sae_bench.evals.absorption.main import _aggregate_results_df

    fa, ks, rows = saebench.fa, saebench.ks, side.rows
    ranking = their_probe(ours.Probe(side.ranking_CE, torch.zeros(len(LETTERS)), False))
    monkeypatch.setattr(ks, "train_sparse_multi_probe", lambda *args, **kwargs: ranking)
    labels = [[(word, int(letter)) for word, letter in zip(WORDS * 3, part, strict=False)] for part in rows[5:7]]
    k_probes = ks.train_k_sparse_probes(side.sae, labels[0], rows.train_NM, range(1, 11), precalc_sae_acts=True)
    probe = their_probe(side.probe)
    raw = ks.eval_probe_and_sae_k_sparse_raw_scores(side.sae, probe, k_probes, labels[1], rows.test_NM)
    metadata = ks.sae_k_sparse_metadata(side.sae, probe, k_probes, "sae", 1)
    metrics = ks.build_metrics_df(raw, metadata, 10)
    ks.add_feature_splits_to_metrics_df(metrics, 10)
    raw.to_parquet(folder / fa.get_sparse_probing_raw_results_filename("sae", 1))
    words = fa.get_stats_and_likely_false_negative_tokens(metrics, "sae", 1, folder)
    calculator = FeatureAbsorptionCalculator(
        model=StubModel(dict(zip(WORDS, rows.asked_again_NM, strict=True))),
        icl_word_list=WORDS,
        max_icl_examples=2,
        base_template="{word}" + QUESTION,
        word_token_pos=-6,
    )
    found = fa.calculate_projection_and_cos_sims(calculator, side.sae, probe, 1, words)
    return metrics.set_index("letter"), found, _aggregate_results_df(found).set_index("letter")


def of_ours(side: Side) -> dict[str, tuple[list[int], float, float, np.ndarray, np.ndarray]]:
    """Letter -> latents, F1 of the probe, F1 of one latent, fraction and full in each word."""
    rows, sae = side.rows, side.sae
    codes = Codes.of([sae.encode(x) for x in (rows.train_NM, rows.test_NM, rows.asked_again_NM)], sae.W_dec)
    found = {}
    test_is_NC = rows.test_letter_N[:, None] == torch.arange(len(LETTERS))
    says_NC = side.probe.logits(rows.test_NM) > 0
    probe = RowProbe("compat", list(range(len(LETTERS))), side.probe, says_NC & test_is_NC, [])
    for column, letter in enumerate(LETTERS):
        latents = letter_latents(
            side.ranking_CE[column],
            codes.train_NE,
            rows.train_letter_N == column,
            codes.test_NE,
            test_is_NC[:, column],
            only_positive=False,
        )
        fraction_N, is_full_N = of_letter(rows, probe, codes, column, latents.latents)
        score = f1(says_NC[:, column], test_is_NC[:, column])
        found[letter] = (latents.latents, score, latents.one_latent_f1, fraction_N.numpy(), is_full_N.numpy())
    return found


def test_the_same_latents_fractions_and_flags(saebench, side, monkeypatch, tmp_path):
    metrics, found, means = of_saebench(saebench, side, monkeypatch, tmp_path)
    mine = of_ours(side)
    for letter, (latents, probe_f1, one_latent_f1, fraction_N, is_full_N) in mine.items():
        theirs = found[found["letter"] == letter]
        assert latents == list(metrics.loc[letter, "split_feats"])
        assert probe_f1 == pytest.approx(metrics.loc[letter, "f1_probe"], abs=1e-12)
        assert one_latent_f1 == pytest.approx(metrics.loc[letter, "f1_sparse_sae_1"], abs=1e-12)
        assert len(fraction_N) == means.loc[letter, "num_probe_true_positives"]
        np.testing.assert_allclose(fraction_N, theirs["absorption_fraction"].to_numpy(float), atol=1e-6)
        assert is_full_N.tolist() == theirs["is_full_absorption"].tolist()
        assert fraction_N.mean() == pytest.approx(means.loc[letter, "mean_absorption_fraction"], abs=1e-6)
        assert is_full_N.mean() == pytest.approx(means.loc[letter, "full_absorption_rate"], abs=1e-6)
    every_N = np.concatenate([of_letter[3] for of_letter in mine.values()])
    assert np.mean((every_N > 0) & (every_N < 1)) > 0  # control: none of the cases is the only one
    assert {0.0, 1.0} <= set(every_N.tolist())
    assert 0 < np.concatenate([of_letter[4] for of_letter in mine.values()]).mean() < 1
    assert len({len(of_letter[0]) for of_letter in mine.values()}) > 1


def test_control_other_latents_give_other_numbers(saebench, side, monkeypatch, tmp_path):
    _, found, _ = of_saebench(saebench, side, monkeypatch, tmp_path)
    other = side._replace(ranking_CE=side.ranking_CE.flip(0))
    mine = np.concatenate([of_letter[3] for of_letter in of_ours(other).values()])
    assert not np.allclose(mine, found["absorption_fraction"].to_numpy(float), atol=1e-3)


def test_the_prompts_of_a_seed_are_theirs():
    from sae_bench.evals.absorption.probing import create_dataset_probe_training
    from sae_bench.evals.absorption.prompting import first_letter_formatter

    words = letter_words({number: word.encode() for number, word in enumerate(WORDS)}, None)
    mine = prompts_of(words, 7)
    random.seed(7)
    parts = create_dataset_probe_training([w.text for w in words], first_letter_formatter(), 1, "{word}" + QUESTION)
    theirs = [prompt for part in parts for prompt in part]
    assert mine.texts[: len(words)] == [prompt.base for prompt, _ in theirs]
    assert mine.letter_N[: len(words)].tolist() == [letter for _, letter in theirs]
    assert mine.n_train == len(parts[0])
    assert prompts_of(words, 8).texts != mine.texts  # control


@pytest.mark.parametrize("penalty", [ours.ROW_PENALTY, ours.CODE_PENALTY])
def test_training_is_theirs_from_the_same_start(side, monkeypatch, penalty):
    """All rows in one batch, so that their order does not matter; the first weights are handed over."""
    import sae_bench.evals.absorption.probing as theirs
    from sae_bench.evals.absorption.k_sparse_probing import train_sparse_multi_probe

    x_NM, is_NC = side.rows.train_NM, side.rows.train_letter_N[:, None] == torch.arange(len(LETTERS))
    how = ours.Training(batch_size=4096)
    generator = torch.Generator().manual_seed(3)
    mine = ours.trained(x_NM, is_NC, penalty, how, generator)
    first = ours.trained(x_NM, is_NC, penalty, how._replace(epochs=0), generator.manual_seed(3))
    start = their_probe(first)
    monkeypatch.setattr(theirs, "LinearProbe", lambda *args, **kwargs: start)
    settings = {"batch_size": 4096, "num_epochs": 50, "show_progress": False, "device": torch.device("cpu")}
    if penalty.absolute:
        other = train_sparse_multi_probe(x_NM, is_NC.long(), l1_decay=0.01, **settings)
    else:
        other = theirs.train_multi_probe(x_NM, is_NC.long(), weight_decay=1e-4, **settings)
    torch.testing.assert_close(mine.W_CM, other.weights.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.b_C, other.biases.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mine.W_CM, first.W_CM, atol=1e-2)  # control
