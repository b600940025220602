"""SAELens' cfg.json: what it says in the words of version 6, and what in it changes the meaning of an SAE."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from strata_sae.pipeline.errors import CheckpointError, shown

Json = dict[str, JsonValue]

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Keys before version 6 -> since."""
_NEUTRAL: dict[str, tuple[JsonValue, ...]] = {
    "normalize_activations": (None, "none"),
    "reshape_activations": (None, "none"),
    "finetuning_scaling_factor": (None, False),
    "hook_head_index": (None,),
    "hook_head_index_out": (None,),
    "seqpos_slice": (None, [None], [None, None], [None, None, None]),
}
"""Keys by which other rows are read, or changed, or codes scaled -> values that say: none of it."""


@dataclass(frozen=True)
class Config:
    """What a cfg.json says, in the words of version 6."""

    where: Path
    top: Json
    metadata: Json
    facts: Json
    """The file, as it is."""

    @property
    def architecture(self) -> str:
        """SAELens' name of the class. Raises: CheckpointError if it is no text."""
        name = self.value("architecture")
        if not isinstance(name, str):
            raise CheckpointError(f"{self.where}: architecture: is {shown(str(name))}; a name of SAELens' is needed")
        return name

    def value(self, key: str) -> JsonValue:
        """What stands at a key; None where there is none."""
        return self.top.get(key)

    def size(self, key: str) -> int:
        """A width. Raises: CheckpointError if it is missing, or no positive integer."""
        found = self.value(key)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            told = "is missing" if key not in self.top else f"is {shown(str(found))}"
            raise CheckpointError(f"{self.where}: {key}: {told}; a positive integer is needed")
        return found

    def flag(self, key: str, *, default: bool) -> bool:
        """Whether something is so. Raises: CheckpointError if it is neither true nor false."""
        found = self.top.get(key, default)
        if not isinstance(found, bool):
            raise CheckpointError(f"{self.where}: {key}: is {shown(str(found))}; allowed: true, false")
        return found


def todays(found: Json, where: Path) -> Config:
    """The config in a file of any version. Raises: CheckpointError for what has no place here, naming it."""
    metadata = found.get("metadata", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{where}: metadata: is {shown(str(metadata))}; an object is needed")
    top, metadata = (found, metadata) if _is_of_version_6(found, metadata, where) else _converted(found, where)
    for part in (top, metadata):
        for key, neutral in _NEUTRAL.items():
            if key in part and part[key] not in neutral:
                raise CheckpointError(
                    f"{where}: {key}: is {shown(str(part[key]))}, which changes what the SAE computes and has no "
                    "equal here; fold it into the weights first"
                )
    return Config(where, top, metadata, found)


def _is_of_version_6(found: Json, metadata: Json, where: Path) -> bool:
    version = found.get("sae_lens_version") or metadata.get("sae_lens_version")
    if version is None:
        return False
    major = re.match(r"\d{1,9}(?!\d)", str(version))
    if major is None:
        raise CheckpointError(f"{where}: sae_lens_version: is {shown(str(version))}; a version is needed")
    return int(major[0]) >= 6


def _converted(found: Json, where: Path) -> tuple[Json, Json]:
    """A config from before version 6, and its metadata, which stood beside the rest. As SAELens reads it."""
    top = {_RENAMED.get(key, key): value for key, value in found.items() if key != "metadata"}
    if isinstance(top.get("normalize_activations"), bool):
        top["normalize_activations"] = "expected_average_only_in" if top["normalize_activations"] else "none"
    if "hook_z" in str(top.get("hook_name")):
        top.setdefault("reshape_activations", "hook_z")
    top.setdefault("architecture", "standard")
    activation, arguments = top.get("activation_fn", "relu"), top.get("activation_fn_kwargs")
    k = arguments.get("k") if isinstance(arguments, dict) else None
    if activation == "topk" and k is not None:
        top |= {"architecture": "topk", "k": k}
    elif activation != "relu" and top["architecture"] != "topk":
        raise CheckpointError(
            f"{where}: activation_fn: is {shown(str(activation))}; allowed: relu, and topk with activation_fn_kwargs.k"
        )
    return top, top
