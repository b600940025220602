"""The screens of latents in a browser: each answers its question, by keys and clicks, and asks for nothing else."""

from urllib.parse import quote

import pytest
from playwright.sync_api import Error, expect

from strata_sae.pipeline.explore.screens import document
from support.browsing import Opened, browser, opened
from support.exploring import HOSTILE_WORDS, served
from support.tree_run import CHILDREN, LONELY, NARROW, OTHERS, PARENT, WIDE, make_tree

__all__ = ["browser", "opened"]
pytestmark = pytest.mark.browser
PAGES = {
    "latent": f"/tree/{quote(NARROW)}/{PARENT}",
    "compare": f"/tree/compare/{quote(NARROW)}/{quote(WIDE)}",
    "document": "/tree/document/3",
    "map": f"/tree/{quote(NARROW)}/map",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with served(make_tree(tmp_path_factory.mktemp("tree"))) as address:
        yield address


@pytest.fixture(scope="module")
def hostile_root(tmp_path_factory):
    n_words = len(CHILDREN) + len(OTHERS)
    words = [f"{HOSTILE_WORDS[n % len(HOSTILE_WORDS)]}{n}" for n in range(n_words)]
    with served(make_tree(tmp_path_factory.mktemp("hostile"), words)) as address:
        yield address


@pytest.mark.parametrize("screen", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_every_screen_fits_its_width_in_both_schemes(opened, root, screen, width, scheme):
    tab = opened(root, viewport={"width": width, "height": 900}, color_scheme=scheme).at(PAGES[screen])
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[scheme]


@pytest.mark.parametrize("screen", PAGES)
def test_hostile_tokens_are_only_text(opened, root, hostile_root, screen):
    elements = "[...new Set([...document.querySelectorAll('main *')].map(one => one.tagName))].sort().join()"
    attributes = (
        "[...document.querySelectorAll('main *')].flatMap(one => one.getAttributeNames())"
        ".filter(name => name.startsWith('on') || name === 'src' || name === 'style').length"
    )
    plain = opened(root).at(PAGES[screen]).evaluate(elements)
    tab = opened(hostile_root).at(PAGES[screen])
    assert set(tab.evaluate(elements).split(",")) <= {*plain.split(","), "I"}  # the dot of a leading space
    assert tab.evaluate(attributes) == 0
    assert tab.evaluate("document.documentElement.scrollWidth") == 1280


def test_the_test_sees_what_goes_wrong(browser, root):
    """Control: a script that the policy forbids, and a request elsewhere."""
    one = Opened(browser, root)
    tab = one.at(PAGES["latent"])
    tab.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))")
    tab.evaluate("fetch('http://elsewhere.invalid/').catch(() => 0)")  # the policy forbids it before it is asked for
    with pytest.raises(Error):
        tab.goto("http://elsewhere.invalid/")
    assert any("Content Security Policy" in error for error in one.errors)
    assert one.elsewhere == ["http://elsewhere.invalid/"]
    tab.context.close()


def test_a_latent_says_where_it_fires_and_who_else_does(opened, root):
    """What is latent 0 about, and which latent of the other SAE is most like it?"""
    tab = opened(root).at(PAGES["latent"])
    top = tab.locator("#top .example")
    assert {word.strip() for word in top.locator(".focus").all_inner_texts()} <= {word.strip() for word in CHILDREN}
    centres = [box["x"] + box["width"] for box in (one.bounding_box() for one in top.locator(".before").all())]
    assert max(centres) - min(centres) < 1  # the centre token begins in one column
    chips = tab.locator(".label-line .token").all_inner_texts()
    assert {chip.strip("·") for chip in chips} == {word.strip() for word in CHILDREN}
    assert "F1 1.00" in tab.locator(".label-line").inner_text()
    tab.locator("#others tbody th a").click()
    expect(tab.locator("h1")).to_contain_text(WIDE)
    tab.go_back()
    tab.keyboard.press("ArrowRight")
    expect(tab.locator("h1")).to_contain_text("Latent 1")


def test_two_saes_say_which_parent_split(opened, root):
    """Which parent latent split into which children?"""
    tab = opened(root).at(PAGES["compare"])
    family = tab.locator("#split .family")
    assert family.count() == 1
    assert family.locator(".parent a").inner_text() == str(PARENT)
    assert sorted(family.locator("li > a").all_inner_texts()) == ["0", "1", "2"]
    assert tab.locator("#alone-a tbody th").all_inner_texts() == [str(LONELY)]
    family.locator("li > a").nth(1).click()
    expect(tab.locator("#pair input[name=latent]")).to_have_value(str(PARENT))
    tab.locator("#pair input[name=other]").fill("12")
    tab.keyboard.press("Enter")
    expect(tab.locator("#pair h3").nth(1)).to_contain_text("0 rows")


def test_a_document_says_at_a_token_what_all_saes_say(opened, root, monkeypatch):
    """At this token, what do all SAEs say? Without any script, too."""
    monkeypatch.setattr(document, "PAGE_TOKENS", 20)
    tab = opened(root, java_script_enabled=False).at(PAGES["document"])
    animal = tab.locator(".running a", has_text="cat").first
    animal.click()
    expect(tab.locator(".at-token .token")).to_contain_text("cat")
    said = {
        one.locator("h3 a").inner_text(): one.locator("li > a").all_inner_texts()
        for one in tab.locator(".saying").all()
    }
    assert said == {NARROW: [str(PARENT)], WIDE: ["0"]}
    tab.locator(".pages a[rel=next]").click()
    assert tab.locator(".running a").count() == 20


def test_the_map_names_its_dots_and_opens_them(opened, root):
    """Which latents lie where, and what do they mean?"""
    tab = opened(root).at(PAGES["map"])
    dot = tab.locator(".spots a").first
    latent = dot.locator("title").text_content().split(" ")[0]
    box = dot.locator("circle").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(tab.locator(".map-said")).to_contain_text("latent ")
    dot.locator("circle").click()
    expect(tab.locator("h1")).to_contain_text(f"Latent {latent} ")
    tab.go_back()
    tab.get_by_role("link", name="•").click()
    expect(tab.locator(".zoom")).to_contain_text("out")
