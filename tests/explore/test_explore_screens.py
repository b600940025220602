"""Each screen answers its question, from codes and labels; what cannot be shown is a page that says so."""

import re

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.explore.latents import ROWS_PER_PAGE
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.explore.screens_of_all import ALL_SCREENS
from strata_sae.pipeline.explore.serving import listening, warm_up
from strata_sae.pipeline.explore.app import Pages
from support.exploring import TOKEN, client_of, text_of

SAE, WIDE = "topk@blocks.1.hook_resid_post", "wide@blocks.1.hook_resid_post"


def shown(client, path, status=200):
    answer = client.get(f"/{TOKEN}{path}")
    assert answer.status_code == status, path
    assert len(answer.content) <= 200_000
    return answer.text


def latents_in(page):
    """The latents of the table, in its order."""
    return [int(found) for found in re.findall(r'<th scope="row">\s*<a href="[^"]*">(\d+)</a>', page)]


def sae_of(world, name=SAE):
    return world.runs["run"].saes[name]


def test_the_overview_names_the_sae_with_the_most_latents_explained(client, small_world):
    share = {name: float((sae.labels.f1 > 0.5).mean()) for name, sae in small_world.runs["run"].saes.items()}
    best = max(share, key=share.__getitem__)
    assert len(set(share.values())) == 2  # control: there is a best one
    words = text_of(shown(client, "/"))
    n_explained = int((sae_of(small_world, best).labels.f1 > 0.5).sum())
    assert f"Most latents explained by tokens: {best} , {100 * share[best]:.0f}" in words
    assert f"({n_explained} of {sae_of(small_world, best).d_sae})" in words
    assert words.index(best.partition("@")[0], words.index("dead")) < words.rindex(
        min(share, key=share.__getitem__)[:4]
    )


def test_an_sae_shows_the_densest_latent_that_no_tokens_explain(client, small_world):
    sae = sae_of(small_world)
    kept = sae.kept()
    count = np.array([int(kept[sae.codes.rows_of(latent)[0]].sum()) for latent in range(sae.d_sae)])
    unexplained = ~(sae.labels.f1 > 0.5) & (count > 0)
    assert unexplained.any()
    densest = int(np.flatnonzero(unexplained)[count[unexplained].argmax()])
    assert f"Densest latent that no token set explains: {densest} ," in text_of(shown(client, f"/run/{SAE}"))
    assert latents_in(shown(client, f"/run/{SAE}?label=unexplained&least=1"))[0] == densest


@pytest.mark.parametrize("sort", ["rows", "f1", "max", "mean", "latent"])
@pytest.mark.parametrize("order", ["falling", "rising"])
def test_the_table_is_sorted_over_all_pages(client, small_world, sort, order):
    sae = sae_of(small_world, WIDE)
    table = sae.codes.table
    values = {**{key: table[key] for key in ("max", "mean")}, "rows": table["count"], "f1": sae.labels.f1}
    value = np.arange(sae.d_sae) if sort == "latent" else np.asarray(values[sort], np.float64)
    sign = 1 if order == "rising" else -1
    wanted = sorted(range(sae.d_sae), key=lambda e: (np.isnan(value[e]), sign * np.nan_to_num(value[e]), e))
    found = []
    for page in range(1, -(-sae.d_sae // ROWS_PER_PAGE) + 1):
        found += latents_in(shown(client, f"/run/{WIDE}?sort={sort}&order={order}&page={page}"))
    assert found == wanted


def test_filters_leave_what_they_say(client, small_world):
    sae, run = sae_of(small_world), small_world.runs["run"]
    f1, count = sae.labels.f1, sae.codes.table["count"]

    def found(query):
        return set(latents_in(shown(client, f"/run/{SAE}?{query}")))

    explained = set(np.flatnonzero(f1 > 0.5).tolist())
    assert found("label=explained") == explained
    assert found("label=unexplained") == set(range(sae.d_sae)) - explained
    assert found("label=none") == set(np.flatnonzero(sae.labels.n_tokens == 0).tolist())
    middle = int(np.median(count))
    assert found(f"least={middle}") == set(np.flatnonzero(count >= middle).tolist())
    word = run.text.tokens.text(int(sae.labels.token_ids[int(f1.argmax())][0]))
    with_word = {
        e
        for e in range(sae.d_sae)
        if any(i >= 0 and word in run.text.tokens.text(int(i)) for i in sae.labels.token_ids[e])
    }
    assert 0 < len(with_word) < sae.d_sae
    assert found(f"token={word.replace(' ', '+')}") == with_word
    assert "No latent of this SAE is like that" in shown(client, f"/run/{SAE}?token=nothing-like-it")


def test_a_page_of_the_table_keeps_sort_and_filters(client):
    page = shown(client, f"/run/{WIDE}?sort=max&label=any&least=1")
    following = re.search(r'rel="next" href="([^"]*)"', page)
    assert following is not None
    assert following[1].endswith(f"/run/{WIDE}?sort=max&amp;least=1&amp;page=2")


def test_search_finds_the_latents_of_a_token_in_all_saes(client, small_world):
    """By brute force: F1 of firing against holding the token, on the rows as trained."""
    run = small_world.runs["run"]
    token = int(np.bincount(run.text.token_id[run.text.flags == 0]).argmax())
    best = []
    for name, sae in run.saes.items():
        kept = sae.kept()
        holds = (run.text.token_id == token) & kept
        for latent in range(sae.d_sae):
            fires = np.zeros(len(kept), bool)
            fires[sae.codes.rows_of(latent)[0]] = True
            fires &= kept
            if (both := int((fires & holds).sum())) > 0:
                best.append((2 * both / int(fires.sum() + holds.sum()), name, latent))
    best.sort(key=lambda one: -one[0])
    page = shown(client, f"/search?q={run.text.tokens.text(token).replace(' ', '+')}")
    f1, name, latent = best[0]
    first = re.search(r"<tbody>.*?</tr>", page, re.DOTALL)
    assert first is not None
    assert f'/run/{name}/{latent}"' in first[0]
    assert f"<b>{f1:.2f}</b>" in first[0]
    assert {found for found in run.saes if found.partition("@")[0] in page[page.index("<tbody>") :]} == set(run.saes)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "Type the text of a token"),
        ("q=no-such-token", "No token of the store"),
        ("q=%00", "No token of the store"),
    ],
)
def test_a_search_for_nothing_says_so(client, query, words):
    assert words in text_of(shown(client, f"/search?{query}"))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/run/nothing", 404),
        (f"/nothing/{SAE}", 404),
        (f"/run/{SAE}/", 404),
        (f"/run/{SAE}/99999999999999999999999999", 404),
        (f"/run/{SAE}/-1", 404),
        (f"/run/{SAE}/%2E%2E/%2E%2E/%2E%2E/etc/passwd", 404),
        ("/run/..%2F..%2Fconfig.yaml", 404),
        (f"/run/{SAE}?page=0", 400),
        (f"/run/{SAE}?page=2", 400),
        (f"/run/{SAE}?page=1e3", 400),
        (f"/run/{SAE}?page=%D9%A1", 400),
        (f"/run/{SAE}?least=-5", 400),
        (f"/run/{SAE}?least=99999999999999999999", 400),
        (f"/run/{SAE}?sort=__class__", 400),
        (f"/run/{SAE}?order=up", 400),
        (f"/run/{SAE}?label=%3Cscript%3E", 400),
        ("/search?q=" + "x" * 500, 400),
    ],
)
def test_what_is_not_there_or_not_understood_is_a_page(client, path, status):
    page = shown(client, path, status)
    assert "Traceback" not in page
    assert f'href="/{TOKEN}/"' in page


def test_a_bug_is_a_page_without_its_traceback(small_world, monkeypatch):
    def fail(world, values):
        raise ZeroDivisionError("secret words")

    broken = [screen._replace(fill=fail) for screen in ALL_SCREENS]
    monkeypatch.setattr("strata_sae.pipeline.explore.app.ALL_SCREENS", tuple(broken))
    answer = client_of(small_world, raise_server_exceptions=False).get(f"/{TOKEN}/")
    assert answer.status_code == 500
    assert "secret words" not in answer.text
    assert "the terminal of strata explore says why" in answer.text


def test_runs_of_one_name_are_told_apart(small_world):
    run = small_world.runs["run"]
    world = World.of([run, run, run])
    assert list(world.runs) == ["run", "run-2", "run-3"]
    client = client_of(world)
    page = shown(client, "/")
    assert f'href="/{TOKEN}/run-3/{SAE}"' in page
    assert latents_in(shown(client, f"/run-2/{SAE}")) == latents_in(shown(client, f"/run/{SAE}"))


def test_a_name_that_addresses_cannot_hold_is_quoted(small_world):
    name = "a <b>&?#% ü/.."
    client = client_of(World({name: small_world.runs["run"]}))
    page = shown(client, "/")
    to = re.search(r'href="(/a-token/a[^"]*topk@[^"]*)"', page)
    assert to is not None
    assert "<b>&?" not in page
    assert client.get(to[1]).status_code == 404  # a slash is no part of a name of a folder
    client = client_of(World({name[:-3]: small_world.runs["run"]}))
    to = re.search(r'href="(/a-token/a[^"]*topk@[^"]*)"', shown(client, "/"))
    assert to is not None
    assert client.get(to[1]).status_code == 200


def test_a_port_that_is_taken_is_told_and_the_usual_one_is_given_up(monkeypatch):
    with listening(None) as first:
        port = first.getsockname()[1]
        first.listen()
        with pytest.raises(ConfigError, match=f"--port: {port} cannot be listened on"):
            listening(port)
        monkeypatch.setattr("strata_sae.pipeline.explore.serving.USUAL_PORT", port)
        with listening(None) as second:
            assert second.getsockname()[1] not in (0, port)
            assert second.getsockname()[0] == "127.0.0.1"


def test_warming_up_renders_every_screen_after_the_first_page(small_world, monkeypatch):
    pages, seen = Pages(small_world, TOKEN), []
    text = pages.text
    monkeypatch.setattr(pages, "text", lambda screen, values: (seen.append(screen.name), text(screen, values)))
    pages.shown.set()
    warm_up(pages)
    assert seen == [screen.name for screen in ALL_SCREENS]
