"""The README's picture from a finished run: its last grid beside the quality figure over kimg.

pip install -e '.[docs]'
python docs/make_figures.py runs/dcgan_fashion_mnist/<id> docs/images/dcgan_fashion_mnist.png
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image


def draw(run: Path, out: Path) -> None:
    """Writes the figure of the run's folder to `out`."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [(row["samples_seen"] / 1000, row["fd_effnet"]) for row in rows if "fd_effnet" in row]
    record = json.loads((run / "run.json").read_text())
    grids = sorted((run / "samples").glob("kimg*.png"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    left.imshow(Image.open(grids[-1]), cmap="gray")
    left.set_title(f"samples after {record['samples_seen'] / 1000:g} kimg")
    left.set_axis_off()
    right.plot(*zip(*curve, strict=True), marker="o")
    right.set(xlabel="kimg (thousand training pictures)", ylabel="FD-EffNet, lower is better", yscale="log")
    right.set_title(f"{record['seconds'] / 60:.1f} min on {record['hardware']['cores']} CPU cores")
    right.grid(visible=True, which="both", alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
