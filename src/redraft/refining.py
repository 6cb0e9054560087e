"""From the words of a command line to how a token is refined (L2D)."""

from enum import StrEnum

from redraft.errors import BadInput


class Kind(StrEnum):
    """How vectors go from noise to text: all of them at once, or token by token (L2D)."""

    ddpm = "ddpm"
    ddim = "ddim"
    euler = "euler"
    heun = "heun"
    dpm = "dpm"
    sde = "sde"
    midpoint = "midpoint"
    rk4 = "rk4"
    adaptive = "adaptive"


class Guess(StrEnum):
    """Which vector a model that refines tokens (L2D) heads for: the likeliest token's, ..."""

    argmax = "argmax"
    sample = "sample"
    average = "average"


def refining(model, draw, steps: int | None, vectors: dict):
    """How a model refines a token (L2D). An option that would not be read is refused."""
    from redraft.sample import estimate, l2d

    wanted = {name: value for name, value in vectors.items() if value is not None}
    for word in ("clamp", "churn"):
        if word in wanted:
            raise BadInput(f"--{word} is for models of vectors; this one refines tokens (L2D)")
    solver = solver_of(steps, wanted)
    guess = wanted.get("estimate", Guess.argmax)
    if guess is Guess.argmax and "heat" in wanted:
        raise BadInput("--heat is for --estimate sample or average")
    heat = estimate.Constant(0.0) if guess is Guess.argmax else heat_of(wanted.get("heat", "1"))
    how = estimate.Average() if guess is Guess.average else estimate.Sample()
    label = told(model, wanted.get("label"))
    guidance = wanted.get("guidance", 1.0)
    if label is None and guidance != 1:
        raise BadInput("--guidance needs a --label to guide towards")
    return l2d.Refine(steps or 8, solver, how, heat, 0.0, label, guidance, draw)


def told(model, label: int | None) -> int | None:
    """A class, if the model knows it."""
    attribute = getattr(model.trained, "attribute", None)
    if label is None:
        return None
    if attribute is None:
        raise BadInput(f"{model.path}: this model knows no classes; train it with words=...")
    if not 0 <= label < attribute.classes:
        raise BadInput(f"--label {label}: the classes are 0 to {attribute.classes - 1}")
    return label


def heat_of(text: str):
    """A number, or `falling`: 1 - t where t runs from noise to text."""
    from redraft.sample import estimate

    if text == "falling":
        return estimate.Polynomial()
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if found < 0:
        raise BadInput(f"--heat {text}: give a temperature from 0 up, or falling")
    return estimate.Constant(found)


def solver_of(steps: int | None, wanted: dict):
    """How vectors move."""
    from redraft.sample import ode

    kind = wanted.get("solver", Kind.midpoint)
    if kind is Kind.adaptive:
        if steps is not None:
            raise BadInput("--solver adaptive does not go with --steps: it takes what it needs")
        return ode.Adaptive(tolerance=wanted.get("tolerance", ode.Adaptive.tolerance))
    if "tolerance" in wanted:
        raise BadInput("--tolerance is for --solver adaptive")
    if kind not in ode.NAMED:
        names = ", ".join([*ode.NAMED, Kind.adaptive])
        raise BadInput(f"--solver {kind.value} is for models of vectors; here choose {names}")
    return ode.Fixed(ode.NAMED[kind])
