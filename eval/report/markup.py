"""HTML elements as text in which everything that is not markup is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

from proposals.console import printable

LONGEST_NAME = 160  # characters; longer ones are cut
VOID = ("br", "img", "input", "meta")  # of those used here, the elements without an end tag (HTML standard, 13.1.2)


class Html(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float | bool | None) -> Html:
    """Return one element; children that are not Html are escaped, on one line, control characters as escapes.

    An attribute's underscores become hyphens, one at its end is dropped (class_); True is an attribute without a
    value, None and False leave it out.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        parts.append(f" {name}" if value is True else f' {name}="{_escaped(number(value))}"')
    parts.append(">")
    if tag not in VOID:
        parts += [_escaped(child) for child in children]
        parts.append(f"</{tag}>")
    return Html("".join(parts))


def joined(parts: Iterable[str]) -> Html:
    """Return the parts one after the other, those that are not Html escaped."""
    return Html("".join(_escaped(part) for part in parts))


def name_of(text: str) -> Html:
    """Return a name from a file in an element of its own, so that right-to-left letters do not reorder the rest."""
    return element("bdi", shortened(text, LONGEST_NAME))


def number(value: str | float) -> str:
    """Return a number for an attribute, to two places at most; text as it is."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def percent(share: float, places: int = 1) -> str:
    """Return a share in percent without the sign, a dash for nan."""
    return f"{100 * share:.{places}f}" if share == share else "–"


def counted(count: int, thing: str) -> str:
    """Return "1 picture" or "2,000 pictures"; `thing` takes an s."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def shortened(text: str, length: int) -> str:
    """Return `text` on one line, cut to `length` characters with dots."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _escaped(text: str) -> str:
    return text if isinstance(text, Html) else html.escape(printable(text))
