"""What is read and stored: text, sites, encoding."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from strata_sae.pipeline.settings import Settings, SiteName
from strata_sae.pipeline.strict_yaml import Yaml


class _Source(Settings):
    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    """Share of the tokens drawn from this source, relative to the other sources' weights."""


class _Rows(_Source):
    """A source whose rows have columns, of which one is the document."""

    column: str = "text"
    """Column (key) that holds the text; the messages, for `chat`; the token ids, for `tokens`."""
    chat: bool = False
    """The column holds messages, `{role, content, ...}` or ShareGPT's `{from, value}`: apply the tokenizer's chat
    template to them, whole, and to what it reads beside them (`tools`, `documents`, `chat_template_kwargs`, its own
    variables)."""
    tokens: bool = False
    """The column holds token ids of the model's tokenizer. They are stored as they are: no BOS or EOS is added."""

    system_drop_probability: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the chats (0 to 1) that are stored without system prompt: without their system messages, and without
    what the template writes by itself where there is none. Which ones: by the config's seed and the messages. Source:
    dictionary_learning, 0.9."""

    columns: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(default=[], max_length=100)
    """Columns (keys) that are kept for each document beside its rows: numbers, truth values or short text, such as a
    rating that `strata interpret --target` explains (docs/interpreting.md)."""

    @model_validator(mode="after")
    def _one_kind_of_document(self) -> "_Rows":
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns: {', '.join(self.columns)} names one twice; name each once")
        if self.chat and self.tokens:
            raise ValueError("chat: true and tokens: true exclude each other; set the one that the column holds")
        if self.system_drop_probability and not self.chat:
            raise ValueError(
                f"system_drop_probability: {self.system_drop_probability} needs chat: true; only chats have a system "
                f"prompt; remove it"
            )
        return self


class PythonDocs(_Source):
    """The documentation every Python carries: `pydoc_data.topics` and the standard library's docstrings."""

    kind: Literal["python_docs"]
    """`python_docs`: needs no file and no network."""


class TextFiles(_Source):
    """Plain text files, one document each, or several where a separator is named."""

    kind: Literal["text"]
    """`text`: one file is one document (UTF-8; plain, .gz, .bz2, .xz or .zst)."""
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, read in sorted order."""
    separator: str | None = Field(default=None, min_length=1)
    """What stands between documents in a file, for example `<|endoftext|>`; it is not stored, and blank text
    between two of them is no document. null: one file is one document."""


class JsonLines(_Rows):
    """JSON lines, one document a line."""

    kind: Literal["jsonl"]
    """`jsonl`: one object a line, or one array of objects; plain, .gz, .bz2, .xz or .zst."""
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, read in sorted order."""


class Parquet(_Rows):
    """Parquet files, one document a row."""

    kind: Literal["parquet"]
    """`parquet`: any parquet file with a column of strings, messages or token ids."""
    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, read in sorted order."""


class HubDataset(_Rows):
    """A dataset of the Hugging Face hub, or a local folder in its form."""

    kind: Literal["dataset"]
    """`dataset`: anything `datasets.load_dataset` or `load_from_disk` loads."""
    path: str
    """Hub id or local folder."""
    name: str | None = None
    """Configuration of the dataset; null: its default."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Hub revision; null: the default branch."""
    streaming: bool = True
    """Read row by row instead of downloading the whole dataset first."""


AnySource = PythonDocs | TextFiles | JsonLines | Parquet | HubDataset
Source = Annotated[AnySource, Field(discriminator="kind")]
SOURCES: dict[str, type[AnySource]] = {
    get_args(one.model_fields["kind"].annotation)[0]: one for one in get_args(AnySource)
}
"""The settings of each kind of source."""


class DeduplicationSettings(Settings):
    """Leave out documents that share a run of words with an earlier one: the rule of FAST (2506.07691, algorithm 1)."""

    n: int = Field(default=20, ge=1, le=1000)
    """Words in a row (count) that no two stored documents share. FAST: 20. Of a source of token ids: tokens."""


class CorpusSettings(Settings):
    """The documents, how they are cut into sequences, and which are held out."""

    sources: list[Source] = Field(min_length=1)
    """Where documents come from, drawn in proportion to their weights."""
    n_tokens: int | None = Field(gt=1, le=2**48)
    """Tokens to store, held-out ones included (count, exact). null: every token of the corpus."""
    mode: Literal["packed", "sequential"] = "packed"
    """`packed`: documents joined, cut every `context_length` tokens; `sequential`: each document alone, truncated."""
    context_length: int = Field(default=512, ge=2, lt=2**31)
    """Longest sequence the model sees (tokens)."""
    isolate_documents: bool = False
    """Packed mode: attention stays within a document and positions start again at its first token, so its rows are
    those of the document alone. A document that is cut goes on in the next sequence as a document of its own would."""
    prepend_bos: bool = True
    """Begin every document with the tokenizer's BOS token, where it has one."""
    append_eos: bool = False
    """End every document with the tokenizer's EOS token, where it has one. Off for chat templates."""
    heldout_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the documents kept out of training, for evaluation (0 to 1)."""
    shuffle_documents: bool = True
    """Permute documents by the config's seed. false: corpus order."""
    short_documents: Literal["error", "skip"] = "error"
    """What to do with a document of fewer than two tokens."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do with a row that is no document: null or of another type, broken JSON, no UTF-8, longer than 64 MiB, a
    chat that the template refuses, an id that is no token. `skip`: leave it out; the plan counts and lists them."""
    deduplicate: DeduplicationSettings | None = None
    """Leave out each document that shares `n` words in a row with one that was read before it (docs/corpus.md).
    null: every document is stored."""
    repeat: bool = False
    """Start again at the first document when the corpus holds fewer than `n_tokens` tokens."""

    @model_validator(mode="after")
    def _isolated_only_when_packed(self) -> "CorpusSettings":
        if self.isolate_documents and self.mode != "packed":
            raise ValueError(
                f"isolate_documents: true needs mode: packed, got {self.mode}, where every document is alone anyway; "
                f"set one of the two"
            )
        return self


NOT_RECORDED_WHERE_UNSET: dict[str, Yaml] = {
    "deduplicate": None,
    "system_drop_probability": 0.0,
    "columns": [],
    "unembedding": False,
}
"""Settings of a corpus, of a source or of the store that a plan records only where they have another value than this
one: plans of before there were such settings keep their ids, and with them the order of batches."""


class StoreSettings(Settings):
    """What is stored, and how."""

    path: str | None = None
    """Folder of the store. null: `<root>/<name>`, where root is the environment's STRATA_DATA, or `data`."""
    sites: list[SiteName] = Field(min_length=1)
    """Where in the model: `blocks.{i}.hook_resid_post`, `.hook_resid_pre`, `.hook_mlp_out`, `.hook_attn_out`,
    `.mlp.hook_post`, `.attn.hook_z`, `.attn.hook_q`, `.attn.hook_k`, `.attn.hook_v`, or a module's path (its output;
    `<path>.input` for its input)."""
    encoding: Literal["bfloat16", "int8", "float32", "float16"] = "bfloat16"
    """Number format on disk. `int8`: half of bfloat16's bytes, noise below 1e-4 of the variance (docs/store.md)."""
    compressor: Literal["none", "zstd", "planes"] = "none"
    """`none`: chunks are mapped in place; `planes`: bfloat16 without loss in 0.69 of its bytes; `zstd`: about 0.8."""
    chunk_bytes: int = Field(default=2 * 2**20, ge=4096, le=2**30)
    """Size of a chunk (bytes before compression); rounded to a power of two of rows at the widest site."""
    shard_bytes: int = Field(default=256 * 2**20, ge=4096, le=2**42)
    """Largest size of one site's shard file (bytes before compression). A unit of work is one shard of every site."""
    unembedding: bool = False
    """Keep the model's final norm and unembedding beside the rows, so that the tokens a latent promotes are known
    without the model (2 bytes per token of the vocabulary and column: 57 MB of SmolLM2-135M)."""

    io: Literal["auto", "mmap", "pread"] = "auto"
    """How files are read: `mmap`; `pread`, safe where others may cut them; `auto`: `pread` on network file systems."""

    @model_validator(mode="after")
    def _planes_split_bfloat16(self) -> "StoreSettings":
        if self.compressor == "planes" and self.encoding != "bfloat16":
            raise ValueError(
                f"compressor: planes splits bfloat16, not {self.encoding}; set encoding: bfloat16, or zstd"
            )
        return self
