"""Some chats lose their system prompt: which ones, what of the text, how many; and ShareGPT's keys."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.config.run import differences
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import Document, Place
from strata_sae.pipeline.extractor.sources import Stream
from strata_sae.pipeline.extractor.spool import spool_documents
from strata_sae.pipeline.extractor.system_prompts import share_of
from strata_sae.pipeline.extractor.tokens import DocumentTokenizer
from support.corpora import ROW_KINDS, drain, lines, write_rows
from support.extraction import extraction_config

QWEN_PROMPT = "<|im_start|>system\nYou are Qwen. You are a helpful assistant.<|im_end|>\n"
QWEN = (
    "{% set prompt = 'You are Qwen. You are a helpful assistant.' %}"
    "{% if tools %}{{ '<|im_start|>system\n' + prompt + '\n# Tools ' + (tools | tojson) + '<|im_end|>\n' }}"
    "{% elif messages[0].role != 'system' %}{{ '<|im_start|>system\n' + prompt + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
LLAMA_PROMPT = "<|im_start|>system<|im_end|>\n\nToday Date: {day}\n\n<|im_end|>"
LLAMA = (
    "{% if not day is defined %}{% set day = '26 Jul 2024' %}{% endif %}{% set own = messages[0].role == 'system' %}"
    "{{ bos_token + '<|im_start|>system<|im_end|>\n\nToday Date: ' + day + '\n\n' }}"
    "{{ (messages[0].content if own else '') + '<|im_end|>' }}{% for m in (messages[1:] if own else messages) %}"
    "{{ '<|im_start|>' + m.role + '<|im_end|>\n\n' + m.content | trim + '<|im_end|>' }}{% endfor %}"
)
MISTRAL = (  # writes no system prompt; questions and answers look different, and roles must alternate
    "{{ bos_token }}{% set own = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if own else messages) %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (own if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (  # BOS before every question
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (  # EOS at the very end only
    "{{ '<|im_start|>rules<|im_end|>' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{{ eos_token }}"
)
ASKED = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": " 4 "}]
OWN = {"role": "system", "content": "Be brief."}


def stored(
    tokenizer: Any, folder: Path, rows: list[dict[str, Any]], probability: float, **corpus: Any
) -> tuple[list[str], list[Any], Any]:
    source = write_rows(folder, "jsonl", rows) | {"column": "messages", "chat": True}
    corpus = {"context_length": 4096, **corpus}
    documents, provenance = drain(source | {"system_drop_probability": probability}, tokenizer, **corpus)
    return [tokenizer.decode(document.token_id) for document in documents], documents, provenance


@pytest.mark.parametrize(
    ("template", "own_prompt"),
    [
        (QWEN, QWEN_PROMPT),
        (LLAMA, LLAMA_PROMPT.format(day="26 Jul 2024")),
        (MISTRAL, ""),
        (LLAMA_2, ""),
        (PHI_3, "<|im_start|>rules<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}|{% endfor %}", ""),
    ],
    ids=["qwen", "llama 3", "mistral", "llama 2", "phi 3", "no headers"],
)
def test_what_the_template_writes_by_itself_is_dropped_as_dictionary_learning_drops_it(
    tokenizer: Any, tmp_path: Path, template: str, own_prompt: str
) -> None:
    tokenizer.chat_template = template
    [text], [document], provenance = stored(tokenizer, tmp_path, [{"messages": ASKED}], 1.0)
    whole = tokenizer.apply_chat_template(ASKED, tokenize=False)
    assert own_prompt in whole
    assert text == whole.replace(own_prompt, "")
    own = tokenizer.decode(document.token_id[document.flags & 4 == 0])
    assert own.replace(" ", "") == "Whatis2+2?4"
    assert provenance.get("system_prompts") == ({"dropped": 1, "kept": 0} if own_prompt else None)
    assert stored(tokenizer, tmp_path, [{"messages": ASKED}], 0.0)[0] == [whole], "the control"


def test_where_bos_begins_every_message_the_first_one_belongs_to_the_prompt(tokenizer: Any, tmp_path: Path) -> None:
    """SmolLM2, whose BOS is the token that opens a message."""
    tokenizer.bos_token, tokenizer.chat_template = "<|im_start|>", QWEN
    [text], [document], _ = stored(tokenizer, tmp_path, [{"messages": ASKED}], 1.0)
    assert text == tokenizer.apply_chat_template(ASKED, tokenize=False).replace(QWEN_PROMPT, "")
    opens = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert (document.token_id == opens).sum() == len(ASKED)


@pytest.mark.parametrize(
    ("template", "own_prompt"), [(QWEN, QWEN_PROMPT), (LLAMA, LLAMA_PROMPT.format(day="1 May")), (MISTRAL, "")]
)
def test_a_chat_with_a_system_message_is_the_one_without_it(
    tokenizer: Any, tmp_path: Path, template: str, own_prompt: str
) -> None:
    tokenizer.chat_template = template
    beside = {"day": "1 May"} if template == LLAMA else {}
    with_own, without = ({"messages": messages, **beside} for messages in ([OWN, *ASKED], ASKED))
    texts, documents, provenance = stored(tokenizer, tmp_path, [with_own, without], 1.0)
    expected = tokenizer.apply_chat_template(ASKED, tokenize=False, **beside).replace(own_prompt, "")
    assert texts == [expected, expected]
    assert np.array_equal(documents[0].flags, documents[1].flags)
    assert provenance["system_prompts"]["dropped"] == 1 + bool(own_prompt)
    kept, _, provenance = stored(tokenizer, tmp_path, [with_own, without], 1e-9)
    assert kept == [tokenizer.apply_chat_template(m, tokenize=False, **beside) for m in ([OWN, *ASKED], ASKED)]
    assert provenance["system_prompts"] == {"dropped": 0, "kept": 1 + bool(own_prompt)}


def test_what_a_template_says_of_tools_stays(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = QWEN
    tools = [{"type": "function", "function": {"name": "weather"}}]
    texts, _, provenance = stored(tokenizer, tmp_path, [{"messages": ASKED, "tools": tools}, {"messages": [OWN]}], 1.0)
    assert texts == [
        tokenizer.apply_chat_template(ASKED, tokenize=False, tools=tools),
        tokenizer.apply_chat_template([OWN], tokenize=False),  # and a chat of system messages alone stays
    ]
    assert "system_prompts" not in provenance


def test_a_template_whose_own_prompt_cannot_be_told_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = (
        "<chat>{% for m in messages %}{{ m.content }}{{ '<end>' if loop.last else '<next>' }}{% endfor %}"
    )
    with pytest.raises(ConfigError, match=r"system_drop_probability: which system prompt .* cannot be told"):
        stored(tokenizer, tmp_path, [{"messages": ASKED}], 0.5)
    assert stored(tokenizer, tmp_path, [{"messages": ASKED}], 0.0)[0] == ["<chat>What is 2 + 2?<next> 4 <end>"]


def chats(n: int) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": f"question {number}"}]} for number in range(n)]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_probability(tokenizer: Any, tmp_path: Path, probability: float) -> None:
    tokenizer.chat_template = QWEN
    rows, n = chats(2000), 2000
    texts, _, provenance = stored(tokenizer, tmp_path, rows, probability)
    dropped = sum(not text.startswith(QWEN_PROMPT) for text in texts)
    # 4 standard deviations of a binomial: a chance of 6e-5, and seeds and texts are fixed.
    assert abs(dropped - probability * n) <= 4 * (n * probability * (1 - probability)) ** 0.5
    assert provenance["system_prompts"] == {"dropped": dropped, "kept": n - dropped}
    source = write_rows(tmp_path, "jsonl", rows) | {"column": "messages", "chat": True}
    [line] = lines(source | {"system_drop_probability": probability}, tokenizer, context_length=4096)
    assert line == f"corpus.sources[0] (jsonl): system prompts dropped: {dropped:,} of 2,000 documents that have one"


def test_which_chats_lose_it_depends_on_seed_and_messages_and_on_no_place(
    tokenizer: Any, tmp_path: Path, corpus: Any
) -> None:
    tokenizer.chat_template = QWEN
    rows = chats(200)

    def lost(rows: list[dict[str, Any]], seed: int, **changes: Any) -> list[str]:
        source = write_rows(tmp_path, "jsonl", rows) | {
            "column": "messages",
            "chat": True,
            "system_drop_probability": 0.5,
        }
        settings = corpus([source], context_length=4096, **changes)
        spool = spool_documents(settings, tokenizer, tmp_path / "spool", False, seed)
        ids = np.array(spool.token_id)
        texts = [tokenizer.decode(ids[a:b]) for a, b in zip(spool.starts[:-1], spool.starts[1:], strict=True)]
        return [text for text in texts if not text.startswith(QWEN_PROMPT)]

    first = lost(rows, 0)
    assert 60 < len(first) < 140
    shuffled = random.Random(0).sample(rows, len(rows))
    assert sorted(lost(shuffled, 0)) == sorted(first)
    assert lost(rows[50:], 0) == [text for text in first if int(text.split()[2].split("<")[0]) >= 50]
    assert lost([*rows, *rows], 0) == [*first, *first]
    assert lost(rows, 1) != first
    length = sum(len(text.encode()) for text in first)
    assert length > 0
    document = Document(Place(""), messages=rows[0]["messages"])
    assert share_of(document, 0) == share_of(document, 0) != share_of(document, 1)
    shares = [share_of(Document(Place(""), messages=row["messages"]), 0) for row in chats(5000)]
    assert np.abs(np.sort(shares) - np.linspace(0, 1, 5000)).max() < 1.95 / 5000**0.5  # Kolmogorov's test at 1e-3


def test_the_setting_needs_chats_and_a_plan_without_it_is_of_the_same_config(tmp_path: Path) -> None:
    text = {"kind": "jsonl", "paths": ["x.jsonl"]}
    with pytest.raises(ValueError, match=r"system_drop_probability: 0\.9 needs chat: true"):
        extraction_config(tmp_path, corpus={"sources": [text | {"system_drop_probability": 0.9}]})
    for bad in (-0.1, 1.1, "often"):
        with pytest.raises(ValueError, match="system_drop_probability"):
            extraction_config(tmp_path, corpus={"sources": [text | {"chat": True, "system_drop_probability": bad}]})
    config = extraction_config(tmp_path, corpus={"sources": [text | {"chat": True}]})
    old = json.loads(json.dumps(config.extraction()))
    assert old["corpus"]["sources"][0].pop("system_drop_probability") == 0.0
    assert differences(old, config.extraction()) == []
    asked = extraction_config(tmp_path, corpus={"sources": [text | {"chat": True, "system_drop_probability": 0.9}]})
    [line] = differences(old, asked.extraction())
    assert "system_drop_probability" in line


SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system", "chatgpt": "assistant", "user": "user"}


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_sharegpt_keys_are_roles_and_contents(
    tokenizer: Any, tmp_path: Path, kind: str, datasets_offline: None
) -> None:
    said = [{"from": speaker, "value": f"as {speaker}"} for speaker in SPEAKERS]
    expected = [{"role": role, "content": f"as {speaker}"} for speaker, role in SPEAKERS.items()]
    rows = [{"conversations": said}, {"conversations": said[:2]}]
    source = write_rows(tmp_path, kind, rows) | {"column": "conversations", "chat": True}
    documents, _ = drain(source, tokenizer, context_length=4096)
    found = [tokenizer.decode(document.token_id) for document in documents]
    assert found == [tokenizer.apply_chat_template(messages, tokenize=False) for messages in (expected, expected[:2])]


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_sharegpt_columns_of_a_table_are_messages(
    tokenizer: Any, tmp_path: Path, kind: str, datasets_offline: None
) -> None:
    rows = [{"conversations": {"from": ["human", "gpt"], "value": ["hi", "ho"]}}]
    source = write_rows(tmp_path, kind, rows) | {"column": "conversations", "chat": True}
    [document], _ = drain(source, tokenizer)
    expected = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert tokenizer.decode(document.token_id) == tokenizer.apply_chat_template(expected, tokenize=False)


def test_a_stream_of_another_seed_drops_others(tokenizer: Any, tmp_path: Path, corpus: Any) -> None:
    tokenizer.chat_template = QWEN
    source = write_rows(tmp_path, "jsonl", chats(64)) | {
        "column": "messages",
        "chat": True,
        "system_drop_probability": 0.5,
    }
    settings = corpus([source], context_length=4096)

    def lengths(seed: int) -> list[int]:
        stream, found = Stream(settings, 0, DocumentTokenizer(tokenizer, settings), seed=seed), []
        while (document := stream.next()) is not None:
            found.append(len(document.token_id))
        return found

    assert lengths(3) == lengths(3) != lengths(4)
