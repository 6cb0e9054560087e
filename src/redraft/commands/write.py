"""`redraft generate` and `redraft infill`: parse, call, print. Heavy imports wait inside."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from redraft.choose import Growth, Kind, Order, growing, options, refuse, solver_of, way_of
from redraft.commands.presets import Block, Cache, Drift, PresetOption, PromptWeight, modes
from redraft.commands.show import Shown, show
from redraft.errors import BadInput
from redraft.refining import Guess

RUNS = Path("runs")
Checkpoint = Annotated[Path, typer.Argument(help="folder of a checkpoint or of a run")]
Num = Annotated[int, typer.Option("--num", "-n", min=1, help="how many texts")]
Steps = Annotated[int | None, typer.Option(min=1, help="network calls; default: one a token")]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="0 is greedy; default: 0.8 with --top-p 0.9 to write, 0 to fill"),
]
TopK = Annotated[int | None, typer.Option(min=1)]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0)]
Threshold = Annotated[
    float | None, typer.Option(min=0.0, help="write all positions scored at least this at once")
]
OrderOption = Annotated[
    Order | None,
    typer.Option("--order", help="which position first; to write: random, to fill: margin"),
]
Correct = Annotated[
    str | None,
    typer.Option(
        help="take back what was written: remdm, p2, wino, edit, did, dcd, or gidd, as "
        "NAME:option=value,...; a number: so many rounds of gidd"
    ),
]
SolverOption = Annotated[
    Kind | None,
    typer.Option("--solver", help="the way of vectors from noise; default: heun, L2D: midpoint"),
]
Estimate = Annotated[
    Guess | None, typer.Option(help="for models that refine tokens (L2D): default: argmax")
]
Heat = Annotated[
    str | None, typer.Option(help="the temperature of --estimate: a number, or falling")
]
Tolerance = Annotated[float | None, typer.Option(help="of the steps of --solver adaptive")]
Clamp = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="for models of vectors: to the nearest token from this t on"
    ),
]
Label = Annotated[int | None, typer.Option(help="write towards this class")]
Guidance = Annotated[
    float | None, typer.Option(min=0.0, help="how strongly; 1: as told, more: more so")
]
Classifier = Annotated[
    Path | None,
    typer.Option(help="a run of `classifier` or `latent_classifier`; --label default: 1"),
]
ChurnOption = Annotated[
    str | None,
    typer.Option("--churn", help="noise put back between steps: AMOUNT, or AMOUNT,LOW,HIGH,NOISE"),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="end a text before this string; may be given several times"),
]
Regex = Annotated[str | None, typer.Option(help="write a match of this, from end to end")]
SchemaOption = Annotated[Path | None, typer.Option("--schema", help="write JSON of this schema")]
Grammar = Annotated[Path | None, typer.Option(help="write a text of this grammar, in Lark's form")]
Whole = Annotated[
    bool, typer.Option("--whole", help="hold all of the text to it, not each gap by itself")
]
Seed = Annotated[int, typer.Option(help="text i is drawn with seed + i")]
Live = Annotated[bool, typer.Option("--live", help="watch the canvas fill")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line")]
Trace = Annotated[
    Path | None, typer.Option(help="write every step into this file, for `redraft replay`")
]


def generate(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="checkpoint or run; default: the newest in runs/")
    ] = None,
    prompt: Annotated[str, typer.Option(help="what the texts begin with")] = "",
    num: Num = 1,
    length: Annotated[
        int | None, typer.Option(min=1, help="new tokens; default: all that fit, or 256")
    ] = None,
    order: OrderOption = None,
    steps: Steps = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    threshold: Threshold = None,
    correct: Correct = None,
    label: Label = None,
    guidance: Guidance = None,
    classifier: Classifier = None,
    solver: SolverOption = None,
    clamp: Clamp = None,
    churn: ChurnOption = None,
    regex: Regex = None,
    schema: SchemaOption = None,
    grammar: Grammar = None,
    estimate: Estimate = None,
    heat: Heat = None,
    tolerance: Tolerance = None,
    grow: Annotated[
        Growth | None, typer.Option(help="let the canvas find its length, --length at most")
    ] = None,
    stop: Stop = None,
    preset: PresetOption = None,
    block: Block = None,
    cache: Cache = None,
    drift: Drift = None,
    prompt_weight: PromptWeight = None,
    seed: Seed = 0,
    live: Live = False,
    as_json: Json = False,
    trace: Trace = None,
) -> None:
    """Write texts. Why each ended, and what it cost, is said on standard error."""
    from redraft.loading import newest
    from redraft.pretrained import WRITING
    from redraft.trace.record import told

    if checkpoint is None:
        checkpoint = newest(RUNS)
        print(f"by {checkpoint}", file=sys.stderr)
    model = towards(checkpoint, label, guidance, classifier)
    language = language_of(model, regex, schema, grammar)
    room = max(1, model.room(len(model.tokenizer.encode(prompt))))
    length = length if language is None else language.length(length, room)
    tokens = length or room
    given = options(temperature, top_k, top_p, steps, threshold, correct)
    vectors = {"solver": solver, "clamp": clamp, "churn": churn}
    vectors |= {"estimate": estimate, "heat": heat, "tolerance": tolerance}
    more = modes(preset, block, cache, drift, prompt_weight, language)
    sampler = solver_of(model, order, vectors, given, more)
    vectors |= {"label": label, "guidance": guidance}
    usual = (Order.random, WRITING)
    if grow is not None and sampler is None:
        refuse("--grow", more, "preset", "cache", "drift", "prompt-weight")
        sampler = growing(model, tokens, grow, block, order, WRITING, given, vectors)
    sampler = sampler or way_of(model, tokens, order, *usual, given, more, vectors)
    if language is not None and (grow is not None or stop):
        word = "--grow" if grow is not None else "--stop"
        raise BadInput(f"{word} does not go with --regex, --schema and --grammar: give --length")
    sampler = sampler if language is None else language.hold(sampler, order=order)
    show(
        model,
        lambda seed, num: model.stream(prompt, num, length, sampler, seed, stop or ()),
        num,
        seed,
        Shown(
            live, as_json, tuple(stop or ()), trace, {"prompt": prompt, "sampler": told(sampler)}
        ),
    )


def infill(
    checkpoint: Checkpoint,
    template: Annotated[
        str, typer.Argument(help="text with gaps, of 8 or of 4 to 12 tokens: To [[8]] or [[4-12]]")
    ],
    rewrite: Annotated[
        list[str] | None,
        typer.Option(
            help="write this part of a text without gaps anew; may be given several times"
        ),
    ] = None,
    slack: Annotated[
        int | None, typer.Option(min=0, help="of --rewrite: so many tokens more or fewer")
    ] = None,
    num: Num = 1,
    order: OrderOption = None,
    steps: Steps = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    threshold: Threshold = None,
    correct: Correct = None,
    label: Label = None,
    guidance: Guidance = None,
    classifier: Classifier = None,
    solver: SolverOption = None,
    clamp: Clamp = None,
    churn: ChurnOption = None,
    regex: Regex = None,
    schema: SchemaOption = None,
    grammar: Grammar = None,
    whole: Whole = False,
    preset: PresetOption = None,
    block: Block = None,
    cache: Cache = None,
    drift: Drift = None,
    prompt_weight: PromptWeight = None,
    seed: Seed = 0,
    live: Live = False,
    as_json: Json = False,
    trace: Trace = None,
) -> None:
    """Fill the gaps of a text, or write parts of it anew; the rest stays as it is."""
    from redraft.pretrained import FILLING
    from redraft.template import Template
    from redraft.trace.record import told

    model = towards(checkpoint, label, guidance, classifier)
    if slack is not None and not rewrite:
        raise BadInput("--slack is of --rewrite; for a gap write [[4-12]]")
    encode, spans = model.tokenizer.encode, rewrite or ()
    asked = Template.rewriting(template, spans, encode, slack or 0) if spans else template
    tokens = model.gaps(asked).count(None)
    given = options(temperature, top_k, top_p, steps, threshold, correct)
    vectors = {"solver": solver, "clamp": clamp, "churn": churn}
    language = language_of(model, regex, schema, grammar)
    if language is None and whole:
        raise BadInput("--whole goes with --regex, --schema or --grammar")
    more = modes(preset, block, cache, drift, prompt_weight, language)
    sampler = solver_of(model, order, vectors, given, more)
    sampler = sampler or way_of(model, tokens, order, Order.margin, FILLING, given, more)
    sampler = sampler if language is None else language.hold(sampler, whole, order)
    show(
        model,
        lambda seed, num: model.fill(asked, num, sampler, seed),
        num,
        seed,
        Shown(live, as_json, (), trace, {"template": template, "sampler": told(sampler)}),
    )


def towards(checkpoint: Path, label: int | None, guidance: float | None, classifier: Path | None):
    """The model behind a meter, guided if that was asked for."""
    from dataclasses import replace

    from redraft.adapt.meter import Meter
    from redraft.guided import guided
    from redraft.loading import open_pretrained

    judge = None if classifier is None else open_pretrained(classifier)
    model = replace(open_pretrained(checkpoint), meter=Meter())
    if model.refines and judge is None:  # its sampler is told
        return model
    return guided(model, label, guidance, judge)


def language_of(model, regex: str | None, schema: Path | None, grammar: Path | None):
    """What is written is held to this, if anything."""
    asked = {"--regex": regex, "--schema": schema, "--grammar": grammar}
    names = [name for name, value in asked.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise BadInput(f"{' and '.join(names)}: choose one")
    from redraft.structure.language import by_grammar, by_regex, by_schema

    if regex is not None:
        return by_regex(model, regex)
    if schema is not None:
        return by_schema(model, schema)
    assert grammar is not None
    return by_grammar(model, grammar)
