"""Checks that two checkouts train to the same weights and measure the same figures on one machine.

    git worktree add ../before HEAD~5
    python tests/benchmarks/compare_checkouts.py ../before . [--configs 'r3gan*'] [--precision bf16-mixed] [--steps 12]
    OMP_NUM_THREADS=1 python tests/benchmarks/compare_checkouts.py ../before . --configs r3gan_fashion_mnist --time 5

Each checkout has its own process and folder. It trains every small config (bundled or drawn data) for some steps from
one seed, and evaluates the result. Then every figure and every tensor of the checkpoints is compared, including the
optimizers'. Tensors whose names changed are matched by their order and listed. The exit code is 1 if anything differs.

`--time ROUNDS` times training steps instead, as `info --measure` does. The checkouts alternate, and each ratio is of
two consecutive runs.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

SMALL = ("*_fashion_mnist", "*_shapes", "*_gaussians", "*_moons")
METRICS = ("frechet", "precision_recall", "density_coverage")


def record(checkout: Path, names: list[str], out: Path, steps: int, precision: str) -> None:
    """Fits and evaluates each config in the working directory; runs in the checkout's own process."""
    from main import main

    torch.set_num_threads(1)
    for name in names:
        quick = ["--quality.num_samples=64", "--quality.reference_samples=64", "--run.wandb=off", f"--run.name={name}"]
        here = ["--trainer.accelerator=cpu", "--trainer.devices=1", f"--trainer.precision={precision}"]
        excerpt = ["--data.excerpt=true"] if name.endswith("_fashion_mnist") else []
        coder = [f"--model.codes_from={_checkpoint(out, 'vqvae_fashion_mnist')}"] if "vqvae_prior" in name else []
        config = str(checkout / "configs" / f"{name}.yaml")
        code = main(["fit", "--config", config, f"--trainer.max_steps={steps}", *quick, *here, *excerpt, *coder])
        if code:
            raise SystemExit(f"{checkout}: fit of {name} ended with {code}")
        (run,) = (Path("runs") / name).iterdir()
        figures = json.loads((run / "run.json").read_text()).get("figures", {})
        if "fd_effnet" in figures:  # the data are pictures
            with (out / f"{name}.json").open("w") as file, contextlib.redirect_stdout(file):
                few = ["--num_samples", "64", "--json"]
                code = main(["evaluate", "--ckpt_path", str(run), *few, "--metrics", *METRICS])
            if code:
                raise SystemExit(f"{checkout}: evaluate of {name} ended with {code}")
        torch.save(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True), _checkpoint(out, name))
        (out / f"{name}.figures").write_text(json.dumps({key: each["value"] for key, each in figures.items()}))


def _checkpoint(out: Path, name: str) -> Path:
    return out / f"{name}.ckpt"


def tensors(value: Any, where: str = "") -> dict[str, Tensor]:  # noqa: ANN401 - whatever a checkpoint holds
    """Every tensor and number in `value`, by its path."""
    if isinstance(value, Tensor):
        return {where: value}
    if isinstance(value, (int, float)):
        return {where: torch.tensor(value, dtype=torch.float64)}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {name: found for key, item in items for name, found in tensors(item, f"{where}/{key}").items()}


def compare(name: str, before: Path, after: Path) -> list[str]:
    """The differences for one config, one per line; a renamed tensor is printed and does not count."""
    lines, renamed = [], []
    a, b = (torch.load(_checkpoint(folder, name), weights_only=True) for folder in (before, after))
    for part in ("state_dict", "optimizer_states"):
        mine, theirs = tensors(a[part]), tensors(b[part])
        if len(mine) != len(theirs):
            lines.append(f"{part}: {len(mine)} tensors, and {len(theirs)}")
            continue
        worst, count = 0.0, 0
        old, new = [key for key in mine if key not in theirs], [key for key in theirs if key not in mine]
        renamed += [f"{key} -> {other}" for key, other in zip(old, new, strict=True)]
        for key, x in mine.items():
            y = theirs[key] if key in theirs else theirs[new[old.index(key)]]
            if x.shape != y.shape or not torch.equal(x.nan_to_num(), y.nan_to_num()):
                far = (x.double() - y.double()).norm() / x.double().norm() if x.shape == y.shape else float("inf")
                worst, count = max(worst, float(far)), count + 1
        if count:
            lines.append(f"{part}: {count} of {len(mine)} tensors differ, by {worst:.1e} of their norm at most")
    for suffix in ("figures", "json"):
        files = [folder / f"{name}.{suffix}" for folder in (before, after)]
        if any(file.exists() for file in files):
            values = [json.loads(file.read_text()) for file in files]
            found, wanted = (values if suffix == "figures" else [_figures_of(value) for value in values])[::-1]
            lines += [f"{key}: {wanted.get(key)} and {found.get(key)}" for key in {**wanted, **found}
                      if wanted.get(key) != found.get(key)]  # fmt: skip
    if renamed:
        print(f"  {len(renamed)} renamed: {', '.join(renamed[:3])} ...")
    return lines


def _figures_of(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {key: each["value"] for key, each in evaluation["figures"].items()}


def time_steps(checkouts: list[Path], name: str, rounds: int, precision: str) -> None:
    """Prints the s/kimg of both checkouts, and the ratios of consecutive runs."""
    seconds: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(rounds):
            for found, checkout in zip(seconds, checkouts, strict=True):
                config = checkout.resolve() / "configs" / f"{name}.yaml"
                takes_flags = "--measure" in (checkout / "commands" / "info.py").read_text()
                if not takes_flags:  # an earlier commit, whose configs include no other
                    settings = yaml.safe_load(config.read_text())
                    config = Path(scratch) / f"{name}.yaml"
                    config.write_text(yaml.safe_dump({**settings, "trainer": {"precision": precision}}))
                command = [sys.executable, str(checkout.resolve() / "main.py"), "info", str(config), "--json"]
                command += ["--measure", f"--trainer.precision={precision}"] * takes_flags
                environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
                done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout)["s_per_kimg"])
    before, after = (statistics.median(found) for found in seconds)
    ratios = sorted(a / b for a, b in zip(*seconds, strict=True))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    print(f"{name}: {before:.3g} and {after:.3g} s/kimg; before/after {statistics.median(ratios):.3f} ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--configs", nargs="+", default=list(SMALL), help="names or patterns")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--time", type=int, metavar="ROUNDS", help="compare speed instead, in so many rounds")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = [{path.stem for path in (each / "configs").glob("*.yaml")} for each in (options.before, options.after)]
    names = sorted(name for name in found[0] & found[1] if any(fnmatch.fnmatch(name, p) for p in options.configs))
    names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in SMALL)]
    names.sort(key=lambda name: "vqvae_prior" in name)  # needs the codes of another config's model
    if options.time:
        for name in names:
            time_steps([options.before, options.after], name, options.time, options.precision)
        return
    if options.record:
        record(options.before.resolve(), names, options.record, options.steps, options.precision)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for label, checkout in (("before", options.before), ("after", options.after)):
            out, place = (Path(scratch) / label / part for part in ("recorded", "place"))
            out.mkdir(parents=True)
            place.mkdir()
            command = [sys.executable, str(Path(__file__).resolve()), str(checkout.resolve()), str(checkout.resolve()),
                       "--record", str(out), "--configs", *names, "--steps", str(options.steps),
                       "--precision", options.precision]  # fmt: skip
            # PYTHONPATH selects the checkout's own packages, whichever are installed.
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "XDG_CACHE_HOME": str(place / "cache")}
            log = Path(scratch) / label / "log"
            with log.open("w") as file:
                code = subprocess.run(command, cwd=place, env=environment, stdout=file, stderr=file).returncode
            if code:
                raise SystemExit(f"{checkout}: ended with {code}\n" + log.read_text()[-3000:])
            folders.append(out)
        differing = 0
        for name in names:
            print(name)
            lines = compare(name, *folders)
            differing += bool(lines)
            print("\n".join(f"  {line}" for line in lines) or "  equal to the last bit")
    print(f"{len(names) - differing} of {len(names)} configs equal")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
