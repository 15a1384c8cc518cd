"""Checks of families' arguments, with the messages for those that do not fit."""

from collections.abc import Sequence

UNKNOWN_DATA = "data_shape and num_classes must be known: does the datamodule set both when constructed?"


def picture_shape(data_shape: Sequence[int] | None) -> tuple[int, int, int]:
    """`data_shape` as (C, H, W), for families of pictures, which need it before the base's constructor can check it.

    Raises:
        ValueError: if it is not known, or not that of pictures.
    """
    if data_shape is None:
        raise ValueError(UNKNOWN_DATA)
    if len(data_shape) != 3:
        raise ValueError(f"this model draws pictures, (C, H, W), but the data's shape is {tuple(data_shape)}")
    channels, height, width = data_shape
    return channels, height, width


def square_pictures(data_shape: Sequence[int] | None, who: str, least: int, power: bool = True) -> tuple[int, int]:
    """Channels and side of square pictures of at least this side, which is a power of two, or else just even.

    Raises:
        ValueError: if they are not; the message names `who`, and the setting to change.
    """
    channels, height, side = picture_shape(data_shape)
    if height != side or side < least or (side & (side - 1) if power else side % 2):
        kind = f"a power of two from {least} up" if power else f"even and at least {least}"
        raise ValueError(f"{who} needs square pictures whose side is {kind}, not {height}x{side}: set data.resolution")
    return channels, side


def at_least(least: int, **counts: int) -> None:
    """Raises ValueError, with its name, for a count that is below `least`."""
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} must be at least {least}, not {count}")


def classes_seen(num_classes: int, conditional: bool) -> int:
    """The classes that the networks see, 0 if unconditional. Raises ValueError if conditional without labels."""
    if conditional and not num_classes:
        raise ValueError("conditional: true needs labels, and this dataset has none")
    return num_classes if conditional else 0


def stage_widths(base: int, most: int, resolution: int) -> list[int]:
    """Channels at 4 px, 8 px, ... up to `resolution`: `base` / side, at most `most`; ValueError if one is 0."""
    widths = [min(base // (4 << stage), most) for stage in range(resolution.bit_length() - 2)]
    if min(widths) < 1:
        raise ValueError(f"channel_base {base} leaves no channels at {resolution} px, channel_max {most}")
    return widths


def highest_sides(resolution: int, count: int) -> list[int]:
    """The `count` highest of the sides 8, 16, ... `resolution`, or all if there are fewer, from low to high."""
    sides = [4 << stage for stage in range(1, resolution.bit_length() - 2)]
    return sides[-count:] if count > 0 else []


def check_minibatch_group(group: int | None) -> None:
    """Raises ValueError for a group of a single sample, in which nothing deviates."""
    if group is not None and group < 2:
        raise ValueError(f"minibatch_group must be at least 2, or null to leave the statistic out, not {group}")
