"""Several processes tokenise: the very bytes, counts and errors of one, whichever of them dies."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strata_sae.pipeline.extractor.tokenising as tokenising
import strata_sae.pipeline.extractor.tokens as tokens
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.spool import Spool, spool_documents
from strata_sae.pipeline.extractor.tokenising import Pool
from support.cheap_tasks import killed_at_13, squared


def test_results_come_in_the_order_of_the_tasks_and_so_do_errors_of_reading() -> None:
    def numbers() -> Iterator[int]:
        yield from range(50)
        raise ConfigError("the file is damaged here")

    with Pool(squared, 2) as pool:
        results = pool.map(numbers())
        assert [next(results) for _ in range(50)] == [number**2 for number in range(50)]
        with pytest.raises(ConfigError, match="damaged here"):
            next(results)


def test_an_error_of_the_function_is_that_of_this_process_in_its_place() -> None:
    with Pool(squared, 2) as pool:
        results = pool.map([3, -1, 4])
        assert next(results) == 9
        with pytest.raises(ArithmeticError, match="-1 is too small"):
            next(results)


def test_what_a_process_that_dies_had_is_done_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STRATA_TEST_PARENT", str(os.getpid()))
    with Pool(killed_at_13, 2) as pool:
        assert list(pool.map([1, 13, 2, 13, 3, 13, *range(20, 60)])) == [1, 13, 2, 13, 3, 13, *range(20, 60)]
    assert "a process that tokenises has ended" in caplog.text


def test_what_cannot_be_sent_is_an_error_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tokenising._Process] = []
    begin = tokenising._Process.__init__

    def counted(process: tokenising._Process) -> None:
        begin(process)
        made.append(process)

    monkeypatch.setattr(tokenising._Process, "__init__", counted)
    with pytest.raises(Exception, match="pickle"):
        Pool(lambda number: number, 2)
    assert [process._process.poll() is not None for process in made] == [True]


@pytest.fixture
def mixed(tmp_path: Path) -> list[dict[str, Any]]:
    """A source of texts, some rows of which are bad and some of which are copies, and one of chats."""
    rows: list[Any] = [{"text": f"the king of town {n % 17} and word {n}"} for n in range(90)]
    rows[7], rows[40], rows[41] = {"text": 3}, [], {"text": "x"}
    rows += [dict(row) for row in rows[50:60]]
    chats = [
        [{"role": "user", "content": f"who is {n}?"}, {"role": "assistant", "content": f"{n} is king " * (n % 5 + 1)}]
        for n in range(40)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    return [
        {"kind": "jsonl", "paths": [str(tmp_path / "a.jsonl")], "weight": 2.0},
        {"kind": "jsonl", "paths": [str(tmp_path / "b.jsonl")], "chat": True, "column": "messages"},
    ]


def everything(spool: Spool) -> dict[str, Any]:
    """All that a plan takes from a spool."""
    arrays = {name: np.array(getattr(spool, name)).tolist() for name in ("token_id", "flags", "starts", "document")}
    rest = {name: getattr(spool, name) for name in ("skipped_documents", "provenance", "cut", "lines")}
    return {**arrays, **rest, "sequence": spool.sequence.tobytes()}


def test_bytes_counts_and_statistics_are_those_of_one_process(
    mixed: list[dict[str, Any]],
    tokenizer: Any,
    corpus: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = corpus(mixed, n_tokens=6001, repeat=True, bad_rows="skip", short_documents="skip", deduplicate={"n": 6})
    alone = spool_documents(settings, tokenizer, tmp_path / "alone", False)
    pools: list[Any] = []
    begin = Pool.__init__
    monkeypatch.setattr(Pool, "__init__", lambda pool, *arguments: pools.append(pool) or begin(pool, *arguments))
    for name, value in {"START_CHARACTERS": 100, "FEWEST_CORES": 1, "BATCH_DOCUMENTS": 7}.items():
        monkeypatch.setattr(tokens, name, value)
    monkeypatch.setattr(tokens, "n_cores", lambda: 2)
    several = spool_documents(settings, tokenizer, tmp_path / "several", False)
    assert len(pools) == 1, "there was a pool"
    assert everything(several) == everything(alone)
    assert several.provenance["text_given_back"]["documents"] > 80
