"""Imports run one way: the rules are held by reading the source, and nothing is imported."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("models", "datamodules", "callbacks", "metrics", "commands")

PLAIN = re.compile(
    r"models\.(losses|likelihoods|variational|quantizers|mixture|tokens|flow_layers|regularizers|schedules|layers|ops|"
    r"ema|randomness|part|deployed|augment)(\.|$)|metrics(\.|$)"
)
"""What must stay free of Lightning and wandb."""

DATA_SETS = re.compile(r"mnist|cifar|imagenet|celeb_?a|lsun|ffhq|shakespeare", re.IGNORECASE)

STEPS_ALLOWED = {
    "models.gan": "the one place that steps two optimizers",
    "models.manual": "the optimizer step itself, gradients averaged over ranks before it",
    "models.single_loss": "the one place that steps a single optimizer",
    "callbacks.plan": "trial steps of models that Lightning optimizes by itself",
    "commands.project": "moves a latent; no model is trained",
}


@dataclass
class Source:
    """One file: its dotted name, its tree, and the modules it imports."""

    name: str
    tree: ast.Module
    imports: set[str]


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
        found[name] = Source(name, tree, set(imported(tree, package, set(paths))))
    return found


def imported(tree: ast.Module, package: str, modules: set[str]) -> Iterator[str]:
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


BASES = {"models.base", "models.capabilities", "models.manual", "models.gan", "models.single_loss"}


def families(found: dict[str, Source]) -> set[str]:
    """Modules of models/ that define a descendant of GenerativeModel, but for the bases."""
    classes = {
        (name, node.name): {
            base.id if isinstance(base, ast.Name) else ast.unparse(base).split(".")[-1] for base in node.bases
        }
        for name, source in found.items()
        for node in ast.walk(source.tree)
        if name.startswith("models.") and isinstance(node, ast.ClassDef)
    }
    known = {"GenerativeModel"}
    while grown := {cls for (_, cls), bases in classes.items() if bases & known} - known:
        known |= grown
    return {name for name, cls in classes if cls in known} - BASES


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def violations(root: Path) -> list[str]:
    """Every breach of the rules under `root`, as "module: what it does"."""
    found = sources(root)
    kinds = families(found)
    breaches = []
    for name, source in found.items():
        forbidden: set[str] = set()
        for module in source.imports:
            others = {
                "models": ("datamodules", "callbacks", "commands", "metrics", "main"),
                "datamodules": ("models", "callbacks", "commands", "main"),
                "callbacks": ("datamodules", "commands", "main"),
                "metrics": ("models", "datamodules", "callbacks", "commands", "main"),
                "commands": ("main",),
            }.get(name.split(".")[0], ())
            sibling = name in kinds and module in kinds and module != name
            above = name.startswith("models.") and name not in kinds and module in kinds
            framework = bool(PLAIN.match(name)) and within(module, "lightning", "pytorch_lightning", "wandb")
            indirect = bool(PLAIN.match(name)) and within(module, "models") and not PLAIN.match(module)
            past_the_contract = (
                within(name, "callbacks", "commands")
                and within(module, "models")
                and module not in ("models.base", "models.capabilities", "models.part")
                and not (within(name, "commands") and module == "models")  # its `load`
            )
            if within(module, *others) or sibling or above or framework or indirect or past_the_contract:
                forbidden.add(module)
        breaches += [f"{name}: imports {module}" for module in sorted(forbidden)]
        if name not in STEPS_ALLOWED:
            breaches += [f"{name}: calls {call}" for call in steps(source)]
        if within(name, "models", "callbacks", "metrics"):
            breaches += [f"{name}: names a data set, {text!r}" for text in words(source.tree) if DATA_SETS.search(text)]
    return sorted(breaches)


def steps(source: Source) -> Iterator[str]:
    """Calls of `manual_backward`, and of an optimizer's `step`; in models/ of any `step`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value).lower()
            if node.func.attr == "manual_backward":
                yield "manual_backward"
            elif node.func.attr == "step" and ("optim" in owner or within(source.name, "models")):
                yield f"{owner}.step"


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


def test_the_reader_sees_the_project() -> None:
    found = sources(REPOSITORY)
    assert {"main", "models", "models.dcgan", "models.augment", "callbacks.run", "commands.training"} <= set(found)
    assert {"models.gan", "models.base", "models.layers", "itertools"} <= found["models.dcgan"].imports
    assert "models.dcgan" in families(found)
    assert {"models.base", "models.gan", "models.losses"}.isdisjoint(families(found))


GAN = "from models.base import GenerativeModel\nclass GAN(GenerativeModel): ...\n"
FAMILY = "from models.gan import GAN\nclass Other(GAN): ...\n"


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
        ("models/layers.py", "import models.other", "models.layers: imports models.other"),
        ("models/losses.py", "import lightning", "models.losses: imports lightning"),
        ("models/schedules.py", "from lightning.pytorch import Trainer", "models.schedules: imports lightning.pytorch"),
        ("models/augment/ada.py", "import wandb", "models.augment.ada: imports wandb"),
        ("models/ema.py", "from models.base import Batch", "models.ema: imports models.base"),
        ("metrics/new.py", "import lightning.pytorch as pl", "metrics.new: imports lightning.pytorch"),
        ("metrics/new.py", "import models.layers", "metrics.new: imports models.layers"),
        ("callbacks/new.py", "from models.gan import GAN", "callbacks.new: imports models.gan"),
        ("callbacks/new.py", "from models import load", "callbacks.new: imports models"),
        ("callbacks/new.py", "import datamodules", "callbacks.new: imports datamodules"),
        ("callbacks/new.py", "from commands import errors", "callbacks.new: imports commands"),
        ("callbacks/new.py", "import main", "callbacks.new: imports main"),
        ("commands/new.py", "import main", "commands.new: imports main"),
        ("commands/new.py", "from models.other import Other", "commands.new: imports models.other"),
        ("datamodules/new.py", "from models.base import Batch", "datamodules.new: imports models.base"),
        ("datamodules/new.py", "import callbacks.run", "datamodules.new: imports callbacks.run"),
        ("models/new.py", "def f(self, loss):\n    self.manual_backward(loss)", "models.new: calls manual_backward"),
        ("models/new.py", "def f(adam):\n    adam.step()", "models.new: calls adam.step"),
        ("commands/new.py", "def f(optimizers):\n    optimizers[0].step()", "commands.new: calls optimizers[0].step"),
        ("callbacks/new.py", "MNIST_MEAN = 0.13", "callbacks.new: names a data set, 'MNIST_MEAN'"),
        ("models/new.py", "def f(data='cifar10'): ...", "models.new: names a data set, 'cifar10'"),
    ],
)
def test_a_planted_breach_is_found(path: str, code: str, breach: str, tmp_path: Path) -> None:
    planted = {"models/gan.py": GAN, "models/other.py": FAMILY, path: code}
    for name, text in planted.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == [breach]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("models/new.py", FAMILY + "from models.layers import one_hot\nimport models.base"),
        ("models/new.py", '"""For CIFAR-10."""\nimport lightning'),
        ("callbacks/new.py", "from models.base import Batch\nfrom models.part import describe\nimport metrics.frechet"),
        ("commands/new.py", "from models import load\nimport datamodules.base, callbacks.run, metrics.frechet"),
        ("main.py", "import commands.training"),
        ("models/gan.py", "def f(self, optimizer):\n    self.manual_backward(1)\n    optimizer.step()"),
    ],
)
def test_what_is_allowed_is_no_breach(path: str, code: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(code)
    assert violations(tmp_path) == []
