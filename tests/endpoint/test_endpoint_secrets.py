"""The key is in the header of a request and nowhere else; nobody is sent text unsaid."""

import logging
import sys
import traceback
from pathlib import Path

import pytest

from strata_sae.pipeline.config import load
from strata_sae.pipeline.endpoint.address import address_of, key_of, without_key
from strata_sae.pipeline.endpoint.answers import Answers
from strata_sae.pipeline.endpoint.client import Endpoint
from strata_sae.pipeline.endpoint.errors import EndpointError
from strata_sae.pipeline.endpoint.request import Message, Request
from strata_sae.pipeline.endpoint.settings import EndpointSettings
from strata_sae.pipeline.errors import ConfigError, shown
from support.asking import WANTED, Client, requests, truth
from support.fake_endpoint import SECRET, FakeEndpoint, Fault, always, first, serving

NAME = "A_KEY_FOR_TESTS"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(NAME, f" {SECRET}\n")  # as $(cat file) has it
    return SECRET


def test_the_key_is_sent_and_without_one_no_header_is(tmp_path: Path, key: str) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        Client(fake, tmp_path / "a", key_env=NAME).ask(requests(1))
        Client(fake, tmp_path / "b").ask(requests(1))
    with_key, without = fake.chats
    assert with_key.headers["authorization"] == f"Bearer {key}"
    assert "authorization" not in without.headers


@pytest.mark.parametrize("fault", ["401", "403", "400", "500", "429", "redirect", "cut", "garbage", None])
def test_the_key_and_the_text_are_in_no_file_log_line_exception_or_repr(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], fault: Fault | None
) -> None:
    """The fake repeats the header in its errors, as careless servers do."""
    caplog.set_level(logging.DEBUG)
    with serving(FakeEndpoint(truth, fault=always(fault) if fault else lambda chat: None)) as fake:
        client = Client(fake, tmp_path, key_env=NAME, retries=1)
        said = ""
        try:
            client.ask(requests(25))
        except EndpointError as error:
            said = "".join(traceback.format_exception(error)) + repr(error)
        assert any(chat.headers["authorization"].endswith(key) for chat in fake.chats)
    shown = capfd.readouterr()
    # caplog is only what a program that logs everything would see; the header is in none of it.
    everything = [said, *client.lines, caplog.text, shown.out, shown.err, repr(client.endpoint), repr(client.answers)]
    everything += [repr(vars(client.endpoint)), repr(vars(client.endpoint._sender))]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    everything += [path.read_text(encoding="utf-8") for path in files]
    assert not any(key in text for text in everything)
    assert not any("Which of these" in text for text in everything)
    assert len(files) == (fault in ("garbage", None))


def test_control_the_servers_words_are_shown_where_they_hold_no_key(tmp_path: Path) -> None:
    said = r"no: 401 for nobody; interpretation\.key_env names"
    with serving(FakeEndpoint(truth, fault=always("401"))) as fake, pytest.raises(EndpointError, match=said):
        Client(fake, tmp_path).ask()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("your key sk-...c2 is wrong", "your key sk-...c2 is wrong"),
        (f"your key {SECRET} is wrong", None),
        (f"your key {SECRET[3:11]}", None),
        ("\x1b[31mred\nlines\u202e and more", "[31mred lines and more"),
        ("x" * 1000, "x" * 237 + "..."),
    ],
)
def test_a_servers_words_are_one_short_line_without_the_key(said: str, shown: str | None) -> None:
    found = without_key(said, SECRET)
    assert found == (shown or "(its words hold a part of the key, and are left out)")


@pytest.mark.parametrize("value", ["", "   ", "a key", "a\nkey", "schlüssel", "x" * 9000])
def test_what_is_no_key_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ConfigError, match=NAME) as raised:
        key_of(EndpointSettings(base_url="http://127.0.0.1", key_env=NAME))
    assert not value.strip() or value not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://openrouter.ai/api", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://a.b/v1beta/openai/", "https://a.b/v1beta/openai/chat/completions"),
        ("http://[::1]:11434/v1", "http://[::1]:11434/v1/chat/completions"),
        ("http://LOCALHOST:1", "http://localhost:1/v1/chat/completions"),
    ],
)
def test_an_address_is_taken_with_or_without_its_version(given: str, url: str) -> None:
    assert address_of(EndpointSettings(base_url=given)).url == url


@pytest.mark.parametrize(
    ("given", "is_here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.9.1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://localhost.example.org/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://0.0.0.0:8000/v1", False),
        ("http://10.0.0.5:8000/v1", False),
        ("https://api.openai.com/v1", False),
    ],
)
def test_only_the_loopback_interface_is_this_machine(given: str, is_here: bool) -> None:
    assert address_of(EndpointSettings(base_url=given)).is_here == is_here


@pytest.mark.parametrize(
    "given", ["http://:80/v1", "http://a:99999/v1", "http://[::1/v1", "http://a%2fb/v1", "https:///v1"]
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"interpretation\.base_url: .*write it as"):
        address_of(EndpointSettings(base_url=given))


@pytest.mark.parametrize("given", ["http://user:secret@host/v1", "ftp://host", "http://host/v1?key=secret", "host:80"])
def test_an_address_that_could_hold_a_secret_is_none(given: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        EndpointSettings(base_url=given)


def test_before_text_leaves_the_machine_host_and_amount_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy stands for the other machine: the address is one that no name server knows."""
    with serving(FakeEndpoint(truth)) as fake:
        monkeypatch.setenv("http_proxy", fake.root)
        client = Client("http://models.invalid:8000", tmp_path)
        said_before: list[list[str]] = []
        fake.truth = lambda chat: said_before.append(list(client.lines)) or truth(chat)  # type: ignore[func-returns-value]
        fake.fault = lambda chat: None
        client.ask(requests(3))
        client.ask(requests(3))  # kept: nothing is sent, and nothing said
    (line,) = client.lines
    assert all(lines == [line] for lines in said_before)
    assert line.startswith("text of the store goes to models.invalid:8000, not encrypted: 3 requests, 66 characters")
    assert "answers of at most 300 tokens" in line


def test_what_is_for_this_machine_goes_to_no_proxy_and_needs_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FakeEndpoint(truth)) as proxy, serving(FakeEndpoint(truth)) as fake:
        monkeypatch.setenv("http_proxy", proxy.root)
        monkeypatch.setenv("all_proxy", proxy.root)
        client = Client(fake, tmp_path)
        assert client.ask() == WANTED
    assert proxy.chats == []
    assert client.lines == []


def test_text_that_is_no_unicode_is_mended_on_the_way(tmp_path: Path) -> None:
    """Half of a surrogate pair, as the text of a token may be; a whole pair stays."""
    asked = requests(1)[0]._replace(messages=(Message("user", "half \ud83d and whole \ud83d\ude00 and NUL \x00 1"),))
    with serving(FakeEndpoint(lambda chat: [True, True, False])) as fake:
        Client(fake, tmp_path).ask([asked])
    (chat,) = fake.chats
    assert chat.text == "half \ufffd and whole \U0001f600 and NUL \x00 1"


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        Client(fake, tmp_path).ask(requests(1))
    assert fake.chats[0].headers["accept-encoding"] == "identity"


def test_repeated_failures_show_the_key_no_more_than_one(tmp_path: Path, key: str) -> None:
    with serving(FakeEndpoint(truth, fault=first(1, "429"))) as fake:
        client = Client(fake, tmp_path, key_env=NAME)
        fake.retry_after = "60"
        assert client.ask(requests(2)) == WANTED[:2]
    assert len(client.lines) == 2
    assert not any(key in line for line in client.lines)


def test_without_httpx_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(
        ConfigError, match=r"^interpretation\.base_url: needs httpx: pip install 'strata-sae\[interpret\]'$"
    ):
        Client("http://127.0.0.1:1", tmp_path).ask()


@pytest.mark.parametrize("given", ["http://user:hidden@host/v1", "http://host/v1?key=hidden", "https://hidden@host"])
def test_a_refused_address_is_not_repeated_with_its_secret(tmp_path: Path, given: str) -> None:
    """On the command line, in a file, and under any key: what an error repeats goes through one function."""
    file = tmp_path / "run.yaml"
    file.write_text(
        f"{Path('configs/smoke.yaml').read_text(encoding='utf-8')}interpretation: {{base_url: '{given}'}}\n"
    )
    for path, overrides in (
        (file, []),
        (Path("configs/smoke.yaml"), [f"interpretation.base_url={given}"]),
        (Path("configs/smoke.yaml"), [f"seed={given}"]),
    ):
        with pytest.raises(ConfigError) as error:
            load(path, overrides)
        assert "hidden" not in str(error.value)
        assert overrides == [] or "***" in str(error.value)
    assert shown("hf://owner/repo@main/folder") == "hf://owner/repo@main/folder"  # a revision is none


def test_what_stands_against_sending_is_told_before_anything_counts_as_sent(tmp_path: Path) -> None:
    settings = EndpointSettings(base_url="http://127.0.0.1:9/v1", key_env=NAME)
    endpoint = Endpoint(settings, Answers(tmp_path), print)
    request = Request("one", (Message("user", "x"),), 5, "explain")
    with pytest.raises(ConfigError, match=f"the environment variable {NAME} is not set"):
        endpoint.ask([request], str, "")
    assert endpoint.spent.n_requests == 0
