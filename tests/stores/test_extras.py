"""What a store keeps beside its rows: token bytes, and named files that its plan hashes; and where commits lie."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import support.small_store as small_store
from strata_sae.stores import ActivationStore, StoreError, read_plan, verify
from strata_sae.stores.deriving.shuffle import shuffle_store
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.format import commits
from strata_sae.stores.format.commits import commit_folders, commit_name, committed_units
from strata_sae.stores.format.plan import TOKEN_BYTES
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.remote.pull import pull
from strata_sae.stores.remote.push import push
from strata_sae.stores.writing.planning import create_store
from support.lying_server import LyingServer, serving
from support.small_store import build_store, plan_store

SITE = "blocks.1.hook_resid_post"
EXTRAS = {"unembedding.safetensors": bytes(range(256)), "labels.json": b"{}\n", "truth.safetensors": b"x", "empty": b""}
HALVES = {1: Token("é".encode()[:1], False), 2: Token("é".encode()[1:], False), 3: Token(b" a", False)}


def with_extras(monkeypatch: pytest.MonkeyPatch, extras: dict[str, bytes], tokens: dict[int, Token]) -> None:
    def create(path: Path, blocks: Any, vocabulary: dict[int, Token], **fields: Any) -> Any:
        return create_store(path, blocks, vocabulary | tokens, extras=extras, **fields)

    monkeypatch.setattr(small_store, "create_store", create)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with_extras(monkeypatch, EXTRAS, HALVES)
    return build_store(tmp_path / "store", 300)


def test_extras_come_back_as_they_were_given(store: Path) -> None:
    opened = ActivationStore.open(store)
    assert opened.extras == sorted([*EXTRAS, TOKEN_BYTES])
    assert {name: opened.extra(name) for name in EXTRAS} == EXTRAS
    assert verify(store, deep=True) == []
    with pytest.raises(StoreError, match=r"has no extras/labels\.csv; it holds empty, labels\.json, "):
        opened.extra("labels.csv")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../x", "a/b", "/etc/x", "a b", "a\n", "é", "a" * 129])
def test_a_name_that_is_no_plain_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_extras(monkeypatch, {name: b"x"}, {})
    with pytest.raises(StoreError, match="name in extras is not allowed"):
        plan_store(tmp_path / "in/store", 300)
    assert not list((tmp_path / "in").iterdir())


def test_what_changes_after_opening_is_refused_when_it_is_read(store: Path) -> None:
    for name in ["extras/labels.json", f"extras/{TOKEN_BYTES}", f"statistics/{SITE}.json", "commits/000/000001.json"]:
        path, opened = store / name, ActivationStore.open(store)
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(data.replace(b"1", b"2") if b"1" in data else data.replace(b"{", b"["))
        uses = {
            "extras/labels.json": lambda opened: opened.extra("labels.json"),
            f"extras/{TOKEN_BYTES}": lambda o: o.tokens,
        }
        with pytest.raises(StoreError, match=path.name):
            uses.get(name, ActivationStore.summary)(opened)
        path.write_bytes(data)


def test_derived_stores_keep_what_is_still_true(store: Path, tmp_path: Path) -> None:
    source = ActivationStore.open(store)
    whole = slice_store(source, tmp_path / "whole", encoding="int8")
    assert {name: whole.extra(name) for name in EXTRAS} == EXTRAS
    assert whole.tokens == {number: source.tokens[number] for number in whole.tokens}
    kept = sorted({*EXTRAS, TOKEN_BYTES} - {"labels.json", "truth.safetensors"})
    assert slice_store(source, tmp_path / "part", rows=(0, 128)).extras == kept
    assert shuffle_store(source, tmp_path / "shuffled", seed=0, bucket_rows=64).extras == kept


def test_they_travel(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(store, tmp_path / "pushed")
    pull(tmp_path / "pushed", tmp_path / "pulled")
    assert ActivationStore.open(tmp_path / "pulled").extra("labels.json") == EXTRAS["labels.json"]
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    with serving(LyingServer(store)) as server:
        remote = ActivationStore.open(server.url)
        before = set(server.sent)
        assert {name: remote.extra(name) for name in EXTRAS} == EXTRAS
        assert not any("extras/labels" in path for path in before), "they are fetched when they are asked for"


def test_tokens_join_to_the_bytes_of_the_text(store: Path) -> None:
    opened = ActivationStore.open(store)
    assert opened.token_map("token_id", 0, 3).tolist() == [0, 8, 15]
    assert opened.text(0, 3) == b" w8 w15"  # the first is special
    assert {number: opened.tokens[number] for number in HALVES} == HALVES
    assert [opened.vocabulary[number] for number in (0, 1, 2, 3)] == ["<bos>", "\ufffd", "\ufffd", " a"]
    assert b"".join(opened.tokens[number].data for number in (1, 2)).decode() == "é"
    with pytest.raises(StoreError, match="leave 0"):
        opened.text(0, 301)


def test_a_token_without_an_entry_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        small_store, "create_store", lambda path, blocks, _, **fields: create_store(path, blocks, HALVES, **fields)
    )
    with pytest.raises(StoreError, match=r"token_bytes\.json does not say what token 0 is"):
        ActivationStore.open(build_store(tmp_path / "store", 300)).text(0, 3)


def test_commits_lie_in_folders_of_a_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_store(tmp_path / "many", 2500, chunk_bytes=1, shard_bytes=64)
    assert plan.n_units == 2500
    assert commit_name(plan, 2499) == "commits/002/002499.json"
    assert commit_folders(plan) == ["commits", "commits/000", "commits/001", "commits/002"]
    assert commit_name(plan, 2**19 - 1) == "commits/524/524287.json"
    assert sorted(path.name for path in (tmp_path / "many/commits").iterdir()) == ["000", "001", "002"]
    monkeypatch.setattr(commits, "COMMITS_PER_FOLDER", 2)
    path = build_store(tmp_path / "store", 300, shard_bytes=2048)
    plan = read_plan(path)
    assert committed_units(path, plan) == set(range(plan.n_units))
    assert len(commit_folders(plan)) == 1 + -(-plan.n_units // 2) > 3
    assert verify(path, deep=True) == []
    shutil.rmtree(path / "commits/001")
    assert "commits/001/000002.json: missing" in verify(path)[0]
