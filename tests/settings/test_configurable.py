import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import settings
from models.dcgan import DCGAN
from models.flow import Flow
from models.parts.losses import Hinge, NonSaturating
from models.parts.regularizers import R1, R2
from models.parts.schedules import Cosine, Linear
from models.training.gan import GAN
from settings.configurable import Configurable, Plain, build, completed, describe, differences
from settings.training import AdversarialTraining

REQUIRED: dict[str, Plain] = {
    "data_shape": [3, 32, 32], "num_classes": 10, "gamma": 0.7, "start": 3.0, "end": 1.0, "kimg": 40.0,
    "width": 12, "heads": 3, "vocabulary_size": 0, "latent_dim": 124,
}  # fmt: skip
"""A value for every constructor argument that has no default, or not any other will do; a new family adds its own."""


def every_part() -> list[type[Configurable]]:
    """The concrete ones of models/ and settings/. GAN and Flow are built by their families, from networks."""
    found: list[type[Configurable]] = []
    packages = ((package.__path__, f"{package.__name__}.") for package in (models, settings))
    for module in (module for path, prefix in packages for module in pkgutil.walk_packages(path, prefix)):
        for _, item in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = (
                item.__module__ == module.name
                and issubclass(item, Configurable)
                and item not in (Configurable, GAN, Flow)
            )
            found += [item] if own and not inspect.isabstract(item) else []
    return found


def unusual_arguments(owner: type[Configurable]) -> dict[str, Any]:
    """Every argument that is a number or a switch, with another value than its default."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(owner).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            arguments[name] = REQUIRED[name]
        elif isinstance(parameter.default, bool):
            arguments[name] = not parameter.default
        elif isinstance(parameter.default, int):
            arguments[name] = REQUIRED.get(name, parameter.default + 1)
        elif isinstance(parameter.default, float):
            arguments[name] = parameter.default / 2
    return arguments


def test_there_are_parts_to_test() -> None:
    assert {DCGAN, AdversarialTraining, Hinge, R1, Linear} <= set(every_part())


@pytest.mark.parametrize("owner", every_part(), ids=lambda owner: owner.__name__)
def test_description_rebuilds_the_part(owner: type[Configurable]) -> None:
    arguments = unusual_arguments(owner)
    description = describe(owner(**arguments))
    assert description["class_path"] == f"{owner.__module__}.{owner.__qualname__}"
    init_args = description["init_args"]
    assert isinstance(init_args, dict)
    assert {name: init_args[name] for name in arguments} == arguments
    rebuilt = build(description)
    assert type(rebuilt) is owner
    assert describe(rebuilt) == description


def test_nested_parts_are_rebuilt() -> None:
    training = AdversarialTraining(
        Hinge(), [R1(Linear(4.0, 1.0, kimg=10.0), every=16), R2(0.5)], lr=Cosine(1.0, 0.0, 5.0)
    )
    rebuilt = build(describe(training))
    assert isinstance(rebuilt.loss, Hinge)
    assert [type(regularizer) for regularizer in rebuilt.regularizers] == [R1, R2]
    assert rebuilt.regularizers[0].gamma.at(5.0) == 2.5
    assert describe(rebuilt) == describe(training)


def test_description_holds_plain_types_only() -> None:
    def leaves(value: Plain) -> Iterator[object]:
        if isinstance(value, (dict, list)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from leaves(item)
        else:
            yield value

    description = describe(DCGAN((1, 16, 16), width=8))  # whose data_shape is kept as a tuple
    assert {type(leaf) for leaf in leaves(description)} <= {bool, int, float, str, type(None)}


class Keeps(Configurable):
    def __init__(self, value: object) -> None:
        self.value = value


class Forgets(Configurable):
    def __init__(self, value: object) -> None:
        self.other = value


@pytest.mark.parametrize("value", [Path("x"), np.float64(1.0), np.int64(1), 1j, {1, 2}, lambda: 0])
def test_values_without_a_plain_form_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"Keeps\.value\[1\]\['a'\] is a .*, which a checkpoint cannot hold"):
        describe(Keeps([0, {"a": value}]))


def test_forgotten_argument_is_named() -> None:
    with pytest.raises(TypeError, match="Forgets must keep its argument 'value'"):
        describe(Forgets(1))


def test_part_from_outside_is_rebuilt_once_its_module_is_imported() -> None:
    assert build(describe(Keeps([1, {"a": NonSaturating()}]))).value[0] == 1


@pytest.mark.parametrize(
    "path",
    [
        "subprocess.Popen", "os.system", "builtins.eval", "builtins.exec", "torch.nn.Linear", "torch.load",
        "settings.configurable.build", "settings.configurable.importlib", "models.training.checkpoint.read_checkpoint",
        "settings.configurable.inspect.getsource", "models.nothing.Here", "models.parts.losses.Nothing", "eval", "",
        ".", "..models.parts.losses.Hinge", "models.parts.losses.",
    ],
)  # fmt: skip
def test_paths_that_lead_to_no_part_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="class_path"):
        build({"class_path": path, "init_args": {}})


def test_a_refused_class_is_not_called(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(ValueError, match="is not a Configurable, and is not called"):
        build({"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(trace)]}})
    with pytest.raises(ValueError, match="is not a Configurable, and is not called"):
        build({"class_path": "os.mkdir", "init_args": {"path": str(trace)}})
    assert not trace.exists()


def test_a_refused_module_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "a_stranger.py").write_text(f"open({str(trace)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="its module is not imported automatically"):
        build({"class_path": "a_stranger.Part", "init_args": {}})
    assert not trace.exists()
    assert "a_stranger" not in sys.modules


@pytest.mark.parametrize("init_args", [{"gamma": 1.0, "tau": 2.0}, {}, [], None])
def test_arguments_that_do_not_fit_are_refused_with_the_class(init_args: object) -> None:
    with pytest.raises(ValueError, match=r"models\.parts\.regularizers\.R1: "):
        build({"class_path": "models.parts.regularizers.R1", "init_args": init_args})


def test_abstract_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="abstract"):
        build({"class_path": "models.parts.losses.AdversarialLoss", "init_args": {}})


# Differences


def test_a_part_does_not_differ_from_its_rebuilt_self() -> None:
    description = describe(DCGAN((1, 16, 16), width=8))
    assert differences(description, describe(build(description)), "model") == []


def test_differences_name_the_key_and_both_values() -> None:
    old = describe(AdversarialTraining(Hinge(), [R1(1.0)], lr=2e-4))
    new = describe(AdversarialTraining(NonSaturating(), [R1(2.0)], lr=1e-4, d_steps=2))
    assert differences(old, new, "model") == [
        "model.loss.class_path: models.parts.losses.Hinge -> models.parts.losses.NonSaturating",
        "model.regularizers[0].gamma: 1.0 -> 2.0",
        "model.lr: 0.0002 -> 0.0001",
        "model.d_steps: 1 -> 2",
    ]


def test_added_and_removed_arguments_are_differences() -> None:
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 -> None", "b: None -> 2"]


def test_lists_of_other_lengths_differ_whole() -> None:
    assert differences({"a": [1, 2]}, {"a": [1, 2, 3]}) == ["a: [1, 2] -> [1, 2, 3]"]


def test_a_number_and_a_part_in_its_place_differ() -> None:
    (line,) = differences(describe(R1(1.0)), describe(R1(Linear(1.0, 0.0, kimg=1.0))))
    assert line.startswith("gamma: 1.0 -> {'class_path': 'models.parts.schedules.Linear'")


def test_a_description_is_completed_with_the_defaults_of_later_arguments() -> None:
    whole = describe(AdversarialTraining())
    assert isinstance(whole, dict)
    arguments = whole["init_args"]
    assert isinstance(arguments, dict)
    older = {"class_path": whole["class_path"], "init_args": {k: v for k, v in arguments.items() if k != "freeze_d"}}
    assert completed([older]) == [whole]
    assert "freeze_d" not in older["init_args"]  # type: ignore[operator]
    assert completed({"class_path": whole["class_path"], "init_args": arguments | {"freeze_d": 3}}) != whole


def test_a_class_that_has_moved_is_no_other_class() -> None:
    """Checkpoints name AdversarialTraining where it lay before."""
    today = describe(DCGAN((1, 16, 16)))
    before = json.loads(json.dumps(today).replace("settings.training.Adversarial", "models.training.gan.Adversarial"))
    assert before != today
    assert differences(completed(before), today) == []
    assert describe(build(before)) == today
