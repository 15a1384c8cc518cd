"""Plots FD-EffNet, recall, r_t or ADA's p of several runs over kimg, as named.

pip install -e '.[docs]'
python docs/programs/compare_runs.py out.png fd_effnet,recall,r_t,ada_p none=runs/none/<id> ada=runs/ada/<id>
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from records.folder import rows_of

CURVES = {
    "fd_effnet": "FD-EffNet, lower is better",
    "recall": "recall",
    "r_t": "r_t, mean sign of the logits of real pictures",
    "ada_p": "p of ADA",
}


def curve(run: Path, key: str) -> list[tuple[float, float]]:
    """A run's values by kimg."""
    rows = rows_of(run / "metrics.jsonl")
    return [(row["samples_seen"] / 1000, row[key]) for row in rows if key in row]


def draw(runs: dict[str, Path], keys: list[str], out: Path) -> None:
    """Writes the plot of the named runs' folders to `out`, with a panel for each curve."""
    curves = {key: {name: found for name, run in runs.items() if (found := curve(run, key))} for key in keys}
    columns = 2 if len(curves) > 1 else 1
    lines = -(-len(curves) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5 * columns, 3.5 * lines), layout="constrained", squeeze=False)
    for axis, (key, found) in zip(axes.flat, curves.items(), strict=False):
        for name, points in found.items():
            axis.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 30 else None)
        axis.set(xlabel="kimg (thousand training pictures)", title=CURVES[key])
        axis.grid(visible=True, alpha=0.3)
        axis.legend()
    axes[0, 0].set_yscale("log")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    named = dict(argument.split("=", 1) for argument in sys.argv[3:])
    draw({name: Path(run) for name, run in named.items()}, sys.argv[2].split(","), Path(sys.argv[1]))
