"""Which setting of a variant is searched for a wanted L0, and what a value of it makes of the variant."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from strata_sae.pipeline.config import RunConfig, dump, load
from strata_sae.pipeline.config.knobs import SPARSITY, MatchSettings, knob_of
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.saes import ARCHITECTURES
from support.small_run import SITE, TOPK, run_data

RECONSTRUCTION: dict[str, Any] = {"reconstruction": {}}
TERMS: dict[str, Any] = {
    "l1": {"weight": 0.1},
    "l1_decoder_norm": {"weight": 0.1},
    "lp": {"weight": 0.1},
    "p_anneal": {"weight": 0.1},
    "frequency_weighted_lp": {"weight": 0.1},
}
MATCH: dict[str, Any] = {"match": {"l0": 8.0}}


def variant(sae: dict[str, Any], terms: dict[str, Any], match: dict[str, Any] | None = None) -> Variant:
    return Variant.model_validate(
        {"sae": {"d_sae": 66, **sae}, "objective": {**RECONSTRUCTION, **terms}, "match": match or {"l0": 8.0}}
    )


def knob(made: Variant) -> Any:
    assert made.match is not None
    return knob_of(made.match, made.sae, made.objective)


@pytest.mark.parametrize("term", SPARSITY)
@pytest.mark.parametrize("architecture", ["relu", "gated"])
def test_the_weight_of_a_sparsity_term(architecture: str, term: str) -> None:
    sae = {"architecture": architecture, "decoder": "free" if term == "l1_decoder_norm" else "unit"}
    terms = {term: TERMS[term]} | ({"gated_auxiliary": {}} if architecture == "gated" else {})
    made = variant(sae, terms)
    assert (knob(made).name, knob(made).start, knob(made).slope) == (f"objective.{term}.weight", 0.1, -0.8)
    assert made.with_knob(0.25).objective[term].weight == 0.25
    assert made.with_knob(0.25).match is None
    assert made.with_knob(0.25).objective.keys() == made.objective.keys(), "the order of the sum"


def test_the_thresholds_of_jump_relu() -> None:
    jump = {"architecture": "jump_relu"}
    for kind, weight in (("penalty", 0.001), ("tanh", 0.001)):
        penalty = variant(jump, {"l0": {"kind": kind, "weight": weight}})
        assert (knob(penalty).name, knob(penalty).start, knob(penalty).slope) == ("objective.l0.weight", weight, -0.76)
    for kind in ("target", "per_row"):
        target = variant(jump, {"l0": {"kind": kind, "target": 20.0}})
        assert (knob(target).name, knob(target).start, knob(target).slope) == ("objective.l0.target", 8.0, 1.0)
        assert target.with_knob(7.5).objective["l0"].model_dump()["target"] == 7.5


@pytest.mark.parametrize(("architecture", "start"), [("topk", 8.0), ("batch_topk", 8.0), ("two_child_topk", 4.0)])
def test_k_begins_at_the_wanted_l0(architecture: str, start: float) -> None:
    made = variant({"architecture": architecture, "k": 20}, {})
    assert (knob(made).name, knob(made).start, knob(made).is_integer) == ("sae.k", start, True)
    assert made.with_knob(7.0).sae.model_dump()["k"] == 7


def test_of_a_schedule_the_value_at_its_end_moves() -> None:
    warm = variant({"architecture": "relu"}, {"l1": {"weight": {"start": 0.0, "end": 0.1, "finish": 0.2}}})
    assert knob(warm).start == 0.1
    assert warm.with_knob(0.3).objective["l1"].model_dump()["weight"] == {
        "shape": "linear", "start": 0.0, "end": 0.3, "begin": 0.0, "finish": 0.2, "exponent": 2.0,
    }  # fmt: skip
    flat = variant({"architecture": "relu"}, {"l1": {"weight": {"shape": "constant", "start": 0.2, "end": 0.1}}})
    assert (knob(flat).start, flat.with_knob(0.3).objective["l1"].model_dump()["weight"]["start"]) == (0.2, 0.3)
    falling = variant({"architecture": "topk", "k": {"start": 60.0, "end": 20.0}}, {})
    assert falling.with_knob(9.0).sae.model_dump()["k"] | {} == {
        "shape": "linear", "start": 60.0, "end": 9.0, "begin": 0.0, "finish": 1.0, "exponent": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sae", "terms", "match", "says"),
    [
        ({"architecture": "groupmax", "k": 6}, {}, {"l0": 8.0}, "'groupmax' with reconstruction has no setting that"),
        ({"architecture": "relu"}, {}, {"l0": 8.0}, "'relu' with reconstruction has no setting that moves L0; allowed"),
        ({"architecture": "relu"}, {k: TERMS[k] for k in ("l1", "lp")}, {"l0": 8.0}, "name one of them in match.knob"),
        (
            {"architecture": "relu"},
            {"l1": TERMS["l1"]},
            {"l0": 8.0, "knob": "sae.k"},
            "match.knob: 'sae.k' moves no L0 here; allowed: objective.l1.weight",
        ),
        ({"architecture": "topk", "k": 4}, {}, {"l0": 100.0}, r"match.l0 \(100\) must not exceed d_sae \(66\)"),
        ({"architecture": "relu"}, {"l1": {"weight": {"start": 1.0, "end": 0.0}}}, {"l0": 8.0}, "let it end above 0"),
        ({"architecture": "topk", "k": 4}, {}, {"l0": 8.0, "first": {SITE: 7.5}}, "7.5 is no k"),
        ({"architecture": "topk", "k": 4}, {}, {"l0": 8.0, "first": {SITE: 0.0}}, "must be above 0"),
        (
            {"architecture": "topk", "k": 4},
            {},
            {"l0": 8.0, "first": {SITE: 67.0}},
            "67 is no .* that can be tried; allowed: 1 to 66",
        ),
        (
            {"architecture": "topk", "k": 4},
            {"hierarchical_topk": {"ks": [1, 2, 4]}},
            {"l0": 8.0},
            "must end with sae.k",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(
    sae: dict[str, Any], terms: dict[str, Any], match: dict[str, Any], says: str
) -> None:
    reconstruction = {} if "hierarchical_topk" in terms else RECONSTRUCTION
    with pytest.raises(ValidationError, match=says):
        Variant.model_validate({"sae": {"d_sae": 66, **sae}, "objective": {**reconstruction, **terms}, "match": match})


def test_of_several_knobs_one_can_be_named() -> None:
    terms = {k: TERMS[k] for k in ("l1", "lp")}
    made = variant({"architecture": "relu"}, terms, {"l0": 8.0, "knob": "objective.lp.weight"})
    assert made.with_knob(0.5).objective["lp"].weight == 0.5
    assert made.with_knob(0.5).objective["l1"].weight == 0.1


def test_every_architecture_is_said_something_of() -> None:
    """A new one has a knob, or is refused by a line: `match` never trains something that cannot be searched."""
    terms = {"jump_relu": {"l0": {}}, **{key: {"l1": TERMS["l1"]} for key in ("relu", "gated")}}
    for name, architecture in ARCHITECTURES.items():
        k = {"k": 6} if "k" in architecture.Settings.model_fields else {}
        sae = {"architecture": name, "d_sae": 66, **k}
        data = {"sae": sae, "objective": {**RECONSTRUCTION, **terms.get(name, {})}, "match": {"l0": 6.0}}
        if name in ("groupmax", "identity"):
            with pytest.raises(ValidationError):
                Variant.model_validate(data)
        else:
            assert knob(Variant.model_validate(data)).name


def test_a_file_says_where_a_search_begins(tmp_path: Path) -> None:
    made = RunConfig.model_validate(run_data(tmp_path, {"topk": {**TOPK, "match": {"l0": 8.0, "first": {SITE: 9}}}}))
    match = made.variants["topk"].match
    assert isinstance(match, MatchSettings)
    assert knob(made.variants["topk"]).start_at(SITE) == 9.0
    assert knob(made.variants["topk"]).start_at("another") == 8.0
    (tmp_path / "c.yaml").write_text(dump(made))
    assert load(tmp_path / "c.yaml").variants["topk"].match == match
    (tmp_path / "d.yaml").write_text(dump(made).replace(f"{SITE}: 9.0", "blocks.9.hook_mlp_out: 9.0"))
    with pytest.raises(ConfigError, match=r"variants.topk.match.first: blocks.9.hook_mlp_out: is none of blocks.1"):
        load(tmp_path / "d.yaml")


def test_a_sweep_matches_several_l0(tmp_path: Path) -> None:
    data = run_data(tmp_path, {"topk": {**TOPK, "sweep": {"match.l0": [8, 16]}}})
    del data["variants"]["topk"]["sweep"]
    (tmp_path / "c.yaml").write_text(dump(RunConfig.model_validate(data)))
    made = load(tmp_path / "c.yaml", ["variants.topk.sweep={match.l0: [8, 16]}"])
    found = {name: variant.match and variant.match.l0 for name, variant in made.variants.items()}
    assert found == {"topk_l0-8": 8.0, "topk_l0-16": 16.0}
