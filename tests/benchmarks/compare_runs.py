"""Times `compare` on many runs as large as real ones. It should take under 2 s for 100 runs.

python tests/benchmarks/compare_runs.py [--runs 100] [--repeat 5]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "commands"))

from golden import figure, make_run  # noqa: E402

LIMIT_S = 2.0


def make_runs(root: Path, count: int) -> None:
    """Writes runs of 20 configurations, with 500 rows of ten values, as after a fit of 15 minutes, and two figures."""
    names = ("d_real", "d_fake", "r_t", "d_loss", "d_grad_norm", "g_loss", "g_grad_norm", "penalty", "ada_p", "lr")
    for number in range(count):
        rows = [
            {"samples_seen": 400 * i, "seconds": 1.8 * i, **dict.fromkeys(names, 1.2345678 / (i + 1))}
            for i in range(1, 501)
        ]
        figures = {"fd_effnet": figure(300.0 + number), "recall": figure(0.5, "higher", k=3)}
        folder = make_run(root / f"name{number % 20:02}" / f"{number:03}", seed=number, figures=figures, rows=rows)
        config = (folder / "config.yaml").read_text()
        filler = {f"section{i}": {f"key{j}": j for j in range(10)} for i in range(12)}  # a real one has 130 lines
        (folder / "config.yaml").write_text(config + "filler: " + json.dumps(filler) + "\n")


def seconds(arguments: list[str]) -> float:
    """Seconds of the whole command, including the interpreter's start."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "main.py", *arguments], cwd=REPOSITORY, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        make_runs(root, options.runs)
        names = [str(path) for path in sorted(root.iterdir())]
        slow = False
        for what, arguments in (
            ("tables", ["compare", *names]),
            ("page", ["compare", *names, "--html", str(Path(folder) / "x.html")]),
            ("runs list", ["runs", "list", "--root", str(root)]),
        ):
            took = [seconds(arguments) for _ in range(options.repeat)]
            slow |= what == "tables" and statistics.median(took) > LIMIT_S
            spread = f"{min(took):.2f} to {max(took):.2f}"
            print(
                f"{what:<10} of {options.runs} runs: {statistics.median(took):.2f} s ({spread}, {options.repeat} times)"
            )
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
