"""docs/architecture.md speaks of what there is: its paths and names exist, and it has all names of the step."""

import ast
import re
import runpy
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
QUOTED = set(re.findall(r"`([^`\n]+)`", PROSE))
DRAWING = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
ROOMS = ("settings", "records", "models", "datamodules", "callbacks", "features", "media", "metrics", "commands")


def definitions() -> set[str]:
    """Functions, classes and constants, and what a class has as Class.name, its bases' own included."""
    found: set[str] = {"seed_everything"}  # Lightning's
    bases: dict[str, list[str]] = {}
    for path in (path for folder in (*ROOMS, "tests") for path in (REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).split("[")[0] for base in node.bases]
                found |= {f"{node.name}.{name}" for part in node.body for name in bound(part)}
            found |= bound(node)
    for _ in range(4):
        for name, parents in bases.items():
            inner = {entry.split(".")[1] for entry in found for parent in parents if entry.startswith(f"{parent}.")}
            found |= {f"{name}.{attribute}" for attribute in inner}
    return found


def bound(node: ast.AST) -> set[str]:
    """The names that a statement defines, and the arguments of a function."""
    if isinstance(node, ast.FunctionDef):
        return {node.name, *(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))}
    if isinstance(node, ast.ClassDef):
        return {node.name}
    alone = [node.target] if isinstance(node, ast.AnnAssign) else []
    targets = node.targets if isinstance(node, ast.Assign) else alone
    return {
        target.id if isinstance(target, ast.Name) else ast.unparse(target).removeprefix("self.") for target in targets
    }


def test_every_path_exists() -> None:
    paths = {each for each in QUOTED if " " not in each and ("/" in each or each.endswith(".py"))}
    assert len(paths) > 40
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []


def test_the_drawing_shows_the_folders_that_there_are() -> None:
    folder, drawn = Path(), []
    for line in DRAWING.splitlines():
        inner, name = re.match(r"([│├└─ ]*)(\S*)", line).groups()  # type: ignore[union-attr]
        if name:
            folder = folder if inner else Path(name)
            drawn.append(folder / name if inner else Path(name))
    assert [str(path) for path in drawn if not (REPOSITORY / path).exists()] == []
    rooms = {path.parent.relative_to(REPOSITORY) for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")}
    assert rooms - set(drawn) == {Path("models/parts/augment")}, "which the line of models/parts names"


def test_every_name_exists() -> None:
    named = {each for each in QUOTED if re.fullmatch(r"\w+(\.\w+)?", each) and not each.endswith(".py")}
    assert len(named) > 60
    assert named - definitions() - {path.name for path in (REPOSITORY / "commands").glob("*")} - {"compare"} == set()


def test_every_file_with_a_name_beside_it_has_that_name() -> None:
    """`name` in `path`, as most rows of the table have it."""
    pairs = re.findall(r"`([A-Za-z_]+)(?:\.\w+)?` (?:in|of) `([\w/]+\.py)`", PROSE)
    assert len(pairs) >= 20
    for name, path in pairs:
        assert re.search(rf"^(class |def )?{name}\b", (REPOSITORY / path).read_text(), re.MULTILINE), (
            f"{name} in {path}"
        )


def test_the_steps_names_are_those_that_the_program_counts() -> None:
    direct, _ = runpy.run_path(str(REPOSITORY / "docs" / "programs" / "step_names.py"))["names"]()
    section = PROSE.split("## The adversarial step")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == direct
    assert len(direct) <= 12


def test_twenty_questions_are_answered() -> None:
    rows = re.findall(r"^\| (\d+)\. .+ \| .*`.+`", PROSE, re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 20
