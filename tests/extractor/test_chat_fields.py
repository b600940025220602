"""Every field of a chat reaches the template, or is refused or told by its name: in every kind of source."""

import datetime
import json

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from support.corpora import ROW_KINDS, drain, lines, write_rows

# Reads all that transformers hands to a template, as the templates of Qwen3, Llama 3.1 and Command R do among them.
READS_ALL = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for d in documents or [] %}<doc>{{ d.title }}: {{ d.text }}</doc>{% endfor %}"
    "{% if enable_thinking is defined %}<thinking={{ enable_thinking }}>{% endif %}"
    "{% if today is defined %}<{{ today }}>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if 'name' in m %} {{ m.name }}{% endif %}"
    "{% if 'tool_call_id' in m %}#{{ m.tool_call_id }}{% endif %}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content | trim }}</think>{% endif %}"
    "{% if m.content is string %}{{ m.content }}{% elif m.content %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
)
READS_CONTENT_ONLY = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"

ASKED = {"role": "user", "content": "Wie warm ist es?"}
CALL = {
    "id": "c12345678",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": 'Bad "Ems"', "n": 3}},
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
# By field: the row, and what becomes of it where the template reads contents only.
FIELDS = {
    "tool_calls": ({"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}, "refused"),
    "tool_call_id": ({"messages": [ASKED, {"role": "tool", "content": "12", "tool_call_id": "c12345678"}]}, "told"),
    "name": ({"messages": [ASKED | {"name": "Ann"}]}, "told"),
    "reasoning_content": (
        {"messages": [ASKED, {"role": "assistant", "content": "12", "reasoning_content": "it is May"}]},
        "refused",
    ),
    "content in parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        "refused",
    ),
    "tools": ({"messages": [ASKED], "tools": TOOLS}, "refused"),
    "tools as JSON text": ({"messages": [ASKED], "tools": json.dumps(TOOLS)}, "refused"),
    "documents": ({"messages": [ASKED], "documents": [{"title": "May", "text": "it is 12"}]}, "refused"),
    "chat_template_kwargs": ({"messages": [ASKED], "chat_template_kwargs": {"enable_thinking": True}}, "refused"),
    "a variable of the template": ({"messages": [ASKED], "today": "1 May"}, "told"),
}


@pytest.fixture(autouse=True)
def _offline(datasets_offline: None) -> None:
    """For `dataset` sources."""


def expected(tokenizer, row):
    """What transformers makes of the row, with every field and without the nulls."""
    beside = {key: value for key, value in row.items() if key != "messages"}
    if isinstance(beside.get("tools"), str):
        beside["tools"] = json.loads(beside["tools"])
    beside |= beside.pop("chat_template_kwargs", {})
    messages = [{key: value for key, value in message.items() if value is not None} for message in row["messages"]]
    return tokenizer.apply_chat_template(messages, tokenize=False, **beside)


def stored(tokenizer, folder, kind, rows, **corpus):
    source = write_rows(folder, kind, rows) | {"column": "messages", "chat": True}
    documents, provenance = drain(source, tokenizer, **corpus)
    return [tokenizer.decode(document.token_id) for document in documents], documents, provenance


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_field_reaches_the_template_whole(tmp_path, tokenizer, kind, field):
    tokenizer.chat_template = READS_ALL
    row = FIELDS[field][0]
    # The second row has no such field: tables then hold nulls for it, which are no fields.
    plain = {
        "messages": [ASKED if field != "content in parts" else ASKED | {"content": [{"type": "text", "text": "a"}]}]
    }
    texts, _, provenance = stored(tokenizer, tmp_path, kind, [row, plain])
    assert texts == [expected(tokenizer, row), expected(tokenizer, plain)]
    assert "not_read_by_template" not in provenance
    # The control: by role and content alone another text would have been stored.
    allowed = [{key: message.get(key) or "" for key in ("role", "content")} for message in row["messages"]]
    if field != "content in parts":
        assert texts[0] != tokenizer.apply_chat_template(allowed, tokenize=False)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_field_that_the_template_does_not_read_is_refused_or_told_by_name(tmp_path, tokenizer, kind, field):
    tokenizer.chat_template = READS_CONTENT_ONLY
    row, outcome = FIELDS[field]
    name = {"tools as JSON text": "tools", "content in parts": "content", "a variable of the template": "today"}
    if outcome == "refused":
        with pytest.raises(ConfigError, match=rf"(:1|\[0\]): .*{name.get(field, field)}.*bad_rows: skip"):
            stored(tokenizer, tmp_path, kind, [row])
        return
    rows = [row, {"messages": [ASKED]}]
    texts, _, provenance = stored(tokenizer, tmp_path, kind, rows)
    assert len(texts) == 2
    [(what, count)] = provenance["not_read_by_template"].items()
    assert (name.get(field, field) in what, count) == (True, 1)
    [line] = lines(write_rows(tmp_path, kind, rows) | {"column": "messages", "chat": True}, tokenizer)
    assert f"not read by the chat template, so not stored: {what} (1 documents)" in line


def test_flags_tell_what_the_messages_say_from_what_the_template_writes(tmp_path, tokenizer):
    tokenizer.chat_template = READS_ALL
    said = {"role": "assistant", "content": " assistant ", "reasoning_content": " hm\n", "tool_calls": [CALL]}
    row = {"messages": [ASKED, said], "tools": TOOLS}
    _, [document], _ = stored(tokenizer, tmp_path, "jsonl", [row])
    own = tokenizer.decode(document.token_id[(document.flags & 4) == 0])
    assert own == "Wie warm ist es?" + "hm" + " assistant " + 'Bad \\"Ems\\"'
    special = tokenizer.convert_ids_to_tokens(document.token_id[(document.flags & 2) != 0])
    assert special == ["<|im_start|>", "<|im_end|>"] * 2


def test_parts_and_their_joined_text_have_the_same_flags(tmp_path, tokenizer):
    tokenizer.chat_template = READS_ALL
    parts = [{"type": "text", "text": "user"}, {"type": "text", "text": " says"}]
    rows = [{"messages": [{"role": "user", "content": content}]} for content in (parts, "user says")]
    _, [one, other], _ = stored(tokenizer, tmp_path, "jsonl", rows)
    assert np.array_equal(one.flags, other.flags)
    assert tokenizer.decode(one.token_id[(one.flags & 4) == 0]) == "user says"


def test_reasoning_that_a_template_leaves_out_of_earlier_turns_is_its_choice(tmp_path, tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{% if loop.last and m.thinking %}({{ m.thinking }}){% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    turn = {"role": "assistant", "content": "yes", "reasoning": "hm"}
    texts, _, _ = stored(tokenizer, tmp_path, "jsonl", [{"messages": [turn, ASKED]}, {"messages": [ASKED, turn]}])
    assert texts == ["[assistant]yes[user]Wie warm ist es?", "[user]Wie warm ist es?[assistant](hm)yes"]


def test_a_template_that_prints_messages_whole_reads_every_field(tmp_path, tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    row = {"messages": [{"role": "assistant", "content": "a", "tool_calls": [CALL], "mood": "good"}]}
    texts, _, provenance = stored(tokenizer, tmp_path, "jsonl", [row])
    assert texts == [json.dumps(row["messages"][0], ensure_ascii=False)]
    assert "not_read_by_template" not in provenance


def test_a_tokenizer_with_a_template_for_tools_uses_it_where_there_are_tools(tmp_path, tokenizer):
    tokenizer.chat_template = {"default": READS_CONTENT_ONLY, "tool_use": READS_ALL}
    texts, _, _ = stored(tokenizer, tmp_path, "jsonl", [{"messages": [ASKED], "tools": TOOLS}, {"messages": [ASKED]}])
    assert texts[0].startswith("<tools>")
    assert texts[1] == tokenizer.apply_chat_template([ASKED], tokenize=False)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"from": "bing", "value": "hi"}, "from: str 'bing' is no speaker that is known: human, gpt, "),
        ({"from": "human", "value": None}, "content: expected text, got NoneType None"),
        ({"role": "user", "content": [{"type": "image", "url": "x.png"}]}, "part 0 is of type 'image'"),
        ({"role": "user", "content": {"a": 1}}, "expected text or a list of parts, got dict"),
        ({"role": "user", "content": "a", "name": "\ud800"}, "name: half of a surrogate pair"),
        ({"role": 3, "content": "a"}, "expected a mapping with the keys role and content"),
    ],
)
def test_what_is_no_message_is_named(tmp_path, tokenizer, message, expected):
    with pytest.raises(ConfigError, match=rf"rows\.jsonl:1: column 'messages': message 1: .*{expected}"):
        stored(tokenizer, tmp_path, "jsonl", [{"messages": [ASKED, message]}])


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_a_mapping_of_lists_is_the_list_of_mappings_that_a_table_made_it_of(tmp_path, tokenizer, kind):
    tokenizer.chat_template = READS_ALL
    texts, _, _ = stored(
        tokenizer, tmp_path, kind, [{"messages": {"role": ["user", "assistant"], "content": ["hi", "ho"]}}]
    )
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert texts == [tokenizer.apply_chat_template(messages, tokenize=False)]


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_what_json_has_no_word_for_is_refused_where_the_template_reads_it(tmp_path, tokenizer, kind):
    when = datetime.datetime(2024, 5, 1)
    rows = [{"messages": [ASKED | {"sent": when}]}]
    tokenizer.chat_template = READS_ALL
    _, _, provenance = stored(tokenizer, tmp_path, kind, rows)
    assert provenance["not_read_by_template"] == {"message field 'sent'": 1}
    tokenizer.chat_template = "{% for m in messages %}{{ m.sent }}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="message 0: field 'sent': holds a datetime; store it as text"):
        stored(tokenizer, tmp_path, kind, rows)
    # The control: transformers hands the template the name of the type.
    assert tokenizer.apply_chat_template(rows[0]["messages"], tokenize=False).startswith("<datetime>")


def test_columns_beside_the_messages_are_told(tmp_path, tokenizer):
    rows = [{"messages": [ASKED], "system": "Be brief.", "id": number, "messages_raw": None} for number in range(3)]
    _, _, provenance = stored(tokenizer, tmp_path, "jsonl", rows)
    assert provenance["not_read_by_template"] == {"column 'id'": 3, "column 'system'": 3}


def test_half_a_surrogate_beside_the_messages_is_a_bad_row(tmp_path, tokenizer):
    tokenizer.chat_template = READS_ALL
    rows = [{"messages": [ASKED], "tools": [{"name": "\ud800"}]}, {"messages": [ASKED]}]
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1: half of a surrogate pair at character \d+ of the chat"):
        stored(tokenizer, tmp_path, "jsonl", rows)
    assert len(stored(tokenizer, tmp_path, "jsonl", rows, bad_rows="skip")[0]) == 1
