"""docs/api.md is what the docstrings say now, and no name of the face is missing on it."""

import re
import runpy

import strata_sae as strata
from strata_sae.pipeline import face
from support.small_presets import ROOT

MAKE = runpy.run_path(str(ROOT / ".ci/api_page.py"))
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_docstrings_say() -> None:
    assert MAKE["page"]() + "\n" == PAGE, "write it anew: make page"


def test_every_name_of_the_face_is_on_the_page_and_nothing_private() -> None:
    headings = re.findall(r"^## `strata\.(\w+)`$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(strata.__all__)
    members = re.findall(r"^### `(\w+)\.(\w+)`$", PAGE, re.MULTILINE)
    assert {("LoadedSAE", "encode"), ("Batches", "batch"), ("PositionCodes", "entries")} <= set(members)
    for owner, name in members:
        assert callable(getattr(getattr(strata, owner), name)), (owner, name)
        assert not name.startswith("_")
    for name in re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE):
        assert not name.startswith("_")


def test_every_link_of_the_page_leads_to_a_heading() -> None:
    anchors = {re.sub(r"[^\w -]", "", title).lower() for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    links = re.findall(r"\]\(#([^)]*)\)", PAGE)
    assert len(links) > len(strata.__all__)
    assert set(links) <= anchors


def test_control_another_signature_and_another_name_make_another_page(monkeypatch) -> None:
    def load(path: int) -> str:
        """Nothing that the face has."""
        return str(path)

    monkeypatch.setattr(face, "load", load)
    monkeypatch.setattr(strata, "load", load, raising=False)
    made = MAKE["page"]()
    assert "strata.load(path: int) -> str" in made
    assert "Nothing that the face has." in made
    assert "strata.load(path: int)" not in PAGE
