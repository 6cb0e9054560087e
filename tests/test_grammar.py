"""JSON schemas and context-free grammars: whatever is written is valid, by judges written here."""

import json
import math
import random
import re

import pytest
import torch

from redraft.data.tokenizer import Bpe
from redraft.errors import BadInput
from redraft.process.mixing import Mixing
from redraft.sample import order
from redraft.sample.constrain import Constrained
from redraft.sample.pick import Steps, Threshold, TopK
from redraft.sample.predict import blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.structure.language import by_grammar, by_schema
from redraft.structure.letters import letters
from redraft.structure.schema import Irregular, expression
from redraft.structure.whole import between
from redraft.types import Rng

BPE = Bpe(360).build(
    iter(['{"name": "Ada", "born": 1815, "tags": ["x"]}, true, null, (1 + 2)\n' * 20])
)
V, MASK, END = BPE.vocab_size, BPE.mask_id, BPE.eos_id
NOISE = torch.randn(V, 90, V, generator=torch.Generator().manual_seed(1)) * 3
PROCESS = Mixing(V, MASK)


class Model:
    tokenizer, process = BPE, PROCESS


def world(canvas, t=None):
    around = NOISE[canvas.tokens, torch.arange(canvas.tokens.shape[1])]
    return PROCESS.log_x0(around + around.roll(1, 1))


def texts(language, n, sampler, seeds=(0, 1), given=()):
    rows = [[*given, *[None] * n] for _ in seeds]
    held = language.hold(sampler)
    canvas = blank(rows, MASK, END)
    held.checked(canvas)
    *_, last = generate(world, canvas, held, Rng.seeds(*seeds))
    for row in last.tokens[:, len(given) :].tolist():
        ids = row[: row.index(END)] if END in row else row
        assert set(row[len(ids) :]) <= {END} and MASK not in ids
        yield BPE.decode(ids)


def valid(value, schema, root=None) -> bool:
    """Whether a value is of a schema: the keywords that these tests use, and no others."""
    root = schema if root is None else root
    if "$ref" in schema:
        assert schema["$ref"] in ("#", "#/$defs/node")
        return valid(value, root if schema["$ref"] == "#" else root["$defs"]["node"], root)
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "anyOf" in schema:
        return any(valid(value, part, root) for part in schema["anyOf"])
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return not kinds or any(is_a(value, kind, schema, root) for kind in kinds)


def is_a(value, kind, schema, root):
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        right = int if kind == "integer" else (int, float)
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        return isinstance(value, right) and value is not True and low <= value <= high
    if kind == "string":
        return (
            isinstance(value, str)
            and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 999)
            and bool(re.search(schema.get("pattern", ""), value))
        )
    if kind == "array":
        return (
            isinstance(value, list)
            and schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 999)
            and all(valid(item, schema.get("items", {}), root) for item in value)
        )
    assert kind == "object"
    return (
        isinstance(value, dict)
        and set(schema.get("required", ())) <= value.keys()
        and (
            schema.get("additionalProperties", True) or value.keys() <= schema["properties"].keys()
        )
        and all(valid(v, schema.get("properties", {}).get(k, {}), root) for k, v in value.items())
    )


def some_schema(dice, depth=2):
    kinds = ["null", "boolean", "integer", "number", "string", "enum", "pattern", "const"]
    kind = dice.choice(kinds + ["array", "object", "object", "any"] * 2 if depth else kinds)
    if kind in ("null", "boolean", "number"):
        return {"type": kind}
    if kind == "integer":
        low = dice.choice([None, -12, 0, 7, 95])
        words = {"minimum": low, "maximum": None if low is None else low + dice.choice([0, 3, 200])}
        return {"type": kind} | {
            k: v for k, v in words.items() if v is not None and dice.random() < 0.7
        }
    if kind == "string":
        low = dice.choice([0, 1, 3])
        return {"type": kind, "minLength": low} | dice.choice(
            [{}, {"maxLength": low + dice.randint(0, 4)}]
        )
    if kind == "enum":
        return {"enum": dice.sample(["yes", 'q"q', 3, 2.5, True, None, [1, "a"], {"k": 0}], 3)}
    if kind == "pattern":
        return {
            "type": "string",
            "pattern": dice.choice(["^[a-c]+$", r"^\d{2}-[xy]?$", "^(on|off)$"]),
        }
    if kind == "const":
        return {"const": dice.choice(["é", {"a": [1, 2]}, -4])}
    if kind == "any":
        return {"anyOf": [some_schema(dice, depth - 1) for _ in range(2)]}
    if kind == "array":
        low = dice.choice([0, 1, 2])
        sizes = dice.choice([{}, {"minItems": low}, {"minItems": low, "maxItems": low + 1}])
        return {"type": kind, "items": some_schema(dice, depth - 1)} | sizes
    names = dice.sample(["name", "born", "a", 'o"o'], dice.randint(1, 3))
    found = {"type": kind, "properties": {name: some_schema(dice, depth - 1) for name in names}}
    found["required"] = [name for name in names if dice.random() < 0.5]
    return found | dice.choice([{}, {"additionalProperties": False}])


SAMPLERS = (
    Unmask(order.confidence, Threshold(0.9), Draw(0.0)),
    Unmask(order.margin, Steps(4), Draw(1.0)),
    Unmask(order.random, Steps(6), Draw(0.9, top_p=0.9)),
    Unmask(order.leftmost, TopK(2), Draw(1.0, top_k=9)),
)


def written(path, what):
    path.write_text(what if isinstance(what, str) else json.dumps(what), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 12))]
)
def test_random_schemas_are_kept_to(part, tmp_path):
    dice, met = random.Random(part), 0
    for case in range(12 if part else 3):
        schema = some_schema(dice)
        language = by_schema(Model, written(tmp_path / "s.json", schema))
        try:
            for text in texts(language, 40, SAMPLERS[case % 4], (case, case + 1)):
                assert valid(json.loads(text), schema), (schema, text)
                met += 1
        except BadInput as error:
            assert "takes at most 40 tokens" in str(error), (schema, error)
    assert met > (12 if part else 1)


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        },
        {
            "$ref": "#/$defs/node",
            "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        },
        {"type": "object"},
        {"type": "number", "minimum": 2.5, "maximum": 8},
        {"type": "string", "pattern": "b+"},
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS[1:3])
def test_schemas_that_are_not_regular_are_kept_to_from_left_to_right(schema, sampler, tmp_path):
    with pytest.raises(Irregular):
        expression(schema)
    language = by_schema(Model, written(tmp_path / "s.json", schema))
    for n in (12, 24):
        for text in texts(language, n, sampler, (3, 4)):
            assert valid(json.loads(text), schema), text


SUM = 'start: term ("+" term)*\nterm: /[0-9]+/ | "(" start ")"\n'


def balanced(text):
    return bool(re.fullmatch(r"[0-9+()]+", text)) and bool(
        eval(re.sub(r"\b0+(?=\d)", "", text)) >= 0
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("n", [1, 2, 5, 24])
def test_sums_in_brackets_are_closed_in_time(sampler, n, tmp_path):
    language = by_grammar(Model, written(tmp_path / "g.lark", SUM))
    found = [*texts(language, n, sampler, range(4)), *texts(language, n, sampler, (5, 6), (9, 8))]
    assert all(balanced(text) for text in found), found


def test_a_bracket_is_not_opened_that_cannot_be_closed(tmp_path):
    """A world that wants nothing but brackets; without the ways to the end it would never close."""
    language = by_grammar(Model, written(tmp_path / "g.lark", SUM))
    one = BPE.encode("(")[0]
    logp = torch.full((1, 9, V), -9.0).index_fill(2, torch.tensor([one]), 0.0).log_softmax(-1)
    held = language.hold(Unmask(order.leftmost, TopK(1), Draw(0.0)))
    *_, last = generate(lambda c, t: logp, blank([[None] * 9], MASK, END), held, Rng.seeds(0))
    text = BPE.decode([i for i in last.tokens[0].tolist() if i != END])
    assert text.startswith("((((") and balanced(text)


def test_the_order_of_other_samplers_is_kept_where_a_schema_is_regular(tmp_path):
    language = by_schema(Model, written(tmp_path / "s.json", {"type": "boolean"}))
    assert isinstance(language.hold(SAMPLERS[0]), Constrained)


def test_whole_numbers_between_bounds_are_counted():
    dice = random.Random(4)
    for _ in range(60):
        low = dice.choice([None, dice.randint(-130, 130)])
        high = dice.choice([None, (low or 0) + dice.randint(0, 260)])
        found = letters(between(low, high))
        for n in range(-400, 401):
            inside = (low is None or low <= n) and (high is None or n <= high)
            assert found.accepts(str(n).encode()) is inside, (low, high, n)
        assert not found.accepts(b"-0") and not found.accepts(b"007") and not found.accepts(b"")
    assert letters(between(None, None)).accepts(b"-123456789")
    assert letters(between(0.5, None, None, 3)).accepts(b"2")
    assert not letters(between(0.5, None, None, 3)).accepts(b"3")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "minLength": 3, "maxLength": 2}, "at least 3 and at most 2"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "leave none"),
        ({"type": "strange"}, "no type 'strange'"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        ({"enum": [1], "type": "string"}, "no value"),
        ([1], "a JSON object"),
        ({"not": {"type": "string"}}, "not"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_one_line(schema, said, tmp_path):
    with pytest.raises(BadInput, match=re.escape(said)) as error:
        by_schema(Model, written(tmp_path / "s.json", schema))
    assert "\n" not in str(error.value) and "s.json" in str(error.value)


def test_a_grammar_that_cannot_be_kept_to_is_one_line(tmp_path):
    with pytest.raises(BadInput, match=r"g\.lark") as error:
        by_grammar(Model, written(tmp_path / "g.lark", "start: ("))
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match=r"no such file|not readable"):
        by_grammar(Model, tmp_path / "none.lark")
    language = by_grammar(Model, written(tmp_path / "g.lark", 'start: "abcdefghij"'))
    with pytest.raises(BadInput, match="at most 3 tokens"):
        language.hold(SAMPLERS[0]).checked(blank([[None] * 3], MASK, END))
    with pytest.raises(BadInput, match="text behind it"):
        language.hold(SAMPLERS[0]).checked(blank([[None] * 3 + [4]], MASK, END))
    with pytest.raises(BadInput, match="left to right"):
        language.hold(SAMPLERS[0], order="margin")
