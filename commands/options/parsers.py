"""Arguments that several verbs share, declared once."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from commands.options import sampler

CHECKPOINT = "a checkpoint, or a run's folder for its newest one"


def split_flag(arguments: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The arguments without each `flag VALUE` or `flag=VALUE`, and the values."""
    words, values = [], []
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == flag:
            values.append(value if equals else next(rest, ""))
        else:
            words.append(word)
    return words, values


def verb_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """A parser without arguments. Flags cannot be abbreviated: a model's setting may begin like another flag."""
    return argparse.ArgumentParser(prog=f"python main.py {verb}", description=description, allow_abbrev=False)


def checkpoint_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """A parser with --ckpt_path."""
    parser = verb_parser(verb, description)
    parser.add_argument("--ckpt_path", required=True, help=CHECKPOINT)
    return parser


def evaluation_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """A parser for a verb that measures a checkpoint's samples, or finished ones, through an extractor."""
    parser = verb_parser(verb, description)
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--ckpt_path", help=CHECKPOINT)
    judged.add_argument("--samples", type=Path, help="a folder, zip or npz of pictures, or a data config")
    parser.add_argument("--extractor", default="effnet", help="effnet, inception, or a TorchScript file (effnet)")
    parser.add_argument("--extractor_weights", help="a file with inception's weights, to avoid the download")
    parser.add_argument("--resolution", type=int, help="side of the extractor's input, in pixels (its own; effnet 64)")
    parser.add_argument("--cache_dir", type=Path, help="folder of cached real statistics (the user's cache folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def with_sampling(
    parser: argparse.ArgumentParser,
    seed: str | None = "samples are a function of seed and index",
    batch: str | None = "pictures drawn at once",
    several: bool = False,
) -> argparse.ArgumentParser:
    """Adds the arguments of a verb that draws. `seed` and `batch` are help texts, or None for no such option."""
    sampler.add_arguments(parser, several)
    return with_machine(parser, seed, batch, 64)


def with_machine(
    parser: argparse.ArgumentParser, seed: str | None, batch: str | None, batch_size: int
) -> argparse.ArgumentParser:
    """Adds --seed, --batch_size and --device, with the help and default given."""
    if seed is not None:
        parser.add_argument("--seed", type=int, default=0, help=f"{seed} (0)")
    if batch is not None:
        parser.add_argument("--batch_size", type=int, default=batch_size, help=f"{batch} ({batch_size})")
    add_device(parser)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds --device, which `checkpoints.usable_device` reads."""
    parser.add_argument(
        "--device", default="auto", help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps (auto)"
    )


def add_distance(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `distances.distance_of`."""
    parser.add_argument(
        "--distance", choices=("lpips", "effnet"),
        help="LPIPS of VGG16, as published, or EfficientNet's features (lpips if its weights are in torch's cache)",
    )  # fmt: skip
    parser.add_argument("--resolution", type=int, default=64, help="side of EfficientNet's input, in pixels (64)")


def require_suffix(option: str, path: Path, suffixes: Sequence[str] = (".png",)) -> None:
    """Raises ValueError, in one line, if a path does not end in one of the suffixes."""
    if path.suffix not in suffixes:
        raise ValueError(f"--{option} {path}: name a file ending in {', '.join(suffixes)}")


def require_least(options: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Raises ValueError, in one line, if an option that is given is below its smallest value."""
    for name, limit in least.items():
        if (value := vars(options).get(name)) is not None and value < limit:
            raise ValueError(f"--{name} must be at least {limit}, not {value}")


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str], least: Mapping[str, int] | None = None
) -> argparse.Namespace:
    """The options of a verb that draws, at least as large as `least` says.

    Unknown options are kept as `unknown` until the model is loaded.
    """
    options, unknown = parser.parse_known_args(arguments)
    options.unknown = unknown
    require_least(options, {"batch_size": 1, **(least or {})})
    return options
