"""The app in a real browser that reaches nothing else: each screen answers its question, and no policy is broken."""

from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import expect

from strata_sae.pipeline.explore.static import export_pages
from support.browsing import browser, watch
from support.exploring import HOSTILE_WORDS, served
from support.tree_run import CHILDREN, LONELY, NARROW, OTHERS, WIDE, make_tree
from support.waiting import wait_until

__all__ = ["browser", "watch"]
pytestmark = pytest.mark.browser
SAE = "topk@blocks.1.hook_resid_post"
PATHS = {"overview": "/", "latents": f"/run/{SAE}", "search": "/search?q=+w3", "error": f"/run/{SAE}?sort=x"}
FROM_THE_PAGE = "Failed to load resource: the server responded with a status of 400 (Bad Request)"


@pytest.fixture(scope="module")
def root(small_world):
    with served(small_world) as address:
        yield address


@pytest.fixture(scope="module")
def tree_world(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def tree(tree_world):
    with served(tree_world) as address:
        yield address


@pytest.fixture(scope="module")
def hostile(hostile_world):
    with served(hostile_world) as address:
        yield address


def opened(watch, root, path, **options):
    """A page of which nothing went wrong, and that asked for nothing but itself."""
    watched = watch(root + path, **options)
    assert [error for error in watched.errors if error != FROM_THE_PAGE] == []
    assert watched.requests == [root + path]
    return watched.page


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", PATHS)
def test_a_screen_fits_its_width_in_both_schemes(watch, root, name, width):
    page = opened(watch, root, PATHS[name], width=width)
    colours = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert len(colours) == 2


def test_the_test_sees_a_policy_violation(watch, root):
    """Control: a style that the page's policy does not name is refused, and told."""
    watched = watch(root + "/")
    watched.page.evaluate("document.body.setAttribute('style', 'color: red')")
    assert any("Content Security Policy" in error for error in watched.errors)


def test_the_test_sees_a_request_elsewhere(watch, root):
    """Control: a picture of another host is asked for by no page, refused by the policy, and seen here."""
    watched = watch(root + "/")
    watched.page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")

    def is_seen() -> bool:
        watched.page.evaluate("0")  # lets the browser's news in
        return any("x.png" in error for error in watched.errors) or len(watched.requests) > 1

    wait_until(is_seen)
    assert is_seen()


@pytest.mark.parametrize("path", ["/", f"/run/{SAE}", "/search?q=script"])
@pytest.mark.parametrize("width", [1280, 400])
def test_hostile_words_do_nothing(watch, hostile, path, width):
    page = opened(watch, hostile, path, width=width)
    assert page.locator("img, iframe, object, embed, main script, main style").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("footer").is_visible()  # no word ended what is around it


def test_which_sae_has_the_most_latents_explained(watch, root, tree):
    """On the small run, and on the tree: all words of the narrow SAE's latents tell when they fire."""
    for address in (root, tree):
        page = opened(watch, address, "/")
        shares = page.locator("tbody td.share b").all_inner_texts()
        assert shares == sorted(shares, key=lambda text: -int(text.split()[0]))
        said = page.locator(".answer").inner_text()
        assert said.startswith("Most latents explained by tokens: ")
        assert shares[0].split()[0] in said.partition(", ")[2].split()
        page.locator(".answer a").click()
        expect(page.locator("h1")).to_be_visible()
        assert " ".join(page.locator("h1").inner_text().split()).replace(" ", "@") in said


def test_the_densest_latent_that_tokens_do_not_explain(watch, root, tree, tree_world):
    page = opened(watch, root, f"/run/{SAE}")
    densest = page.locator(".answer a").inner_text()
    page.locator("select[name=label]").select_option("unexplained")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody th").first).to_have_text(densest)
    rows = [
        int(text)
        for text in page.locator("tbody td[data-value]").evaluate_all("all => all.map(one => one.dataset.value)")
    ]
    assert rows == sorted(rows, reverse=True)
    page.get_by_role("link", name="largest value").click()
    expect(page.locator("select[name=label]")).to_have_value("unexplained")  # filters stay
    sae = tree_world.runs["tree"].saes[NARROW]
    rare = np.where(
        sae.labels.f1 > 0.5, 0, sae.codes.table["count"]
    )  # of the tree only what is too rare is unexplained
    said = opened(watch, tree, f"/tree/{quote(NARROW)}").locator(".answer").inner_text()
    assert said.startswith(f"Densest latent that no token set explains: {rare.argmax()}, ")


def test_which_latents_mean_a_word(watch, tree):
    """Of the tree: its own latent of the wide SAE first, and the parent of the narrow one below it."""
    page = opened(watch, tree, "/")
    page.keyboard.press("/")
    page.keyboard.type(f"{CHILDREN[1]}\n")
    expect(page.locator("h1")).to_have_text("Search a token")
    rows = page.locator("tbody tr").all_inner_texts()
    assert rows[0].split()[:3] == ["1", "1.00", "wide"]
    assert rows[1].split()[::2][:2] == ["0", "narrow"]
    only = opened(watch, tree, f"/search?q={quote(OTHERS[6])}").locator("tbody tr").all_inner_texts()
    assert only[0].split()[:3] == [str(LONELY), "1.00", "narrow"]
    assert WIDE.partition("@")[0] not in {row.split()[2] for row in only if "1.00" in row}


def test_keys_walk_open_and_go_back(watch, root):
    page = opened(watch, root, f"/run/wide@{SAE.partition('@')[2]}")
    links = page.locator("tbody th a").all_inner_texts()
    for key, wanted in (("j", 0), ("j", 1), ("k", 0), ("k", 0)):
        page.keyboard.press(key)
        assert page.locator("tr.here th").inner_text() == links[wanted]
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".pages")).to_contain_text("page 2")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".pages")).to_contain_text("page 1")
    page.keyboard.press("u")
    expect(page.locator("h1")).to_have_text("All SAEs")
    page.keyboard.press("/")
    page.keyboard.type("jk?")  # letters in a box are text
    assert page.locator(".top input").input_value() == "jk?"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("table.latents")).to_be_visible()


def test_everything_but_keys_works_without_javascript(browser, root):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{root}/")
    page.locator(".top input").fill(" w3")
    page.locator(".top input").press("Enter")
    expect(page.locator("table.hits")).to_be_visible()
    page.locator("header summary").click()
    page.locator(".menu a", has_text="topk").click()
    page.locator("input[name=least]").fill("10")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("table.latents")).to_be_visible()
    assert "least=10" in page.url
    assert page.locator(".keys-hint").is_hidden()
    page.context.close()


def test_an_export_opens_from_files(watch, tree_world, tmp_path):
    export_pages(tree_world, tmp_path / "out", 6)
    watched = watch(tmp_path / "out" / "index.html")
    page = watched.page
    page.locator("tbody a", has_text="narrow").click()
    rows = page.locator("td[data-value]")
    values = "all => all.map(one => Number(one.dataset.value))"
    assert len(rows.evaluate_all(values)) == 6
    falling = rows.evaluate_all(values)
    assert falling == sorted(falling, reverse=True)
    page.get_by_role("button", name="rows").click()
    assert rows.evaluate_all(values) == sorted(falling)
    page.get_by_role("button", name="rows").click()
    assert rows.evaluate_all(values) == falling
    page.locator("tbody th a").first.click()
    expect(page.locator("h1")).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("h1")).to_have_text("Tokens")
    page.locator(".led a").first.click()
    expect(page.locator("h1")).to_be_visible()
    assert watched.errors == []
    assert all(url.startswith((tmp_path / "out").as_uri()) for url in watched.requests)
    assert len(watched.requests) == 5  # the pages that were opened, and nothing beside them


def test_the_words_are_as_hostile_as_those_of_the_report():
    assert len(HOSTILE_WORDS) > 20
