"""A grid in a file becomes named variants, and every slip in it is told before anything runs."""

from pathlib import Path

import pytest

from strata_sae.pipeline.config import dump, load
from strata_sae.pipeline.config.sweep import MAX_VARIANTS, expand
from strata_sae.pipeline.errors import ConfigError

BASE = """\
name: base
model: {path: demo}
corpus:
  sources: [{kind: python_docs}]
  n_tokens: 1000
store:
  sites: [blocks.8.hook_resid_post]
training: {n_steps: 10, warmup_steps: 0}
variants:
  relu:
    sae: {architecture: relu, d_sae: 16}
    objective: {reconstruction: {}, l1: {weight: 0.1}}
  topk:
    sweep:
      sae.k: [2, 4]
      training.learning_rate: [1e-3, 3e-4]
    sae: {architecture: topk, d_sae: 16}
    objective: {reconstruction: {}}
"""
VARIANT = {"sae": {"architecture": "relu"}, "objective": {"l1": {"weight": 0.1}}}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE, encoding="utf-8")
    return Path("base.yaml")


def problem(path: Path, *overrides: str, added: tuple[Path, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, added)
    return str(caught.value)


def test_every_point_of_the_grid_is_a_variant(base: Path) -> None:
    variants = load(base).variants
    assert list(variants) == [
        "relu",
        "topk_k-2_learning_rate-0.001",
        "topk_k-2_learning_rate-0.0003",
        "topk_k-4_learning_rate-0.001",
        "topk_k-4_learning_rate-0.0003",
    ]
    assert variants["topk_k-4_learning_rate-0.001"].sae.model_dump()["k"] == 4
    assert variants["topk_k-4_learning_rate-0.001"].training.learning_rate == 1e-3


def test_seeds_are_a_dimension_of_all_variants(base: Path) -> None:
    variants = load(base, ["sweep={seed: [0, 1]}", "variants.topk.sweep={sae.k: [2]}"]).variants
    assert list(variants) == ["relu_seed-0", "relu_seed-1", "topk_seed-0_k-2", "topk_seed-1_k-2"]
    assert [variant.seed for variant in variants.values()] == [0, 1, 0, 1]


def test_values_can_have_labels(base: Path) -> None:
    override = "variants.relu.sweep={objective.l1.weight: {warm: {start: 0.0, end: 1.0}, flat: 0.5}}"
    variants = load(base, [override]).variants
    assert variants["relu_weight-warm"].objective["l1"].weight.end == 1.0  # type: ignore[union-attr]
    assert variants["relu_weight-flat"].objective["l1"].weight == 0.5


def test_what_a_sweep_makes_is_of_one_kind(base: Path) -> None:
    assert {variant.kind for name, variant in load(base).variants.items() if name.startswith("topk")} == {"topk"}
    assert load(base).variants["relu"].kind is None, "control: it has no sweep"
    assert load(base, ["variants.topk.kind=mine"]).variants["topk_k-2_learning_rate-0.001"].kind == "mine"


def test_nothing_is_left_of_a_sweep_in_the_dump(base: Path, tmp_path: Path) -> None:
    config = load(base, ["sweep={seed: [0, 1]}"])
    (tmp_path / "again.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == config
    assert "sweep" not in dump(config)


def test_a_key_nobody_has_yet_is_made_and_the_others_stay() -> None:
    made = {name: data for name, (_, data) in expand({"a": {**VARIANT, "sweep": {"training.beta1": [0.0]}}}).items()}
    assert made == {"a_beta1-0": {**VARIANT, "training": {"beta1": 0.0}, "kind": "a"}}
    assert "training" not in VARIANT


@pytest.mark.parametrize(
    ("grid", "name"),
    [
        ({"objective.l1.weight": [0.1], "seed": [3]}, "a_weight-0.1_seed-3"),
        ({"objective.l1.weight.end": [1e-5]}, "a_weight.end-1e-05"),
        ({"objective.l1.weight": [0.1], "objective.aux_k.weight": [0.2]}, "a_l1.weight-0.1_aux_k.weight-0.2"),
        ({"weight": [1], "sae.weight": [2]}, "a_weight-1_sae.weight-2"),
    ],
)
def test_a_name_has_as_much_of_a_key_as_tells_it_apart(grid: dict[str, list[float]], name: str) -> None:
    assert list(expand({"a": {**VARIANT, "objective": {}, "sweep": grid}})) == [name]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("variants.topk.sweep=[1]", "variants.topk.sweep: expected a mapping of keys to lists of values"),
        ("sweep=3", "sweep: expected a mapping of keys to lists of values"),
        ("sweep={seed: 3}", "sweep of variant 'relu': seed: expected a list of values"),
        ("sweep={seed: []}", "sweep of variant 'relu': seed: expected a list of values"),
        ("sweep={seed: [1, 1]}", "sweep of variant 'relu': seed: a value stands twice in ['1', '1']"),
        ("sweep={seed: [[1]]}", "sweep of variant 'relu': seed: [1] cannot be part of a name; give it a label"),
        ("sweep={sae.d_sae.x: [1]}", "sae.d_sae.x: d_sae is 16; there is no 'x' in it"),
        (f"sweep={{seed: {list(range(MAX_VARIANTS))}}}", f"sweeps make 5000 variants; at most {MAX_VARIANTS}"),
        (f"sweep={{seed: {{{'x' * 80}: 1}}}}", "at most 64 make a name; shorten 'relu'"),
        ("variants.relu_seed-1={sae: {}}", "'relu_seed-1' is the name of two variants (relu and"),
        ("sweep={sae.kk: [1]}", "base.yaml:1 with --set"),
        ("variants.topk.sweep.sae.k=[99]", "k (99) must not exceed d_sae (16)"),
    ],
)
def test_a_slip_is_told(base: Path, override: str, said: str) -> None:
    collides = override.startswith("variants.relu_seed")
    overrides = ["variants.relu.sweep={seed: [1]}", override] if collides else [override]
    found = problem(base, *overrides)
    assert said in found or (said.startswith("base.yaml:1") and "no such key" in found)


def test_what_is_no_variant_is_told_as_ever(base: Path) -> None:
    assert "variants.relu: expected a mapping, got 3" in problem(base, "sweep={seed: [1]}", "variants.relu=3")


def test_a_wrong_value_is_told_with_its_line(base: Path) -> None:
    base.write_text(BASE.replace("[1e-3, 3e-4]", "[1e-3, fast]"), encoding="utf-8")
    assert (
        problem(base)
        .splitlines()[0]
        .startswith("base.yaml:16: variants.topk_k-2_learning_rate-fast.training.learning_rate")
    )


def test_an_unexpanded_sweep_is_refused_not_ignored(base: Path) -> None:
    data = load(base).model_dump(mode="json")
    data["sweep"] = {"seed": [1]}
    with pytest.raises(ValueError, match="sweep"):
        type(load(base)).model_validate(data)


def test_variants_of_another_file_are_added(base: Path) -> None:
    other = Path("more.yaml")
    other.write_text(
        "sweep: {seed: [5]}\nvariants:\n  new:\n    sae: {architecture: relu, d_sae: 8}\n"
        "    objective: {reconstruction: {}, l1: {weight: 0.2}}\n",
        encoding="utf-8",
    )
    config = load(base, ["training.n_steps=20"], [other])
    assert list(config.variants)[-1] == "new_seed-5"
    assert (len(config.variants), config.training.n_steps) == (6, 20)
    assert load(base, added=[base]) == load(base)  # the same variant twice is one
    other.write_text("variants:\n  relu: {sae: {}, objective: {}}\n", encoding="utf-8")
    assert "more.yaml:2: variants.relu is another variant in base.yaml:10; rename one" in problem(base, added=(other,))
    other.write_text("name: x\n", encoding="utf-8")
    assert "more.yaml: has no mapping of variants to add" in problem(base, added=(other,))
