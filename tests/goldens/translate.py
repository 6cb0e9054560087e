"""Who recomputes a case: by the project that computed it, its kind, and its outputs."""

from importlib import import_module

from tests.goldens.architectures import architecture
from tests.goldens.case import NOT_BUILT, Case, NotOffered

# (kind, the beginning of the reference): module and function
BY_PROJECT = {
    ("losses", "kuleshov-group/mdlm"): ("masked", "loss"),
    ("losses", "kuleshov-group/bd3lms"): ("block", "loss"),
    ("losses", "kuleshov-group/discrete-diffusion-guidance"): ("uniform", "loss"),
    ("losses", "louaaron/Score-Entropy"): ("sedd", "loss"),
    ("losses", "dvruette/gidd"): ("gidd", "loss"),
    ("losses", "ZHZisZZ/dllm"): ("trainers", "dllm"),
    ("losses", "SakanaAI/L2D"): ("l2d", "loss"),
    ("losses", "HKUNLP/DiffuLLaMA"): ("trainers", "diffullama"),
    ("losses", "cloneofsimo/d3pm"): ("steps", "hybrid"),
    ("losses", "Hzfinfdu/Diffusion-BERT"): ("steps", "absorbed"),
    ("samplers", "ML-GSAI/LLaDA"): ("llada", "generate"),
    ("samplers", "NVlabs/Fast-dLLM llada"): ("llada", "fast"),
    ("samplers", "NVlabs/Fast-dLLM dream"): ("dream", "fast"),
    ("samplers", "ZHZisZZ/dllm core/samplers/mdlm"): ("llada", "dllm"),
    ("samplers", "ZHZisZZ/dllm pipelines/dream"): ("dream", "generate"),
    ("samplers", "ZHZisZZ/dllm core/samplers/bd3lm"): ("hybrid", "dllm"),
    ("samplers", "ZHZisZZ/dllm modeling_llada2_moe"): ("hybrid", "llada2"),
    ("samplers", "NVIDIA Fast-dLLM v2"): ("hybrid", "fast"),
    ("samplers", "HKUNLP/DiffuLLaMA"): ("dream", "diffullama"),
    ("samplers", "kuleshov-group/mdlm"): ("ancestral", "masked"),
    ("samplers", "kuleshov-group/bd3lms"): ("strides", "sampler"),
    ("samplers", "kuleshov-group/discrete-diffusion-guidance"): ("ancestral", "guided"),
    ("samplers", "louaaron/Score-Entropy"): ("sedd", "sampler"),
    ("samplers", "dvruette/gidd"): ("ancestral", "hybrid"),
    ("samplers", "SakanaAI/L2D"): ("l2d", "sampler"),
    ("samplers", "kuleshov-group/remdm"): ("remask", "sampler"),
    ("samplers", "ZHZisZZ/dllm modeling_llada21_moe"): ("edit", "generate"),
}


def recompute(case: Case) -> dict:
    """The outputs of a case by name. Raises NotOffered where redraft has nothing to compare."""
    kind, project = case.of["kind"], case.of.get("reference", "")
    if kind == "architecture":
        return architecture(case)
    for (of, start), (module, function) in BY_PROJECT.items():
        if of == kind and project.startswith(start):
            try:
                return getattr(import_module(f"tests.goldens.{module}"), function)(case)
            except ImportError as error:
                if not (error.name or "").startswith("redraft."):
                    raise
                raise NotOffered(f"{NOT_BUILT}: {error.name}") from None
    raise NotOffered(f"{NOT_BUILT}: {kind} of {project.split(' ')[0] or 'an unnamed project'}")
