"""Pages at the root: recipes name what exists, the citation is valid and of this version, threats have their tests."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REGISTRIES = {
    "ARCHITECTURES": "pipeline/saes/__init__.py",
    "TERMS": "pipeline/objective/objective.py",
    "METRICS": "pipeline/evaluation/metrics.py",
    "CODECS": "stores/format/encodings.py",
    "FORMATS": "pipeline/formats/__init__.py",
    "Engine": "pipeline/engines/__init__.py",
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_registries_that_recipes_name_are_where_they_say() -> None:
    page = text("CONTRIBUTING.md")
    for name, path in REGISTRIES.items():
        assert f"`{name}`" in page
        assert re.search(rf"^(class )?{name}\b", text(path), flags=re.MULTILINE), path


def test_every_recipe_says_which_test_tells_what_is_missing() -> None:
    recipes = [part for part in text("CONTRIBUTING.md").split("\n## ")[1:] if not part.startswith("The house")]
    assert len(recipes) == 5
    for recipe in recipes:
        assert re.search(r"`tests/[\w/]*test_\w+\.py`", recipe), recipe.splitlines()[0]


def test_every_promise_names_a_test_that_exists() -> None:
    """That the files exist is tests/test_architecture_page.py's."""
    rows = re.findall(r"^\| (?!from|---)(.*) \|$", text("SECURITY.md"), flags=re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py`$", row), row


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md", "README.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text(page)) if "://" not in link]
    assert links
    assert [link for link in links if link and not (ROOT / link).exists()] == []


def test_the_changelog_has_this_version_and_the_forms_sections() -> None:
    page = text("CHANGELOG.md")
    assert re.findall(r"^## \[(.+?)\]", page, flags=re.MULTILINE)[:2] == ["Unreleased", PROJECT["version"]]
    sections = set(re.findall(r"^### (.+)", page, flags=re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def citation_faults(data: dict[str, object]) -> list[str]:
    """What the schema of CFF 1.2.0 refuses, of the keys that are used here."""
    needed = {"cff-version", "message", "title", "authors"}
    known = {*needed, "abstract", "type", "version", "license", "keywords", "repository-code", "date-released", "url"}
    faults = [f"missing: {key}" for key in sorted(needed - data.keys())]
    faults += [f"unknown: {key}" for key in sorted(data.keys() - known)]
    faults += [f"no text: {key}" for key in ("cff-version", "message", "title") if not isinstance(data.get(key), str)]
    authors = data.get("authors")
    if (
        not isinstance(authors, list)
        or not authors
        or not all({"name", "family-names"} & author.keys() for author in authors)
    ):
        faults.append("authors: each needs a name")
    return faults + (["type"] if data.get("type", "software") not in ("software", "dataset") else [])


def test_the_citation_is_valid_and_of_this_version() -> None:
    data = yaml.safe_load(text("CITATION.cff"))
    assert citation_faults(data) == []
    assert (data["cff-version"], data["version"]) == ("1.2.0", PROJECT["version"])
    assert data["license"] == PROJECT["license"]


def test_control_an_invalid_citation_is_seen() -> None:
    faults = citation_faults({"cff-version": 1.2, "message": "m", "title": "t", "authors": [{}], "autors": []})
    assert faults == ["unknown: autors", "no text: cff-version", "authors: each needs a name"]
