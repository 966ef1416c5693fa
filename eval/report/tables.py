"""Tables with captions and headers that say what they head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.report.markup import Html, element

TALLEST = 40  # rows of a table that are shown without an inner scroll bar


@dataclass(frozen=True)
class Column:
    """A column: its header, its style in page.css, and how it can be sorted ("text", "number", "" not at all)."""

    title: str
    style: str = ""
    sort: str = ""


def cell(text: str, value: float | str | None = None, style: str = "", head: bool = False) -> Html:
    """Return one cell; `value` is what its column is sorted by, `head` makes it the header of its row."""
    sorted_by = "" if value is not None and value != value else value
    scope = "row" if head else None
    return element("th" if head else "td", text, class_=style or None, scope=scope, data_value=sorted_by)


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Html]], identifier: str, tall: bool = False
) -> Html:
    """Return a table in a frame that scrolls, by keyboard too; `tall` bounds its height beyond TALLEST rows."""
    heads = [element("th", c.title, scope="col", class_=c.style or None, data_sort=c.sort or None) for c in columns]
    body = [element("tr", *cells) for cells in rows]
    whole = element(
        "table",
        element("caption", caption, id=f"{identifier}-caption"),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        id=identifier,
    )
    return element(
        "div",
        whole,
        class_="scroll tall" if tall and len(body) > TALLEST else "scroll",
        role="region",
        tabindex=0,
        aria_labelledby=f"{identifier}-caption",
    )
