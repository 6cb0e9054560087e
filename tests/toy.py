"""A world small enough to enumerate: three letters, the mask between them, words of three."""

import torch
from torch.nn.functional import one_hot

from redraft.types import Rng

V, MASK, L = 4, 1, 3
LETTERS = torch.tensor([0, 2, 3])
WORDS = torch.cartesian_prod(LETTERS, LETTERS, LETTERS)
P = torch.rand(27, generator=torch.Generator().manual_seed(4), dtype=torch.float64) ** 3
P[::5] = 0
P /= P.sum()
ENTROPY = torch.special.entr(P).sum().item()
PATTERNS = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)  # which letters are masked


def conditional(xt):
    """p(x0 at every position | the letters of xt that are no mask)."""
    possible = ((WORDS == xt[:, None]) | (xt == MASK)[:, None]).all(-1)
    joint = torch.einsum("bw,wlv->blv", possible * P, one_hot(WORDS, V).double())
    return joint / joint.sum(-1, keepdim=True)


class Exact:
    """The perfect denoiser. Its features are its logits; its head does nothing."""

    timed = False

    def features(self, x, t, *, mask):
        return conditional(x).log()

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def __call__(self, x, t, *, mask):
        return self.head(self.features(x, t, mask=mask))


class Table(Exact):
    """An imperfect denoiser: any logits for every canvas."""

    logits = torch.randn(V**L, L, V, generator=torch.Generator().manual_seed(0))

    def features(self, x, t, *, mask):
        return self.logits[(x * V ** torch.arange(L)).sum(-1)]


class Given(Rng):
    """A source that says what it was told to say, purpose by purpose."""

    def __init__(self, purpose="", **uniforms):
        self.purpose, self.uniforms = purpose, uniforms

    def fold(self, value):
        return Given(value, **self.uniforms)

    def uniform(self, like):
        return self.uniforms[self.purpose].expand(like.shape)
