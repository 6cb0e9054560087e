"""Exact inference in a product of beliefs restricted to a regular language of token sequences.

The likeliest sequence (Viterbi; DINGO, Suresh et al. 2025), an exact draw (backward filtering,
forward sampling) and the law of every token, where some positions are already decided.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.sample.unmask import Draw

LEAST = -1e9  # what the language allows stays possible, whatever the network says


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over kinds of tokens. State 0 is dead; in 1 a match begins.

    In the last state the text is over. The last kind is the end token's, which alone leads there.
    """

    table: Int[Tensor, "S K"]
    kind: Int[Tensor, " V"]  # tokens of kind 0 are never allowed
    final: Bool[Tensor, " S"]
    opening: int = 1  # where a match begins that the text begins with
    known: dict[bool, list[Bool[Tensor, " S"]]] = field(default_factory=dict)

    @cached_property
    def edges(self) -> Int[Tensor, "3 E"]:
        """State, kind, and the state that follows: all that does not lead to death."""
        source, kind = self.table.nonzero(as_tuple=True)
        return torch.stack([source, kind, self.table[source, kind]])

    def run(self, tokens: Int[Tensor, " n"], state: int) -> int:
        """Where some tokens lead."""
        for kind in self.kind[tokens].tolist():
            state = int(self.table[state, kind])
        return state

    def live(self, n: int, may_end: bool) -> Bool[Tensor, " S"]:
        """From which states exactly n more tokens can make a match, the end token or none."""
        source, _, target = self.edges
        over = len(self.final) - 1
        if not may_end:
            source, target = source[target != over], target[target != over]
        if may_end not in self.known:
            final = self.final.clone()
            final[over] = may_end
            self.known[may_end] = [final]
        known = self.known[may_end]
        while len(known) <= n:
            follows = torch.zeros_like(self.final)
            follows[source[known[-1][target]]] = True
            known.append(follows)
        return known[n]

    def nearest(self, n: int, state: int, may_end: bool) -> int | None:
        """The number of tokens nearest to n that some match takes, if one is not far off."""
        for away in range(max(n, len(self.final)) + 1):
            for m in (n - away, n + away):
                if m >= 0 and bool(self.live(m, may_end)[state]):
                    return m
        return None

    def longest(self) -> int | None:
        """The most tokens that a match takes, or None if there is no most."""
        lengths = [n for n in range(len(self.final) + 1) if bool(self.live(n, False)[1])]
        return None if not lengths or lengths[-1] == len(self.final) else lengths[-1]


@dataclass(frozen=True, eq=False)
class Stretch:
    """N rows of at most n positions, each of which is to become a match."""

    automaton: Automaton
    fixed: Int[Tensor, "N n"]  # what is decided, or -1
    real: Bool[Tensor, "N n"]  # the others are padding behind a row
    first: Int[Tensor, " N"]  # the state in front of it
    behind: Int[Tensor, " N"]  # positions that follow, of which nothing is known yet
    may_end: Bool[Tensor, " N"]  # whether the end token may be written

    def rows(self, which: Bool[Tensor, " N"] | slice) -> "Stretch":
        """Some of the rows."""
        parts = (self.fixed, self.real, self.first, self.behind, self.may_end)
        return Stretch(self.automaton, *(part[which] for part in parts))

    def belief(self, logp: Float[Tensor, "N n V"]) -> Float[Tensor, "N n V"]:
        """Log-probabilities none of which is too small to add."""
        return logp.double().clamp(min=LEAST)

    def weights(self, logp: Float[Tensor, "N n V"], most: bool) -> Float[Tensor, "N n K"]:
        """What a kind weighs at a position: its likeliest token, or all of them together."""
        every = self.automaton.kind.expand(logp.shape)
        none = logp.new_full((*logp.shape[:-1], self.automaton.table.shape[1]), -torch.inf)
        peak = none.scatter_reduce(-1, every, logp, "amax")
        if not most:
            mass = (logp - peak.gather(-1, every)).exp()
            peak = peak.clamp(min=LEAST) + none.exp().scatter_add(-1, every, mass).log()
        return self.restricted(peak)

    def restricted(self, weights: Float[Tensor, "N n K"]) -> Float[Tensor, "N n K"]:
        """Nothing but what is decided, where something is."""
        only = self.automaton.kind[self.fixed.clamp(min=0)][..., None]
        decided = torch.full_like(weights, -torch.inf).scatter(-1, only, 0.0)
        return torch.where((self.fixed >= 0)[..., None], decided, weights)

    def backward(self, weights: Float[Tensor, "N n K"], most: bool) -> list[Float[Tensor, "N S"]]:
        """Before every position, by state: the weight of all that may follow."""
        source, kind, target = self.automaton.edges
        pairs = zip(self.behind.tolist(), self.may_end.tolist(), strict=True)
        last = torch.stack([self.automaton.live(n, may_end) for n, may_end in pairs])
        beta = weights.new_zeros(last.shape).masked_fill(~last, -torch.inf)
        found = [beta]
        for i in reversed(range(weights.shape[1])):
            ways = weights[:, i, kind] + beta[:, target]
            beta = torch.where(self.real[:, i, None], gathered(ways, source, beta, most), beta)
            found.append(beta)
        return found[::-1]

    def forward(self, weights: Float[Tensor, "N n K"]) -> list[Float[Tensor, "N S"]]:
        """Before every position, by state: the weight of all that may stand in front."""
        source, kind, target = self.automaton.edges
        none = weights.new_full((len(weights), len(self.automaton.final)), -torch.inf)
        alpha = none.scatter(1, self.first[:, None], 0.0)
        found = [alpha]
        for i in range(weights.shape[1] - 1):
            ways = alpha[:, source] + weights[:, i, kind]
            alpha = torch.where(self.real[:, i, None], gathered(ways, target, alpha, False), alpha)
            found.append(alpha)
        return found

    @cached_property
    def possible(self) -> Bool[Tensor, " N"]:
        """Which rows can become a match."""
        free = torch.zeros(*self.fixed.shape, self.automaton.table.shape[1], dtype=torch.float64)
        whole = self.backward(self.restricted(free.to(self.fixed.device)), True)[0]
        return whole.gather(1, self.first[:, None])[:, 0] > -torch.inf

    def law(self, logp: Float[Tensor, "N n V"]) -> Float[Tensor, "N n V"]:
        """log p(token | the row is a match) at every position that is not decided."""
        belief = self.belief(logp)
        weights = self.weights(belief, False)
        beta, alpha = self.backward(weights, False), self.forward(weights)
        source, kind, target = self.automaton.edges
        whole = beta[0].gather(1, self.first[:, None])
        allowed = []
        for i in range(weights.shape[1]):
            ways = alpha[i][:, source] + beta[i + 1][:, target]
            allowed.append(gathered(ways, kind, weights[:, i], False) - whole)
        found = torch.stack(allowed, 1)
        free = (self.real & (self.fixed < 0))[..., None]
        return torch.where(free, belief + found[..., self.automaton.kind], logp.double())

    def forced(self, law: Float[Tensor, "N n V"]) -> Int[Tensor, "N n"]:
        """The token of every position where only one is possible, else -1."""
        alone = (law > -torch.inf).sum(-1) == 1
        free = self.real & (self.fixed < 0)
        return law.argmax(-1).masked_fill(~(alone & free), -1)

    def drawn(
        self, logp: Float[Tensor, "N n V"], draw: Draw, u: Float[Tensor, "N n"]
    ) -> Int[Tensor, "N n"]:
        """The likeliest match at temperature 0, else one by its probability among the matches.

        `draw` narrows what is drawn from, position by position, to the likely.
        """
        most, table, kind = draw.temperature == 0, self.automaton.table, self.automaton.kind
        belief = self.belief(logp) if most else self.belief(logp) / draw.temperature
        beta = self.backward(self.weights(belief, most), most)
        chosen, state = self.fixed.clone(), self.first
        for i in range(self.fixed.shape[1]):
            ahead = beta[i + 1].gather(1, table[state])
            ahead = ahead - ahead.amax(-1, keepdim=True)
            one = replace(draw, temperature=0.0 if most else 1.0)
            token = one.at(belief[:, i] + ahead[:, kind], u[:, i])
            free = self.real[:, i] & (self.fixed[:, i] < 0)
            chosen[:, i] = torch.where(free, token, self.fixed[:, i])
            after = table[state, kind[chosen[:, i].clamp(min=0)]]
            state = torch.where(self.real[:, i], after, state)
        return chosen


def gathered(
    ways: Float[Tensor, "N E"], index: Int[Tensor, " E"], like: Float[Tensor, "N S"], most: bool
) -> Float[Tensor, "N S"]:
    """The best of the ways that have the same index, or the log of their sum."""
    index = index.expand(ways.shape)
    best = torch.full_like(like, -torch.inf).scatter_reduce(1, index, ways, "amax")
    if most:
        return best
    best = best.where(best > -torch.inf, 0.0)
    mass = (ways - best.gather(1, index)).exp()
    return best + torch.zeros_like(like).scatter_add(1, index, mass).log()
