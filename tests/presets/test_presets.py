"""configs/presets/: every value is the source's; each has a companion in small, which is the same experiment."""

import re
from fnmatch import fnmatchcase
from functools import cache

import pytest

from strata_sae.pipeline.schedules import Schedule
from strata_sae.pipeline.strict_yaml import Yaml, parse
from support.preset_tables import PRESETS, Leaves, changed, facts, flat, leaves, loaded, uncited, written, wrong
from support.preset_values import TABLES

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
SMALL = [name for name in NAMES if name.endswith("-small")]
WHOLE = [name for name in NAMES if name not in SMALL]

SIZES = (
    "training.batch_size", "training.n_steps", "training.epochs", "training.heldout.every_steps",
    "training.dead_after_rows", "training.threshold_start_step", "training.warmup_steps",
    "variants.*.training.warmup_steps", "variants.*.sae.d_sae",
    "variants.*.sae.k", "variants.*.sae.k.*", "variants.*.sae.per_child_k", "variants.*.sweep.*", "sweep.*",
    "variants.*.objective.*.warmup_steps",
)  # fmt: skip
"""What may differ in small."""
OF_SMALL = ("training.sites", "training.window_rows", "training.log_every_steps", "training.checkpoint_every_steps")
"""What a companion may add."""
ELSEWHERE = ("name", "seed", "model", "corpus", "store", "toy")
"""Sections of another model and text."""


@cache
def settings_of(name: str) -> Leaves:
    return leaves(loaded(name))


def text_of(name: str) -> str:
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def heading(name: str) -> str:
    """The comment at the top, in one line."""
    lines = text_of(name).split("\n\n", 1)[0].splitlines()[1:]
    assert all(line.startswith("# ") for line in lines)
    return " ".join(line[2:] for line in lines)


def experiment(name: str) -> Leaves:
    """What a file says of the experiment, sweeps as they stand there."""
    data, _ = parse(text_of(name), name)
    assert isinstance(data, dict)
    return flat({key: value for key, value in data.items() if key not in ELSEWHERE})


def other_than(whole: Leaves, small: Leaves) -> list[str]:
    """The keys in which a companion is another experiment."""
    missing: Yaml = "missing"
    keys = [key for key in whole.keys() | small.keys() if whole.get(key, missing) != small.get(key, missing)]
    kept = [key for key in keys if not any(fnmatchcase(key, size) for size in SIZES)]
    return sorted(key for key in kept if key in whole or key not in OF_SMALL)


def test_every_preset_has_a_table() -> None:
    assert sorted(TABLES) == WHOLE


@pytest.mark.parametrize("name", TABLES)
def test_every_value_is_the_sources(name: str) -> None:
    assert wrong(settings_of(name), TABLES[name]) == []


@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_written_that_the_table_does_not_name(name: str) -> None:
    assert uncited(written(PRESETS / f"{name}.yaml"), TABLES[name]) == []
    assert uncited(["training.another", "variants.another.sae.another"], TABLES[name]), "control"


@pytest.mark.parametrize("name", TABLES)
def test_control_a_changed_value_is_found(name: str) -> None:
    found = settings_of(name)
    assert [fact.key for fact in facts(TABLES[name]) if wrong(changed(found, fact), [fact]) != [fact.key]] == []
    assert all(entry.cite for entry in facts(TABLES[name]))


@pytest.mark.parametrize("name", WHOLE)
def test_a_preset_names_its_companion_in_small(name: str) -> None:
    found = re.findall(r"In small: (seed[\w-]+-small)\.yaml\.", heading(name))
    assert len(found) == 1
    assert found[0] in SMALL
    sources = re.search(r"\bSeed 00\d\b", heading(name))
    assert sources is not None


@pytest.mark.parametrize("name", SMALL)
def test_a_companion_says_that_its_numbers_are_not_the_sources(name: str) -> None:
    said = heading(name)
    assert "in small" in said
    assert "its numbers are not the source's" in said
    assert re.match(r"(seed[\w]+)\.yaml in small", said)


@pytest.mark.parametrize("name", SMALL)
def test_a_companion_is_the_same_experiment(name: str) -> None:
    of = re.match(r"(seed[\w]+)\.yaml in small", heading(name))
    assert of is not None
    assert f"In small: {name}.yaml." in heading(of[1])
    whole, small = experiment(of[1]), experiment(name)
    assert other_than(whole, small) == []
    key = next(key for key in small if key.startswith("variants.") and ".sae.architecture" in key)
    assert other_than(whole, {**small, key: "another"}) == [key], "control"


@pytest.mark.parametrize("name", ["seed000_toy_gpu", "seed000_toy_mac"])
def test_the_published_baselines_are_the_treatment_and_ours_are_not(name: str) -> None:
    variants = loaded(name).variants
    for baseline, treatment in (("standard_l1_uniform", "standard_anneal"), ("standard_freq", "standard_combined")):
        assert variants[f"{baseline}_as_published"] == variants[treatment]
        assert variants[baseline] != variants[treatment]


@pytest.mark.parametrize(
    "name", ["seed000_objectives_gpu", "seed000_objectives_mac", "seed000_toy_gpu", "seed000_toy_mac"]
)
def test_p_is_seed_000s_at_every_step(name: str) -> None:
    config = loaded(name)
    assert config.training is not None
    n = config.training.n_steps
    assert n is not None
    first, last = int(0.2 * n), int(0.8 * n)
    of_source = [1.0 + min(max(step - first, 0) / (last - first), 1.0) * -0.5 for step in range(1, n + 1)]
    terms = [term for variant in config.variants.values() for term in variant.objective.values()]
    schedules = [p for term in terms if isinstance(p := getattr(term, "p", None), Schedule)]
    assert len(schedules) >= 3
    for p in schedules:
        assert [p.at(step / n) for step in range(n)] == pytest.approx(of_source, abs=1e-9)
    late = Schedule(start=1.0, end=0.5, begin=0.2, finish=0.8)
    assert [late.at(step / n) for step in range(n)] != pytest.approx(of_source, abs=1e-6), "control"
