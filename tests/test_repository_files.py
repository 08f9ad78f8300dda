"""Files that the repository's host and citation tools read: CITATION.cff, SECURITY.md, templates of issues."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest

import qvec

yaml = pytest.importorskip("yaml", reason="needs qvec[docs]")

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
FORMS = [TEMPLATES / "bug_report.yml", TEMPLATES / "feature_request.yml"]


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text("utf-8")))


def test_citation_agrees_with_the_package() -> None:
    citation, package = read(ROOT / "CITATION.cff"), metadata("qvec")
    assert (citation["cff-version"], citation["type"], citation["title"]) == ("1.2.0", "software", "qvec")
    assert citation["version"] == qvec.__version__
    assert citation["abstract"] == package["Summary"]
    assert citation["license"] == package["License-Expression"]
    assert citation["keywords"] == package["Keywords"].split(",")
    assert citation["message"]


def test_citation_names_no_invented_people() -> None:
    names = metadata("qvec").get_all("Author") or ()
    assert read(ROOT / "CITATION.cff")["authors"] == [{"name": name} for name in names or ["The qvec developers"]]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_form_is_complete(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = [element for element in form["body"] if element["type"] != "markdown"]
    assert all(element["type"] in ("input", "textarea") and element["attributes"]["label"] for element in fields)
    ids = [element["id"] for element in fields]
    assert len(set(ids)) == len(ids) > 0
    assert all(re.fullmatch(r"[\w-]+", id) for id in ids)


def test_bug_report_asks_for_the_output_of_doctor() -> None:
    (field,) = [element for element in read(FORMS[0])["body"] if "qvec doctor" in str(element)]
    assert field["validations"]["required"] is True
    assert field["attributes"]["render"] == "text"


def test_security_page_names_the_private_advisory_and_no_address() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "private\nsecurity advisory" in text or "private security advisory" in text
    assert not re.search(r"\S@\S+\.\w", text)
