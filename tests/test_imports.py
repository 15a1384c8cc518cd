"""Imports run one way: the rules are held by reading the source, and nothing is imported."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("settings", "records", "models", "datamodules", "callbacks", "features", "media", "metrics", "commands")

ROOMS: dict[str, set[str]] = {
    "settings": set(),
    "records": {"settings", "media"},
    "media": set(),
    "features": {"media"},
    "metrics": {"records", "features", "media"},
    "datamodules": {"settings", "media"},
    "models.parts": {"settings", "models.parts.augment", "features", "media"},
    "models.parts.augment": {"settings", "models.parts", "media"},
    "models.training": {"settings", "models.parts", "models.parts.augment", "media"},
    "models": {"settings", "models.training", "models.parts", "models.parts.augment", "media"},
    "callbacks": {"settings", "records", "models.training", "models.parts", "metrics", "features", "media"},
    "commands.comparison": {"settings", "records", "media"},
    "commands.sweeps": {"commands.options", "records", "media"},
    "commands.official": {"settings", "commands.options", "models.parts", "media"},
    "commands.options": {
        *("settings", "records", "callbacks", "datamodules", "metrics", "features", "media"),
        *("models", "models.training", "models.parts"),
    },
    "commands.latents": {
        *("commands.options", "settings", "records", "datamodules", "metrics", "features", "media"),
        *("models", "models.training", "models.parts"),
    },
    "commands": {
        *("commands.options", "commands.official", "commands.sweeps", "commands.comparison"),
        *("callbacks", "datamodules"),
        *("settings", "records", "metrics", "features", "media", "models", "models.training", "models.parts"),
    },
    "": {"commands", "commands.options"},
}
"""Of each folder, the other folders that its files may import. A new folder is declared here, or breaks the rules."""

FOR_TYPES = {"settings": {"models.parts", "models.parts.augment"}}
"""Of a folder, what its files may import besides, under TYPE_CHECKING alone: nothing of it runs."""

NOT_HERE = {
    **dict.fromkeys(
        ("media", "features", "metrics", "models", "models.parts", "models.parts.augment"), ("lightning", "wandb")
    ),
    "datamodules": ("wandb",),
    **dict.fromkeys(("settings", "records", "commands.comparison"), ("lightning", "wandb", "torch")),
    "commands.sweeps": ("lightning", "wandb", "torch"),
}
"""Packages that no file of a folder imports, by folder: what lies there works without them."""

CONTRACT = {
    "models",
    "models.parts.ops",  # the filter that official checkpoints must share
    *(f"models.training.{name}" for name in ("base", "capabilities", "checkpoint")),
}
"""All that callbacks and commands see of models: the contract, `models.load`, and what configs can name."""

DATA_SETS = re.compile(r"mnist|cifar|imagenet|celeb_?a|lsun|ffhq|shakespeare", re.IGNORECASE)

STEPS_ALLOWED = {
    "models.training.gan": "the one place that steps two optimizers",
    "models.training.manual": "the optimizer step itself, gradients averaged over ranks before it",
    "models.training.single_loss": "the one place that steps a single optimizer",
    "callbacks.expected": "makes the optimizers' states, of tensors without storage",
    "callbacks.plan": "trial steps of models that Lightning optimizes by itself",
    "commands.latents.project": "moves a latent; no model is trained",
}


@dataclass
class Source:
    """One file: its dotted name, its tree, and the modules it imports."""

    name: str
    tree: ast.Module
    imports: set[str]
    types: set[str]
    """What it imports for types alone, in the block of a TYPE_CHECKING that nothing else imports."""


def sources(root: Path) -> dict[str, Source]:
    """Every module under `root`, by dotted name; the folder of the tests left out."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }
    if (root / "main.py").exists():
        paths["main"] = root / "main.py"
    found = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text(), str(path))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        checking = [
            node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ]
        types = {module for node in checking for module in imported(node, package, set(paths))}
        found[name] = Source(name, tree, set(imported(tree, package, set(paths))), types)
    return found


def imported(tree: ast.AST, package: str, modules: set[str]) -> Iterator[str]:
    """The dotted names of imported modules, wherever in the file; `from a import b` is a.b where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            inner = {f"{base}.{alias.name}" for alias in node.names} & modules
            yield from inner
            if len(inner) < len(node.names):
                yield base


def room_of(module: str, rooms: Iterable[str]) -> str:
    """The innermost folder that a module lies in, or is; "" for the top."""
    parts = module.split(".")
    inner = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in inner if name in rooms), "")


def violations(root: Path) -> list[str]:
    """Every breach of the rules under `root`, as "module: what it does".

    A family imports no other family and a verb no other verb: siblings share what lies in the rooms below them.
    """
    found = sources(root)
    folders = {name.rpartition(".")[0] if not (root / name.replace(".", "/")).is_dir() else name for name in found}
    breaches = [f"{folder}: a folder that no rule names" for folder in folders - set(ROOMS)]
    for name, source in found.items():
        here = room_of(name, ROOMS)
        for module in sorted(source.imports):
            ours = module.split(".")[0] in PACKAGES or module == "main"
            there = room_of(module, ROOMS)
            sibling = here == there in ("models", "commands", "commands.latents") and module != here and name != here
            allowed = there in ROOMS[here] or (here == there and not sibling)
            allowed |= module in source.types and there in FOR_TYPES.get(here, ())
            through = here.split(".")[0] in ("callbacks", "commands") and there.split(".")[0] == "models"
            if ours and not (allowed and (not through or module in CONTRACT)):
                breaches.append(f"{name}: imports {module}")
            if module.split(".")[0].removeprefix("pytorch_") in NOT_HERE.get(here, ()):
                breaches.append(f"{name}: imports {module}")
        if name not in STEPS_ALLOWED:
            breaches += [f"{name}: calls {call}" for call in steps(source)]
        if here.split(".")[0] in ("models", "callbacks", "metrics", "features", "media"):
            breaches += [f"{name}: names a data set, {text!r}" for text in words(source.tree) if DATA_SETS.search(text)]
    return sorted(breaches)


def steps(source: Source) -> Iterator[str]:
    """Calls of `manual_backward`, and of an optimizer's `step`; in models/ of any `step`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value).lower()
            if node.func.attr == "manual_backward":
                yield "manual_backward"
            elif node.func.attr == "step" and ("optim" in owner or source.name.startswith("models.")):
                yield f"{owner}.step"


def private(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The private methods that a file's classes define, and the private attributes of `self` that they set or read."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    defined = {node.name for each in classes for node in each.body if isinstance(node, ast.FunctionDef)}
    used = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }
    return tuple({name for name in names if re.match("_[a-z]", name)} for names in (defined, used))  # type: ignore[return-value]


def words(tree: ast.Module) -> Iterator[str]:
    """Names and strings of the code, docstrings left out."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def test_the_rules_hold() -> None:
    assert violations(REPOSITORY) == []


def test_rooms_import_downward() -> None:
    """An order in which each folder comes after all that it imports; `models.parts` and its inner folder are one."""
    above = {room: {name for name in below if name != "models.parts.augment"} for room, below in ROOMS.items()}
    del above["models.parts.augment"]
    assert list(TopologicalSorter(above).static_order())[-1] == ""


def test_families_leave_what_is_private_in_the_loops_alone() -> None:
    """They override no private method of `models.training`, and read no private counter: hooks have public names."""
    found = sources(REPOSITORY)
    loops = [private(source.tree) for name, source in found.items() if name.startswith("models.training")]
    theirs = set().union(*(defined | used for defined, used in loops))
    assert {"_latent_draws", "_leave_uncounted", "_step"} <= theirs
    families = {
        name: private(source.tree)
        for name, source in found.items()
        if name.count(".") == 1 and room_of(name, ROOMS) == "models"
    }
    assert {name: meant for name, (own, used) in families.items() if (meant := (own | used) & theirs)} == {}


def test_the_reader_sees_the_project() -> None:
    found = sources(REPOSITORY)
    assert {"main", "models", "models.dcgan", "models.parts.augment", "callbacks.run", "commands.sample"} <= set(found)
    seen = found["models.dcgan"].imports
    assert {"models.training.gan", "models.training.capabilities", "models.parts.layers", "itertools"} <= seen


FAMILY = "from models.training.gan import GAN\nclass Other(GAN): ...\n"


@pytest.mark.parametrize(
    ("path", "code", "breach"),
    [
        ("models/new.py", "import datamodules.base", "models.new: imports datamodules.base"),
        ("models/new.py", "def f():\n    from callbacks import run", "models.new: imports callbacks"),
        ("models/new.py", "from commands.training import fit", "models.new: imports commands.training"),
        ("models/new.py", "from metrics.frechet import frechet_distance", "models.new: imports metrics.frechet"),
        ("models/new.py", FAMILY + "from models.other import Other", "models.new: imports models.other"),
        ("models/new.py", FAMILY + "from models import other", "models.new: imports models.other"),
        ("models/new.py", FAMILY + "from . import other", "models.new: imports models.other"),
        ("models/new.py", FAMILY + "from .other import Other", "models.new: imports models.other"),
        ("models/new.py", "import models.other as o\nclass New(o.Other): ...", "models.new: imports models.other"),
        ("commands/new.py", "def f():\n    from commands.sample import run", "commands.new: imports commands.sample"),
        (
            "commands/latents/new.py",
            "import commands.latents.mix",
            "commands.latents.new: imports commands.latents.mix",
        ),
        ("commands/latents/new.py", "import commands.runs", "commands.latents.new: imports commands.runs"),
        ("models/parts/layers.py", "import models.other", "models.parts.layers: imports models.other"),
        ("models/parts/losses.py", "import lightning", "models.parts.losses: imports lightning"),
        ("models/parts/ops.py", "from lightning.pytorch import Trainer", "models.parts.ops: imports lightning.pytorch"),
        ("models/parts/augment/ada.py", "import wandb", "models.parts.augment.ada: imports wandb"),
        ("models/parts/flow_networks.py", "import lightning", "models.parts.flow_networks: imports lightning"),
        ("models/parts/new.py", "import models.training.ema", "models.parts.new: imports models.training.ema"),
        ("models/parts/new.py", "import metrics.frechet", "models.parts.new: imports metrics.frechet"),
        ("models/parts/augment/new.py", "import models.dcgan", "models.parts.augment.new: imports models.dcgan"),
        ("models/training/new.py", "import models.dcgan", "models.training.new: imports models.dcgan"),
        ("models/elsewhere/new.py", "", "models.elsewhere: a folder that no rule names"),
        ("media/new.py", "import features.resize", "media.new: imports features.resize"),
        ("features/new.py", "import metrics.frechet", "features.new: imports metrics.frechet"),
        ("features/new.py", "import wandb", "features.new: imports wandb"),
        ("commands/comparison/new.py", "import torch", "commands.comparison.new: imports torch"),
        ("commands/sweeps/new.py", "import callbacks.run", "commands.sweeps.new: imports callbacks.run"),
        ("metrics/new.py", "import lightning.pytorch as pl", "metrics.new: imports lightning.pytorch"),
        ("metrics/new.py", "import models.parts.layers", "metrics.new: imports models.parts.layers"),
        ("callbacks/new.py", "from models.training.gan import GAN", "callbacks.new: imports models.training.gan"),
        ("callbacks/new.py", "from models import load", "callbacks.new: imports models"),
        ("callbacks/new.py", "import datamodules", "callbacks.new: imports datamodules"),
        ("callbacks/new.py", "from commands import errors", "callbacks.new: imports commands"),
        ("callbacks/new.py", "import main", "callbacks.new: imports main"),
        ("commands/new.py", "import main", "commands.new: imports main"),
        ("commands/new.py", "from models.other import Other", "commands.new: imports models.other"),
        ("datamodules/new.py", "import models.training.base", "datamodules.new: imports models.training.base"),
        ("datamodules/new.py", "import callbacks.run", "datamodules.new: imports callbacks.run"),
        ("models/new.py", "def f(self, loss):\n    self.manual_backward(loss)", "models.new: calls manual_backward"),
        ("models/new.py", "def f(adam):\n    adam.step()", "models.new: calls adam.step"),
        ("commands/new.py", "def f(optimizers):\n    optimizers[0].step()", "commands.new: calls optimizers[0].step"),
        ("callbacks/new.py", "MNIST_MEAN = 0.13", "callbacks.new: names a data set, 'MNIST_MEAN'"),
        ("models/new.py", "def f(data='cifar10'): ...", "models.new: names a data set, 'cifar10'"),
    ],
)
def test_a_planted_breach_is_found(path: str, code: str, breach: str, tmp_path: Path) -> None:
    planted = {"models/other.py": FAMILY, "models/__init__.py": "", path: code}
    for name, text in planted.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == [breach]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("models/new.py", FAMILY + "from models.parts.layers import one_hot\nimport models.training.base"),
        ("models/training/new.py", '"""For CIFAR-10."""\nimport lightning, models.training.base, models.parts.ops'),
        (
            "callbacks/new.py",
            "from models.training.base import Batch\nimport settings.configurable, metrics.frechet",
        ),
        ("commands/new.py", "from models import load\nimport datamodules.base, callbacks.run, metrics.frechet"),
        ("main.py", "import commands.training"),
        ("models/parts/perceptual.py", "from features.efficientnet import EfficientNetFeatures\nimport media.pictures"),
        ("metrics/new.py", "from features.efficientnet import EfficientNetFeatures"),
        ("commands/new.py", "import commands\nfrom commands.options.errors import InputError"),
        ("models/training/gan.py", "def f(self, optimizer):\n    self.manual_backward(1)\n    optimizer.step()"),
    ],
)
def test_what_is_allowed_is_no_breach(path: str, code: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(code)
    assert violations(tmp_path) == []
