"""The page: template, style and script in one file, which loads nothing from a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number
from eval.report.context import page_context
from eval.report.examples import shortened
from eval.summary import Scored
from proposals.boxes import Boxes
from proposals.console import printable
from proposals.files import write_bytes_atomic

LONGEST_NAME = 160  # characters; longer ones are cut
TEMPLATE = "report.html.j2"


def write_report(
    path: Path,
    scored: Scored,
    proposals: Mapping[int, Boxes] | None = None,
    pictures: int = 6,
    provenance: tuple[tuple[str, str], ...] = (),
) -> None:
    """Write the report of a scored data set as one HTML file, whole or not at all; same input, same bytes.

    proposals: by picture 0..P-1, for the curve of their recall; pictures: examples shown at most in each of three rows;
    provenance: what made the report, (name, value) each. A picture that cannot be read is left out, and the page says
    so. Raises: OSError when the file cannot be written.
    """
    write_bytes_atomic(path, render(scored, proposals, pictures, provenance).encode("utf-8"))


def render(
    scored: Scored,
    proposals: Mapping[int, Boxes] | None = None,
    pictures: int = 6,
    provenance: tuple[tuple[str, str], ...] = (),
) -> str:
    """Return the page as HTML."""
    style, script = (
        Markup(files("eval.report").joinpath(name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")
    )
    context = page_context(scored, proposals, pictures, provenance)
    page = _environment().get_template(TEMPLATE)
    return page.render(context, style=style, script=script, policy=_policy(style, script)).strip() + "\n"


@cache
def _environment() -> Environment:
    """Return jinja2 with our filters; what a template prints is escaped, control characters too."""
    environment = Environment(
        loader=PackageLoader("eval.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "figure": lambda share: f"{percent(share, 2)} %" if share == share else "none",
        "comma": lambda count: f"{count:,}",
        "number": number,
        "short": lambda text: shortened(text, LONGEST_NAME),
        "counted": counted,
    }
    environment.globals |= {
        "left": LEFT,
        "top": TOP,
        "width": WIDTH,
        "height": HEIGHT,
        "right": RIGHT,
        "bottom": BOTTOM,
    }
    return environment


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: float, places: int = 1) -> str:
    """Return a share in percent without the sign, a dash for nan."""
    return f"{100 * share:.{places}f}" if share == share else "–"


def counted(count: int, thing: str) -> str:
    """Return "1 picture" or "2,000 pictures"; `thing` takes an s."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy that allows this style, this script, pictures in the page, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
