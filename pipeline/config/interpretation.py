"""How latents are put into words by a language model, and how the words are scored."""

from typing import Literal

from pydantic import Field

from strata_sae.pipeline.endpoint.settings import EndpointSettings, ModelName
from strata_sae.pipeline.errors import ConfigError

ScoreName = Literal["detection", "fuzzing", "fidelity", "monosemanticity"]


class InterpretationSettings(EndpointSettings):
    """Explanations of latents by one language model, scored by another on documents that the first has not seen."""

    explainer: ModelName | None = None
    """The model that explains, by the name that the server knows."""
    scorer: ModelName | None = None
    """The model that scores. The explainer itself would measure whether it agrees with itself, which is then said."""
    latents: int = Field(default=100, ge=1)
    """Latents of each SAE (count), drawn from those that are active often enough on both halves of the documents."""
    scores: list[ScoreName] = Field(default=["detection", "fuzzing", "fidelity", "monosemanticity"])
    """What is measured of each explanation."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Of whatever is drawn: latents, examples, their order."""

    def model_of(self, role: Literal["explainer", "scorer"]) -> str:
        """The model that explains, or that scores. Raises: ConfigError where none is named."""
        model = self.explainer if role == "explainer" else self.scorer
        if model is None:
            raise ConfigError(f"interpretation.{role}: names no model; name one as the server calls it")
        return model
