"""`strata prompt`: the tables, the page of coloured tokens, and what it refuses."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.intervention.prompt_view import view
from strata_sae.pipeline.intervention.run_model import RunModel
from strata_sae.pipeline.queries.asked_model import Edit
from strata_sae.pipeline.runs.folders import RunFolder
from support.asked_run import CROSSCODER, OTHER, ROUGH, TEXT, asked, make
from support.made_up_run import HOSTILE

LATENT = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of which one SAE has codes and labels."""
    made = make(tmp_path_factory.mktemp("prompted"))
    build_codes(made.path, only=ROUGH)
    return made


@pytest.fixture(scope="module")
def model(run: RunFolder) -> RunModel:
    return asked(run)


@pytest.fixture(autouse=True)
def loaded_once(run: RunFolder, model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this file share one model; one of a single SAE shows that one alone."""
    monkeypatch.chdir(run.path.parents[1])
    opened = model.opened()

    def open_model(config: object, run: RunFolder, only: list[str]) -> object:
        from dataclasses import replace

        return replace(opened, saes={name: sae for name, sae in opened.saes.items() if not only or name in only})

    monkeypatch.setattr("strata_sae.pipeline.intervention.run_model.open_model", open_model)


def strata(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["prompt", *map(str, arguments)])


def said(*arguments: str | Path) -> list[str]:
    result = strata(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def refused(*arguments: str | Path) -> str:
    result = strata(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


# ---- what is printed


def test_a_run_shows_every_sae_and_the_next_tokens(model: RunModel) -> None:
    lines = said("runs/small", TEXT)
    prompted = model.prompt(TEXT, n_following=1)
    n = len(prompted.token_ids)
    assert lines[0].split() == ["place", "token", "next", "p"]
    for place in range(n):
        text, p = prompted.clean.following.texts[place][0], prompted.clean.following.probabilities[place, 0]
        assert lines[1 + place].startswith(f"{place:5d}  '{prompted.texts[place]}'")
        assert lines[1 + place].endswith(f"{p:.3f}")
        assert f"'{text}'" in lines[1 + place] or not text.isprintable()
    heads = [number for number, line in enumerate(lines) if line in prompted.clean.active]
    assert [lines[number] for number in heads] == list(prompted.clean.active)
    for number in heads:
        active = prompted.clean.active[lines[number]]
        rows = lines[number + 2 : number + 2 + n]
        for place, row in enumerate(rows):
            start, stop = active.offset[place], active.offset[place + 1]
            pairs = zip(active.latents[start:stop][:3], active.values[start:stop][:3], strict=True)
            assert row.endswith("  ".join(f"{latent}: {value:.3g}" for latent, value in pairs))
            assert f" {stop - start} " in row


def test_of_a_named_latent_every_value_is_shown(model: RunModel) -> None:
    lines = said(f"runs/small/{ROUGH}", TEXT, "--latent", str(LATENT), "--latent", "5")
    prompted = model.prompt(TEXT)
    for latent in (LATENT, 5):
        values = prompted.clean.active[ROUGH].values_S(latent)
        (at,) = (number for number, line in enumerate(lines) if line.startswith(f"  latent {latent}"))
        assert [line.split("'")[2].split()[0] for line in lines[at + 2 : at + 2 + len(values)]] == [
            f"{value:.3g}" for value in values
        ]
        longest = max(line.count("#") for line in lines[at + 2 : at + 2 + len(values)])
        assert longest == (12 if max(values[1:]) > 0 else 0)
        assert "#" not in lines[at + 2]


def test_edits_are_told_and_shown_with_what_they_change(model: RunModel) -> None:
    edits = [Edit(ROUGH, 7, "ablate"), Edit(ROUGH, LATENT, "clamp", 4.5), Edit(ROUGH, 9, "steer", -2.0)]
    given = ["--ablate", "7", "--clamp", f"{LATENT}=4.5", "--steer", "9=-2"]
    lines = said(f"runs/small/{ROUGH}", TEXT, *given, "--tokens", "5")
    assert lines[:3] == [
        f"edit: latent 7 of {ROUGH}: set to 0",
        f"edit: latent {LATENT} of {ROUGH}: set to 4.5",
        f"edit: latent 9 of {ROUGH}: -2 of its direction",
    ]
    prompted = model.prompt(TEXT, edits, 1)
    assert prompted.kl_S is not None
    assert [line.split()[-1] for line in lines[4 : 4 + len(prompted.texts)]] == [f"{kl:.4f}" for kl in prompted.kl_S]
    plain, edited = model.continuations(TEXT, [[], edits], 5)
    assert "\n".join(lines).count("\ngoes on:\n" + plain) == 1
    assert "\n".join(lines).count("\ngoes on, edited:\n" + edited) == 1


def test_without_edits_it_goes_on_once(model: RunModel) -> None:
    lines = said(f"runs/small/{ROUGH}", TEXT, "--tokens", "3")
    assert "goes on:" in lines
    assert "goes on, edited:" not in lines


def test_labels_stand_beside_latents_that_have_them(model: RunModel) -> None:
    """Of the SAE with codes alone; the others go without."""
    lines = said("runs/small", TEXT)
    at = lines.index(ROUGH)
    own = [line for line in lines[at:] if re.match(r"  \d+: \S", line)]
    assert own
    assert not [line for line in lines[: lines.index(ROUGH)] if re.match(r"  \d+: \S", line)]


def test_numbers_are_shown_without_words_that_are_damaged(run: RunFolder) -> None:
    labels = run.variant(ROUGH).label_arrays
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1])
    try:
        result = strata("runs/small", TEXT)
    finally:
        labels.write_bytes(whole)
    assert result.exit_code == 0
    assert "latents are shown without words: " in result.stderr
    lines = result.stdout.splitlines()
    assert ROUGH in lines
    assert not [line for line in lines if re.match(r"  \d+: \S", line)]


def test_a_site_may_be_left_out_where_there_is_one_only(run: RunFolder) -> None:
    assert OTHER in said("runs/small/other", TEXT)
    assert f"name one: {ROUGH}, " in refused("runs/small/rough", TEXT).replace(f"{CROSSCODER}, ", "")


# ---- numbers


def test_latents_are_chosen_by_ordinary_tokens(model: RunModel) -> None:
    prompted = model.prompt(TEXT)
    told = view(prompted, [], [], [], lambda name, latent: "")
    (of_rough,) = (sae for sae in told.saes if sae.name == ROUGH)
    values = {latent: max(prompted.clean.active[ROUGH].values_S(latent)[1:]) for latent in range(64)}
    assert [one.latent for one in of_rough.marked] == sorted(values, key=lambda latent: -values[latent])[:10]


# ---- the page


class Elements(HTMLParser):
    """Names of elements, attributes, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


PLAIN = {"html", "head", "meta", "title", "style", "body", "header", "main", "section", "div", "p", "h1", "h2", "b"}
PLAIN |= {"span", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}


def test_the_page_holds_the_text_and_the_values(model: RunModel, tmp_path: Path) -> None:
    at = tmp_path / "new" / "page.html"
    said(f"runs/small/{ROUGH}", TEXT, "--latent", str(LATENT), "--clamp", f"{LATENT}=4.5", "--tokens", "3", "--out", at)
    page = at.read_text()
    elements = Elements(page)
    assert elements.names <= PLAIN
    assert "script-src ;" in page  # no script at all
    assert "default-src &#39;none&#39;" in page
    prompted = model.prompt(TEXT, [Edit(ROUGH, LATENT, "clamp", 4.5)])
    assert prompted.edited is not None
    for active in (prompted.clean.active[ROUGH], prompted.edited.active[ROUGH]):
        for place, value in enumerate(active.values_S(LATENT)):
            assert f'title="{place}: {value:.4g}"' in page
    assert 'class="h0 special" title="0:' in page
    assert "h10" in page.partition("<body>")[2]
    assert "".join(prompted.texts[1:]) in "".join(elements.texts)


def test_a_latent_that_the_edits_leave_alone_is_shown_once(tmp_path: Path) -> None:
    said(f"runs/small/{ROUGH}", TEXT, "--clamp", f"{LATENT}=4.5", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<b>latent ") > 2
    assert page.count("with edits</p>") == page.count("without edits</p>") == 1


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if text.isascii()][:12], ids=repr)
def test_hostile_text_is_text(tmp_path: Path, hostile: str) -> None:
    given = f"the {hostile[:30]}".replace("\0", "")
    said("runs/small/other", given, "--out", tmp_path / "page.html", "--tokens", "2")
    elements = Elements((tmp_path / "page.html").read_text())
    assert elements.names <= PLAIN
    assert not {name for name in elements.attributes if name.startswith("on") or name in ("src", "href")}


def test_the_same_question_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        said("runs/small", TEXT, "--out", tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


# ---- what is refused


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--ablate", "64"], f"ablate: there is no latent 64; {ROUGH} has the latents 0 to 63"),
        (["--latent", "64"], f"--latent: there is no latent 64; {ROUGH} has the latents 0 to 63"),
        (["--ablate", "1", "--steer", "1=2"], f"steer: {ROUGH}: latent 1 is edited twice; name it once"),
        (["--clamp", "1=1e10"], f"clamp: {ROUGH}: latent 1: 10000000000.0 is no amount; the largest is 1,000,000"),
        *[
            (["--clamp", words], f"--clamp: {words!a} is not LATENT=AMOUNT; give, for example, --clamp 17=4.5")
            for words in ("1", "=2", "1=", "-1=2", "1=x", "1.5=2", "\u0663=2", f"{2**32}=1")
        ],
    ],
)
def test_latents_and_amounts_that_are_none_are_refused(given: list[str], line: str) -> None:
    assert refused(f"runs/small/{ROUGH}", TEXT, *given) == line


@pytest.mark.parametrize("given", [["--latent", "3"], ["--ablate", "3"], ["--clamp", "3=1"], ["--steer", "3=1"]])
def test_a_latent_is_of_one_sae(given: list[str]) -> None:
    assert refused("runs/small", TEXT, *given).startswith(f"{given[0]}: is about one SAE; name it: strata prompt runs")


def test_texts_and_runs_that_are_none_are_refused() -> None:
    assert refused("runs/small", "") == "TEXT: is empty; give a text of at least one token"
    assert "bytes that are no UTF-8" in refused("runs/small", os.fsdecode(b"\xff"))
    assert "neither a run nor an SAE of one" in refused("runs/nothing", TEXT)
    assert "60 are to follow" in refused("runs/small", TEXT, "--tokens", "60")


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    result = strata("runs/small/other", TEXT, "--out", tmp_path)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
