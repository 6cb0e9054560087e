"""A JSON schema as a regex, where the texts that it describes are a regular language."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redraft.errors import BadInput
from redraft.structure.dialect import unanchored
from redraft.structure.letters import letters
from redraft.structure.whole import between

# What says nothing about the value.
SILENT = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$defs", "definitions"),
}
LETTER = r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])'  # of a string: one character, as it is or escaped
COMMA, COLON = ", ?", ": ?"
FORMATS = {
    "date": r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])",  # days that every month has
    "time": r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?Z",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "ipv4": r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
}
FORMATS["date-time"] = f"{FORMATS['date']}T{FORMATS['time']}"
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


class Irregular(Exception):
    """The schema may well be sound, but it is not for a regex."""


@dataclass(frozen=True)
class Translation:
    """Every part of a schema as a regex; `root` is what references are looked up in."""

    root: Any

    def value(self, schema: Any, within: tuple[str, ...] = ()) -> str:
        """Of any schema. `within`: the references that led here."""
        if not isinstance(schema, dict) or not schema.keys() - SILENT:
            raise Irregular("any JSON value")
        said = {key: value for key, value in schema.items() if key not in SILENT}
        if "$ref" in said:
            only(said, "$ref")
            return self.referred(said["$ref"], within)
        if "const" in said or "enum" in said:
            return self.listed(said)
        for word in ("anyOf", "oneOf", "allOf"):
            if word in said:
                only(said, word)
                return self.combined(word, said[word], within)
        kinds = said.pop("type", None)
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not kinds:
            raise Irregular("a value of any type")
        if unknown := [kind for kind in kinds if kind not in TYPES]:
            raise BadInput(f"there is no type {unknown[0]!r}")
        if len(kinds) > 1 and said:
            raise Irregular("rules about values of several types")
        return either([getattr(self, kind)(dict(said), within) for kind in kinds])

    def referred(self, name: str, within: tuple[str, ...]) -> str:
        """What a reference stands for."""
        if name in within:
            raise Irregular(f"{name} holds itself")
        if not name.startswith("#"):
            raise BadInput(f"the reference {name!r} leads out of the schema")
        found = self.root
        for part in name[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                raise BadInput(f"the reference {name!r} leads nowhere")
            found = found[part]
        return self.value(found, (*within, name))

    def listed(self, said: dict[str, Any]) -> str:
        """One of some values."""
        only(said, "const", "enum", "type")
        values = said.get("enum", [said.get("const")])
        if "const" in said and "enum" in said:
            values = [value for value in values if value == said["const"]]
        kinds = said.get("type", TYPES)
        kinds = [kinds] if isinstance(kinds, str) else kinds
        values = [value for value in values if any(is_a(value, kind) for kind in kinds)]
        if not values:
            raise BadInput("the schema lists no value that it allows")
        return either([re.escape(json.dumps(value, ensure_ascii=False)) for value in values])

    def combined(self, word: str, parts: list[Any], within: tuple[str, ...]) -> str:
        """Any of some schemas; exactly one of them, where no value is of two."""
        if word == "allOf" and len(parts) != 1:
            raise Irregular("all of several schemas")
        if word == "oneOf" and len(parts) > 1:
            kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
            kinds = ["number" if kind == "integer" else kind for kind in kinds]
            if not all(isinstance(k, str) for k in kinds) or len(set(kinds)) < len(kinds):
                raise Irregular("exactly one of schemas that may share values")
        return either([self.value(part, within) for part in parts])

    def null(self, said: dict[str, Any], within: tuple[str, ...]) -> str:
        """The value null."""
        only(said)
        return "null"

    def boolean(self, said: dict[str, Any], within: tuple[str, ...]) -> str:
        """True or false."""
        only(said)
        return "(?:true|false)"

    def number(self, said: dict[str, Any], within: tuple[str, ...]) -> str:
        """Any number without an exponent."""
        only(said)
        return r"-?(?:0|[1-9]\d*)(?:\.\d+)?"

    def integer(self, said: dict[str, Any], within: tuple[str, ...]) -> str:
        """A whole number, between bounds if there are any."""
        only(said, "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        words = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        return between(*(said.get(word) for word in words))

    def string(self, said: dict[str, Any], within: tuple[str, ...]) -> str:
        """A string: of some length, of a known format, or of a pattern that needs no escapes."""
        if "format" in said:
            only(said, "format")
            if said["format"] not in FORMATS:
                raise Irregular(f"the format {said['format']}")
            return f'"{FORMATS[said["format"]]}"'
        if "pattern" in said:
            only(said, "pattern")
            return f'"(?:{plain(said["pattern"])})"'
        only(said, "minLength", "maxLength")
        return f'"{LETTER}{times(said.get("minLength", 0), said.get("maxLength"))}"'

    def array(self, said: dict[str, Any], within: tuple[str, ...]) -> str:
        """Values of one schema."""
        only(said, "items", "minItems", "maxItems")
        least, most = said.get("minItems", 0), said.get("maxItems")
        if most == 0 and least == 0:
            return r"\[\]"
        item = self.value(said.get("items"), within)
        more = times(max(0, least - 1), None if most is None else most - 1)
        inner = f"{item}(?:{COMMA}{item}){more}"
        return rf"\[{inner}\]" if least else rf"\[(?:{inner})?\]"

    def object(self, said: dict[str, Any], within: tuple[str, ...]) -> str:
        """The properties in their order; those that are not required may be left out."""
        only(said, "properties", "required", "additionalProperties")
        properties, required = said.get("properties", {}), set(said.get("required", ()))
        if not properties and said.get("additionalProperties") is not False:
            raise Irregular("an object with any properties")
        if required - properties.keys():
            raise Irregular("required properties that are not described")
        members = [
            (re.escape(json.dumps(name, ensure_ascii=False)) + COLON + self.value(of, within), need)
            for name, of, need in ((n, s, n in required) for n, s in properties.items())
        ]
        return rf"\{{{joined(members)}\}}"


def joined(members: list[tuple[str, bool]]) -> str:
    """Members with commas between them; the second of a pair says whether it must be there."""

    def behind(rest: list[tuple[str, bool]]) -> str:
        return "".join(f"{COMMA}{m}" if need else f"(?:{COMMA}{m})?" for m, need in rest)

    firsts = []
    for i, (member, need) in enumerate(members):
        firsts.append(member + behind(members[i + 1 :]))
        if need:
            return either(firsts)
    return f"(?:{'|'.join(firsts)})?" if firsts else ""


def plain(pattern: str) -> str:
    """The regex of a pattern from end to end that meets no letter which JSON escapes."""
    bare = unanchored(pattern)
    if not (pattern.startswith("^") and pattern.endswith("$")) or len(bare) != len(pattern) - 2:
        raise Irregular("a pattern that may match anywhere in a string")
    table = letters(bare).table
    if table[:, [*range(32), ord('"'), ord("\\")]].any():
        raise Irregular("a pattern of letters that JSON escapes")
    return bare


def times(least: int, most: int | None) -> str:
    """How often, in a regex."""
    if most is None:
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    if most < least:
        raise BadInput(f"the schema wants at least {least} and at most {most}")
    return f"{{{least},{most}}}"


def either(parts: list[str]) -> str:
    """Any of them."""
    if not parts:
        raise BadInput("the schema has an empty choice")
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def only(said: dict[str, Any], *known: str) -> None:
    """Irregular if there is any other rule."""
    if more := sorted(said.keys() - set(known)):
        raise Irregular(more[0])


def is_a(value: Any, kind: str) -> bool:
    """Whether a value is of a type, as JSON schemas count."""
    if isinstance(value, bool):
        return kind == "boolean"
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    checks: dict[str, Callable[[], bool]] = {
        "null": lambda: value is None,
        "boolean": lambda: False,
        "integer": lambda: whole,
        "number": lambda: isinstance(value, int | float),
        "string": lambda: isinstance(value, str),
        "array": lambda: isinstance(value, list),
        "object": lambda: isinstance(value, dict),
    }
    return checks[kind]()


def expression(schema: Any) -> str:
    """The regex of a schema. Irregular where there is none, BadInput where it makes no sense."""
    return Translation(schema).value(schema)
