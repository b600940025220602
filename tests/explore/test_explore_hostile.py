"""A vocabulary that means harm changes no page: its text stays text, and characters nobody sees are shown."""

import html
import re
from html.parser import HTMLParser

import pytest

from strata_sae.pipeline.pages.text import visible
from support import coded_run
from support.exploring import HOSTILE_WORDS, TOKEN, client_of, hostile_words

SAE = "topk@blocks.1.hook_resid_post"
PATHS = ["/", f"/run/{SAE}", f"/run/{SAE}?token=%3C", "/search?q=%3Cscript%3Ealert(1)%3C/script%3E0", "/search?q=x"]


class Elements(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))


@pytest.fixture(scope="module")
def hostile_client(hostile_world):
    return client_of(hostile_world)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_holds_only_elements_of_its_template(client, hostile_client, path):
    plain, page = (one.get(f"/{TOKEN}{path}") for one in (client, hostile_client))
    assert page.status_code == 200
    assert len(page.content) <= 200_000
    known = {tag for tag, _ in Elements(plain.text).found} | {
        "tr",
        "td",
        "th",
        "table",
        "thead",
        "tbody",
        "b",
        "div",
        "p",
        "span",
        "a",
        "i",
        "svg",
        "path",
        "code",
    }
    assert {tag for tag, _ in Elements(page.text).found} <= known
    handlers = [
        name for _, names in Elements(page.text).found for name in names if name.startswith("on") or name == "style"
    ]
    assert handlers == []
    assert page.text.count("<script>") == page.text.count("</script>") == 1
    assert all(char.isprintable() or char in "\n\u202f" or char == " " for char in page.text)


def test_hostile_words_are_there(hostile_client):
    """Control: the first words of labels are among these, made visible."""
    page = hostile_client.get(f"/{TOKEN}/run/{SAE}").text
    shown = [
        html.unescape(text)
        for text in re.findall(r'<span class="token"[^>]*>(?:<i[^>]*>·</i>)?(.*?)</span>', page, re.DOTALL)
    ]
    words = [visible(word.removeprefix(" ")) for word in hostile_words()]
    assert len(shown) > 20
    assert any("script" in text for text in shown)
    assert {text for text in shown if not any(word.startswith(text.rstrip("…")) for word in words)} == set()
    assert any("U+202E" in visible(word) for word in HOSTILE_WORDS)


def test_what_is_searched_for_is_text(client):
    page = client.get(f"/{TOKEN}/search", params={"q": '"><img src=x onerror=alert(1)>\u202e\x00'}).text
    assert "<img" not in page
    assert 'value="&#34;&gt;&lt;img src=x onerror=alert(1)&gt;⟨U+202E⟩␀"' in page


def test_as_many_words_as_the_small_run_has():
    assert len(hostile_words()) == len(coded_run.WORDS)
    assert len(set(hostile_words())) == len(coded_run.WORDS)
