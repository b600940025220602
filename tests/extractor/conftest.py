import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from strata_sae.pipeline.config.corpus import CorpusSettings

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] | trim }}{{ '<|im_end|>\n' }}{% endfor %}"
)
SPECIAL_TOKENS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def tokenizer():
    """One token a byte of UTF-8, and four special tokens: counts in tests are lengths of strings."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )


@pytest.fixture
def corpus():
    """Builds corpus settings from sources and changes to the plainest ones."""

    def build(sources, **changes):
        plain = {"n_tokens": None, "prepend_bos": False, "context_length": 64}
        return CorpusSettings.model_validate({"sources": sources, **plain, **changes})

    return build


@pytest.fixture
def datasets_offline(tmp_path_factory, monkeypatch):
    """The `datasets` library with a cache of its own, quiet, and no network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
