"""Every number of a config, made absurd: refused when the file is read, with its key, or it trains and is scored."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.config import RunConfig, load
from strata_sae.pipeline.config.errors_text import lines_of
from strata_sae.pipeline.config.loading import dump
from strata_sae.pipeline.errors import LARGEST_INT, ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.schedules import Schedule
from strata_sae.pipeline.trainer.train import train
from support.schema_leaves import Leaf, leaves
from support.small_presets import FILES, SITES, loaded, small
from support.small_run import D_MODEL
from support.small_store import build_store

HUGE = (10**400, 10**5000, 1e39, 1e308, math.nan, math.inf, -math.inf)
"""None of them can be meant anywhere."""
HUGE_INTEGERS = (10**19, 10**30, -(10**19))
"""Nor these, where an integer is asked for."""
ODD = (-1, 0, 1e-320, 2**62, 1e30)
"""Some of them may be meant somewhere."""
ENDLESS = ("training.n_steps", "corpus.n_tokens", "training.warmup_steps")
"""2^62 of them are only a long time, and nobody can know that they are not meant; warm-up must end before n_steps."""
NOT_TRAINED_ON = ("corpus", "store", "model", "toy")
"""What another stage reads: for that, tests/extractor."""


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    path = tmp_path_factory.mktemp("numbers") / "store"
    build_store(path, 1000, SITES, chunk_bytes=64 * D_MODEL * 4, shard_bytes=2**24)
    return [small(loaded(file), path) for file in FILES]


def plain(config: RunConfig, variant: str) -> dict[str, Any]:
    """Plain data of a config, of its variants only one."""
    alone = config.model_copy(update={"variants": {variant: config.variants[variant]}})
    return {section: group for section, group in alone.model_dump(mode="json").items() if group is not None}


def config_with(leaf: Leaf, value: Any, presets: list[RunConfig]) -> dict[str, Any]:
    """Plain data of a config of one variant that has the place, with the value there."""
    config, name = next((c, n) for c in presets for n, v in c.variants.items() if has(v, leaf))
    data = plain(config, name)
    if leaf.path[0] == "toy":
        del data["model"], data["corpus"]
        data["toy"] = {"kind": leaf.settings.model_fields["kind"].default}
    variant = data["variants"][name]
    for term in variant["objective"].values():
        term.pop("term", None)
    data["variants"] = {"v": variant}
    data["training"] |= {"n_steps": None if leaf.path[-1] == "epochs" else 2, "warmup_steps": 0}
    if leaf.path[2:3] == ("resampling",):
        variant["resampling"] = {"every_steps": 1, "dead_after_steps": 1}
    elif variant["resampling"]:
        variant["resampling"] = None
    variant["match"] = {"l0": 8.0} if leaf.path[2:3] == ("match",) else None
    if leaf.path[:2] == ("corpus", "sources"):
        kind = leaf.settings.model_fields["kind"].annotation.__args__[0]
        place = {"python_docs": {}, "dataset": {"path": "p"}}.get(kind, {"paths": ["p"]})
        data["corpus"]["sources"] = [{"kind": kind, **place}]
    here: Any = data
    for step, following in zip(leaf.path, leaf.path[1:], strict=False):
        if following == leaf.path[-1] and leaf.settings is Schedule and not isinstance(here[step], dict):
            here[step] = {"start": 8, "end": 4}
        if isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        if following == 0 and step != "sources":
            here[step] = [[0, 1]] if leaf.path[-2:] == (0, 0) else [1]
        here = here[step]
    here[leaf.path[-1]] = value
    return data


def has(variant: Any, leaf: Leaf) -> bool:
    if leaf.path[2:3] == ("objective",):
        return leaf.path[3] in variant.objective
    return leaf.architecture in (None, variant.sae.architecture)


def names(message: str, leaf: Leaf) -> bool:
    """Whether the message is one line that names the key, or that of the schedule it is part of."""
    keys = [step for step in leaf.path if isinstance(step, str)]
    wanted = keys[-2:] if leaf.settings is Schedule else keys[-1:]
    return any(key in message for key in wanted) and "\n" not in message.strip()


def label(leaf: Leaf) -> str:
    return f"{leaf.key} {leaf.architecture or leaf.settings.__name__}"


NUMBERS = leaves(int, float)


def refusal(data: dict[str, Any]) -> str | None:
    from pydantic import ValidationError

    try:
        RunConfig.model_validate(copy.deepcopy(data))
    except ValidationError as error:
        return "\n".join(lines_of(error, data, {(): "c.yaml"}))
    return None


@pytest.mark.parametrize("leaf", NUMBERS, ids=label)
def test_a_number_that_nothing_can_hold_is_refused_with_its_key(leaf: Leaf, presets: list[RunConfig]) -> None:
    for value in (*HUGE, *(HUGE_INTEGERS if int in leaf.types else ())):
        said = refusal(config_with(leaf, value, presets))
        assert said is not None, f"{value!r:.30} is accepted"
        assert names(said, leaf), said
        assert len(said) < 600, said


INTEGERS = [leaf for leaf in NUMBERS if int in leaf.types and float not in leaf.types]


@pytest.mark.parametrize("leaf", INTEGERS, ids=label)
def test_an_integer_may_be_spelt_as_any_whole_number(leaf: Leaf, presets: list[RunConfig]) -> None:
    """As `1e4`, which YAML reads as the float 10000.0: accepted or refused as the integer is, and then the same."""
    for value in (0, 1, 2, 8, 10_000, 2**40, 2**53):
        as_integer, as_float = (config_with(leaf, spelt, presets) for spelt in (value, float(value)))
        refused = refusal(as_integer)
        assert (refusal(as_float) is None) == (refused is None), (value, refused, refusal(as_float))
        if refused is None:
            found = RunConfig.model_validate(as_float)
            assert found == RunConfig.model_validate(as_integer)
            assert dump(found) == dump(RunConfig.model_validate(as_integer))
    for value in (2.5, 1e-3, float(2**53) + 2, math.nan):
        said = refusal(config_with(leaf, value, presets))
        assert names(said or "it is accepted", leaf), said


def test_integers_of_every_shape_are_found_and_no_other_number_becomes_one() -> None:
    keys = {leaf.key for leaf in INTEGERS}
    assert keys >= {
        "seed", "corpus.n_tokens", "corpus.deduplicate.n", "training.n_steps", "variants.v.sae.k",
        "variants.v.sae.d_sae", "variants.v.objective.orthogonality.watch.0.0",
        "variants.v.objective.hierarchical_topk.ks.0", "evaluation.max_rows",
    }  # fmt: skip
    weight = Schedule.model_validate({"start": 2.0, "end": 1, "begin": 0.0})
    assert [type(value) for value in (weight.start, weight.begin)] == [float, float]


def test_a_file_may_say_1e4(tmp_path: Path, presets: list[RunConfig]) -> None:
    text = dump(presets[0]).replace(f"n_tokens: {presets[0].corpus.n_tokens}\n", "n_tokens: 1e4\n")
    assert "n_tokens: 1e4" in text
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    assert (load(path).corpus.n_tokens, load(path, ["seed=2e3"]).seed) == (10_000, 2000)
    path.write_text(text.replace("1e4", "1.00005e4"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.yaml:\d+: corpus\.n_tokens: expected an integer or null, got 10000\.5"):
        load(path)


TRAINED_ON = [
    leaf
    for leaf in NUMBERS
    if leaf.path[0] not in NOT_TRAINED_ON
    and leaf.path[2:3] != ("match",)  # trained again and again: tests/test_matching.py
    # A schedule is the same code wherever it stands: once as a term's weight, once as an architecture's k.
    and (leaf.settings is not Schedule or leaf.path[2:4] in (("objective", "l1"), ("sae", "k")))
]


@pytest.mark.parametrize("leaf", TRAINED_ON, ids=label)
def test_an_odd_number_is_refused_or_trains(
    leaf: Leaf, presets: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    for value in ODD:
        if value == 2**62 and leaf.key in ENDLESS:
            continue
        data = config_with(leaf, value, presets)
        if (said := refusal(data)) is not None:
            assert names(said, leaf), said
            continue
        config = RunConfig.model_validate({**data, "name": f"run{ODD.index(value)}"})
        assert names(trained(config, leaf) or leaf.key, leaf)


def trained(config: RunConfig, leaf: Leaf) -> str | None:
    """Why it cannot be trained and scored; None if it can."""
    try:
        train(config, show_progress=False)
        if leaf.path[0] in ("evaluation", "training"):
            evaluate(config, show_progress=False)
    except ConfigError as error:
        return str(error)
    return None


def test_the_largest_seed_trains_and_its_record_can_be_read(
    presets: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seed = next(leaf for leaf in NUMBERS if leaf.key == "seed")
    config = RunConfig.model_validate(config_with(seed, LARGEST_INT, presets))
    train(config, show_progress=False)
    Path("c.yaml").write_text(dump(config))
    assert load(Path("c.yaml")).seed == LARGEST_INT


def test_the_walk_finds_places_of_every_kind() -> None:
    keys = {leaf.key for leaf in NUMBERS}
    assert keys >= {
        "seed", "corpus.sources.0.weight", "variants.v.sae.k.start", "variants.v.objective.orthogonality.watch.0.0",
        "variants.v.training.beta1", "variants.v.resampling.encoder_scale", "evaluation.max_rows",
    }  # fmt: skip
