"""Single tokens as readable text."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from strata_sae.pipeline.language_model.loading import load_tokenizer
from strata_sae.pipeline.language_model.tokens_text import token_bytes
from strata_sae.pipeline.settings import ModelSettings

SettingsOf = Callable[..., ModelSettings]


def texts_of(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    return {token_id: token.text for token_id, token in token_bytes(tokenizer, ids).items()}


def test_byte_level_tokens(settings_of: SettingsOf) -> None:
    tokenizer = load_tokenizer(settings_of("gpt2"))
    ids = tokenizer.encode("the capital of the", add_special_tokens=False)
    texts = texts_of(tokenizer, ids)
    assert "".join(texts[token_id] for token_id in ids) == "the capital of the"
    assert " the" in texts.values()
    assert texts_of(tokenizer, [0]) == {0: "<|end|>"}


def test_every_byte_is_mapped_back(settings_of: SettingsOf) -> None:
    tokenizer = load_tokenizer(settings_of("gpt2"))
    for character in "\n\t\x00 ~!\x7f":
        (token_id,) = tokenizer.encode(character, add_special_tokens=False)
        assert texts_of(tokenizer, [token_id]) == {token_id: character}
    halves = tokenizer.encode("é", add_special_tokens=False)
    assert set(texts_of(tokenizer, halves).values()) == {"\ufffd"}


def test_unknown_ids_have_a_text(settings_of: SettingsOf) -> None:
    assert texts_of(load_tokenizer(settings_of("gpt2")), [10**6]) == {10**6: "<1000000>"}


def test_sentencepiece_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "▁the": 2, "a▁b": 3, "<0x0A>": 4, "<0xE3>": 5, "Ġx": 6}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    texts = texts_of(tokenizer, range(7))
    assert texts == {0: "<unk>", 1: "<s>", 2: " the", 3: "a b", 4: "\n", 5: "\ufffd", 6: "Ġx"}
