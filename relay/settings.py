"""From a TOML table to frozen dataclasses and back, with errors that an operator can act on.

    raw mapping --check names--> --msgspec: types, ranges--> dataclass tree --render--> TOML with the docs

The tree itself lives in relay/config.py; this file knows no key by name. Each field of a tree is followed by
a string literal: its documentation, which `render` writes above the value. Must never live here: a rule
about a certain setting.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from relay.errors import ConfigError

T = TypeVar("T")

_AT = re.compile(r" - at `\$(?P<path>[^`]*)`$")


def build(cls: type[T], raw: Mapping[str, Any]) -> T:
    """Make a `cls` of a parsed TOML document. Unknown name, wrong type, value out of range: ConfigError."""
    _check_names(cls, raw, "")
    try:
        return msgspec.convert(raw, cls)
    except msgspec.ValidationError as error:
        raise _named(cls, str(error)) from None


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parse TOML; `source` is the file's name for the message of a syntax error."""
    try:
        parsed = msgspec.toml.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(source, f"not TOML: {error}", "quote text, one key = value a line") from None
    if not isinstance(parsed, dict):  # pragma: no cover - TOML documents are tables; keeps mypy honest
        raise ConfigError(source, "not a table")
    return parsed


def assign(raw: dict[str, Any], assignment: str) -> None:
    """Apply one `section.key=value` to a parsed document. The value is TOML, or else taken as text."""
    key, equals, value = assignment.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(assignment, "not an assignment", "write section.key=value")
    try:
        parsed = msgspec.toml.decode(f"value = {value}")["value"]
    except msgspec.DecodeError:
        parsed = value
    *sections, name = key.split(".")
    table = raw
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(key, f"{section} is not a section", "write section.key=value")
        table = inner
    table[name] = parsed


def render(tree: Any) -> str:
    """The whole tree as TOML, each value below its documentation. `build` of it gives an equal tree."""
    return "\n".join(_lines(tree, "")).strip() + "\n"


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the leaves that differ between two trees of the same class."""
    changed: list[str] = []
    for field in dataclasses.fields(old):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was == now:
            continue
        name = prefix + field.name
        changed += changed_keys(was, now, name + ".") if dataclasses.is_dataclass(was) else [name]
    return changed


def docs(cls: type[Any]) -> Mapping[str, str]:
    """Field name -> the string literal written below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    found: dict[str, str] = {}
    name = ""
    for node in body.body if isinstance(body, ast.ClassDef) else []:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name] = inspect.cleandoc(str(node.value.value))
            name = ""
    return found


def suggestion(word: str, known: list[str]) -> str:
    """A cure for an unknown word: the nearest known one, or the list of them."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))


def hints(cls: type[Any]) -> Mapping[str, Any]:
    """Field name -> its type, ranges included."""
    return get_type_hints(cls, include_extras=True)


def item_class(hint: Any) -> type[Any] | None:
    """The dataclass of which a `tuple[X, ...]` is made, if X is one."""
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if isinstance(item, type) and dataclasses.is_dataclass(item):
            return item
    return None


def _check_names(cls: type[Any], raw: Mapping[str, Any], prefix: str) -> None:
    known = [field.name for field in dataclasses.fields(cls)]
    for name, value in raw.items():
        if name not in known:
            raise ConfigError(prefix + name, "unknown key", suggestion(name, known))
        hint = hints(cls)[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise ConfigError(prefix + name, "is a section, not a value", f"write [{prefix}{name}]")
            _check_names(hint, value, f"{prefix}{name}.")
        item = item_class(hint)
        if item is not None and isinstance(value, list):
            for position, row in enumerate(value):
                if isinstance(row, dict):
                    _check_names(item, row, f"{prefix}{name}[{position}].")


def _named(cls: type[Any], message: str) -> ConfigError:
    """msgspec's message, with its path as a dotted key, words instead of a regex, the default as the cure."""
    found = _AT.search(message)
    problem = _AT.sub("", message)
    path = (found["path"] if found else "").lstrip(".")
    hint = _hint_at(cls, path)
    if get_origin(hint) is Literal and problem.startswith("Invalid enum value"):
        written = problem.rpartition(" ")[2].strip("'")
        return ConfigError(path, f"{written!r} is not a choice", suggestion(written, list(get_args(hint))))
    described = [meta.description for meta in getattr(hint, "__metadata__", ()) if meta.description]
    if described and "regex" in problem:
        problem = f"expected {described[0]}"
    default = _default_at(cls, path)
    cure = "" if default is None else f"the default is {default}"
    return ConfigError(path or "configuration", problem[:1].lower() + problem[1:], cure)


def _hint_at(cls: type[Any], path: str) -> Any:
    """The type of the field at a path such as `a.b[3].c` or `a.b[...]`."""
    hint: Any = cls
    for name in re.findall(r"[^.\[\]]+|\[", path.replace("[...]", "[0]")):
        if name == "[":
            hint = get_args(hint)[0]
        elif not name.isdigit():
            hint = hints(hint)[name]
    return hint


def _default_at(cls: type[Any], path: str) -> str | None:
    if "[" in path or not path:
        return None
    value: Any = cls()
    for name in path.split("."):
        value = getattr(value, name)
    text = _value(value)
    return None if dataclasses.is_dataclass(value) or "\n" in text else text


def _value(value: Any) -> str:
    """One TOML value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        if value and dataclasses.is_dataclass(value[0]):
            rows = ",\n".join("    " + _inline(row) for row in value)
            return f"[\n{rows},\n]"
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)


def _inline(row: Any) -> str:
    cells = [f"{f.name} = {_value(getattr(row, f.name))}" for f in dataclasses.fields(row)]
    return "{ " + ", ".join(cells) + " }"


def _comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"# {line}".rstrip()


def _lines(tree: Any, prefix: str) -> Iterator[str]:
    """Values first, then sections: TOML wants it so."""
    fields = dataclasses.fields(tree)
    about = docs(type(tree))
    sections = [f for f in fields if dataclasses.is_dataclass(getattr(tree, f.name))]
    for field in fields:
        if field in sections:
            continue
        value = getattr(tree, field.name)
        yield ""
        yield from _comment(about.get(field.name, ""))
        item = item_class(hints(type(tree))[field.name])
        if item is not None:
            for name, text in docs(item).items():
                yield from _comment(f"  {name}: " + " ".join(text.split()))
        yield f"{field.name} = {_value(value)}"
    for field in sections:
        yield ""
        yield ""
        yield from _comment(about.get(field.name, ""))
        yield f"[{prefix}{field.name}]"
        yield from _lines(getattr(tree, field.name), f"{prefix}{field.name}.")
