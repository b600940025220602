from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.pipeline.config import RunConfig, dump, load
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.saes import ARCHITECTURES
from support.small_presets import FILES, loaded

BASE = """\
name: base
model: {path: demo}
corpus:
  sources: [{kind: python_docs}]
  n_tokens: 1000
store:
  sites: [blocks.8.hook_resid_post]
training:
  n_steps: 10
  learning_rate: 1e-4
  warmup_steps: 0
variants:
  relu:
    sae: {architecture: relu, d_sae: 16}
    objective:
      reconstruction:
      l1: {weight: {start: 0, end: 1.0}}
  topk.v2:
    sae: {architecture: topk, d_sae: 16, k: 4}
    objective: {reconstruction: {}}
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE, encoding="utf-8")
    return Path("base.yaml")


def problem(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)


def test_a_file_becomes_a_config(base: Path) -> None:
    config = load(base)
    assert config.training.learning_rate == 1e-4
    assert config.variants["relu"].objective["reconstruction"].weight == 1.0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dump_is_read_back_as_an_equal_config(path: Path, tmp_path: Path) -> None:
    config = loaded(path)
    (tmp_path / "again.yaml").write_text(dump(config), encoding="utf-8")
    again = load(tmp_path / "again.yaml")
    assert again == config
    assert dump(again) == dump(config)


def test_a_config_cannot_be_changed(base: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(base).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("seed=3", lambda c: c.seed, 3),
        ("training.learning_rate=2e-3", lambda c: c.training.learning_rate, 2e-3),
        ("training.sites=[blocks.8.hook_resid_post]", lambda c: c.training.sites, ["blocks.8.hook_resid_post"]),
        ("corpus.sources.0.weight=2", lambda c: c.corpus.sources[0].weight, 2.0),
        ("store.sites.0=blocks.1.hook_mlp_out", lambda c: c.store.sites, ["blocks.1.hook_mlp_out"]),
        ("training.filters.drop_bos=false", lambda c: c.training.filters.drop_bos, False),
        ("evaluation.max_rows=100", lambda c: c.evaluation.max_rows, 100),
        ("model.revision=", lambda c: c.model.revision, None),
        ("report.title='a=b: c'", lambda c: c.report.title, "a=b: c"),
        ("variants.topk.v2.sae.k=5", lambda c: c.variants["topk.v2"].sae.k, 5),
        ("variants.relu.objective.l1.weight=0.5", lambda c: c.variants["relu"].objective["l1"].weight, 0.5),
        ("variants.relu.objective.l1.weight.start=0.5", lambda c: c.variants["relu"].objective["l1"].weight.start, 0.5),
        (
            "variants.new={sae: {architecture: relu, d_sae: 4}, objective: {reconstruction: {}}}",
            lambda c: list(c.variants),
            ["relu", "topk.v2", "new"],
        ),
    ],
)
def test_set_changes_one_value(base: Path, override: str, get: Callable[[RunConfig], object], value: object) -> None:
    assert get(load(base, [override])) == value


def test_later_overrides_win(base: Path) -> None:
    assert load(base, ["seed=1", "seed=2"]).seed == 2
    assert load(base, ["training={n_steps: 5, warmup_steps: 0}", "training.n_steps=6"]).training.n_steps == 6


PROBLEMS = {  # --set -> the whole of what is said after where it comes from
    "training.learning_rat=3": "training.learning_rat: no such key; did you mean 'learning_rate'?",
    "trainng.n_steps=3": "trainng: no such key; did you mean 'training'?",
    "corpus.mode=pack": "corpus.mode: 'pack' is not allowed; allowed: packed, sequential; did you mean 'packed'?",
    "training.batch_size=-1": "training.batch_size: must be greater than 0, got -1",
    "training.batch_size=abc": "training.batch_size: expected an integer, got 'abc' (a string)",
    "training.batch_size=1e-3": "training.batch_size: expected an integer, got 0.001 (a number)",
    "training.batch_size=1e16": "training.batch_size: expected an integer, got 1e+16 (a number)",
    "training.batch_size=true": "training.batch_size: expected an integer, got true (a boolean)",
    "training.clip_norm=x": "training.clip_norm: expected a number or null, got 'x' (a string)",
    "training.filters.drop_bos=no": "training.filters.drop_bos: expected true or false, got 'no' (a string)",
    "name=007.5": "name: expected a string, got 7.5 (a number)",
    "report.title=a=b: c": "report.title: expected a string or null, got a mapping",
    "evaluation=null": "evaluation: expected a mapping, got null",
    "corpus.heldout_fraction=1.0": "corpus.heldout_fraction: must be less than 1.0, got 1.0",
    "corpus.sources=[]": "corpus.sources: needs at least 1, got 0",
    "corpus.sources.3.weight=1": "corpus.sources is a list of 1; expected a position from 0, got '3'",
    "corpus.sources.0={path: x}": (
        "corpus.sources.0: the key 'kind' is missing; known: python_docs, text, jsonl, parquet, dataset"
    ),
    "corpus.sources.0={kind: text}": "corpus.sources.0.paths: missing; Files or glob patterns, read in sorted order.",
    "corpus.sources.0={kind: text, paths: 3}": "corpus.sources.0.paths: expected a list, got 3 (an integer)",
    "corpus.sources.0={kind: text, paths: [a], z: 3}": (
        "corpus.sources.0.z: no such key; known: weight, kind, paths, separator"
    ),
    "training={n_stepss: 3}": "training.n_stepss: no such key; did you mean 'n_steps'?",
    "training={}": "training: expected exactly one of n_steps and epochs, got neither; add one",
    "store.sites=[a b]": "store.sites.0: must match ^[A-Za-z0-9_.-]{1,128}$, got 'a b' (a string)",
    "variants={}": "variants: needs at least 1, got 0",
    "variants.rel.sae.d_sae=4": "variants.rel: no such name; did you mean 'relu'?",
    "variants.relu.sae.k=3": "variants.relu.sae.k: no such key; known: "
    + ", ".join(ARCHITECTURES["relu"].Settings.model_fields),
    "variants.relu.objective=3": "variants.relu.objective: expected a mapping, got 3 (an integer)",
    "variants.relu.objective.l1=3": (
        "variants.relu.objective.l1: expected a mapping or null, got 3 (an integer); did you mean `l1: {weight: 3}`?"
    ),
    "variants.relu.objective.l1.weight=abc": (
        "variants.relu.objective.l1.weight: expected a number or a mapping, got 'abc' (a string)"
    ),
    "variants.relu.objective.l1.weight.star=1": (
        "variants.relu.objective.l1.weight.star: no such key; did you mean 'start'?"
    ),
    "model.path.x=3": "model.path is 'demo'; there is no 'x' in it",
    "seed": "expected key.path=value, for example --set training.n_steps=100",
    "seed=*a": "anchors (&) and aliases (*) are not allowed; write the value out",
}


@pytest.mark.parametrize("override", PROBLEMS)
def test_a_problem_is_one_line_that_says_where_what_and_what_is_allowed(base: Path, override: str) -> None:
    lines = problem(base, override).splitlines()
    assert f"--set {override}: {PROBLEMS[override]}" in lines


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("sae", "{architecture: tpk, d_sae: 4}", "sae: architecture 'tpk' is unknown; known: relu, topk, "),
        ("sae", "{d_sae: 4}", "sae: the key 'architecture' is missing; known: relu, topk, "),
        ("sae", "{architecture: topk, d_sae: 4}", "sae.k: missing; Active latents per row (count)."),
        ("sae", "{architecture: topk, d_sae: 4, k: 5}", "k (5) must not exceed d_sae (4)"),
        ("objective", "{reconstructio: {}}", "objective.reconstructio: no such key; did you mean 'reconstruction'?"),
        ("objective", "{zzzz: {}}", "objective.zzzz: no such key; known: reconstruction, prefix_reconstruction, "),
        ("objective", "{l1: {weight: 1}}", "an objective needs exactly one term that reconstructs"),
        ("objective", "{reconstruction: {}, l1: {}}", "objective.l1.weight: missing; Factor of this term"),
        ("objective", "{reconstruction: {}, l1: {weight: {start: 1}}}", "objective.l1.weight.end: missing; Value from"),
        (
            "objective",
            "{reconstruction: {}, l1: {weight: {start: 1, end: 2, begin: 0.5, finish: 0.5}}}",
            "objective.l1.weight: finish (0.5) must be larger than begin (0.5)",
        ),
    ],
)
def test_registered_settings_are_checked_like_any_other(base: Path, name: str, settings: str, said: str) -> None:
    assert said in problem(base, f"variants.relu.{name}={settings}")


@pytest.mark.parametrize("section", ["training", "variants.relu.training"])
def test_a_key_of_an_older_version_is_refused_with_its_new_name(base: Path, section: str) -> None:
    key = f"{section}.dead_after_tokens"
    assert problem(base, f"{key}=5") == f"--set {key}=5: {key}: is called dead_after_rows now"
    assert problem(base, f"{section}={{dead_after_tokens: 5}}").endswith(f"{key}: is called dead_after_rows now")
    base.write_text(BASE.replace("  n_steps: 10", "  n_steps: 10\n  dead_after_tokens: 5"), encoding="utf-8")
    assert problem(base) == "base.yaml:10: training.dead_after_tokens: is called dead_after_rows now"


def test_control_the_key_of_an_older_version_is_none_elsewhere(base: Path) -> None:
    assert "no such key; known: d_sae" in problem(base, "variants.relu.sae.dead_after_tokens=5").replace(
        "architecture, ", ""
    )


def test_what_a_whole_source_says_is_told(base: Path) -> None:
    said = problem(base, "corpus.sources.0={kind: jsonl, paths: [a], chat: true, tokens: true}")
    assert said.endswith(
        "corpus.sources.0: chat: true and tokens: true exclude each other; set the one that the column holds"
    )


def test_every_problem_is_told_at_once_with_file_and_line(base: Path) -> None:
    text = (
        BASE.replace("n_tokens", "n_token")
        .replace("n_steps: 10", "n_steps: 0")
        .replace("d_sae: 16, k: 4", "k: 4, kk: 4")
    )
    base.write_text(text + "extra: 1\n", encoding="utf-8")
    assert problem(base).splitlines() == [
        "base.yaml:3: corpus.n_tokens: missing; "
        "Tokens to store, held-out ones included (count, exact). null: every token of the corpus.",
        "base.yaml:5: corpus.n_token: no such key; did you mean 'n_tokens'?",
        "base.yaml:9: training.n_steps: must be greater than 0, got 0",
        "base.yaml:19: variants.topk.v2.sae.d_sae: missing; Latents (count).",
        "base.yaml:19: variants.topk.v2.sae.kk: no such key; did you mean 'k'?",
        "base.yaml:21: extra: no such key; known: " + ", ".join(RunConfig.model_fields),
    ]


def test_a_problem_between_file_and_command_line_names_both(base: Path) -> None:
    said = problem(base, "training.sites=[blocks.1.hook_resid_post]")
    assert "training.sites: 'blocks.1.hook_resid_post' is not among store.sites" in said
    assert said.startswith("base.yaml:1 with --set training.sites=")


def test_a_missing_file_lists_the_configs_there_are(base: Path) -> None:
    Path("configs").mkdir()
    for name in ("demo", "smoke"):
        Path("configs", f"{name}.yaml").write_text(BASE, encoding="utf-8")
    assert problem(Path("configs/dem.yaml")).splitlines() == [
        "configs/dem.yaml: no such config file; did you mean configs/demo.yaml?",
        "configs here: base.yaml, configs/demo.yaml, configs/smoke.yaml",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a mapping of keys at the top, got nothing"),
        (b"- a", "expected a mapping of keys at the top, got a list of 1"),
        (b"name: \xff", "not UTF-8 text (byte 6)"),
        (b"a: " + b"x" * 2**20, "this is not a config file"),
        (b"name: caf\xc3\xa9", "name: must match"),
    ],
)
def test_a_file_that_is_no_config_is_refused(base: Path, content: bytes, said: str) -> None:
    base.write_bytes(content)
    assert said in problem(base)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    assert "is a folder" in problem(tmp_path)
