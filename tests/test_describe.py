import json
from dataclasses import dataclass, fields

import pytest

from redraft.describe import build, describe, read_json
from redraft.errors import BadInput
from redraft.mask import BlockCausal, BlockDiffusion, Full
from redraft.model import dit
from redraft.objective import reduce
from redraft.objective.ar import CrossEntropy
from redraft.objective.nelbo import NELBO, AnyOrder, GeneralNELBO
from redraft.process.mixing import Mixing
from redraft.sample.predict import bind
from redraft.sample.unmask import Unmask
from redraft.schedule import Linear, LogLinear
from tests.contract import examples, layers

FOUND = [example for layer in layers() for example in examples(layer)]
MASKED = Mixing(7, 3, schedule=LogLinear(0.01))
ASSEMBLED = [
    Full() & BlockCausal(4) & BlockDiffusion(2, 8),
    NELBO(MASKED, reduce.per_row, BlockCausal(2), 1e-3),
    GeneralNELBO(MASKED),
    AnyOrder(MASKED),
    CrossEntropy(MASKED),
]


@dataclass(frozen=True)
class Foreign:
    x: int = 0


@pytest.mark.parametrize("x", [*FOUND, *ASSEMBLED])
def test_every_component_survives_json(x):
    again = build(json.loads(json.dumps(describe(x), allow_nan=False)))
    assert again == x and type(again) is type(x)


def test_the_examples_of_every_layer_are_found():
    homes = {type(x).__module__.split(".")[1] for x in FOUND}
    assert homes >= {"process", "sample", "model", "adapt", "schedule", "train"}


def test_plain_values_and_functions_too():
    assert describe((1, "a", None, 0.5, True)) == [1, "a", None, 0.5, True]
    assert build([1, ["a", None]]) == (1, ("a", None))
    assert build(describe(reduce.per_target)) is reduce.per_target
    assert describe(Linear()) == {"kind": "redraft.schedule:Linear"}


@pytest.mark.parametrize(
    "kind",
    [
        "os:system",
        "redraftx.schedule:Linear",
        "redraft.train.loop:os",  # a module that a module of ours imports
        "redraft.schedule:torch",
        "redraft.describe:Path",
        "redraft.schedule:dataclass",  # a function that a module of ours imports
        "redraft.sample.unmask:categorical",  # ours, but of another module
        "redraft.schedule:T",
        "redraft.model.llama:Llama",  # a class, but no dataclass
        "redraft.schedule:Linear.alpha",
        "redraft.schedule:EXAMPLES",
        "redraft.__main__:main",  # to import it would be to run it
        "redraft.nowhere:Linear",
        "redraft.schedule:Nothing",
        "redraft.schedule",
        ":Linear",
        "",
        7,
        None,
    ],
)
def test_a_record_cannot_name_other_code(kind):
    with pytest.raises(BadInput) as caught:
        build({"kind": kind})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("x", [lambda: 0, Foreign(), Foreign, object(), len, json.dumps, {1: 2}])
def test_what_could_not_be_rebuilt_is_not_described(x):
    with pytest.raises(BadInput):
        describe(x)


def test_a_lambda_inside_a_component_is_found():
    with pytest.raises(BadInput, match="lambda"):
        describe(Unmask(lambda logp, x0, rng: x0))
    with pytest.raises(BadInput, match="predict"):
        describe(bind(dit.EXAMPLES[0].build(), MASKED))  # a function of ours, made in another


def test_fields_are_checked_by_name():
    with pytest.raises(BadInput, match="has no 'power'; it has eps"):
        build({"kind": "redraft.schedule:LogLinear", "power": 2})
    with pytest.raises(BadInput, match="mask_id"):
        build({"kind": "redraft.process.mixing:Mixing", "vocab_size": 7})
    with pytest.raises(BadInput, match="no 'x'"):
        build({"kind": "redraft.objective.reduce:per_row", "x": 1})
    with pytest.raises(BadInput, match="heads"):
        described = describe(examples("model")[0])
        build(described | {"width": 33})


def test_a_missing_field_takes_its_default():
    assert build({"kind": "redraft.schedule:LogLinear"}) == LogLinear()
    assert {f.name for f in fields(LogLinear)} == {"eps"}


def test_files_that_are_no_json_are_named(tmp_path):
    good = tmp_path / "run.json"
    good.write_text('{"a": [1]}', encoding="utf-8")
    assert read_json(good) == {"a": [1]}
    bad, binary = tmp_path / "bad.json", tmp_path / "binary.json"
    bad.write_text('{"a": ')
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (bad, binary, tmp_path, tmp_path / "none.json"):
        with pytest.raises(BadInput, match=path.name):
            read_json(path)
