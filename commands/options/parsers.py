"""What the parsers of verbs have in common: arguments of the same name and meaning, declared once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from commands.options import sampler

CHECKPOINT = "a checkpoint, or a run's folder for its newest one"


def verb_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """A verb's parser, without arguments. None may be abbreviated: a model's own setting may begin as another does."""
    return argparse.ArgumentParser(prog=f"python main.py {verb}", description=description, allow_abbrev=False)


def checkpoint_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """The parser of a verb that takes one checkpoint."""
    parser = verb_parser(verb, description)
    parser.add_argument("--ckpt_path", required=True, help=CHECKPOINT)
    return parser


def evaluation_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """The parser of a verb that looks at a checkpoint's samples, or at finished ones, through an extractor."""
    parser = verb_parser(verb, description)
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--ckpt_path", help=CHECKPOINT)
    judged.add_argument(
        "--samples", type=Path, help="a folder, zip or npz of pictures, or a data config (real on real)"
    )
    parser.add_argument("--extractor", default="effnet", help="effnet, inception, or a TorchScript file (effnet)")
    parser.add_argument("--extractor_weights", help="a file with inception's weights, where not to be downloaded")
    parser.add_argument("--resolution", type=int, help="side of the extractor's input, in pixels (its own; effnet 64)")
    parser.add_argument("--cache_dir", type=Path, help="where real statistics are kept (the user's cache folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def with_sampling(
    parser: argparse.ArgumentParser,
    seed: str | None = "samples are a function of seed and index",
    batch: str | None = "pictures drawn at once",
    several: bool = False,
) -> argparse.ArgumentParser:
    """The parser with all that a verb which draws from a checkpoint takes.

    Args:
        parser: the verb's.
        seed: what --seed is of; None for a verb without it.
        batch: what --batch_size counts; likewise.
        several: as `sampler.add_arguments` has it.
    """
    sampler.add_arguments(parser, several)
    return with_machine(parser, seed, batch, 64)


def with_machine(
    parser: argparse.ArgumentParser, seed: str | None, batch: str | None, batch_size: int
) -> argparse.ArgumentParser:
    """The parser with --seed, --batch_size (by default as given) and --device; `seed` and `batch` say what they do."""
    if seed is not None:
        parser.add_argument("--seed", type=int, default=0, help=f"{seed} (0)")
    if batch is not None:
        parser.add_argument("--batch_size", type=int, default=batch_size, help=f"{batch} ({batch_size})")
    add_device(parser)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds --device, for `checkpoints.usable_device`."""
    parser.add_argument(
        "--device", default="auto", help="auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps (auto)"
    )


def add_distance(parser: argparse.ArgumentParser) -> None:
    """Adds what decides the distance that pictures are compared by, for `distances.distance_of`."""
    parser.add_argument(
        "--distance", choices=("lpips", "effnet"),
        help="LPIPS of VGG16, as published, or EfficientNet's features (lpips if its weights are in torch's cache)",
    )  # fmt: skip
    parser.add_argument("--resolution", type=int, default=64, help="side of EfficientNet's input, in pixels (64)")


def require_suffix(option: str, path: Path, suffixes: Sequence[str] = (".png",)) -> None:
    """Raises ValueError, in one line, for a file of another kind than an option's."""
    if path.suffix not in suffixes:
        raise ValueError(f"--{option} {path}: name a file that ends in {', '.join(suffixes)}")
