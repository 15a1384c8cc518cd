"""Lists the project's names that the adversarial step mentions, and those that its private helpers add.

python docs/programs/step_names.py
"""

import ast
from pathlib import Path

TRAINING = Path(__file__).resolve().parents[2] / "models" / "training"
LOOP = ("gan.py", "manual.py", "base.py", "capabilities.py")
"""Files that define a GAN's methods; the step is in the first."""


def methods(file: str) -> dict[str, ast.FunctionDef]:
    """The methods and properties of the classes in a file, by name."""
    classes = [node for node in ast.parse((TRAINING / file).read_text()).body if isinstance(node, ast.ClassDef)]
    return {node.name: node for each in classes for node in each.body if isinstance(node, ast.FunctionDef)}


def in_sight(file: str) -> set[str]:
    """The project's functions and classes that a file defines or imports."""
    found = set()
    for node in ast.parse((TRAINING / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("models."):
            found |= {alias.name for alias in node.names}
    return found


def mentioned(function: ast.FunctionDef) -> set[str]:
    """The names in a function's body: a GAN's methods as attributes of `self`, everything else by name; no types."""
    of_self = {name for file in LOOP for name in methods(file)}
    types = {id(node) for each in ast.walk(function) if isinstance(each, ast.arg) for node in ast.walk(each)}
    found = set()
    for node in (node for part in function.body for node in ast.walk(part) if id(node) not in types):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self" and node.attr in of_self:
            found.add(node.attr)
        elif isinstance(node, ast.Name) and node.id in in_sight(LOOP[0]):
            found.add(node.id)
    return found


def names() -> tuple[set[str], set[str]]:
    """The names that `GAN.training_step` mentions, and those that its private helpers, and theirs, add."""
    own = methods(LOOP[0])
    direct = mentioned(own["training_step"])
    reached, pending = set(direct), sorted(direct & {name for name in own if name.startswith("_")})
    while pending:
        more = mentioned(own[pending.pop()]) - reached
        reached |= more
        pending += sorted(name for name in more if name.startswith("_") and name in own)
    return direct, reached - direct


if __name__ == "__main__":
    for title, found in zip(("GAN.training_step", "its helpers add"), names(), strict=True):
        print(f"{title}: {len(found)}: {', '.join(sorted(found))}")
