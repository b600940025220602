"""Gemma Scope's params.npz, read: JumpReLU SAEs and transcoders of Gemma 2, whose encoder takes no b_dec from its rows.

Rows, as its report describes them, and our sites of the same numbers:

| repository | site |
|---|---|
| gemma-scope-…-res | blocks.<n>.hook_resid_post |
| gemma-scope-…-mlp | blocks.<n>.hook_mlp_out: after the norm that follows Gemma 2's MLP, as that site is here, too |
| gemma-scope-…-att | blocks.<n>.attn.hook_z: all heads side by side, before the output projection |
| gemma-scope-…-transcoders | reads blocks.<n>.ln2.hook_normalized, writes blocks.<n>.hook_mlp_out |

What a transcoder reads is normalised, but not yet multiplied by the norm's weight; no module of the model in
transformers returns it, so no store has that site. Rows of `embedding` have no site, either.
Source: Lieberum et al. 2024, Gemma Scope, section 3 and its appendices; names as SAELens gives them.
"""

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue
from torch import Tensor

from strata_sae.pipeline.formats.building import built
from strata_sae.pipeline.formats.foreign import Foreign, Source
from strata_sae.pipeline.formats.opening import expect, file_sha256s, matrix_shape, read_npz

WEIGHTS = "params.npz"
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)(?![a-z])")
_LAYER = re.compile(r"layer_(\d{1,5})")
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z", "transcoders": "ln2.hook_normalized"}


class _Told(NamedTuple):
    """What the names of folders say."""

    site: str | None
    writes: str | None
    model: str | None
    facts: dict[str, JsonValue]


def is_one(path: Path) -> bool:
    """Whether a folder holds params.npz, or a file is one."""
    return (path / WEIGHTS).is_file() or (path.name == WEIGHTS and path.is_file())


def read(path: Path) -> Foreign:
    """The SAE or transcoder in a folder, or in params.npz.

    Its site is known where the names of the folders say it: `…/gemma-scope-2b-pt-res/layer_20/width_16k/…`.
    Raises: CheckpointError saying which array is missing, unknown or misshapen.
    """
    folder = path.parent if path.is_file() else path
    where = folder / WEIGHTS
    arrays = _with_todays_names(read_npz(where, folder))
    (d_in, d_sae), (_, d_out) = matrix_shape(arrays, "W_enc", str(where)), matrix_shape(arrays, "W_dec", str(where))
    vectors = {"b_enc": (d_sae,), "b_dec": (d_out,), "threshold": (d_sae,)}
    expect(arrays, {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), **vectors}, str(where))
    # It takes relu(pre) where pre > threshold: a threshold below 0 is one of 0.
    changed = {"W_enc": arrays["W_enc"].T.contiguous(), "threshold": arrays["threshold"].clamp(min=0)}
    told = _told_by_names(folder)
    source = Source(
        format="gemma_scope",
        path=str(path),
        sha256=file_sha256s([where], folder),
        site=told.site,
        writes=told.writes,
        model=told.model,
        facts=told.facts,
    )
    return Foreign(built(where, "jump_relu", arrays | changed, pre_bias=False), source)


def _with_todays_names(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without a factor of codes that is 1, and with W_enc and W_dec, which some of its files spell small."""
    renamed = {"W_" + name[2:] if name.startswith("w_") else name: array for name, array in arrays.items()}
    scale = renamed.get("scaling_factor")
    if scale is not None and bool((scale == 1).all()):
        del renamed["scaling_factor"]
    return renamed


def _told_by_names(folder: Path) -> _Told:
    """What the folder's names say, the innermost first. In the hub's cache they hold the repository's name, too."""
    parts = folder.resolve().parts[::-1]
    repository = next(filter(None, map(_REPOSITORY.search, parts)), None)
    layer = next(filter(None, map(_LAYER.fullmatch, parts)), None)
    facts: dict[str, JsonValue] = {
        name: part.removeprefix(f"{name}_")
        for name in ("average_l0", "width")
        for part in parts[:2]
        if re.fullmatch(rf"{name}_\w{{1,20}}", part)
    }
    if repository is None:
        return _Told(None, None, None, facts)
    size, tuning, rows = repository.groups()
    model = f"google/gemma-2-{size}" + ("-it" if tuning == "it" else "")
    if layer is None:  # `embedding`, or a folder of another name
        return _Told(None, None, model, facts)
    block = f"blocks.{int(layer[1])}"
    writes = f"{block}.hook_mlp_out" if rows == "transcoders" else None
    return _Told(f"{block}.{_SITES[rows]}", writes, model, facts)
