"""Who is answered: this port's own names, with the token, by GET; and what an answer lets a page do."""

import asyncio
import base64
import hashlib
import re
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.explore.security import LONGEST_BODY_BYTES, LONGEST_TARGET_BYTES, allowed_hosts
from support.asked_models import FakeModel
from support.exploring import PORT, ROOT, TOKEN, client_of

OPEN = f"/{TOKEN}/"


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_this_machine_and_port_are_answered(client, host):
    """Control of the refusals below."""
    assert client.get(OPEN, headers={"host": host}).status_code == 200
    assert client.head(OPEN, headers={"host": host}).content == b""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        f"127.0.0.1.evil.example:{PORT}",
        f"localhost.evil.example:{PORT}",
        f"0.0.0.0:{PORT}",
        "127.0.0.1",
        "localhost:80",
        f"127.0.0.1:{PORT + 1}",
        f"127.0.0.1:{PORT}@evil.example",
        f"user@127.0.0.1:{PORT}",
        "",
    ],
)
def test_a_foreign_host_is_refused_and_told_nothing(client, host):
    answer = client.get(OPEN, headers={"host": host})
    assert answer.status_code == 403
    assert "hook_resid_post" not in answer.text
    assert TOKEN not in answer.text


@pytest.mark.parametrize("hosts", [[], [b"127.0.0.1:8340", b"evil.example"]])
def test_no_host_and_two_hosts_are_refused(small_world, hosts):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": OPEN,
        "raw_path": OPEN.encode(),
        "query_string": b"",
        "headers": [(b"host", host) for host in hosts],
    }
    asyncio.run(client_of(small_world).app(scope, None, send))
    assert sent[0]["status"] == 403


def test_without_a_port_only_where_browsers_leave_it_out():
    assert b"localhost" in allowed_hosts(80)
    assert b"localhost" not in allowed_hosts(8340)


@pytest.mark.parametrize(
    "path", ["/", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", "//", f"/x/../{TOKEN}x/", "/search?q=w1", f"/?token={TOKEN}"]
)
def test_without_the_token_nothing_is_shown(client, path):
    answer = client.get(path)
    assert answer.status_code == 403
    assert "hook_resid_post" not in answer.text
    assert TOKEN not in answer.text


def test_a_token_in_a_cookie_or_a_header_is_none(client):
    answer = client.get("/", headers={"cookie": f"token={TOKEN}", "authorization": f"token {TOKEN}"})
    assert answer.status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_only_reading_is_allowed(client, method):
    answer = client.request(method, OPEN)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


FORM = {"text": "alpha"}
OWN = {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin"}
LONG = {"content-length": str(LONGEST_BODY_BYTES + 1)}


@pytest.fixture
def asked(small_world):
    """A client of an app whose model is a stand-in, and that model."""
    run = next(iter(small_world.runs.values()))
    model = FakeModel({name: sae.d_sae for name, sae in run.saes.items()})
    return client_of(World.of([run], [model])), model


@pytest.mark.parametrize("headers", [OWN, {"origin": OWN["origin"]}], ids=["with Sec-Fetch-Site", "without"])
def test_a_form_of_this_app_is_taken(asked, headers):
    """Control of the refusals below."""
    client, model = asked
    answer = client.post(f"{OPEN}run/prompt", data=FORM, headers=headers)
    assert answer.status_code == 200
    assert model.asked == [("alpha", ())]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {}),
        (403, {"origin": "null"}),
        (403, {"origin": "http://evil.example"}),
        (403, {"origin": f"http://localhost:{PORT}"}),
        (403, {"origin": f"https://127.0.0.1:{PORT}"}),
        (403, {"origin": f"http://127.0.0.1:{PORT + 1}"}),
        (403, {"origin": f"http://127.0.0.1:{PORT}/"}),
        (403, OWN | {"sec-fetch-site": "cross-site"}),
        (403, OWN | {"sec-fetch-site": "same-site"}),
        (403, OWN | {"sec-fetch-site": "none"}),
        (403, OWN | {"host": "evil.example"}),
        (415, OWN | {"content-type": "text/plain"}),
        (415, OWN | {"content-type": "multipart/form-data; boundary=x"}),
        (413, OWN | LONG),
        (413, OWN | {"content-length": "9" * 40}),
        (411, OWN | {"content-length": "-1"}),
    ],
    ids=str,
)
def test_a_form_of_others_asks_nothing(asked, status, headers):
    client, model = asked
    answer = client.post(f"{OPEN}run/prompt", data=FORM, headers=headers)
    assert answer.status_code == status
    assert TOKEN not in answer.text
    assert (model.asked, model.loads) == ([], 0)


def test_a_form_without_length_or_token_asks_nothing(asked):
    client, model = asked
    typed = {"content-type": "application/x-www-form-urlencoded"}
    pieces = client.post(f"{OPEN}run/prompt", content=iter([b"text=", b"alpha"]), headers=OWN | typed)
    assert pieces.status_code == 411
    assert client.post("/wrong/run/prompt", data=FORM, headers=OWN).status_code == 403
    assert model.asked == []


@pytest.mark.parametrize(
    "path", ["", "run/prompt/", "run/prompt/abc", "prompt", "search", "run/x/prompt", "run//prompt"]
)
def test_no_other_address_takes_a_form(asked, path):
    client, model = asked
    answer = client.post(OPEN + path, data=FORM, headers=OWN)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert model.asked == []


def test_a_websocket_is_closed(client):
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(OPEN):
        pass
    assert closed.value.code == 1008


def test_an_endless_address_is_refused(client):
    assert client.get(f"{OPEN}search?q=" + "x" * LONGEST_TARGET_BYTES).status_code == 414


@pytest.mark.parametrize(
    "path", [OPEN, f"{OPEN}search?q=w1", f"{OPEN}nothing/here", "/", f"{OPEN}search?q=" + "x" * 500]
)
def test_every_answer_forbids_what_it_does_not_need(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "set-cookie" not in headers
    assert "server" not in headers


def test_the_policy_names_the_hash_of_the_pages_own_script_and_style(client):
    answer = client.get(OPEN)
    policy = answer.headers["content-security-policy"]
    for element in ("script", "style"):
        found = re.findall(f"<{element}>(.*?)</{element}>", answer.text, re.DOTALL)
        assert len(found) == 1
        digest = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert "form-action 'self'" in policy


def test_no_page_has_inline_style_or_handlers_or_names_another_host(client):
    for path in ("", "search?q=w1", "run/topk@blocks.1.hook_resid_post", "nothing"):
        page = client.get(OPEN + path).text
        body = page[page.index("<body>") : page.rindex("<script>")]
        assert not re.search(r"\s(style|on[a-z]+)\s*=", body)
        assert all(to.startswith((OPEN, "#", "data:,")) for to in re.findall(r'(?:href|src|action)="([^"]*)"', page))
    assert ROOT.endswith(TOKEN)
