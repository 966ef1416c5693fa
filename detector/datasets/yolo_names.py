"""The class names of a YOLO data.yaml: the few forms in which such files give them, no YAML beyond."""

from __future__ import annotations

import re
from pathlib import Path

from detector.datasets.checks import MAX_DIGITS, at, check_unique, read_text, short, wrong

PLAIN = r"[^\s,\[\]{}#&*!|>'\"%@`:-][^,\[\]{}#:]*"  # a plain scalar; no colon, so that no mapping is mistaken for one
SCALAR = rf"'(?:[^']|'')*'|\"[^\"\\]*\"|{PLAIN}"
NUMBER = rf"[0-9]{{1,{MAX_DIGITS}}}"
FLOW = re.compile(rf"\s*(?:({NUMBER})\s*:\s*)?({SCALAR})\s*(,|$)")
LINE = re.compile(rf"\s*(?:-\s+|({NUMBER})\s*:\s+)({SCALAR})\s*(?:#.*)?$")
CURE = "write the names into classes.txt, one a line"


def read_names(path: Path) -> tuple[str, ...]:
    """Return the names under `names:` of a YAML file: `[a, b]`, `{0: a, 1: b}`, or lines `- a` or `0: a`.

    Raises: ValueError for any other form (nested values, anchors, tags, escapes), or indices that are not 0..C-1.
    """
    lines = read_text(path).splitlines()
    start = next((i for i, line in enumerate(lines) if re.match(r"names\s*:(\s|$)", line)), None)
    if start is None:
        raise wrong(path, "has no 'names:'", CURE)
    rest = lines[start].split(":", 1)[1].strip()
    in_one = rest and not rest.startswith("#")
    entries = _flow(path, lines, start, rest) if in_one else _block(path, lines, start)
    if not entries:
        raise wrong(at(path, start + 1), "'names:' lists no class", CURE)
    numbered = [number for number, _, _ in entries if number is not None]
    if numbered:
        if sorted(numbered) != list(range(len(entries))):
            raise wrong(at(path, start + 1), f"the names are not numbered 0..{len(entries) - 1}", "number them so")
        entries.sort(key=lambda entry: -1 if entry[0] is None else entry[0])
    names = [name for _, name, _ in entries]
    check_unique(names, lambda i: at(path, entries[i][2]), "class")
    return tuple(names)


def _block(path: Path, lines: list[str], start: int) -> list[tuple[int | None, str, int]]:
    """Return (number, name, line) of the lines that follow `names:`."""
    entries = []
    for index in range(start + 1, len(lines)):
        line = lines[index]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line.startswith((" ", "- ")):
            break
        found = LINE.match(line)
        if not found:
            raise wrong(at(path, index + 1), f"'{short(line.strip())}' cannot be read as a class name", CURE)
        entries.append((_number(found[1]), _name(found[2]), index + 1))
    return entries


def _flow(path: Path, lines: list[str], start: int, text: str) -> list[tuple[int | None, str, int]]:
    """Return (number, name, line) of a list in brackets or braces, which may go over several lines."""
    last = start
    ends = {"[": "]", "{": "}"}.get(text[0], "")
    while ends and not re.search(rf"\{ends}\s*(#.*)?$", text) and last + 1 < len(lines):
        last += 1
        text += " " + lines[last].strip()
    body = re.fullmatch(rf"[\[{{](.*)\{ends}\s*(?:#.*)?", text) if ends else None
    if not body:
        raise wrong(at(path, start + 1), "'names:' is neither a list nor numbered lines", CURE)
    entries: list[tuple[int | None, str, int]] = []
    inner, position = body[1].strip(), 0
    while position < len(inner):
        found = FLOW.match(inner, position)
        if not found or (found[1] is None) == (ends == "}"):
            raise wrong(at(path, start + 1), f"'{short(inner[position:])}' cannot be read as a class name", CURE)
        entries.append((_number(found[1]), _name(found[2]), start + 1))
        position = found.end()
    return entries


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _name(scalar: str) -> str:
    if scalar[0] == "'":
        return scalar[1:-1].replace("''", "'")
    return scalar[1:-1] if scalar[0] == '"' else scalar.strip()
