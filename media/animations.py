"""Frames to GIF and MP4 files, one at a time, so that a long animation need not fit in memory."""

import importlib
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from media.files import write_whole

GIF_FPS = 50
"""GIFs count in hundredths of a second, and viewers ignore a duration of one."""


def save_gif(frames: Iterable[Tensor], path: Path, fps: int) -> None:
    """Writes frames, uint8 (1 or 3, H, W), as a GIF that repeats forever, whole or not at all.

    Grey frames keep their values; colour frames get 256 colours each. ValueError for a rate that GIFs do not have, no
    frame, or another dtype or shape.
    """
    if not 1 <= fps <= GIF_FPS:
        raise ValueError(f"{path}: a GIF shows 1 to {GIF_FPS} frames a second, not {fps}; name an .mp4 for more")
    images = (_quantized(frame) for frame in _checked(frames, path))
    first = next(images)

    def write(file: BinaryIO) -> None:
        duration_ms = round(100 / fps) * 10
        first.save(file, format="GIF", save_all=True, append_images=images, duration=duration_ms, loop=0)

    write_whole(path, write)


def save_mp4(frames: Iterable[Tensor], path: Path, fps: int) -> None:
    """Writes frames, uint8 (1 or 3, H, W), as H.264 that every browser plays, whole or not at all.

    Colours are stored at half the resolution (yuv420p); an odd side gets one more black line.

    Raises:
        ModuleNotFoundError: the package av is not installed.
        ValueError: no frame, another dtype or shape, or a rate below 1.
    """
    if fps < 1:
        raise ValueError(f"{path}: {fps} frames a second; take at least 1")
    av = video_package()
    checked = _checked(frames, path)
    first = next(checked)
    height, width = (side + side % 2 for side in first.shape[1:])

    def write(file: BinaryIO) -> None:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "18", "preset": "medium"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in itertools.chain([first], checked):
                padded = F.pad(frame, (0, width - frame.shape[2], 0, height - frame.shape[1])).expand(3, -1, -1)
                pixels = padded.permute(1, 2, 0).contiguous().cpu().numpy()
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())  # what the encoder still holds

    write_whole(path, write)


def video_package() -> Any:  # noqa: ANN401 - an optional package
    """PyAV, which brings FFmpeg's libraries. ModuleNotFoundError, with a remedy, if it is not installed."""
    try:
        return importlib.import_module("av")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("MP4 needs the package av: pip install -e '.[video]', or name a .gif") from error


def _checked(frames: Iterable[Tensor], path: Path) -> Iterator[Tensor]:
    """The frames, checked one by one. The first `next` raises ValueError if there is none."""
    shape: torch.Size | None = None
    for frame in frames:
        if frame.dtype.is_floating_point or frame.ndim != 3 or frame.shape[0] not in (1, 3):
            raise ValueError(f"{path}: frames must be uint8 (1 or 3, H, W), not {frame.dtype} of {tuple(frame.shape)}")
        if shape not in (None, frame.shape):
            raise ValueError(f"{path}: frames of {tuple(shape or ())} and of {tuple(frame.shape)}")
        shape = frame.shape
        yield frame
    if shape is None:
        raise ValueError(f"{path}: an animation needs at least one frame")


def _quantized(frame: Tensor) -> Image.Image:
    if frame.shape[0] == 1:
        return Image.fromarray(frame[0].contiguous().cpu().numpy())
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().cpu().numpy())
    # Dithering would differ from frame to frame, and a still background would crawl.
    return image.quantize(256, dither=Image.Dither.NONE)
