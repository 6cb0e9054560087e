"""What a user asks of a text, for one model: how long it may be, and a sampler that keeps to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.data.spelling import spelling
from redraft.data.tokenizer import Tokenizer
from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.sample.automaton import Automaton
from redraft.sample.constrain import Constrained
from redraft.sample.guide import Judged, Tempered
from redraft.sample.lossless import Lossless
from redraft.sample.solver import Solver
from redraft.sample.steer import Shift
from redraft.structure.extra import guidance
from redraft.structure.letters import letters
from redraft.structure.parsed import Parsed, parsed
from redraft.structure.parser import Parser
from redraft.structure.schema import Irregular, expression
from redraft.structure.tokens import Vocabulary


@dataclass(frozen=True, eq=False)
class Regular:
    """A regular language: exact, in any order of positions."""

    automaton: Automaton

    def length(self, asked: int | None, room: int) -> int | None:
        """The tokens to write: no more than the longest match takes, unless one says."""
        longest = self.automaton.longest() if asked is None else None
        return asked if longest is None else max(1, min(longest, room))

    def hold(self, sampler: Any, whole: bool = False, order: str | None = None) -> Constrained:
        """The sampler, held to the language in every gap or, `whole`, in all of the text."""
        return Constrained(held(sampler), self.automaton, whole)


@dataclass(frozen=True, eq=False)
class Grammar:
    """A context-free language: from left to right, with a way to the end always at hand."""

    parser: Parser

    def length(self, asked: int | None, room: int) -> int | None:
        """The tokens to write: what was asked for."""
        return asked

    def hold(self, sampler: Any, whole: bool = False, order: str | None = None) -> Parsed:
        """The sampler, held to the grammar in what it writes."""
        if whole:
            raise BadInput("--whole goes with a --regex, or a --schema that is regular")
        return parsed(held(sampler), self.parser, order)


def held(sampler: Any) -> Any:
    """A sampler that can be held to a language. Raises BadInput for the others."""
    if isinstance(sampler, Solver | Shift):
        raise BadInput("a model of vectors cannot be held to a language; one of tokens can")
    if isinstance(sampler, Lossless):
        raise BadInput(
            "drafts that are verified are the network's own text: choose another --order"
        )
    if isinstance(sampler, Judged | Tempered):
        raise BadInput("a model that is guided so cannot be held to a language as well")
    return sampler


def regular(regex: str, tokenizer: Tokenizer, size: int | None = None) -> Automaton:
    """The automaton of a regex over the tokens of a tokenizer; `size`: ids that the network has."""
    spelled, found = spelling(tokenizer), letters(regex)
    vocabulary = Vocabulary(spelled.words, tokenizer.eos_id, size)
    return vocabulary.lifted(found.stripped() if spelled.stripped else found)


def by_regex(model: Any, regex: str) -> Regular:
    """Matches of a regex, from end to end."""
    return Regular(regular(regex, model.tokenizer, model.process.vocab_size))


def by_schema(model: Any, path: Path) -> Regular | Grammar:
    """JSON of a schema: a regular language where it is one, else from left to right."""
    schema = read_json(path)
    try:
        try:
            return by_regex(model, expression(schema))
        except Irregular:
            return by_rules(model, schema_rules(schema), str(path))
    except BadInput as error:
        raise BadInput(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def by_grammar(model: Any, path: Path) -> Grammar:
    """Texts of a context-free grammar in Lark's form."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as a grammar ({error})") from None
    return by_rules(model, guidance().LLMatcher.grammar_from_lark(text), str(path))


def by_rules(model: Any, rules: str, name: str) -> Grammar:
    """Texts of a grammar in the library's form."""
    words, end = spelling(model.tokenizer).words, model.tokenizer.eos_id
    return Grammar(Parser(words, end, model.process.vocab_size, rules, name))


def schema_rules(schema: Any) -> str:
    """A schema as a grammar. BadInput for one that is none."""
    spaces = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if not isinstance(schema, dict | bool):
        raise BadInput("a schema is a JSON object")
    schema = {} if schema is True else schema
    if schema is False:
        raise BadInput("this schema allows nothing")
    return guidance().LLMatcher.grammar_from_json_schema(schema, overrides=spaces)
