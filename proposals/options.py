"""Options that are written once: each field of a frozen dataclass holds its value, range, choices, help and source.

The command line, the readers of TOML files and the tables of docs/options.md are all made from these fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from proposals.console import UsageError

if TYPE_CHECKING:
    import argparse

T = TypeVar("T")

ABOUT = "about"  # key of a field's metadata
FILE = "FILE"  # among choices: the name of a file may stand there


@dataclasses.dataclass(frozen=True)
class About:
    """What an option is, apart from its name, type and default."""

    help: str
    low: float | None = None  # least value
    high: float | None = None  # largest value
    below: bool = False  # whether `high` itself is too much
    choices: tuple[str, ...] = ()
    off: str = ""  # what 0 or "" stands for; it may lie outside the range
    source: str = ""  # paper and section, or document
    metavar: str = ""
    # option -> those of its values with which this one has an effect; (): all but 0 and ""
    needs: Mapping[str, tuple[object, ...]] = dataclasses.field(default_factory=dict)

    def kind(self, value: object) -> object:
        """Return the choice that `value` is: itself, or FILE where it is none of the others."""
        return FILE if FILE in self.choices and value and value not in self.choices else value

    def range(self) -> str:
        """Return the range or the choices as text, "" where every value is right."""
        if self.choices:
            return ", ".join(self.choices)
        if self.low is None or self.high is None:
            return "" if self.low is None else f"{_shown(self.low)} or more"
        return f"{_shown(self.low)}..{_shown(self.high)}{', below ' + _shown(self.high) if self.below else ''}"

    def complaint(self, value: object) -> str:
        """Return why `value` is wrong, "" where it is right; NaN never is."""
        if isinstance(value, tuple):
            return next((text for item in value if (text := self.complaint(item))), "")
        if self.off and not value:
            return ""
        if self.choices and self.kind(value) not in self.choices:
            return f"must be one of {self.range()}, got '{value}'"
        if self.low is None or not isinstance(value, int | float):
            return ""
        if value >= self.low and (self.high is None or value < self.high or (value == self.high and not self.below)):
            return ""
        if self.high is None:
            return f"must be at least {_shown(self.low)}, got {_shown(value)}"
        zero = f"be 0 ({self.off}) or lie" if self.off and self.low > 0 else "lie"
        return f"must {zero} in {self.range()}, got {_shown(value)}"


def option(default: Any, help: str, **about: Any) -> Any:
    """Return the field of one option: its default, its help, and what else `About` says of it."""
    return dataclasses.field(default=default, metadata={ABOUT: About(help, **about)})


def about(cls: type[Any]) -> dict[str, About]:
    """Return what the fields of a dataclass say of themselves, by their names."""
    return {f.name: f.metadata[ABOUT] for f in dataclasses.fields(cls) if ABOUT in f.metadata}


def check_options(options: Any) -> None:
    """Raise ValueError for the first option outside its range or choices; for the `__post_init__` of a dataclass."""
    for name, what in about(type(options)).items():
        if complaint := what.complaint(getattr(options, name)):
            raise ValueError(f"{name} {complaint}")


def check_effect(options: Any, given: Iterable[str], spell: Callable[[str], str] = str) -> None:
    """Raise ValueError for one of the options `given` that has no effect, as another one has another value.

    An option that is off (0 or "") or has its default value is never refused: a file may list all options. `spell`
    writes a name as the user does.
    """
    known, fields = about(type(options)), type(options).__dataclass_fields__
    for name in given:
        value = getattr(options, name)
        needs = known[name].needs if name in known and value and value != fields[name].default else {}
        for other, right in needs.items():
            beside = getattr(options, other)
            if right and known[other].kind(beside) not in right:
                cure = f"give {spell(other)} {' or '.join(map(_shown, right))}, or leave it out"
                raise ValueError(f"{spell(name)} has no effect with {spell(other)} {_shown(beside)}; {cure}")
            if not right and not beside:
                raise ValueError(f"{spell(name)} has no effect without {spell(other)}; leave it out")


def options_from(cls: type[T], table: Mapping[str, object], source: str) -> T:
    """Return the dataclass `cls` filled from `table`; `source` names the file in messages.

    Raises: ValueError for an unknown key (naming the nearest right one), a value of the wrong type or outside its
    range, or an option without effect beside the others.
    """
    hints = get_type_hints(cls)
    values: dict[str, object] = {}
    for key, value in table.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
            raise ValueError(f"{source}: unknown key '{key}'; the nearest one is '{near[0]}'")
        wanted = hints[key]
        if wanted is float and type(value) is int:
            value = float(value)
        if get_origin(wanted) is tuple:
            kinds, name = ((int, float), "numbers") if get_args(wanted)[0] is float else ((str,), "texts")
            if not isinstance(value, list) or not all(type(item) in kinds for item in value):
                raise ValueError(f"{source}: '{key}' must be a list of {name}, got {value!r}")
            value = tuple(map(float, value)) if name == "numbers" else tuple(value)
        elif type(value) is not wanted:
            raise ValueError(f"{source}: '{key}' must be {wanted.__name__}, got {value!r}")
        values[key] = value
    try:
        options = cls(**values)
        check_effect(options, values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return options


def read_table(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds. Raises: OSError; ValueError for text that is not UTF-8, or broken TOML."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None


def read_options(cls: type[T], path: Path | None = None) -> T:
    """Return the dataclass `cls` with what the TOML file `path` sets; None: its defaults.

    Raises: OSError when the file cannot be read; ValueError as `read_table` and `options_from`.
    """
    return cls() if path is None else options_from(cls, read_table(path), str(path))


def add_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, cls: type[Any], names: Iterable[str] | None = None
) -> None:
    """Give a parser a flag for each option of `cls` in `names` (None: all); one that is not given is None.

    `superpixel_scale` becomes `--superpixel-scale`; a bool gets `--name` and `--no-name`; a tuple takes a list with
    commas between.
    """
    import argparse

    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in fields if names is None else names:
        what: About = fields[name].metadata[ABOUT]
        kind = hints[name]
        settings: dict[str, Any] = {"dest": name, "default": None, "help": _help(what, fields[name].default)}
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif FILE in what.choices:
            settings["metavar"] = "|".join(what.choices)
        elif what.choices and get_origin(kind) is not tuple:
            settings["choices"] = what.choices
        else:
            settings["type"] = _converter(kind, what)
            settings["metavar"] = what.metavar or {int: "N", float: "X", str: "NAME"}.get(kind, "LIST")
        parser.add_argument(flag(name), **settings)


def options_of(args: argparse.Namespace, cls: type[T], base: T | None = None) -> T:
    """Return the options of a parsed command line over those of `base`, the defaults where it is None.

    Raises: UsageError for an option without effect beside the others, or values that do not go together.
    """
    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = {name: value for name, value in given.items() if value is not None}
    try:
        options: T = dataclasses.replace(base or cls(), **given)  # type: ignore[type-var]
        check_effect(options, given, flag)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return options


def options_table(cls: type[Any], names: Iterable[str] | None = None) -> str:
    """Return the options of `cls` in `names` (None: all) as a table in Markdown."""
    lines = ["| option | default | values | what it is | source |", "|---|---|---|---|---|"]
    known = about(cls)
    for name in known if names is None else names:
        what, default = known[name], cls.__dataclass_fields__[name].default
        off = f" {_zero(default)}: {what.off}." if what.off else ""
        text = f"{what.help[:1].upper()}{what.help[1:]}.{off}"
        cells = (f"`{name}`", f"`{_toml(default)}`", what.range().replace("|", "\\|"), text, what.source)
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def flag(name: str) -> str:
    """Return the flag of an option: `superpixel_scale` is `--superpixel-scale`."""
    return f"--{name.replace('_', '-')}"


def _help(what: About, default: object) -> str:
    """Return the help of an option: what it is, its range, its default, and what 0 or "" stands for."""
    told = f", {what.range()}" if what.low is not None and what.high is not None else ""
    if what.off and not default:
        said = f"(default: {what.off})"
    else:
        off = f"; {_zero(default)}: {what.off}" if what.off else ""
        said = f"(default: {_shown(default)}{off})" if not isinstance(default, bool) else "(default: no)"
    return f"{what.help}{told} {said}".replace("%", "%%")


def _converter(kind: Any, what: About) -> Callable[[str], object]:
    """Return what makes the text of the command line a checked value of type `kind`."""
    import argparse

    whole = get_origin(kind) is not tuple
    single = kind if whole else get_args(kind)[0]
    called = {int: "a whole number", float: "a number"}.get(single, "text")

    def convert(text: str) -> object:
        try:
            value = single(text) if whole else tuple(single(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {called}, got '{text}'") from None
        if complaint := what.complaint(value):
            raise argparse.ArgumentTypeError(complaint)
        return value

    return convert


def _zero(default: object) -> str:
    return '""' if isinstance(default, str) else "0"


def _shown(value: object) -> str:
    if isinstance(value, bool) or value == "":
        return _toml(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _toml(value: object) -> str:
    """Return a default as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
