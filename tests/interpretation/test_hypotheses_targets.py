"""Targets of documents: from a CSV, from what the store kept; what is refused, and how it says so."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.interpretation.hypotheses import targets
from strata_sae.pipeline.interpretation.hypotheses.targets import Target, target_of
from strata_sae.pipeline.reading.document_columns import DocumentColumns


class Store:
    """What a target needs of a store: what it kept."""

    path = Path("data/small")

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(store: Store) -> DocumentColumns | None:
        return DocumentColumns(store.columns) if store.columns else None

    monkeypatch.setattr(targets, "kept_columns", kept)


def found(store: Any, name: str, file: Path | None = None) -> Target:
    return target_of(store, name, file)


def of_csv(folder: Path, text: str | bytes, name: str = "rating") -> Target:
    path = folder / "targets.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return found(Store(), name, path)


@pytest.mark.parametrize(
    ("column", "values", "is_binary"),
    [
        ([1.5, None, 3, 4], {0: 1.5, 2: 3.0, 3: 4.0}, False),
        ([1, 0, None, 1], {0: 1.0, 1: 0.0, 3: 1.0}, True),
        ([True, False, True], {0: 1.0, 1: 0.0, 2: 1.0}, True),
        (["no", "yes", None, "no"], {0: 0.0, 1: 1.0, 3: 0.0}, True),
        ([1, 2, 1], {0: 1.0, 1: 2.0, 2: 1.0}, False),
        ([1, "a", 1], {0: 0.0, 1: 1.0, 2: 0.0}, True),
    ],
)
def test_columns_of_a_store(column: list[Any], values: dict[int, float], is_binary: bool) -> None:
    target = found(Store(rating=column, other=[1] * len(column)), "rating")
    assert (target.values, target.is_binary) == (values, is_binary)
    of_documents = target.of(np.array([len(column) + 5, 0]))
    assert math.isnan(of_documents[0])
    assert of_documents[1] == values[0]


def test_one_value_against_the_rest() -> None:
    store = Store(kind=["a", "b", None, "c", "a"], **{"odd=name": [1.0, 2.0, 3.0, 4.0, 5.0]})
    target = found(store, "kind=a")
    assert (target.values, target.is_binary) == ({0: 1.0, 1: 0.0, 3: 0.0, 4: 1.0}, True)
    assert target.means == "1 where kind is 'a', else 0"
    assert found(store, "odd=name").is_binary is False
    assert found(Store(n=[1, 2, 3]), "n=2").values == {0: 0.0, 1: 1.0, 2: 0.0}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ratting", r"--target: 'ratting' is no column of data/small; there are: kind, same, nothing$"),
        ("kind", r"holds text of 3 kinds \(a, b, c\); ask for one of them against the rest: --target kind=<kind>"),
        ("kind=d", r"kind is 'd' of no document, or of all; it is: a, b, c"),
        ("same", r"'same' is the same of all 5 documents that have it"),
        ("nothing", r"'nothing' is the same of all 0 documents that have it"),
    ],
)
def test_columns_that_are_no_target(name: str, says: str) -> None:
    store = Store(kind=["a", "b", None, "c", "a"], same=[1] * 5, nothing=[None] * 5)
    with pytest.raises(ConfigError, match=says):
        found(store, name)


def test_a_store_without_columns_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"it keeps none\. Name a CSV .* by --targets, or extract again"):
        found(Store(), "rating")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("document,rating\n3,1.5\n0,-2\n", {3: 1.5, 0: -2.0}),
        ("rating,document,x\n,1,a\n2,2,b\n3,5,c\n", {2: 2.0, 5: 3.0}),
        ("\ufeffdocument,rating\r\n1,true\r\n\r\n2,False\r\n", {1: 1.0, 2: 0.0}),
        ('document,rating\n1,"very, good"\n2,bad\n3,bad\n', {1: 1.0, 2: 0.0, 3: 0.0}),
        ("document,rating\n1,nan\n2,1e3\n4,5\n", {2: 1000.0, 4: 5.0}),
    ],
)
def test_a_csv(tmp_path: Path, text: str, values: dict[int, float]) -> None:
    assert of_csv(tmp_path, text).values == values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"its first line is ''"),
        ("doc,rating\n1,2\n", r"its first line is 'doc, rating'.*`document` is one of them"),
        ("document,rating,rating\n1,2,3\n", "each once"),
        ("document,rating\n1,2\n1,3\n", r"line 3: .*no line above has, got '1,3'"),
        ("document,rating\n1\n", "line 2: expected 2 cells"),
        ("document,rating\n-1,2\n", "line 2"),
        ("document,rating\n\u0661,2\n", "line 2"),
        ("document,rating\n1" + "0" * 30 + ",2\n", "line 2"),
        ('document,rating\n1,"2\n', "is no CSV"),
        (b"document,rating\n1,\xff\n", "byte 18 is not UTF-8"),
        ("document,score\n1,2\n", r"'rating' is no column of .*targets\.csv; there are: score$"),
    ],
)
def test_a_csv_that_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        of_csv(tmp_path, text)


def test_a_csv_that_is_not_there_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--targets: .*gone\.csv: cannot be read"):
        found(Store(), "rating", tmp_path / "gone.csv")
    monkeypatch.setattr(targets, "MOST_BYTES", 20)
    with pytest.raises(ConfigError, match="is larger than 20 bytes"):
        of_csv(tmp_path, "document,rating\n" + "1,2\n" * 9)


def test_numbers_of_more_than_six_digits_are_told_apart(tmp_path: Path) -> None:
    days = "document,day\n0,20230115\n1,20230116\n2,20230115\n"
    assert of_csv(tmp_path, days, "day").values == {0: 20230115.0, 1: 20230116.0, 2: 20230115.0}
    one = of_csv(tmp_path, days, "day=20230115")
    assert one.values == {0: 1.0, 1: 0.0, 2: 1.0}
    finer = of_csv(tmp_path, "document,x\n0,0.12345678\n1,0.12345679\n2,1e300\n", "x=0.12345678")
    assert finer.values == {0: 1.0, 1: 0.0, 2: 0.0}


@pytest.mark.parametrize("cells", ["1e300,2e300,3", "1e-200,2e-200,3e-200"])
def test_numbers_whose_squares_are_none_are_refused(tmp_path: Path, cells: str) -> None:
    text = "document,rating\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(cells.split(",")))
    with pytest.raises(ConfigError, match=r"--target: 'rating' holds numbers .* to .*: give it in another unit"):
        of_csv(tmp_path, text)
