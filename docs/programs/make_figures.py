"""Shows a finished run in one picture: the last samples, the last reconstructions, and the quality figure over kimg.

pip install -e '.[docs]'
python docs/programs/make_figures.py runs/dcgan_fashion_mnist/<id> docs/images/dcgan_fashion_mnist.png
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from records.folder import read_run

FIGURES = {
    "fd_effnet": "FD-EffNet, lower is better",
    "reconstruction_fd_effnet": "FD-EffNet of reconstructions, lower is better",
}


def draw(run: Path, out: Path) -> None:
    """Writes the picture of the run's folder to `out`."""
    found = read_run(run)
    rows, record = list(found.rows()), found.record
    folder = run / "samples"
    pictures = {
        f"samples after {record.kimg:g} kimg": sorted(folder.glob("kimg*.png")),
        "held-out pictures, reconstructions below": sorted(folder.glob("reconstructions_kimg*.png")),
    }
    shown = {title: paths[-1] for title, paths in pictures.items() if paths}
    figure, panels = plt.subplots(1, len(shown) + 1, figsize=(5 * (len(shown) + 1), 5), layout="constrained")
    for panel, (title, path) in zip(panels, shown.items(), strict=False):
        panel.imshow(Image.open(path), cmap="gray")
        panel.set_title(title)
        panel.set_axis_off()
    name = next(name for name in FIGURES if any(name in row for row in rows))
    curve = [(row["samples_seen"] / 1000, row[name]) for row in rows if name in row]
    panels[-1].plot(*zip(*curve, strict=True), marker="o")
    panels[-1].set(xlabel="kimg (thousand training pictures)", ylabel=FIGURES[name], yscale="log")
    panels[-1].set_title(f"{(record.seconds or 0) / 60:.1f} min on {record.hardware.cores} CPU cores")
    panels[-1].grid(visible=True, which="both", alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
