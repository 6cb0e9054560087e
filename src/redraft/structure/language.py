"""What a user asks of a text, for one model: how long it may be, and a sampler that keeps to it."""

from dataclasses import dataclass
from typing import Any

from redraft.data.spelling import spelling
from redraft.data.tokenizer import Tokenizer
from redraft.errors import BadInput
from redraft.sample.automaton import Automaton
from redraft.sample.constrain import Constrained
from redraft.sample.guide import Judged, Tempered
from redraft.sample.lossless import Lossless
from redraft.sample.solver import Solver
from redraft.sample.steer import Shift
from redraft.structure.letters import letters
from redraft.structure.tokens import Vocabulary


@dataclass(frozen=True, eq=False)
class Regular:
    """A regular language: exact, in any order of positions."""

    automaton: Automaton

    def length(self, asked: int | None, room: int) -> int | None:
        """The tokens to write: no more than the longest match takes, unless one says."""
        longest = self.automaton.longest() if asked is None else None
        return asked if longest is None else max(1, min(longest, room))

    def hold(self, sampler: Any, whole: bool = False) -> Constrained:
        """The sampler, held to the language in every gap or, `whole`, in all of the text."""
        return Constrained(held(sampler), self.automaton, whole)


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


def by_schema(model: Any, path: Any) -> Any:
    """JSON of a schema."""
    raise BadInput(f"{path}: schemas are not supported yet; give a --regex")


def by_grammar(model: Any, path: Any) -> Any:
    """Texts of a grammar."""
    raise BadInput(f"{path}: grammars are not supported yet; give a --regex")
