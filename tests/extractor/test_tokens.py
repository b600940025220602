import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.chat import ChatTemplate
from strata_sae.pipeline.extractor.documents.document import Document, Place
from strata_sae.pipeline.extractor.own_text import is_template
from strata_sae.pipeline.extractor.tokens import DocumentTokenizer

CHAT = [
    {"role": "system", "content": "user"},
    {"role": "user", "content": " ü? "},
    {"role": "assistant", "content": "m"},
]


@pytest.fixture
def tokenise(tokenizer, corpus):
    def run(*documents, tokenizer=tokenizer, **changes):
        settings = corpus([{"kind": "python_docs"}], **changes)
        made = [
            Document(Place(f"doc:{number}"), **({"text": value} if isinstance(value, str) else {"messages": value}))
            for number, value in enumerate(documents)
        ]
        return list(DocumentTokenizer(tokenizer, settings).tokenise(made))

    return run


def test_bos_and_eos_only_where_asked(tokenizer, tokenise):
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    [bare] = tokenise("ab")
    assert tokenizer.decode(bare.token_id) == "ab"
    assert bare.flags.tolist() == [0, 0]
    [both] = tokenise("ab", prepend_bos=True, append_eos=True)
    assert both.token_id.tolist() == [bos, *bare.token_id, eos]
    assert both.flags.tolist() == [1, 0, 0, 2]
    assert both.token_id.dtype == np.int32
    assert both.flags.dtype == np.uint8


def test_a_tokenizer_without_bos_adds_none(tokenizer, tokenise):
    tokenizer.bos_token = None
    [document] = tokenise("ab", prepend_bos=True)
    assert len(document.token_id) == 2


def test_an_empty_name_is_of_no_token(tokenizer, tokenise):
    [before] = tokenise("ab", prepend_bos=True)
    tokenizer.pad_token = ""
    assert None in tokenizer.all_special_ids, "otherwise nothing is tested"
    [after] = tokenise("ab", prepend_bos=True)
    assert (after.token_id.tolist(), after.flags.tolist()) == (before.token_id.tolist(), before.flags.tolist())


def test_one_token_as_bos_and_eos_is_bos_only_in_front(tokenizer, tokenise):
    tokenizer.eos_token = "<s>"
    [document] = tokenise("ab", prepend_bos=True, append_eos=True)
    assert document.flags.tolist() == [1, 0, 0, 2]


def test_text_that_spells_a_special_token_stays_text(tokenizer, tokenise):
    text = "see <|im_start|> and </s>"
    [document] = tokenise(text)
    assert len(document.token_id) == len(text)
    assert not document.flags.any()
    # The control: without the option the tokenizer does make special tokens of it.
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in tokenizer(text, add_special_tokens=False)["input_ids"]


def test_sequential_documents_are_cut_to_the_context_bos_included(tokenizer, tokenise):
    sequential = {"mode": "sequential", "context_length": 4, "prepend_bos": True, "append_eos": True}
    long, short = tokenise("abcdefgh", "ab", **sequential)
    assert tokenizer.decode(long.token_id) == "<s>abc"
    assert tokenizer.decode(short.token_id) == "<s>ab</s>"
    [packed] = tokenise("abcdefgh", context_length=4)
    assert len(packed.token_id) == 8


def test_chat_flags_tell_template_from_content(tokenizer, tokenise):
    [document] = tokenise(CHAT, prepend_bos=True, append_eos=True)
    assert tokenizer.decode(document.token_id) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    content = tokenizer.decode(document.token_id[(document.flags & 4) == 0])
    assert content == "userü?m"  # trimmed by the template; the role header "user" is not taken for content
    special = tokenizer.convert_ids_to_tokens(document.token_id[(document.flags & 2) != 0])
    assert special == ["<|im_start|>", "<|im_end|>"] * 3
    assert document.flags[0] == 5
    assert (document.flags[1:] & 1 == 0).all()


def test_chats_and_texts_in_a_batch_do_not_change_each_other(tokenise):
    alone = [tokenise(CHAT)[0], tokenise(CHAT[1:])[0]]
    together = tokenise(CHAT, CHAT[1:])
    for one, other in zip(alone, together, strict=True):
        assert one.token_id.tolist() == other.token_id.tolist()
        assert one.flags.tolist() == other.flags.tolist()


def test_contents_may_come_in_another_order_than_the_messages(tokenizer, tokenise):
    tokenizer.chat_template = (
        "{% for m in messages[1:] %}[{{ m.role }}]{% if loop.last %}{{ messages[0].content }}/{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    [document] = tokenise(CHAT)
    assert tokenizer.decode(document.token_id[(document.flags & 4) == 0]) == " ü? userm"


def test_a_newline_of_the_template_is_not_taken_for_the_one_it_trimmed(tokenizer, tokenise):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | trim }}{{ '\n' }}{% endfor %}"
    [document] = tokenise([{"role": "user", "content": "hi\n"}])
    assert tokenizer.decode(document.token_id) == "hi\n"
    assert document.flags.tolist() == [0, 0, 4]


def test_a_template_that_branches_on_content_is_searched_forward(tokenizer, tokenise):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'm' in m.content %}!!{% endif %}<{{ m.content }}>{% endfor %}"
    )
    [document] = tokenise(CHAT)
    assert tokenizer.decode(document.token_id[(document.flags & 4) == 0]) == "user ü? m"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "doc:0: message 0: .*drops or rewrites"),
        ("{% for m in messages[:2] %}{{ m.content }}{% endfor %}", "doc:0: message 2: .*drops or rewrites"),
        ("{{ raise_exception('no system role') }}", "doc:0: .*refuses these messages .*no system role"),
        (None, "has no chat template"),
    ],
)
def test_a_chat_the_template_cannot_take_is_named(tokenizer, tokenise, template, expected):
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=expected):
        tokenise(CHAT)


def test_a_slow_tokenizer_cannot_mark_template_tokens():
    class Slow:
        chat_template = "{{ messages }}"
        is_fast = False

    with pytest.raises(ConfigError, match="no fast version"):
        ChatTemplate(Slow())


def test_a_template_that_prints_the_day_gives_the_same_text_every_day(tokenizer, tokenise):
    tokenizer.chat_template = (
        "\n{% macro day() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}"
        "{{ day() }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    [document] = tokenise(CHAT)
    assert tokenizer.decode(document.token_id) == "\n26 Jul 2024user ü? m"
    # The control: as it is, the template prints the day on which it is applied.
    assert "2024" not in tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_offsets_that_leave_spaces_out_belong_to_their_token():
    # "U: hi\n": the tokens "U:", " hi" (offsets trimmed to "hi") and "\n" (trimmed to nothing); content is " hi".
    assert is_template([(0, 2), (3, 5), (6, 6)], [(2, 5)], 6).tolist() == [True, False, True]
    # A content of nothing but a space, trimmed to nothing.
    assert is_template([(0, 2), (3, 3), (3, 4)], [(2, 3)], 4).tolist() == [True, False, True]
    # A character of two tokens has the same offsets twice.
    assert is_template([(0, 1), (0, 1), (1, 2)], [(0, 1)], 2).tolist() == [False, False, True]
    assert is_template([], [], 0).tolist() == []
