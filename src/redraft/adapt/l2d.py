"""A frozen network with a diffusion path, seen as a denoiser, and on a base that has a name.

What it says at l is about token l: everything stands one place right, behind `bos_id`.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from redraft.adapt.base import Load, standing
from redraft.adapt.lora import Origin, fingerprint
from redraft.adapt.shift import Lagging
from redraft.cache.store import Dense
from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.l2d import TwoPaths
from redraft.model.llama import Llama, LlamaConfig
from redraft.model.path import Noisy
from redraft.model.path_layer import PathConfig
from redraft.types import Features, Time, Tokens


class L2D(Lagging):
    """Two paths (`model.l2d`). Without a noisy vector it is the frozen network, bit for bit."""

    def __init__(self, model: TwoPaths, bos_id: int, spare: bool = False, origin: str = ""):
        super().__init__(model, bos_id, spare)
        self.name = origin

    @property
    def origin(self) -> Origin:
        """The base that the path is made for."""
        return Origin(self.name, fingerprint(self.base_weights()))

    def base_weights(self) -> dict[str, Tensor]:
        """The frozen weights, by the names of the network without a path."""
        return dict(self.model.model.named_parameters())

    def saved_parameters(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the path, and the frozen network where that has no name."""
        every = self.named_parameters()
        return {n: p for n, p in every if not self.name or n.startswith("model.path.")}

    @property
    def config(self) -> "L2DConfig":
        """Everything needed to build it again."""
        path = self.model.path_config
        parts = (self.model.config, self.bos_id, path, self.spare, self.name or None)
        return L2DConfig(*parts, self.origin.fingerprint if self.name else "")

    def behind(self, first: int) -> "L2D":
        """The same where every text begins behind another token."""
        return L2D(self.model, first, self.spare, self.name)

    @property
    def noise(self) -> float:
        """Standard deviation of a vector that is nothing but noise."""
        return self.model.vectors.noise

    def vector(self, x: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """The vectors of tokens."""
        return self.model.vector(self.known(x))

    def remember(
        self, x: Tokens, *, mask: Mask, at: Tokens | None = None
    ) -> tuple[Features, Dense]:
        """The frozen network over whole rows: its last states, and what the path reads."""
        store = Dense()
        h = self.model.remember(self.shifted(x), mask=mask, at=at, kv=store)
        store.commit(x.shape[1])
        return h, store

    def read(self, x: Tokens, *, mask: Mask, at: Tokens | None = None, kv: Any) -> Features:
        """The frozen network's last states at tokens as they stand; row i speaks of i + 1."""
        return self.model.remember(self.known(x), mask=mask, at=at, kv=kv)

    def alone(self, h: Features) -> Features:
        """Features of such states without the path."""
        return self.model.model.norm(h)

    @property
    def silent(self) -> bool:
        """Whether the path says nothing where all is noise."""
        return self.model.path_config.silent

    def beside(self, h: Features, kv: Any, z: Noisy, t: Time, *, mask: Mask, **more) -> Features:
        """Features of both paths; z at l is a noisy vector of the token at l."""
        return self.model.beside(h, kv, z, t, mask=mask, **more)


@dataclass(frozen=True)
class L2DConfig:
    """A frozen network and the path beside it."""

    inner: LlamaConfig
    bos_id: int  # what a text without a beginning begins with
    path: PathConfig = PathConfig()
    spare: bool = False  # one id more than the network has, for [MASK], which is never said
    base: str | None = None  # name or path of the frozen network; None: fresh weights
    fingerprint: str = ""  # of the base

    @property
    def vocab_size(self) -> int:
        """That of the network, and the spare one."""
        return self.inner.vocab_size + self.spare

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.inner.max_len

    @property
    def classes(self) -> int | None:
        """Of texts, that the path may be told."""
        return self.path.classes or None

    def build(self) -> L2D:
        """Beside a network with fresh weights."""
        return self.around(self.inner.build())

    def around(self, network: nn.Module) -> L2D:
        """Beside a network that is there; it is frozen."""
        if not isinstance(network, Llama):
            raise BadInput(f"L2D goes beside a decoder, not {type(network).__name__}")
        return L2D(TwoPaths(network, self.path), self.bos_id, self.spare, self.base or "")

    def on_base(self, load: Load) -> L2D:
        """Beside the base that is named. Raises BadInput if that is not what it was."""
        if self.base is None:
            return self.build()
        return self.around(standing(self.base, self.inner, self.fingerprint, load))


TINY = PathConfig(entry_width=8, clock_waves=8, clock_width=8)
EXAMPLES = (L2DConfig(LlamaConfig(19, 32, 2, 4, 2, 48, 16), 3, TINY, spare=True),)
