"""A trained model that writes towards a class: told by its own labels, or by a classifier."""

from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.condition import Labelled
from redraft.errors import BadInput
from redraft.mask import Documents
from redraft.objective.classify import Classify, ClassifyVectors
from redraft.objective.conditional import Conditional
from redraft.pretrained import Pretrained
from redraft.process.gaussian import Gaussian
from redraft.process.reading import X0
from redraft.sample.guide import Judged, Mixed, Tempered
from redraft.sample.predict import Predict, Sampler, bind
from redraft.sample.rules import DDPM
from redraft.sample.solver import Solver
from redraft.sample.steer import Shift
from redraft.types import Denoiser, Features, Time, Tokens


@dataclass(frozen=True, eq=False)
class Told(Pretrained):
    """Classifier-free guidance: gamma 0 is not told, 1 is told, above is told loudly."""

    label: int
    gamma: float

    @property
    def own_steps(self) -> bool:
        """Whether it cannot use just any sampler."""
        return not self.process.absorbing

    def predict(self, sampler: Sampler) -> Predict:
        """Both beliefs for a sampler that reads two; else they are blended before it."""
        if getattr(sampler, "ratios", False):
            raise BadInput("guidance blends beliefs about x0; this sampler reads jump rates")
        model = cast(Denoiser, Labelled(self.network, self.label))
        told = bind(model, self.process, self.mask)
        form = sampler if isinstance(sampler, Tempered) else Mixed(self.gamma)
        return form.between(told, super().predict(sampler))

    def sampler(self, tokens: int) -> Sampler:
        """For masks the usual one; else steps from the tempered law."""
        if not self.own_steps:
            return super().sampler(tokens)
        return Tempered(self.process, max(1, tokens), self.gamma)


@dataclass(frozen=True, eq=False)
class Checked(Pretrained):
    """Classifier guidance, first order."""

    classifier: Any
    label: int
    gamma: float
    own_steps = True

    def predict(self, sampler: Sampler) -> Predict:
        """The belief, and what the classifier thinks of every change."""
        if not isinstance(sampler, Judged):
            raise BadInput("a classifier guides ancestral steps alone: use sample.guide.Judged")
        belief = super().predict(sampler)
        return sampler.between(belief, self.classifier, self.label, self.mask)

    def sampler(self, tokens: int) -> Sampler:
        """Ancestral steps, weighed by the classifier."""
        return Judged(self.process, max(1, tokens), self.gamma)


@dataclass(frozen=True, eq=False)
class Steered(Pretrained):
    """Vectors shifted by a classifier of noisy ones; gamma weighs its word."""

    classifier: Any
    label: int
    gamma: float

    def steered(self, solver: Solver) -> Sampler:
        """A solver whose steps climb towards the class."""
        if not self.gamma:
            return solver
        return Shift(solver, self.judged, self.gamma)

    def judged(self, z: Features, t: Time, doc: Tokens) -> Float[Tensor, " B"]:
        """log p(label | z)."""
        h = self.process.features(self.classifier, z, t, self.mask & Documents(doc))
        return self.classifier.verdicts(h, doc >= 0).log_softmax(-1)[:, self.label]

    def sampler(self, tokens: int) -> Sampler:
        """Ancestral steps, as the method's authors have them."""
        return self.steered(Solver(self.process, DDPM(), 64))


def guided(
    model: Pretrained,
    label: int | None = None,
    guidance: float | None = None,
    judge: Pretrained | None = None,
) -> Pretrained:
    """The model that writes towards a class. Raises BadInput for what does not go together."""
    if isinstance(model.trained, Classify | ClassifyVectors):
        raise BadInput(f"{model.path}: a classifier judges texts, it writes none")
    if label is None and judge is None:
        if guidance is not None:
            raise BadInput("--guidance needs a --label or a --classifier to guide towards")
        return model
    gamma = 1.0 if guidance is None else guidance
    same = {field.name: getattr(model, field.name) for field in fields(Pretrained)}
    if judge is not None:
        fits(model, judge)
        label = known(1 if label is None else label, judge)
        if isinstance(judge.trained, ClassifyVectors):
            return Steered(**same, classifier=judge.model, label=label, gamma=gamma)
        return Checked(**same, classifier=judge.model, label=label, gamma=gamma)
    if not isinstance(model.trained, Conditional):
        raise BadInput(
            f"{model.path}: this model knows no classes; train `conditional`, or give --classifier"
        )
    return Told(**same, label=known(cast(int, label), model), gamma=gamma)


def known(label: int, model: Pretrained) -> int:
    """The label, if there is such a class."""
    classes = cast(Any, model.trained).attribute.classes
    if not 0 <= label < classes:
        raise BadInput(f"--label {label}: {model.path} knows the classes 0 to {classes - 1}")
    return label


def fits(model: Pretrained, judge: Pretrained) -> None:
    """BadInput unless the one can guide the other."""
    if not isinstance(judge.trained, Classify | ClassifyVectors):
        raise BadInput(f"{judge.path}: no classifier; train one with `redraft train classifier`")
    if model.causal:
        raise BadInput(f"{model.path}: an autoregressive model cannot be guided by a classifier")
    if judge.tokenizer.inner.to_str() != model.tokenizer.inner.to_str():
        raise BadInput(f"{judge.path} has another tokenizer than {model.path}")
    if not same_noise(model.process, judge.process):
        raise BadInput(f"{judge.path} was trained on another noise than {model.path}")
    if judge.length < model.length:
        raise BadInput(f"{judge.path} reads {judge.length} tokens, the model writes {model.length}")


def same_noise(one: Any, two: Any) -> bool:
    """Whether two processes corrupt alike: for vectors, the same ones on the same path."""
    vectors = [isinstance(each, Gaussian) for each in (one, two)]
    if all(vectors):
        tables = [each.codebook.vectors(None) for each in (one, two)]
        alike = tables[0].shape == tables[1].shape and torch.allclose(*tables, atol=1e-5)
        return alike and one.path == two.path
    return not any(vectors) and replace(one, reading=X0()) == replace(two, reading=X0())
