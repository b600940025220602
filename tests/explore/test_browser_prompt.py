"""The prompt screen in a browser: a text is typed, a latent is changed, by forms alone; other origins are refused."""

import pytest
from playwright.sync_api import expect

from strata_sae.pipeline.explore.screen import World
from support.asked_models import FakeModel
from support.browsing import browser, opened
from support.exploring import hostile_words, served

__all__ = ["browser", "opened"]
pytestmark = pytest.mark.browser
SAE, WIDE = "topk@blocks.1.hook_resid_post", "wide@blocks.1.hook_resid_post"
TEXT = "alpha beta gamma"


@pytest.fixture(scope="module")
def model():
    return FakeModel({SAE: 48, WIDE: 96})


@pytest.fixture(scope="module")
def root(small_world, model):
    with served(World.of(list(small_world.runs.values()), [model])) as address:
        yield address


def asked(tab, text=TEXT):
    tab.locator("textarea").fill(text)
    tab.locator("#ask button").click()
    expect(tab.locator(".at-token")).to_be_visible()


def sayings(tab, sae):
    section = tab.locator(".saying", has_text=sae)
    return [line.split() for line in section.locator("li:has(svg)").all_inner_texts()]


@pytest.mark.parametrize("script", [True, False], ids=["with scripts", "without"])
def test_a_text_is_read_and_a_latent_is_changed(opened, root, script):
    """What do the SAEs say of these words, and what does a latent do?"""
    tab = opened(root, java_script_enabled=script).at("/run/prompt")
    asked(tab)
    expect(tab.locator(".at-token .token")).to_have_text(" gamma")
    tab.locator(".running a", has_text="beta").click()
    expect(tab.locator(".at-token .token")).to_have_text(" beta")
    assert [line[:2] for line in sayings(tab, SAE)] == [["2", "4.00"], ["5", "3.00"], ["8", "2.00"], ["11", "1.00"]]
    tab.locator(".saying", has_text=SAE).locator(".look", has_text="5").click()
    expect(tab.locator(".label-line")).to_contain_text("Latent 5")
    assert "h10" in tab.locator(".running a", has_text="beta").get_attribute("class")
    row = tab.locator(".changes li").last
    expect(row.locator("[name=latent]")).to_have_value("5")
    row.locator("[name=kind]").select_option("ablate")
    tab.locator("[name=tokens]").fill("3")
    tab.locator(".changing button").click()
    expect(tab.locator("#goes-on")).to_contain_text("changed")
    expect(tab.locator(".at-token .token")).to_have_text(" beta")  # the token that was looked at
    assert [line[:4] for line in sayings(tab, SAE)] == [["5", "3.00", "→", "0.00"]]
    assert tab.locator("#following h3").all_inner_texts() == ["as it is", "with the change"]
    expect(tab.locator("#following h2")).to_contain_text("KL 0.2 nat")
    tab.go_back()  # no form is sent again
    expect(tab.locator(".label-line")).to_contain_text("Latent 5")


def test_keys_go_from_token_to_token(opened, root):
    tab = opened(root).at("/run/prompt")
    asked(tab)
    tab.locator("h1").click()
    tab.keyboard.press("ArrowLeft")
    expect(tab.locator(".at-token .token")).to_have_text(" beta")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".at-token .token")).to_have_text(" gamma")


def test_what_is_refused_can_be_corrected(opened, root):
    one = opened(root)
    tab = one.at("/run/prompt")
    tab.locator("textarea").fill(TEXT)
    tab.locator("summary", has_text="Change latents").click()
    row = tab.locator(".changes li").last
    row.locator("[name=kind]").select_option("steer")
    row.locator("[name=latent]").fill("999")
    tab.locator(".changing button").click()
    expect(tab.get_by_role("alert")).to_contain_text("latent: 999 is no number from 0 to 47")
    expect(tab.locator("textarea")).to_have_value(TEXT)
    row = tab.locator(".changes li").first
    row.locator("[name=latent]").fill("9")
    row.locator("[name=amount]").fill("2.5")
    tab.locator(".changing button").click()
    expect(tab.locator(".changing summary")).to_contain_text("1 changed")
    assert [error for error in one.errors if "status of 400" not in error] == []
    one.errors.clear()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_it_fits_its_width_in_both_schemes(opened, root, width, scheme):
    tab = opened(root, viewport={"width": width, "height": 900}, color_scheme=scheme).at(
        "/run/prompt?latent=5&sae=" + SAE
    )
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    tab.locator(".changes [name=kind]").select_option("clamp")
    asked(tab, f"{TEXT} " + "unbreakable" * 40)
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_hostile_text_is_only_text(opened, root, model):
    tab = opened(root).at("/run/prompt")
    elements = "[...new Set([...document.querySelectorAll('main *')].map(one => one.tagName))]"
    attributes = (
        "[...document.querySelectorAll('main *')].flatMap(one => one.getAttributeNames())"
        ".filter(name => name.startsWith('on') || name === 'src' || name === 'style').length"
    )
    asked(tab)
    plain = set(tab.evaluate(elements))
    text = " ".join(hostile_words()).replace("\0", "")[:16_000]
    asked(tab, text)
    assert set(tab.evaluate(elements)) <= {*plain, "I"}  # the dot of a leading space
    assert tab.evaluate(attributes) == 0
    assert tab.evaluate("document.documentElement.scrollWidth") == 1280
    assert model.asked[-1][0].split() == text.split()  # it arrived, and is in the box as it was typed
    assert tab.locator("textarea").input_value().split() == text.split()


def test_a_form_of_another_origin_asks_nothing(browser, root, model):
    """As a page of a stranger would send it, who has learnt the token."""
    before = len(model.asked)
    tab = browser.new_page()
    tab.set_content(f'<form method="post" action="{root}/run/prompt"><input name="text" value="x"><button>go</button>')
    with tab.expect_response(lambda answer: answer.request.method == "POST") as sent:
        tab.locator("button").click()
    assert sent.value.status == 403
    assert "pages of this app alone" in sent.value.text()
    assert len(model.asked) == before
    tab.close()
