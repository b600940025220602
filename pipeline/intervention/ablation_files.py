"""Measured effects as files beside the ablated SAE: parts of some latents each, which are never measured twice."""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.intervention.ablation_sums import PartEffects
from strata_sae.pipeline.runs.effect_records import EffectRecord, EffectsOf
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.record_files import fingerprint, read_record, write_record
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import sha256

_TYPES = {"reader": np.uint32, "effect": np.float32, "standard_error": np.float32, "log_probability": np.float32}


class EffectFiles:
    """`ablations/<what they depend on>/<latents>.{json,safetensors}`, both by their hashes."""

    def __init__(self, folder: VariantFolder, of: EffectsOf) -> None:
        self._of = of
        self.path = folder.ablations / fingerprint(of.model_dump(mode="json"))[:16]

    def has(self, latents: list[int]) -> bool:
        """Whether the part of these latents was measured."""
        return self._places(latents)[0].exists()

    def read(self, latents: list[int], n_rows: int) -> PartEffects:
        """The part of these latents, measured on so many rows. Raises: CheckpointError if it is damaged."""
        record_path, arrays_path = self._places(latents)
        record = read_record(record_path, EffectRecord).record
        for key, expected in self._of:
            if getattr(record, key) != expected:
                raise _unfit(record_path, f"{key} is another one")
        if [one.latent for one in record.latents] != latents or record.n_rows != n_rows:
            raise _unfit(record_path, "it is of other latents or rows")
        return PartEffects(record.latents, **_arrays(arrays_path, record))

    def write(self, part: PartEffects, n_rows: int, n_sequences: int, n_readers: int) -> None:
        """Write a part, the record last."""
        record_path, arrays_path = self._places([one.latent for one in part.latents])
        self.path.mkdir(parents=True, exist_ok=True)
        data = safetensors.numpy.save({name: np.ascontiguousarray(getattr(part, name)) for name in _TYPES})
        write_bytes(arrays_path, data)
        record = EffectRecord(
            **dict(self._of),
            n_rows=n_rows,
            n_sequences=n_sequences,
            n_readers=n_readers,
            latents=part.latents,
            arrays_sha256=sha256(data),
        )
        write_record(record_path, record)

    def _places(self, latents: list[int]) -> tuple[Path, Path]:
        name = fingerprint([*latents])[:16]
        return self.path / f"{name}.json", self.path / f"{name}.safetensors"


def _arrays(path: Path, record: EffectRecord) -> dict[str, np.ndarray]:
    """The arrays of a part. Raises: CheckpointError if they are not those of its record."""
    try:
        data = path.read_bytes()
        if sha256(data) != record.arrays_sha256:
            raise _unfit(path, "its sha256 is not that of its record")
        arrays = safetensors.numpy.load(data)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise _unfit(path, str(error)) from None
    n = sum(one.n_effects for one in record.latents)
    found = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    if found != {name: (np.dtype(kind), (n,)) for name, kind in _TYPES.items()}:
        raise _unfit(path, "its arrays are not those of effects")
    if n and int(arrays["reader"].max()) >= record.n_readers:
        raise _unfit(path, "it names what the reader does not have")
    return arrays


def _unfit(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: {why}; {EffectRecord.remedy}")
