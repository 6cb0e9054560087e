"""Who recomputes a case: by the project that computed it, its kind, and its outputs."""

from collections.abc import Callable

from tests.goldens import gidd, masked, sedd, uniform
from tests.goldens.architectures import architecture
from tests.goldens.case import NOT_BUILT, Case, NotOffered

# (kind, the beginning of the reference) -> translator
BY_PROJECT: dict[tuple[str, str], Callable[[Case], dict]] = {
    ("losses", "kuleshov-group/mdlm"): masked.loss,
    ("losses", "louaaron/Score-Entropy"): sedd.loss,
    ("samplers", "louaaron/Score-Entropy"): sedd.sampler,
    ("losses", "dvruette/gidd"): gidd.loss,
    ("losses", "kuleshov-group/discrete-diffusion-guidance"): uniform.loss,
}


def recompute(case: Case) -> dict:
    """The outputs of a case by name. Raises NotOffered where redraft has nothing to compare."""
    kind, project = case.of["kind"], case.of.get("reference", "")
    if kind == "architecture":
        return architecture(case)
    for (of, start), translator in BY_PROJECT.items():
        if of == kind and project.startswith(start):
            return translator(case)
    raise NotOffered(f"{NOT_BUILT}: {kind} of {project.split(' ')[0] or 'an unnamed project'}")
