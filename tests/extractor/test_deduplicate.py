"""A document that shares n words in a row with an earlier one is left out: the same documents as loops find."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.config.run import differences, recorded
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import Document, Place
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.pipeline.extractor.ngrams import SeenNgrams, ngrams_of
from strata_sae.pipeline.extractor.spool import Spool, spool_documents
from strata_sae.stores import read_plan
from support.corpora import drain, lines, write_rows
from support.extraction import extraction_config


def words(start: int, n: int) -> str:
    """The words start, start + 1, ... of a text in which no word stands twice."""
    return " ".join(f"w{number}" for number in range(start, start + n))


KNOWN = [
    (words(0, 40), True),
    (words(100, 40), True),
    (words(0, 40), False),  # the first again
    (words(200, 5) + " " + words(20, 20) + " " + words(210, 5), False),  # 20 words in a row of the first
    (words(300, 5) + " " + words(20, 19) + " " + words(310, 5), True),  # 19
    (words(215, 30), True),  # shares with nothing: the document that holds words 210 to 214 was left out
    (words(205, 5), True),  # likewise
    (words(400, 5), True),  # shorter than 20 words
    (words(400, 5), False),  # the same again
    (words(400, 4), True),  # a part of it
    ("  " + words(100, 40).replace(" ", "\n\t") + " ", False),  # the second with other space
    (words(100, 40).upper(), True),
]
"""(document, whether it is stored)."""


def by_loops(texts: list[str], n: int) -> list[str]:
    """FAST's algorithm 1, by its words."""
    seen: set[tuple[str, ...]] = set()
    stored = []
    for text in texts:
        split = text.split()
        ngrams = {tuple(split[i : i + n]) for i in range(len(split) - n + 1)} or {("short", *split)}
        if not any(ngram in seen for ngram in ngrams):
            seen |= ngrams
            stored.append(text)
    return stored


def kept(tokenizer: Any, folder: Path, texts: list[str], **deduplicate: Any) -> tuple[list[str], dict[str, Any]]:
    source = write_rows(folder, "jsonl", [{"text": text} for text in texts])
    documents, provenance = drain(source, tokenizer, deduplicate=deduplicate)
    return [tokenizer.decode(document.token_id) for document in documents], provenance


def test_known_duplicates_are_left_out_and_counted(tokenizer: Any, tmp_path: Path) -> None:
    texts = [text for text, _ in KNOWN]
    found, provenance = kept(tokenizer, tmp_path, texts)
    assert found == [text for text, is_stored in KNOWN if is_stored] == by_loops(texts, 20)
    assert (provenance["documents"], provenance["documents_deduplicated"]) == (8, 4)
    [line] = lines(write_rows(tmp_path, "jsonl", [{"text": text} for text in texts]), tokenizer, deduplicate={"n": 20})
    assert line == (
        "corpus.sources[0] (jsonl): left out by deduplicate: 4 of 12 documents, each with 20 words in a row of an "
        "earlier one"
    )


def test_off_by_default(tokenizer: Any, tmp_path: Path) -> None:
    source = write_rows(tmp_path, "jsonl", [{"text": text} for text, _ in KNOWN])
    documents, provenance = drain(source, tokenizer)
    assert len(documents) == len(KNOWN)
    assert "documents_deduplicated" not in provenance
    assert all(document.ngrams is None for document in documents)


@pytest.mark.parametrize(("n", "vocabulary"), [(1, 400), (2, 40), (3, 12), (7, 3)])
def test_random_texts_are_left_out_as_by_loops(tokenizer: Any, tmp_path: Path, n: int, vocabulary: int) -> None:
    generator = np.random.default_rng(n)
    texts = [
        " ".join(f"v{word}" for word in generator.integers(0, vocabulary, size=generator.integers(1, 12)))
        for _ in range(300)
    ]
    found, provenance = kept(tokenizer, tmp_path, texts, n=n)
    expected = by_loops(texts, n)
    assert found == expected
    assert 20 < len(expected) < 280
    assert provenance["documents_deduplicated"] == 300 - len(expected)
    assert by_loops(texts, n + 1) != expected, "the comparison must see another n"


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_chats_are_compared_message_by_message_without_system_messages(tokenizer: Any, tmp_path: Path) -> None:
    system = message("system", words(900, 30))
    parts = [{"type": "text", "text": text} for text in (words(200, 10) + " ", words(210, 10))]
    chats = {
        "one": [system, message("user", words(0, 30)), message("assistant", words(100, 30))],
        "the same system message": [system, message("user", words(200, 30)), message("assistant", words(300, 30))],
        "an answer again": [message("user", words(400, 30)), message("assistant", words(105, 20))],
        "20 words across two messages": [message("user", words(10, 12)), message("assistant", words(22, 8))],
        "in parts": [message("user", parts)],
        "short": [message("user", "hi"), message("assistant", "hello")],
        "short again": [message("user", "hi"), message("assistant", "hello")],
        "short, split otherwise": [message("user", "hi hello")],
    }  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}|{% endfor %}"
    )
    source = write_rows(tmp_path, "jsonl", [{"text": chat} for chat in chats.values()]) | {"chat": True}
    documents, _ = drain(source, tokenizer, deduplicate={}, context_length=1000)
    left_out = {"an answer again", "in parts", "short again"}
    found = [tokenizer.decode(document.token_id) for document in documents]
    assert found == [
        tokenizer.apply_chat_template(chat, tokenize=False) for name, chat in chats.items() if name not in left_out
    ]


def test_token_ids_are_compared_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    ids = [list(range(10, 40)), list(range(50, 80)), [5, *range(15, 35)], [5, *range(15, 34), 6], [7, 8], [7, 8]]
    source = write_rows(tmp_path, "jsonl", [{"text": row} for row in ids]) | {"tokens": True}
    documents, _ = drain(source, tokenizer, deduplicate={})
    assert [document.token_id.tolist() for document in documents] == [ids[0], ids[1], ids[3], ids[4]]


def ngrams(text: str, n: int) -> set[int]:
    return set(ngrams_of(Document(Place(""), text=text), n).tolist())


def test_in_scripts_without_spaces_each_character_is_a_word() -> None:
    chinese = "活版印刷術是一種印刷的方法使用可以移動的金屬或膠泥字塊"
    assert len(ngrams(chinese, 5)) > 15
    assert ngrams(chinese[:12], 5) & ngrams("又" + chinese[3:9], 5)
    assert len(ngrams("Donaudampfschifffahrt " * 2, 2)) == 1, "a word with letters is one"


def spool(
    tokenizer: Any, corpus: Callable[..., CorpusSettings], folder: Path, *sources: list[str], **changes: Any
) -> Spool:
    paths = [
        write_rows(folder / str(number), "jsonl", [{"text": t} for t in texts]) for number, texts in enumerate(sources)
    ]
    return spool_documents(corpus(paths, deduplicate={"n": 4}, **changes), tokenizer, folder / "spool", False)


def texts_of(spool: Spool, tokenizer: Any) -> list[str]:
    ids = np.array(spool.token_id)
    return [tokenizer.decode(ids[a:b]) for a, b in zip(spool.starts[:-1], spool.starts[1:], strict=True)]


def test_sources_share_what_was_seen_and_repeats_draw_the_same_documents(
    tokenizer: Any, corpus: Any, tmp_path: Path
) -> None:
    one, other = [words(10 * i, 6) for i in range(10, 14)], [words(100, 6), words(500, 6), words(113, 4)]
    whole = texts_of(spool(tokenizer, corpus, tmp_path / "a", one, other), tokenizer)
    assert sorted(whole) == sorted([*one, words(500, 6), words(113, 4)])
    length = sum(map(len, whole))
    twice = spool(tokenizer, corpus, tmp_path / "b", [*one, *other], repeat=True, n_tokens=2 * length)
    assert texts_of(twice, tokenizer) == [*one, words(500, 6), words(113, 4)] * 2
    assert [source["documents_deduplicated"] for source in twice.provenance["sources"]] == [1]
    assert twice.lines[-1].startswith(f"deduplicate: {4 * 3 + 3 + 1} different n-grams were remembered, in ")
    with pytest.raises(ConfigError, match=r"1 documents having been left out by corpus\.deduplicate"):
        spool(tokenizer, corpus, tmp_path / "c", [*one, *other], n_tokens=2 * length)


def test_the_set_holds_what_was_added_in_the_bytes_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1.2 million fingerprints one half is added, and the other is not found."""
    monkeypatch.setattr(SeenNgrams, "MERGED_AT_ONCE", 50_000)  # many pieces a merge
    monkeypatch.setattr(SeenNgrams, "LEAST", 2**10)  # so that the share decides, as it does for 10^8
    generator = np.random.default_rng(0)
    every = np.unique(generator.integers(0, 2**64, 1_200_000, dtype=np.uint64))
    generator.shuffle(every)
    added, others = every[::2], every[1::2]
    seen, largest = SeenNgrams(), 0.0
    for start in range(0, len(added), 500):
        seen.add(added[start : start + 500])
        if start > 300_000:
            largest = max(largest, seen.n_bytes / len(seen))
    assert len(seen) == len(added)
    assert all(seen.holds_any(piece) for piece in np.array_split(added, 1000))
    assert all(seen.holds_any(np.append(others[:20], one)) for one in added[-50:])
    assert not any(seen.holds_any(piece) for piece in np.array_split(others, 1000))
    # 2^30 bytes for 10^8 tokens are 10.7 a token, and there is at most one n-gram a word.
    assert largest < 10.7
    assert np.array_equal(seen._sorted, np.sort(seen._sorted))


def test_a_plan_says_it_and_equal_configs_give_equal_stores(tmp_path: Path) -> None:
    text = tmp_path / "rows.jsonl"
    text.write_text("".join(json.dumps({"text": words(30 * (i % 17), 25)}) + "\n" for i in range(60)))
    changes = {"sources": [{"kind": "jsonl", "paths": [str(text)]}], "n_tokens": None, "deduplicate": {}}
    configs = [
        extraction_config(tmp_path, corpus=changes, store={"path": str(tmp_path / name)}) for name in ("one", "two")
    ]
    said = describe_plan(configs[0], show_progress=False)
    assert "left out by deduplicate: 43 of 60 documents, each with 20 words in a row of an earlier one" in said
    for config in configs:
        extract(config, show_progress=False)
    one, two = (read_plan(tmp_path / name) for name in ("one", "two"))
    assert one.id == two.id
    assert one.n_documents == 17
    assert one.provenance["corpus"]["sources"][0]["documents_deduplicated"] == 43
    other = extraction_config(tmp_path, corpus=changes | {"deduplicate": None}, store={"path": str(tmp_path / "one")})
    with pytest.raises(ConfigError, match=r"corpus.deduplicate: was \{\"n\": 20\}, is null"):
        extract(other, show_progress=False)


def test_a_plan_without_the_setting_is_of_the_same_config_and_keeps_its_bytes(tmp_path: Path) -> None:
    extraction = extraction_config(tmp_path).extraction()
    assert extraction["corpus"].pop("deduplicate", "absent") is None
    assert differences(extraction, extraction_config(tmp_path).extraction()) == []
    assert recorded(extraction) == recorded(extraction_config(tmp_path).extraction())
    asked = extraction_config(tmp_path, corpus={"deduplicate": {"n": 13}}).extraction()
    assert differences(extraction, asked) == ['corpus.deduplicate: was null, is {"n": 13}']


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 1001}, {"n": 2.5}, {"m": 3}, True, 20])
def test_bad_settings_are_refused(corpus: Callable[..., CorpusSettings], bad: Any) -> None:
    with pytest.raises(ValueError, match="deduplicate"):
        corpus([{"kind": "python_docs"}], deduplicate=bad)
