"""What this package uses of transformers: types for its objects, which have none, and a block in which it is quiet."""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from strata_sae.pipeline.errors import ConfigError, first_line
from strata_sae.stores.files.canonical import Json

CellT = TypeVar("CellT")
"""What the caller keeps in a field of a chat."""


class ModelConfig(Protocol):
    """A `PretrainedConfig`: config.json, with the defaults of the model's type."""

    model_type: str
    dtype: torch.dtype
    pad_token_id: int | None
    _attn_implementation: str
    _experts_implementation: str

    def get_text_config(self) -> "ModelConfig":
        """The part that describes the language model; the config itself where a model is nothing else."""

    def to_dict(self) -> dict[str, Json]:
        """As config.json would hold it."""


class LoadingInfo(TypedDict):
    """What `from_pretrained` reports with `output_loading_info`; shapes are in the file and in the model."""

    missing_keys: Collection[str]
    unexpected_keys: Collection[str]
    mismatched_keys: Collection[tuple[str, Sequence[int], Sequence[int]]]
    error_msgs: Collection[str]


class ModelOutput(Protocol):
    """What a causal language model returns."""

    logits: Tensor
    """[B, S, V]."""


class CausalModel(nn.Module):
    """The type of a `PreTrainedModel` with a head that gives logits; no object is made of this class itself."""

    config: ModelConfig
    dtype: torch.dtype
    __call__: Callable[..., ModelOutput]
    """One forward pass over token ids [B, S]."""
    all_tied_weights_keys: dict[str, str]
    """Tensors that are one: the name of the copy -> the name of the one it is a copy of."""
    from_pretrained: ClassVar[Callable[..., tuple["CausalModel", LoadingInfo]]]
    """The model with the tensors of a state dict, and what of them did not fit."""
    get_input_embeddings: Callable[[], nn.Embedding]
    """The table of token embeddings, weight [V, M]."""
    get_output_embeddings: Callable[[], nn.Module | None]
    """What turns rows into logits, weight [V, M]."""


class AddedToken(Protocol):
    """A token beside the vocabulary that a tokenizer was trained with."""

    special: bool


class Encoded(TypedDict, total=False):
    """What a tokenizer returns for texts: token ids, and the characters [first, past the last) of each token."""

    input_ids: list[list[int]]
    offset_mapping: list[list[tuple[int, int]]]


class Tokenizer(Protocol):
    """A `PreTrainedTokenizerBase`."""

    bos_token: str | None
    eos_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    all_special_ids: list[int | None]
    all_special_tokens: list[str]
    special_tokens_map: dict[str, str]
    added_tokens_decoder: dict[int, AddedToken]
    chat_template: str | dict[str, str] | None
    model_max_length: int | float
    is_fast: bool

    def __call__(self, texts: list[str], **options: bool) -> Encoded:
        """Token ids by text, and the characters of each token by text where they are asked for."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | bytes | None]:
        """Tokens as the vocabulary spells them; None for an unknown id, bytes from tokenizers of tiktoken's kind."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""

    def get_chat_template(self, *, tools: CellT) -> str:
        """The template for chats with these tools."""

    def apply_chat_template(self, messages: list[dict[str, CellT]], **options: CellT) -> str:
        """A conversation as text."""


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block transformers prints errors only and draws no progress bar; then its settings are restored."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # torch's and transformers' own use of what they deprecate; a user can do nothing about it.
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category, module=r"(transformers|torch|gguf|accelerate)\b")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


@contextmanager
def explained(folder: Path, what: str) -> Iterator[None]:
    """Within the block, whatever is raised becomes a ConfigError: `what` of `folder` cannot be read."""
    try:
        yield
    except BaseException as error:  # transformers, tokenizers, safetensors: no common class for what bad files cause
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of tokenizers, in Rust
            raise
        raise ConfigError(
            f"model.path: {folder}: cannot read {what}: {type(error).__name__}: {first_line(error)}; "
            f"are the files complete, and is the architecture one that the installed transformers knows?"
        ) from error
