"""The keys that older versions spelt otherwise: one table, and the function that turns their data into today's words.

To rename a key: raise VERSION, and say under the number before it, and under its section, what the key was and is.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from pydantic import JsonValue

JsonObject = dict[str, JsonValue]
T = TypeVar("T")

VERSION: Final = 2
"""Of every record that is written now. A record without a number is of version 1."""

RENAMED_KEYS: dict[int, dict[str, dict[str, str]]] = {
    1: {
        "training": {"dead_after_tokens": "dead_after_rows"},
        "config.json": {"d_model": "d_out"},
        "training.json": {"tokens": "rows"},
        "curves.jsonl": {"tokens": "rows"},
        "state.json": {"scalars": ""},
        "state.safetensors": {"dead_clock.tokens_since_fired": "dead_clock.rows_since_active"},
    }
}
"""Version -> section -> a key as that version spelt it -> the key of the next version; nothing if it has none."""

ADDED_KEYS: dict[int, dict[str, JsonObject]] = {
    1: {
        "training": {
            "input_scale": "statistics",
            "decay_to": 0.0,
            "plateau": None,
            "weight_decay": 0.0,
            "heldout": None,
            "keep": [],
        },
        "initial": {"b_dec_from": "first_batch"},
        "config.json": {"d_in": None, "reads": [], "writes": [], "store_ids": {}, "parent": None},
        "training.json": {"stopped_at_step": None, "best_step": None, "kept": []},
        "state.json": {"curves_sha256": None},
        "metrics.json": {"sha256": None},
        "store.json": {"siblings": {}},
        "orthogonality": {"from_progress": 0.0},
        "curves.jsonl": {"similarity": None},
        "loader.jsonl": {"perfect_documents": None, "perfect_positions": None, "predicted_variance_ratio": None},
        "sae topk": {"inference": "k"},
        "sae batch_topk": {"inference": "threshold", "tie_break": "first"},
        "sae two_child_topk": {"per_child_k": None},
    }
}
"""Version -> section -> a key that not every record of that version holds -> what its absence meant.

`sae topk`: of those groups of the section `sae` that are of the architecture topk; `term aux_k`: likewise of a term.
"""

REWORDED: dict[int, dict[str, dict[str, str]]] = {
    1: {
        "orthogonality": {"sigmoid": "sigmoid_co_active"},
        "definitions": {
            "Mean number of nonzero codes of a row.": (
                "Mean number of active latents of a row: those whose code is not 0."
            ),
            "E ||e||^2: squared error summed over the model width, averaged over rows.": (
                "E ||e||^2: squared error summed over the columns, averaged over rows."
            ),
            "E ||e||^2 / d_model: squared error averaged over rows and model width.": (
                "E ||e||^2 / d_out: squared error averaged over rows and columns."
            ),
            "Latents that fired on none of the scored rows. Falls as more rows are scored.": (
                "Latents active on none of the scored rows. Falls as more rows are scored."
            ),
            "Latents that fired on at least one of the scored rows. Rises as more rows are scored.": (
                "Latents active on at least one of the scored rows. Rises as more rows are scored."
            ),
            "Median over the alive latents of the share of rows on which the latent fires.": (
                "Median over the alive latents of the share of rows on which the latent is active."
            ),
        },
    }
}
"""Version -> section -> a text as that version put it -> the same in the words of the next version."""

SECTIONS: dict[str, dict[str, str]] = {
    "config.yaml": {
        "training": "training",
        "variants.*.training": "training",
        "variants.*.sae": "sae",
        "variants.*.sae.initial": "initial",
        "variants.*.objective.*": "term",
        "variants.*.objective.orthogonality": "orthogonality",
        "variants.*.resampling": "resampling",
    },
    "config.json": {
        "": "config.json",
        "training": "training",
        "sae": "sae",
        "sae.initial": "initial",
        "objective.*": "term",
        "objective.orthogonality": "orthogonality",
        "resampling": "resampling",
    },
    "metrics.json": {"": "metrics.json", "definitions": "definitions", "metrics.*": "definitions"},
}
"""Kind of file -> where in it (keys joined by dots, * for any key) -> the section of the tables above that holds.

A kind that is not named here has one section, which is called as it is. A * stands for an item of a list, too.
"""
SECTIONS["state.json"] = {"": "state.json"} | {
    f"config.{where}".rstrip("."): section for where, section in SECTIONS["config.json"].items()
}


def migrated(data: JsonObject, kind: str, version: int) -> JsonObject:
    """Data of a file of an older version in the words of VERSION. `data` itself is left as it is.

    kind: a key of SECTIONS, or the only section of the file.
    """
    for older in range(version, VERSION):
        for where, section in SECTIONS.get(kind, {"": kind}).items():
            data = _changed_at(data, [key for key in where.split(".") if key], partial(_reworded, older, section))
    return data


def migrated_keys(values: Mapping[str, T], section: str) -> dict[str, T]:
    """Values by key, such as a checkpoint's tensors, with the keys of any older version in today's words."""
    return {new_name(section, key) or key: value for key, value in values.items()}


def new_name(section: str, key: str) -> str | None:
    """What a key of an older version is called now; None if no version had it, or it is called so still."""
    name = key
    for older in range(1, VERSION):
        name = RENAMED_KEYS[older].get(section, {}).get(name, name)
    return None if name == key else name


def _reworded(version: int, section: str, group: JsonObject) -> JsonObject:
    """One group of a file in the words of the version after `version`."""
    keys, texts = RENAMED_KEYS[version].get(section, {}), REWORDED[version].get(section, {})
    kept = {new: value for key, value in group.items() if (new := keys.get(key, key))}
    kind = kept.get("architecture", kept.get("term"))
    added = ADDED_KEYS[version].get(section, {}) | ADDED_KEYS[version].get(f"{section} {kind}", {})
    return added | {key: texts.get(value, value) if isinstance(value, str) else value for key, value in kept.items()}


def _changed_at(group: JsonObject, path: list[str], change: Callable[[JsonObject], JsonObject]) -> JsonObject:
    """The group with `change` made to every group that lies at `path` in it."""
    if not path:
        return change(group)
    changed = dict(group)
    for key in group if path[0] == "*" else [path[0]]:
        inner = group.get(key)
        if isinstance(inner, dict):
            changed[key] = _changed_at(inner, path[1:], change)
        elif isinstance(inner, list) and path[1:2] == ["*"]:
            changed[key] = [_changed_at(i, path[2:], change) if isinstance(i, dict) else i for i in inner]
    return changed
