"""Ablated latents: every number equals that of the loop of one latent and one sequence a forward pass."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention import ablation, ablation_readers, ablation_sums
from strata_sae.pipeline.intervention.ablation import measured_effects
from strata_sae.pipeline.intervention.ablation_rows import AblationRows
from strata_sae.pipeline.queries.asked_model import MeasuredEffects
from strata_sae.pipeline.queries.opened import CodedRun
from support import ablated_run
from support.ablated_run import EARLY, LATE, one_latent_a_pass
from support.judged_run import MLP_OUT, STREAM

CROSS = f"cross@{EARLY}+{LATE}"
BRIDGE = "bridge@blocks.1.hook_resid_pre-to-blocks.1.hook_mlp_out"
PAIRS = {
    "from stored rows": (f"rough@{STREAM}", f"rough@{LATE}"),
    "from inside a block": (f"rough@{MLP_OUT}", f"rough@{LATE}"),
    "into a block": (f"rough@{EARLY}", f"rough@{MLP_OUT}"),
    "at the same site": (f"rough@{STREAM}", f"rough@{STREAM}"),
    "of a transcoder": (BRIDGE, f"rough@{STREAM}"),
    "on a transcoder": (f"rough@{EARLY}", BRIDGE),
    "on a crosscoder, of whose sites one lies before": (f"rough@{STREAM}", CROSS),
    "on words": (f"rough@{STREAM}", None),
    "on words, from inside a block": (f"rough@{MLP_OUT}", None),
}
N_LOOPED = 4
"""Latents that the loop ablates."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablated")


@pytest.fixture(scope="module")
def made(folder: Path) -> TrainConfig:
    return ablated_run.make(folder)


@pytest.fixture
def run(made: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CodedRun]:
    """The run, opened; what is measured is measured anew in every test."""
    monkeypatch.chdir(folder)
    opened = ablated_run.opened(made)
    yield opened
    for sae in opened.saes.values():
        for part in sae.folder.ablations.rglob("*.*"):
            part.unlink()


def effect_of(found: MeasuredEffects, latent: int, n_readers: int) -> np.ndarray:
    """The effects of one latent as a row, 0 where none is kept."""
    effect_R = np.zeros(n_readers)
    mine = found.ablator == latent
    effect_R[found.reader[mine]] = found.effect[mine]
    return effect_R


@pytest.mark.parametrize("pair", PAIRS)
def test_effects_are_those_of_one_latent_a_pass(pair: str, made: TrainConfig, run: CodedRun) -> None:
    ablator, reader = (None if name is None else run.saes[name] for name in PAIRS[pair])
    assert ablator is not None
    found = measured_effects(made, ablator, reader, "as_trained", n=64)
    assert len(found.latents) > 20
    looped, sizes = {}, []
    for one in [*found.latents[: N_LOOPED - 1], found.latents[-1]]:
        expected = looped[one.latent] = one_latent_a_pass(made, ablator, reader, one.latent)
        n_readers = len(expected.effect_R)
        assert (one.active_rows, one.n_sequences) == (expected.active_rows, expected.sequences)
        size = np.abs(expected.effect_R).max()
        np.testing.assert_allclose(
            effect_of(found, one.latent, n_readers), expected.effect_R, rtol=1e-3, atol=max(1e-6, 1e-4 * size)
        )
        mine = found.ablator == one.latent
        np.testing.assert_allclose(
            found.standard_error[mine], expected.standard_error_R[found.reader[mine]], rtol=1e-2, atol=1e-6
        )
        if reader is None:
            assert one.kl == pytest.approx(expected.kl, rel=1e-3, abs=2e-5), "a float32 has 1e-7 of each row's"
            np.testing.assert_allclose(
                found.log_probability[mine], expected.log_probability_V[found.reader[mine]], rtol=1e-3, atol=1e-5
            )
        else:
            assert one.kl is None
            assert np.isnan(found.log_probability).all()
        sizes.append(float(size))
    assert max(sizes) > 1e-4, "the control: there are effects"
    first, second = list(looped)[:2]
    other = effect_of(found, second, len(looped[first].effect_R))
    assert np.abs(other - looped[first].effect_R).max() > sizes[0] / 10, "the control: another latent has other effects"


def test_batches_blocks_and_parts_change_no_number(
    made: TrainConfig, run: CodedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    ablator = run.saes[f"rough@{STREAM}"]
    for reader in (run.saes[f"rough@{LATE}"], None):
        kind = ablation_readers.OfWords if reader is None else ablation_readers.OfLatents
        passes = _counted(kind, monkeypatch)
        with monkeypatch.context() as patch:
            together = measured_effects(made, ablator, reader, "as_trained", n=24)
            n_together, n_pairs = len(passes), sum(passes)
            for sae in run.saes.values():
                for part in sae.folder.ablations.rglob("*.*"):
                    part.unlink()
            passes.clear()
            patch.setattr(ablation_sums, "BATCH_BYTES", 1)
            patch.setattr(ablation_sums, "SUMS_BYTES", 7 * 32 * (300 if reader is None else 64))
            patch.setattr(ablation, "PART_LATENTS", 16)
            alone = measured_effects(made, ablator, reader, "as_trained", n=24)
        assert (len(passes), n_together) == (n_pairs, pytest.approx(n_pairs / 3, rel=0.5)), "one pair a pass, and many"
        assert [one.latent for one in alone.latents] == [one.latent for one in together.latents]
        for one in together.latents:
            rows = [effect_of(found, one.latent, 300) for found in (together, alone)]
            np.testing.assert_allclose(*rows, rtol=1e-3, atol=1e-6)


def _counted(kind: type, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pairs of each pass of a kind of reader, from now on."""
    passes: list[int] = []
    seen = kind.seen
    monkeypatch.setattr(kind, "seen", lambda *given: passes.append(len(given[2])) or seen(*given))
    return passes


def test_latents_that_are_active_nearly_everywhere_are_ablated_only_by_their_number(
    made: TrainConfig, run: CodedRun
) -> None:
    ablator, reader = run.saes[f"rough@{STREAM}"], run.saes[f"rough@{LATE}"]
    kept_N = ablator.kept()
    rows_of = {latent: ablator.codes.rows_of(latent)[0] for latent in range(ablator.d_sae)}
    dense = {latent for latent, rows in rows_of.items() if kept_N[rows].sum() >= 0.1 * kept_N.sum()}
    first, _ = run.text.store.plan.splits["heldout"]
    heldout = {latent for latent, rows in rows_of.items() if (kept_N[rows] & (rows >= first)).any()}
    found = measured_effects(made, ablator, reader, "as_trained", n=64)
    assert {one.latent for one in found.latents} == heldout - dense
    assert found.n_dense == len(dense & heldout) > 0
    assert [one.activation for one in found.latents] == sorted((one.activation for one in found.latents), reverse=True)
    fewer = measured_effects(made, ablator, reader, "as_trained", n=3)
    assert [one.latent for one in fewer.latents] == [one.latent for one in found.latents[:3]]
    named = min(dense & heldout)
    [alone] = measured_effects(made, ablator, reader, "as_trained", n=64, latent=named).latents
    assert (alone.latent, alone.n_effects > 0) == (named, True)
    [silent] = measured_effects(made, ablator, reader, "as_trained", n=64, latent=min(set(range(64)) - heldout)).latents
    assert (silent.active_rows, silent.n_effects) == (0, 0)


def test_only_the_largest_effects_are_kept(made: TrainConfig, run: CodedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    ablator, reader = run.saes[f"rough@{STREAM}"], run.saes[f"rough@{LATE}"]
    all_of_them = measured_effects(made, ablator, reader, "as_trained", n=5)
    monkeypatch.setattr(ablation_sums, "N_KEPT", 3)
    monkeypatch.setattr(ablation, "N_KEPT", 3)
    few = measured_effects(made, ablator, reader, "as_trained", n=5)
    for one in few.latents:
        whole, some = (effect_of(found, one.latent, 64) for found in (all_of_them, few))
        largest = np.argsort(-np.abs(whole))[:3]
        assert set(np.flatnonzero(some)) == set(largest)
        assert (some[largest] == whole[largest]).all()


def test_rows_of_another_population_are_other_rows(made: TrainConfig, run: CodedRun) -> None:
    ablator, reader = run.saes[f"rough@{STREAM}"], run.saes[f"rough@{LATE}"]
    latent = measured_effects(made, ablator, reader, "as_trained", n=1).latents[0].latent
    rows = {
        population: measured_effects(made, ablator, reader, population, n=1, latent=latent).latents[0].active_rows
        for population in ("as_trained", "all_but_special", "all")
    }
    assert rows["as_trained"] <= rows["all_but_special"] <= rows["all"]


def test_what_cannot_be_ablated_is_refused(made: TrainConfig, run: CodedRun) -> None:
    early, late = run.saes[f"rough@{EARLY}"], run.saes[f"rough@{LATE}"]
    with pytest.raises(ConfigError, match=r"runs before blocks\.2\.hook_resid_post, so no ablation there reaches it"):
        measured_effects(made, late, early, "as_trained", n=4)
    with pytest.raises(ConfigError, match=r"latent 64: .* has latents 0 to 63"):
        measured_effects(made, early, late, "as_trained", n=4, latent=64)
    training = late.record.training.model_copy(update={"input_scale": "per_document"})
    late.record = late.record.model_copy(update={"training": training})
    with pytest.raises(ConfigError, match="standardised by document"):
        measured_effects(made, early, late, "as_trained", n=4)
    with pytest.raises(ConfigError, match="standardised by document"):
        measured_effects(made, late, None, "as_trained", n=4)
    with pytest.raises(ConfigError, match="writes 2 sites at once"):
        measured_effects(made, run.saes[CROSS], None, "as_trained", n=4)


def test_sequences_that_are_left_out_are_told(
    run: CodedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what is kept too, since fewer rows are behind its numbers."""
    ablator, is_finite = run.saes[f"rough@{STREAM}"], AblationRows._is_finite
    whole = AblationRows(ablator, None, "as_trained", None)
    assert not caplog.records, "the control"
    bad = whole.spans[1]
    monkeypatch.setattr(AblationRows, "_is_finite", lambda self, span: span != bad and is_finite(self, span))
    assert AblationRows(ablator, None, "as_trained", None).n_rows == whole.n_rows - bad.length
    assert f"1 of {len(whole.spans)} sequences hold a row with a NaN or an infinity" in caplog.text
