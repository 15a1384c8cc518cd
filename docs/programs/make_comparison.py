"""Screenshots of a comparison page at desktop and phone size, in a real browser, such as those of docs/compare.md.

python docs/programs/make_comparison.py compare runs/<name> runs/<name>/<id> ...
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from browser import Browser, why_no_browser

from main import main

IMAGES = Path(__file__).parents[1] / "images"


def shoot(name: str, runs: list[str]) -> None:
    """Writes <name>_desk.png (light) and <name>_phone.png (dark)."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "comparison.html"
        if main(["compare", *runs, "--html", str(page)]) != 0:
            raise SystemExit(1)
        with Browser(Path(folder) / "desk", 1280, 1500, "light") as desk:
            desk.open(page)
            desk.screenshot(IMAGES / f"{name}_desk.png")
        with Browser(Path(folder) / "phone", 390, 844, "dark") as phone:
            phone.open(page)
            phone.screenshot(IMAGES / f"{name}_phone.png")


if __name__ == "__main__":
    why = why_no_browser()
    if why is not None or len(sys.argv) < 3:
        raise SystemExit(why or __doc__)
    shoot(sys.argv[1], sys.argv[2:])
