"""The base of every configuration model."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen, strict group of knobs: unknown keys and wrong types are errors; a field's string documents it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
