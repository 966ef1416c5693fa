"""The documents: no placeholder left, every command and file that they name is there."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("detector/models/*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_placeholder_is_left(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"\b[A-Z]+_TABLE\b|\b[SBV]\d{3}\b|^[A-Z]{5,}$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_scripts_and_pictures_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    for script in re.findall(r"python ((?:benchmarks|scripts)/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link


def test_the_readme_has_both_lines():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "pip install -c constraints.txt . && detect samples/dog.jpg" in lines
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in lines


def test_the_page_of_options_is_that_of_the_dataclasses():
    spec = importlib.util.spec_from_file_location("options_document", ROOT / "scripts" / "options_document.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.document(), "run python scripts/options_document.py"
