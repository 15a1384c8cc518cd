"""Animations are read back."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from media.animations import save_gif, save_mp4


def frames(channels: int, count: int = 5) -> list[Tensor]:
    ramp = torch.arange(16 * 20).reshape(16, 20) % 200
    return [(ramp + 10 * i).to(torch.uint8).expand(channels, -1, -1).contiguous() for i in range(count)]


def test_a_grey_gif_keeps_every_value_and_repeats(tmp_path: Path) -> None:
    save_gif(iter(frames(1)), tmp_path / "a.gif", fps=25)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (5, 40, 0)  # type: ignore[attr-defined]
        for number, frame in enumerate(frames(1)):
            gif.seek(number)
            assert np.array_equal(np.array(gif.convert("L")), frame[0].numpy())


def test_a_gif_in_colour(tmp_path: Path) -> None:
    colours = [torch.tensor([255, 0, 10 * i], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 8, 8) for i in range(3)]
    save_gif(colours, tmp_path / "a.gif", fps=10)
    with Image.open(tmp_path / "a.gif") as gif:
        for number, frame in enumerate(colours):
            gif.seek(number)
            assert np.abs(np.array(gif.convert("RGB")).astype(int) - frame.permute(1, 2, 0).numpy()).max() <= 8


@pytest.mark.parametrize("channels", [1, 3])
def test_an_mp4_plays_and_an_odd_side_gets_a_line_more(channels: int, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="MP4 needs av: pip install -e '.[video]'")
    shown = [frame[:, :15] for frame in frames(channels, 8)]
    save_mp4(shown, tmp_path / "a.mp4", fps=30)
    with av.open(str(tmp_path / "a.mp4")) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 30
    assert len(found) == 8
    assert found[0].shape == (16, 20, 3)
    assert np.abs(found[3][:15].astype(int) - shown[3].expand(3, -1, -1).permute(1, 2, 0).numpy()).mean() < 6


def test_without_av_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[video\]', or name a .gif"):
        save_mp4(frames(1), tmp_path / "a.mp4", fps=25)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    ("shown", "fps", "said"),
    [
        ([], 25, "at least one frame"),
        (frames(1), 51, "1 to 50 frames a second, not 51"),
        ([torch.zeros(1, 4, 4)], 25, "must be uint8"),
        ([frames(1)[0], frames(3)[0]], 25, "frames of"),
    ],
)
def test_what_is_no_animation_is_refused_and_nothing_is_left(
    shown: list[Tensor], fps: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        save_gif(shown, tmp_path / "a.gif", fps)
    assert list(tmp_path.iterdir()) == []
