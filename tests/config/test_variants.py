"""What a variant changes of the training section holds for it alone; numbers that contradict each other are refused."""

from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.config import RunConfig, dump, load
from strata_sae.pipeline.config.training import PlateauSettings, UpdateSettings
from strata_sae.pipeline.errors import ConfigError
from support.small_run import TOPK, run_data

CHANGES: dict[str, Any] = {
    "batch_size": 32,
    "input_scale": "none",
    "learning_rate": 5e-5,
    "warmup_steps": 0,
    "decay_start": 0.5,
    "decay": "cosine",
    "decay_to": 0.1,
    "plateau": PlateauSettings(factor=0.3),
    "weight_decay": 0.01,
    "compat": "dictionary_learning",
    "order": "clip_project",
    "projection_epsilon": 0.0,
    "beta1": 0.0,
    "beta2": 0.99,
    "epsilon": 6.25e-10,
    "clip_norm": None,
    "dead_after_rows": 5,
    "threshold_from": "running_mean",
    "threshold_mean": "first_value",
    "threshold_beta": 0.99,
    "threshold_start_step": 3,
}


def config(variant: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    return RunConfig.model_validate(
        run_data(Path("store"), {"topk": TOPK, "own": {**TOPK, **(variant or {})}}, **training)
    )


def test_every_setting_of_an_update_can_be_changed() -> None:
    assert CHANGES.keys() == UpdateSettings.model_fields.keys()
    run = config({"training": CHANGES})
    own, others = (run.variants[name].resolved(run.training) for name in ("own", "topk"))
    for name, value in CHANGES.items():
        assert getattr(own, name) == value
        assert getattr(others, name) == getattr(run.training, name) != value


def test_what_is_not_named_follows_the_section() -> None:
    run = config({"training": {"clip_norm": None}}, learning_rate=0.5, clip_norm=2.0)
    own = run.variants["own"].resolved(run.training)
    assert (own.learning_rate, own.clip_norm, own.n_steps) == (0.5, None, run.training.n_steps)
    assert run.variants["topk"].resolved(run.training).clip_norm == 2.0


def test_only_what_is_changed_is_dumped(tmp_path: Path) -> None:
    run = config({"training": {"clip_norm": None}})
    (tmp_path / "a.yaml").write_text(dump(run), encoding="utf-8")
    again = load(tmp_path / "a.yaml", ["training.learning_rate=0.25"])
    own = again.variants["own"].resolved(again.training)
    assert (own.learning_rate, own.clip_norm) == (0.25, None)


@pytest.mark.parametrize(
    ("variant", "training", "said"),
    [
        ({}, {"warmup_steps": 49}, r"training of variant 'topk': warmup_steps \(49\) must end before .* step 48"),
        ({"training": {"warmup_steps": 61}}, {"decay_start": 1.0}, r"variant 'own': warmup_steps \(61\) must end"),
        ({"training": {"decay_start": 0.0}}, {}, r"variant 'own': warmup_steps \(5\) must end .* at step 0"),
        (
            {"training": {"threshold_from": "running_mean", "threshold_start_step": 60}},
            {},
            r"threshold_start_step \(60\) must lie before n_steps \(60\)",
        ),
        ({"training": {"learning_rate": 0.0}}, {}, "must be greater than 0 or auto, got 0.0"),
        ({"training": {"learning_rate": "fast"}}, {}, "auto"),
        ({"training": {"n_steps": 3}}, {}, "n_steps"),
        ({}, {"epochs": 2.0}, "exactly one of n_steps and epochs, got both"),
        ({}, {"keep": [0.5, 1.5]}, "less than or equal to 1"),
        (
            {"training": {"decay": "plateau", "plateau": {"loss": "heldout"}}},
            {},
            "variant 'own': plateau.loss: heldout needs training.heldout",
        ),
        ({"resampling": {"every_steps": 0}}, {}, "greater than 0"),
        ({"resampling": {"every_steps": 61}}, {}, r"every_steps \(61\) exceeds n_steps \(60\), so it never happens"),
        ({"resampling": {"every_steps": 9, "until_step": 8}}, {}, r"until_step \(8\) must not lie before every_steps"),
        (
            {
                "sae": {"architecture": "identity", "d_sae": 16},
                "objective": {"reconstruction": {}},
                "resampling": {"every_steps": 5},
            },
            {},
            "has no latents that are trained",
        ),
        ({"sae": {"architecture": "topk", "d_sae": 64, "k": 65}}, {}, r"k \(65\) must not exceed d_sae \(64\)"),
        ({"sae": {**TOPK["sae"], "initial": {"decoder_norm": 0.0}}}, {}, "greater than 0"),
        ({"sae": {**TOPK["sae"], "initial": {"b_dec": "mode"}}}, {}, "geometric_median"),
    ],
)
def test_contradictions_are_refused(variant: dict[str, Any], training: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(variant, **training)


def test_controls_the_last_numbers_that_fit() -> None:
    assert config(warmup_steps=48).training.warmup_steps == 48
    last = {"threshold_from": "running_mean", "threshold_start_step": 59}
    never = {"threshold_start_step": 60}  # calibration sets it
    for training in (last, never):
        variant = config({"training": training}).variants["own"]
        assert variant.training.threshold_start_step == training["threshold_start_step"]


@pytest.mark.parametrize("value", ["x" * 5000, "{architecture: " + "x" * 5000 + "}", "[" + "1, " * 2000 + "1]"])
@pytest.mark.parametrize("key", ["variants.topk.sae", "variants.topk.objective.l1", "seed.x", "store.sites.0"])
def test_a_long_value_is_cut_in_its_error(tmp_path: Path, key: str, value: str) -> None:
    (tmp_path / "a.yaml").write_text(dump(config()), encoding="utf-8")
    overrides = [f"seed={value}", f"{key}=1"] if key == "seed.x" else [f"{key}={value}"]
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "a.yaml", overrides)
    assert max(map(len, str(refused.value).splitlines())) < 500


def test_a_long_value_in_a_sweep_is_cut_in_its_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(dump(config()), encoding="utf-8")
    long, name = "x/" * 2500, "x" * 5000
    for grid in (f"[{long}]", f"[{name}]", f"[{name}, {name}]"):
        override = f"variants.topk.sweep={{sae.k: {grid}}}"
        with pytest.raises(ConfigError) as refused:
            load(tmp_path / "a.yaml", [override])
        assert max(map(len, str(refused.value).splitlines())) < 500
