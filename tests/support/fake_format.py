"""A format of other libraries' SAEs that is made up: fake.json and tensors.safetensors, in our layout."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.formats import Format
from strata_sae.pipeline.formats.foreign import Foreign, Source
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.stores.files.hashing import file_sha256

NAME = "fake"
FILES = ("fake.json", "tensors.safetensors")


def read(folder: Path) -> Foreign:
    for name in FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: there is no such file; fetch the folder again")
    said = json.loads((folder / FILES[0]).read_text())
    architecture = ARCHITECTURES[said["sae"]["architecture"]]
    weights = safetensors.torch.load_file(folder / FILES[1])
    settings = architecture.Settings.model_validate(said["sae"])
    sae = architecture(settings, weights["W_dec"].shape[1], weights, weights["W_enc"].shape[1])
    source = Source(
        format=NAME,
        path=str(folder),
        sha256={name: file_sha256(folder / name) for name in FILES},
        **{key: said.get(key) for key in ("site", "writes", "model")},
        facts=said.get("facts", {}),
    )
    return Foreign(sae, source)


FAKE = Format(is_one=lambda folder: (folder / FILES[0]).is_file(), read=read, write=None, files=FILES)


def write(folder: Path, sae: dict[str, Any], weights: dict[str, Tensor], **said: Any) -> Path:
    """An SAE in the made-up format. said: site, writes, model, facts. Returns: its folder."""
    folder.mkdir(parents=True)
    (folder / FILES[0]).write_text(json.dumps({"sae": sae, **said}))
    safetensors.torch.save_file(weights, folder / FILES[1])
    return folder


def copy_of(trained: VariantFolder, to: Path, **said: Any) -> Path:
    """An SAE that was trained, in the made-up format."""
    record = json.loads(trained.config.read_text())
    return write(to, record["sae"], safetensors.torch.load_file(trained.weights), **{"site": trained.site, **said})
