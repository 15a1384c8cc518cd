"""Makes the picture of docs/latents.md: a target and its projection, with sheets of the projection's edits below.

python main.py latents project --ckpt_path RUN --target picture.png --out projected/
python main.py latents directions --ckpt_path RUN --latent projected/latent.npz --out sefa.png
python docs/programs/make_projection.py projected/ sefa.png ... docs/images/stylegan2_projection.png
"""

import sys
from pathlib import Path

from PIL import Image

SCALE = 2
"""Pixels of this picture for one of the model's, without filtering."""
GAP = 6


def draw(folder: Path, sheets: list[Path], out: Path) -> None:
    """Writes the picture of a projection's folder and its sheets to `out`."""
    pair = [Image.open(folder / name) for name in ("target.png", "projected.png")]
    edits = [Image.open(sheet) for sheet in sheets]
    mode = edits[0].mode
    width = max(edit.width for edit in edits)
    top = pair[0].height + GAP
    canvas = Image.new(mode, (width, top + sum(edit.height + GAP for edit in edits) - GAP), "white")
    for i, picture in enumerate(pair):
        canvas.paste(picture, (2 + i * (picture.width + 2), 0))
    for edit in edits:
        canvas.paste(edit, (0, top))
        top += edit.height + GAP
    canvas = canvas.resize((canvas.width * SCALE, canvas.height * SCALE), Image.Resampling.NEAREST)
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(out)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    draw(Path(sys.argv[1]), [Path(sheet) for sheet in sys.argv[2:-1]], Path(sys.argv[-1]))
