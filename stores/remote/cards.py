"""Pages about what is shared, in Markdown, in which no text of strangers becomes markup."""

import json
import re
from collections.abc import Mapping

from strata_sae.stores.files.canonical import Json
from strata_sae.stores.format.plan import Plan

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_LICENSES = [
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "gpl-3.0",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "odc-by",
    "pddl",
    "gemma",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "unknown",
    "other",
]


def dataset_card(plan: Plan, store_id: str, url: str, n_bytes: int) -> str:
    """Markdown with the metadata block that the hub searches by: license, base_model, tags."""
    model, corpus = plan.provenance.get("model", {}), plan.provenance.get("corpus", {})
    model = model if isinstance(model, dict) else {"model": model}
    name = str(model.get("model", "unknown"))
    tags: list[Json] = ["activations", "sparse-autoencoder", "interpretability", "strata"]
    block = card_head({"tags": tags, "viewer": False}, plan.provenance, name)
    sites = "\n".join(f"| `{site}` | {d_model} |" for site, d_model in plan.sites.items())
    splits = ", ".join(f"{split} {stop - start:,}" for split, (start, stop) in plan.splits.items())
    return f"""{block}

# Activations of {plain_text(name)}

Rows of a language model's hidden states, one per token, for training sparse autoencoders.
Plain zarr v3 under `activations.zarr/`; every file is hashed by `MANIFEST.json`.

| | |
|---|---|
| model | {plain_text(name)}, revision {plain_text(str(model.get("revision")))} |
| rows | {plan.n_rows:,} ({splits}), from {plan.n_documents:,} documents |
| encoding | {plan.encoding}, compressor {plan.compressor} |
| size | {n_bytes:,} bytes |
| store id | `{store_id}` |
| plan id | `{plan.id}` |

| site | width |
|---|---|
{sites}

## Use

```
strata store pull {url} OUT --expect {store_id}
```

## Where it comes from

The text keeps the licences of its sources.

```json
{fenced_json({"corpus": corpus, "model": model})}
```
"""


def card_head(said: Mapping[str, Json], provenance: Json, model: str) -> str:
    """The block of metadata that a card begins with: what is `said`, the license and the base model.

    provenance: data in which a license may be named. model: its name, which may be no id of a hub.
    """
    license_ = str(_find(provenance, "license") or "unknown").lower()
    head: dict[str, Json] = {**said, "license": license_ if license_ in _LICENSES else "other"}
    if head["license"] == "other":
        head["license_name"] = re.sub(r"[^a-z0-9.-]+", "-", license_)[:64]
    if _REPOSITORY.fullmatch(model):
        head["base_model"] = [model]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in sorted(head.items())), "---"])


def _find(value: Json, key: str) -> str | None:
    """The first text under a key anywhere in plain data."""
    if isinstance(value, dict):
        if isinstance(text := value.get(key), str):
            return text
        value = list(value.values())
    if isinstance(value, list):
        return next((found for item in value if (found := _find(item, key)) is not None), None)
    return None


def plain_text(text: str) -> str:
    """Text that cannot be read as markup."""
    return re.sub(r"[^\w ./:@+-]", "?", text)[:200]


def fenced_json(value: Json) -> str:
    """JSON that can neither end its code block nor begin a tag."""
    return json.dumps(value, indent=1, sort_keys=True).replace("`", "\\u0060").replace("<", "\\u003c")
