"""What older versions wrote, in today's words."""

import pytest

from strata_sae.pipeline.runs import migration
from strata_sae.pipeline.runs.migration import JsonObject, migrated, new_name


def test_old_keys_become_todays_wherever_their_section_stands() -> None:
    old: JsonObject = {"training": {"dead_after_tokens": 5}, "d_model": 4, "store_id": "a"}
    training: JsonObject = {"dead_after_rows": 5, **migration.ADDED_KEYS[1]["training"]}
    new: JsonObject = {"training": training, "d_out": 4, "store_id": "a"}
    added: JsonObject = {"d_in": None, "reads": [], "writes": [], "store_ids": {}, "parent": None}
    assert migrated(old, "config.json", 1) == new | added
    assert migrated({"config": old, "step": 3, "scalars": {"step": 3}}, "state.json", 1) == {
        "config": new | added,
        "step": 3,
        "curves_sha256": None,
    }
    assert old["d_model"] == 4, "what was read is left as it is"


def test_every_variant_of_a_recorded_config_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(migration.ADDED_KEYS[1], "training")
    variants: JsonObject = {"a": {"training": {"dead_after_tokens": 1}}, "b": {"sae": {"d_model": 2}}}
    found = migrated({"training": {"dead_after_tokens": 9}, "variants": variants}, "config.yaml", 1)
    assert found == {
        "training": {"dead_after_rows": 9},
        "variants": {"a": {"training": {"dead_after_rows": 1}}, "b": {"sae": {"d_model": 2}}},
    }


def test_an_old_sigmoid_is_the_one_over_pairs_active_together() -> None:
    old: JsonObject = {"objective": {"orthogonality": {"shape": "sigmoid"}, "l1": {"weight": 1.0}}}
    new = {"orthogonality": {"shape": "sigmoid_co_active", "from_progress": 0.0}, "l1": {"weight": 1.0}}
    assert migrated({"variants": {"a": old}}, "config.yaml", 1)["variants"] == {"a": {"objective": new}}
    assert migrated(old, "config.json", 1)["objective"] == new
    linear: JsonObject = {"objective": {"orthogonality": {"shape": "linear"}}}
    found = migrated(linear, "config.json", 1)["objective"]
    assert found == {"orthogonality": {"shape": "linear", "from_progress": 0.0}}


def test_items_of_a_list_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(migration.SECTIONS, "example.json", {"corpus.sources.*": "source"})
    monkeypatch.setitem(migration.RENAMED_KEYS[1], "source", {"old": "new"})
    old: JsonObject = {"corpus": {"sources": [{"old": 1}, 7, {"other": 2}]}}
    assert migrated(old, "example.json", 1) == {"corpus": {"sources": [{"new": 1}, 7, {"other": 2}]}}


def test_todays_data_is_left_as_it_is() -> None:
    data: JsonObject = {"d_model": 4, "training": {"dead_after_tokens": 5}}
    assert migrated(data, "config.json", migration.VERSION) == data


def test_the_new_name_of_a_key_is_known() -> None:
    assert new_name("training", "dead_after_tokens") == "dead_after_rows"
    assert new_name("training", "dead_after_rows") is None
    assert new_name("sae", "dead_after_tokens") is None


def test_a_key_that_one_architecture_has_is_added_to_its_groups_alone() -> None:
    variants: JsonObject = {name: {"sae": {"architecture": name}} for name in ("topk", "batch_topk", "relu")}
    found = migrated({"variants": variants}, "config.yaml", 1)["variants"]
    assert isinstance(found, dict)
    saes = {name: variant["sae"] for name, variant in found.items() if isinstance(variant, dict)}
    assert saes["relu"] == {"architecture": "relu"}
    assert saes["topk"] == {"architecture": "topk", "inference": "k"}
    assert saes["batch_topk"]["inference"] == "threshold"
    assert migrated({"sae": {"architecture": "topk", "inference": "threshold"}}, "config.json", 1)["sae"] == {
        "architecture": "topk",
        "inference": "threshold",
    }
