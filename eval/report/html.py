"""The page: its sections, style and script in one file that asks for nothing from any network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from eval.protocols import title as protocol_title
from eval.report.classes import classes_section, curves_section
from eval.report.content import ReportContent
from eval.report.errors import confusion_section, errors_section, recall_section
from eval.report.examples import examples_section
from eval.report.markup import Html, element, name_of
from eval.report.reading import reading_section
from eval.report.summary import summary_section
from proposals.files import write_bytes_atomic


def write_report(path: Path, content: ReportContent) -> None:
    """Write `content` as one HTML file, whole or not at all; the same content gives the same bytes.

    Raises: OSError when it cannot be written. Pictures that cannot be read are left out, and the page says so.
    """
    write_bytes_atomic(path, render(content).encode("utf-8"))


def render(content: ReportContent) -> str:
    """Return the page."""
    style, script = (
        Html(files("eval.report").joinpath(name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")
    )
    sections = _sections(content)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="robots", content="noindex"),
        element("title", content.title),
        element("style", style),
    )
    protocol = protocol_title(content.evaluation)
    links = [element("li", element("a", title, href=f"#{name}")) for name, title, _ in sections]
    body = element(
        "body",
        element("a", "Skip to the results", href="#main", class_="skip"),
        element(
            "header",
            element("h1", element("bdi", content.title)),
            element("p", element("bdi", content.data)),
            element("p", f"Protocol: {protocol}" + (f". {content.when}" if content.when else ""), class_="more"),
            _provenance(content.provenance),
        ),
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", *[_section(*each) for each in sections], id="main", tabindex=-1),
        element("script", script),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sections(content: ReportContent) -> list[tuple[str, str, Html]]:
    """Return (id, title, body) of each section."""
    sections = [
        ("summary", "Summary", summary_section(content)),
        ("classes", "Classes", classes_section(content)),
        ("curves", "Precision and recall", curves_section(content)),
        ("errors", "Errors", errors_section(content)),
        ("confusion", "Confusions", confusion_section(content)),
    ]
    if content.recall is not None:
        sections.append(("proposals", "Proposals", recall_section(content.recall)))
    sections.append(("examples", "Examples", examples_section(content)))
    sections.append(("reading", "How to read this", reading_section(content)))
    return sections


def _provenance(rows: Sequence[tuple[str, str]]) -> Html:
    """Return what made the report as a list of names and values."""
    pairs = [element("div", element("dt", name_of(name)), element("dd", name_of(value))) for name, value in rows]
    return element("dl", *pairs, class_="provenance") if pairs else Html("")


def _section(name: str, title: str, body: Html) -> Html:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, body, id=name, aria_labelledby=f"{name}-title")


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy that lets in this style, this script, pictures in the page, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
