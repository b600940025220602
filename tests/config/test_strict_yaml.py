import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.strict_yaml import MAX_BYTES, MAX_DEPTH, parse, unparse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("131_072", 131072),
        ("+7", 7),
        ("0", 0),
        ("true", True),
        ("~", None),
        ("", None),
        # what YAML 1.1 reads as false, 8, 90, a date, infinity; 1.2 has no good use for them in a config either
        ("no", "no"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("<<", "<<"),
        ("'1'", "1"),
        ("1e", "1e"),
        (".", "."),
    ],
)
def test_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    found, _ = parse(f"key: {text}", "a.yaml")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_lines_are_known_for_every_value() -> None:
    _, lines = parse("a: 1\nb:\n  - x\n  - c: 2\n", "a.yaml")
    assert lines == {(): 1, ("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4}


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)

HOSTILE = {
    "duplicate": ("a: 1\nb: 2\na: 3", "a.yaml:3: the key 'a' stands twice (first in line 1)"),
    "duplicate inside": ("a: {b: 1, b: 2}", "'b' stands twice"),
    "alias": ("a: &x 1\nb: *x", "a.yaml:1: anchors (&) and aliases (*) are not allowed"),
    "alias bomb": (BOMB, "anchors (&) and aliases"),
    "anchor on a mapping": ("a: &x\n  b: 1", "anchors (&) and aliases"),
    "python tag": ("a: !!python/object/apply:os.system ['true']", "tags are not allowed"),
    "harmless tag": ("a: !!str 1", "tags are not allowed"),
    "tag on the root": ("!!map {a: 1}", "tags are not allowed"),
    "number as key": ("1: a", "a key must be text, got '1'"),
    "list as key": ("[a, b]: c", "a key must be text"),
    "two documents": ("a: 1\n---\nb: 2", "but found another document"),
    "not YAML": ("a: [1, 2", "a.yaml:1: "),
    "tab": ("a:\n\tb: 1", "a.yaml:2: "),
    "control character": ("a: \x00", "a.yaml: "),
    "deep": ("[" * 5000, f"nested more than {MAX_DEPTH} deep"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(200)), f"nested more than {MAX_DEPTH} deep"),
    "overflow": ("a: 1e999", "1e999 is too large for a number"),
    "digits": ("a: " + "9" * 5000, "too many digits"),
    "large": ("a: " + "x" * MAX_BYTES, "this is not a config file"),
    "surrogate": ("a: \ud800", "a.yaml: "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_with_a_place(name: str) -> None:
    text, message = HOSTILE[name]
    with pytest.raises(ConfigError) as caught:
        parse(text, "a.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])) | st.sampled_from(
    [
        "no",
        "1e-4",
        "007",
        "null",
        "~",
        "",
        "1_0",
        "<<",
        "*a",
        "&a",
        "!x",
        "- a",
        "a: b",
        "#c",
        "true",
        ".5",
        "=",
        "2024-01-01",
    ]
)


@given(
    st.recursive(
        SCALARS | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=9,
    )
)
def test_unparse_is_read_back_as_the_same_data(data: object) -> None:
    assert repr(parse(unparse(data), "a.yaml")[0]) == repr(data)
