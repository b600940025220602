"""The prompt screen, over a model that answers from the words alone: what it shows is what the model said."""

import re
import types

import numpy as np
import pytest
from starlette.testclient import TestClient

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.explore import prompts
from strata_sae.pipeline.explore.app import Pages, make_app
from strata_sae.pipeline.explore.prompts import Prompts, Question
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.explore.screens import over_text
from strata_sae.pipeline.explore.screens.prompted import largest_values
from strata_sae.pipeline.queries.asked_model import Active, Edit, Prompted, Seen
from support.asked_models import FakeModel
from support.exploring import PORT, TOKEN, client_of, hostile_words, text_of

SAE, WIDE = "topk@blocks.1.hook_resid_post", "wide@blocks.1.hook_resid_post"
D_SAE = {SAE: 48, WIDE: 96}
ORIGIN = {"origin": f"http://127.0.0.1:{PORT}"}
TEXT = "alpha beta gamma"


@pytest.fixture
def model():
    return FakeModel(D_SAE)


@pytest.fixture
def client(small_world, model):
    return client_of(World.of(list(small_world.runs.values()), [model]))


def ask(client, text=TEXT, edits=(), **fields):
    """Send the form, and look at the page it leads to."""
    rows = [*edits, ("", SAE, "", "")]
    columns = dict(zip(("kind", "sae", "latent", "amount"), zip(*rows, strict=True), strict=True))
    return client.post(f"/{TOKEN}/run/prompt", data={"text": text, **fields, **columns}, headers=ORIGIN)


def at(client, asked, **query):
    return client.get(str(asked.url.copy_with(query=None)), params=query)


def sayings(page):
    """SAE -> numbers of its latents, and their values before and after."""
    found = {}
    for section in re.findall(r'<section class="saying row">.*?</section>', page, re.DOTALL):
        name = re.search(r"<h3><[^>]*>([^<]*)<", section)[1]
        lines = re.findall(r">(\d+)</a><svg.*?<span class=\"n\">([^<]*)</span>", section, re.DOTALL)
        found[name] = [(int(latent), *map(float, values.split(" → "))) for latent, values in lines]
    return found


def test_before_a_text_there_is_a_form(client, model):
    page = client.get(f"/{TOKEN}/run/prompt").text
    assert '<form id="ask" class="ask" action="/a-token/run/prompt" method="post">' in page
    assert "form-action &#39;self&#39;" in page
    assert model.loads == 0  # the model is not loaded to show a form
    assert "Prompt</a>" in client.get(f"/{TOKEN}/").text


def test_every_token_shows_the_latents_of_every_sae(client):
    asked = ask(client)
    assert [one.status_code for one in asked.history] == [303]
    for number in range(4):
        page = at(client, asked, at=number).text
        expected = {
            name: [((number * (i + 1) + i) % d_sae, 4.0 - i) for i in range(4)] for name, d_sae in D_SAE.items()
        }
        assert sayings(page) == expected
        assert f"token {number + 1} of 4" in text_of(page)
    assert 'At <span class="token"> gamma</span>' in asked.text  # the last token, where the model goes on


def test_what_comes_next_is_shown_with_its_probability(client):
    words = text_of(at(client, ask(client), at=1).text)
    assert "What comes next · alpha 50.0 % · beta 25.0 % · gamma 12.5 % <bos> 6.2 %" in words


def test_a_change_shows_what_was_and_what_is(client, model):
    asked = ask(client, edits=[("clamp", SAE, "7", "9")], tokens="5")
    assert model.asked == [(TEXT, (Edit(SAE, 7, "clamp", 9.0),))]
    page = at(client, asked, at=2).text
    found = sayings(page)
    assert found[SAE] == [(7, 0.0, 9.0)]  # the others of this SAE did not move
    assert found[WIDE] == [(2, 4.0, 2.0), (5, 3.0, 1.5), (8, 2.0, 1.0), (11, 1.0, 0.5)]
    words = text_of(page)
    assert "KL 0.2 nat" in words
    assert "0.2 nat on average" in words, "without the special token, at which nothing is changed"
    assert "plain line on on on" in words
    assert "changed line on on on" in words


def test_a_change_leaves_the_saes_before_it_alone(client):
    words = text_of(ask(client, edits=[("ablate", WIDE, "3", "")]).text)
    assert f"since they read before the change: {SAE}." in words


def test_a_latent_colours_the_text_and_is_offered_for_a_change(client, small_world):
    asked = ask(client)
    page = at(client, asked, at=1, sae=SAE, latent=5).text
    assert re.findall(r'class="h(\d+)', page)[:4] == ["0", "7", "10", "0"]  # values 2 and 3 of the second and third
    largest = float(small_world.runs["run"].saes[SAE].codes.table["max"][5])
    assert f'name="amount" form="ask" value="{largest:.3g}"' in page
    assert '<option value="" selected>' in page
    assert at(client, asked, at=1, of=0, latent=5).text.partition("<main>")[2] == page.partition("<main>")[2]


def test_a_thousand_tokens_are_a_page_of_usual_size(client):
    asked = ask(client, "w " * 1000, edits=[("clamp", SAE, "7", "9")])
    assert len(at(client, asked, of=1, latent=95, colour="after").content) <= 200_000


def test_an_answer_is_kept_and_made_again_when_it_was_forgotten(client, model, monkeypatch):
    first = ask(client)
    assert ask(client).url == first.url
    assert len(model.asked) == 1
    monkeypatch.setattr(prompts, "MOST_ANSWER_BYTES", 1)
    ask(client, "another text")
    assert at(client, first).status_code == 200
    assert [text for text, _ in model.asked] == [TEXT, "another text", TEXT]


def test_other_pages_are_shown_while_an_answer_is_made_again(small_world, model, monkeypatch):
    pages = Pages(World.of(list(small_world.runs.values()), [model]), TOKEN)
    client = TestClient(make_app(pages, TOKEN, PORT), base_url=f"http://127.0.0.1:{PORT}")
    first = ask(client)
    monkeypatch.setattr(prompts, "MOST_ANSWER_BYTES", 1)
    ask(client, "another text")
    is_locked, plain = [], model.prompt
    monkeypatch.setattr(model, "prompt", lambda *given: is_locked.append(pages.lock.locked()) or plain(*given))
    assert at(client, first).status_code == 200
    assert is_locked == [False]


def test_a_forgotten_question_is_not_there(client, monkeypatch):
    monkeypatch.setattr(prompts, "MOST_QUESTIONS", 2)
    first = ask(client)
    for text in ("b", "c"):
        ask(client, text)
    assert at(client, first).status_code == 404
    assert client.get(f"/{TOKEN}/run/prompt/{'0' * 20}").status_code == 404


def test_names_of_questions_differ_with_every_part():
    edit = Edit(SAE, 1, "clamp", 1.0)
    questions = [
        Question("a", (), 0),
        Question("b", (), 0),
        Question("a", (edit,), 0),
        Question("a", (edit._replace(amount=2.0),), 0),
        Question("a", (), 1),
    ]
    assert len({prompts.named(one) for one in questions}) == 5
    assert prompts.named(questions[0]) == prompts.named(Question("a", (), 0))


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"text": "word " * 1100}, "1101 tokens; at most 1024"),
        ({"text": "   "}, "text: is empty"),
        ({"edits": [("clamp", SAE, "4800", "1")]}, "latent: 4800"),
    ],
    ids=["of the model", "of the text", "of a change"],
)
def test_a_form_that_is_refused_is_shown_again(client, form, words):
    asked = ask(client, **form)
    assert asked.status_code == 400
    assert words in text_of(asked.text)
    assert form.get("text", TEXT).strip()[:10] in asked.text
    assert 'value="4800"' in asked.text or "edits" not in form


def test_a_model_that_cannot_be_loaded_says_why(client, model, monkeypatch):
    def load():
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr(model, "load", load)
    asked = ask(client)
    assert asked.status_code == 400
    assert "transformers is not installed: pip install 'strata-sae[extract]'" in text_of(asked.text)

    def refuse():
        raise ConfigError("model.path: is not the model that the store was made from")

    monkeypatch.setattr(model, "load", refuse)
    assert "is not the model that the store was made from" in text_of(ask(client).text)


def test_without_the_extra_the_screen_says_what_to_install(small_world, model):
    world = World.of(list(small_world.runs.values()), [model], "transformers is not installed: pip install it")
    page = client_of(world).get(f"/{TOKEN}/run/prompt").text
    assert "transformers is not installed: pip install it" in text_of(page)
    assert "<textarea" not in page


def test_without_models_there_is_no_such_screen(small_world):
    plain = client_of(small_world)
    assert plain.get(f"/{TOKEN}/run/prompt").status_code == 404
    assert ask(plain).status_code == 404
    assert "/prompt" not in plain.get(f"/{TOKEN}/").text
    assert ask(client_of(World.of(list(small_world.runs.values()), [FakeModel(D_SAE)]))).status_code == 200  # control


def test_a_run_that_is_not_open_has_none(client):
    assert client.post(f"/{TOKEN}/other/prompt", data={"text": "x"}, headers=ORIGIN).status_code == 404


@pytest.mark.parametrize(
    "query",
    [{"at": 4}, {"at": "x"}, {"sae": "nothing", "latent": 1}, {"sae": SAE, "latent": 48}, {"of": 2, "latent": 1}],
)
def test_a_token_or_latent_that_is_not_there_is_said(client, query):
    assert at(client, ask(client), **query).status_code == 400


def test_hostile_text_is_only_text(client):
    """What was typed, the model's tokens, and a latent's number."""
    text = " ".join(hostile_words()).replace("\0", "")[:16_000]
    page = ask(client, text, edits=[("", '"><script>', "<b>", "'")]).text
    assert page.count("<script") == 1
    assert "<b>" not in page.partition("<main>")[2].replace("<b>Clamp</b>", "").replace("<b>steer</b>", "")
    area = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)[1]
    assert "<" not in area


def test_what_is_typed_goes_back_unchanged(client):
    """Unlike other text of a page: leading newlines, tabs and characters that turn lines around included."""
    text = "\n\n  first\tline\n\u202eturned </textarea><i>"
    page = ask(client, text).text
    area = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)[1]
    assert area == text.replace("<", "&lt;").replace(">", "&gt;")
    assert "\u202e" not in page.replace(area, "")


@pytest.mark.parametrize("amount", ["12.3456789", "-0.1", "9", "1e-07", "654321.25"])
def test_an_amount_goes_back_with_all_its_digits(client, model, amount):
    """Sent again, the form asks the same question."""
    page = ask(client, edits=[("clamp", SAE, "7", amount)])
    assert f'name="amount" form="ask" value="{amount}"' in page.text
    again = ask(client, edits=[("clamp", SAE, "7", amount)])
    assert (again.url, len(model.asked)) == (page.url, 1)


def test_a_latent_that_is_silent_in_the_store_is_not_moved_without_bounds(monkeypatch):
    """Its largest value there is 0: in shares of that it would come before every other one, however little it moves."""
    one = types.SimpleNamespace(codes=types.SimpleNamespace(table={"max": np.array([4.0, 0.0, 2.0], np.float32)}))
    run = types.SimpleNamespace(saes={SAE: one})
    monkeypatch.setattr(over_text, "named_of", lambda run, name, latent: latent)
    offset, following = np.array([0, 1, 3]), None

    def seen(*values):
        return Seen({SAE: Active(offset, np.array([0, 0, 1]), np.array(values, np.float32))}, following)

    before, after = seen(90.0, 1.0, 0.5), seen(90.0, 3.5, 0.51)
    prompted = Prompted([0, 1], ["<bos>", "a"], [True, False], before, after, np.zeros(2))
    found = over_text.strongest(run, prompted)
    assert [(strong.named, round(strong.change, 4)) for strong in found] == [(0, 2.5), (1, 0.01)]
    assert [strong.share for strong in found] == pytest.approx([0.25, 0.5 / 0.51])
    assert largest_values(run, prompted, SAE) == pytest.approx([4.0, 0.51, 2.0])
    without_codes = largest_values(types.SimpleNamespace(saes={}), prompted, SAE)
    assert without_codes == pytest.approx([3.5, 0.51]), "special tokens do not count"


def test_values_on_all_tokens():
    active = Active(np.array([0, 2, 2, 3]), np.array([5, 1, 5]), np.array([1.0, 2.0, 3.0], np.float32))
    assert active.values_S(5).tolist() == [1.0, 0.0, 3.0]
    assert active.values_S(9).tolist() == [0.0, 0.0, 0.0]


def test_a_model_of_another_run_is_not_asked():
    with pytest.raises(KeyError):
        Prompts({"run": FakeModel(D_SAE)}).ask("other", Question("a", (), 0))
