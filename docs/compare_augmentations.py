"""One plot of runs that differ in their augmentation: FD-EffNet, recall, r_t and ADA's p over kimg.

pip install -e '.[docs]'
python docs/compare_augmentations.py docs/images/augmentations.png none=runs/none/<id> ada=runs/ada/<id>
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

CURVES = {
    "fd_effnet": "FD-EffNet to pictures held back, lower is better",
    "recall": "recall",
    "r_t": "r_t, mean sign of the logits of real pictures",
    "ada_p": "p of ADA",
}


def draw(runs: dict[str, Path], out: Path) -> None:
    """Writes the figure of the runs' folders, by name, to `out`."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (key, title) in zip(axes.flat, CURVES.items(), strict=True):
        for name, run in runs.items():
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            curve = [(row["samples_seen"] / 1000, row[key]) for row in rows if key in row]
            if curve:
                axis.plot(*zip(*curve, strict=True), label=name, marker="o" if len(curve) < 30 else None)
        axis.set(xlabel="kimg (thousand training pictures)", title=title)
        axis.grid(visible=True, alpha=0.3)
        axis.legend()
    axes[0, 0].set_yscale("log")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    named = dict(argument.split("=", 1) for argument in sys.argv[2:])
    draw({name: Path(run) for name, run in named.items()}, Path(sys.argv[1]))
