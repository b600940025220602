"""The prompt screen over the model of a run: a text goes through a form, the model and its SAEs, to the page."""

import contextlib

import pytest

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.commands.explore import models_of
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.queries.asked_model import Edit
from strata_sae.pipeline.queries.opened import open_coded
from support.asked_run import CROSSCODER, ROUGH, TEXT, TRANSCODER, make
from support.exploring import PORT, TOKEN, client_of, text_of

ORIGIN = {"origin": f"http://127.0.0.1:{PORT}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    run = make(tmp_path_factory.mktemp("asked"))
    with contextlib.chdir(run.path.parent.parent):
        build_codes(run.path)
        return World.of([open_coded(run.path)], models_of([run.path], []))


def ask(world, **change):
    client = client_of(world)
    fields = {"kind": "", "sae": ROUGH, "latent": "", "amount": ""} | change
    asked = client.post(f"/{TOKEN}/small/prompt", data={"text": TEXT, "tokens": "4", **fields}, headers=ORIGIN)
    assert asked.status_code == 200, text_of(asked.text)
    return asked.text


def test_what_the_model_says_is_on_the_page(world):
    page = text_of(ask(world))
    prompted = world.prompts.models["small"].prompt(TEXT)
    assert f"{len(prompted.token_ids)} tokens" in page
    for name in (ROUGH, TRANSCODER, CROSSCODER):
        active = prompted.clean.active[name]
        n_last = int(active.offset[-1] - active.offset[-2])
        assert f"{name} {n_last} active" in page
    assert f"{100 * prompted.clean.following.probabilities[-1, 0]:.1f} %" in page


def test_an_ablated_latent_is_gone_and_what_it_does_is_told(world):
    """Latents of other sites move too, and the text goes on in two ways."""
    model = world.prompts.models["small"]
    active = model.prompt(TEXT).clean.active[ROUGH]
    latent = int(active.latents[active.offset[-2]])  # the strongest on the last token
    page = text_of(ask(world, kind="ablate", latent=str(latent)))
    before, seen = active.values_S(latent)[-1], model.prompt(TEXT, [Edit(ROUGH, latent, "ablate")])
    assert f"{latent} {before:.2f} → 0.00" in page
    assert f"KL {seen.kl_S[-1]:.3g} nat" in page
    assert seen.kl_S[-1] > 0
    assert f"As they were, since they read before the change: {TRANSCODER}" in page


def test_what_the_model_refuses_is_said(world):
    client = client_of(world)
    long = client.post(f"/{TOKEN}/small/prompt", data={"text": "king " * 200}, headers=ORIGIN)
    assert long.status_code == 400
    assert "tokens" in text_of(long.text)
    fields = {"text": TEXT, "kind": "ablate", "sae": CROSSCODER, "latent": "1", "amount": ""}
    refused = client.post(f"/{TOKEN}/small/prompt", data=fields, headers=ORIGIN)
    assert refused.status_code == 400
    assert CROSSCODER in text_of(refused.text)
