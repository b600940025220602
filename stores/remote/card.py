"""The page that the hub shows about a store: a dataset card made from the plan."""

import json
import re
from typing import Any

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
    license_ = str(_find(plan.provenance, "license") or "unknown").lower()
    head: dict[str, Any] = {
        "license": license_ if license_ in _LICENSES else "other",
        "tags": ["activations", "sparse-autoencoder", "interpretability", "strata"],
        "viewer": False,
    }
    if head["license"] == "other":
        head["license_name"] = re.sub(r"[^a-z0-9.-]+", "-", license_)[:64]
    if _REPOSITORY.fullmatch(name):
        head["base_model"] = [name]
    block = "\n".join(f"{key}: {json.dumps(value)}" for key, value in sorted(head.items()))
    sites = "\n".join(f"| `{site}` | {d_model} |" for site, d_model in plan.sites.items())
    splits = ", ".join(f"{split} {stop - start:,}" for split, (start, stop) in plan.splits.items())
    return f"""---
{block}
---

# Activations of {_plain(name)}

Rows of a language model's hidden states, one per token, for training sparse autoencoders.
Plain zarr v3 under `activations.zarr/`; every file is hashed by `MANIFEST.json`.

| | |
|---|---|
| model | {_plain(name)}, revision {_plain(str(model.get("revision")))} |
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
{_fenced({"corpus": corpus, "model": model})}
```
"""


def _find(value: Any, key: str) -> Any:
    """The first value of a key anywhere in plain data."""
    if isinstance(value, dict):
        if isinstance(value.get(key), str):
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        return next((found for item in value if (found := _find(item, key)) is not None), None)
    return None


def _plain(text: str) -> str:
    """Text that cannot be read as markup."""
    return re.sub(r"[^\w ./:@+-]", "?", text)[:200]


def _fenced(value: Any) -> str:
    """JSON that can neither end its code block nor begin a tag."""
    return json.dumps(value, indent=1, sort_keys=True).replace("`", "\\u0060").replace("<", "\\u003c")
