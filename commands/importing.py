"""`import`: converts a checkpoint of a family's official code, without running any code of the file."""

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from commands.options.parsers import require_suffix, verb_parser

if TYPE_CHECKING:
    from commands.official.checkpoint import Foreign


def parser() -> argparse.ArgumentParser:
    parser = verb_parser(
        "import",
        "Converts an official checkpoint: a snapshot of stylegan2-ada-pytorch or R3GAN (network-snapshot-*.pkl), or "
        "weights of BigGAN-PyTorch (G_ema.pth or G_ema.safetensors, with G and D beside it). No code of the file runs.",
    )
    parser.add_argument("path", type=Path, help="the snapshot, or the generator's weights")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the checkpoint to write, x.ckpt")
    parser.add_argument("--kimg", type=float, help="thousand training samples (from the file, if it says; else 0)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Reads, converts and writes; prints the file and the licence."""
    options = parser().parse_args(arguments)
    if not options.path.is_file():
        raise FileNotFoundError(f"no file to import at {options.path}")
    require_suffix("out", options.out, [".ckpt"])
    if options.kimg is not None and not 0 <= options.kimg < float("inf"):
        raise ValueError(f"--kimg must not be {options.kimg}")

    from callbacks.checkpoints import WholeCheckpointIO
    from commands.official.checkpoint import checkpoint_of

    read = reader_of(options.path)
    with options.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        foreign = read(options.path)
        foreign.origin |= {"file": options.path.name, "sha256": digest}
        seen = foreign.samples_seen or 0 if options.kimg is None else round(options.kimg * 1000)
        checkpoint = checkpoint_of(foreign, seen)
    except ValueError as error:
        named = str(error).startswith(str(options.path))
        raise ValueError(str(error) if named else f"{options.path}: {error}") from error
    except (TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        # A well-formed file may hold anything in place of a size or a tensor, which may raise any of these.
        reason = shorten(str(error), 200) or type(error).__name__
        raise ValueError(f"{options.path} does not hold networks of a supported kind: {reason}") from error
    WholeCheckpointIO().save_checkpoint(checkpoint, options.out)
    for note in foreign.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.out}  from {foreign.origin['code']}, licence: {foreign.origin['licence']}")
    return 0


def reader_of(path: Path) -> Callable[[Path], "Foreign"]:
    """The reader of files with this suffix. Raises ValueError if there is none."""
    from commands.official import biggan

    if path.suffix == ".pkl":
        return read_snapshot
    if path.suffix in biggan.SUFFIXES:
        return biggan.read
    raise ValueError(f"{path} does not end in {', '.join(('.pkl', *biggan.SUFFIXES))}: such files can be imported")


def read_snapshot(path: Path) -> "Foreign":
    """Reads a pickle, by the class of its generators. Raises ValueError if the file is damaged or not supported."""
    from commands.official import r3gan, stylegan2
    from commands.official.pickles import Record, read_network_pickle

    content = read_network_pickle(path, stylegan2.CLASSES, r3gan.CLASSES)
    generators = [content.get(name) for name in ("G_ema", "G")]
    if any(isinstance(found, Record) and found.class_name == r3gan.GENERATOR for found in generators):
        return r3gan.read(content)
    return stylegan2.read(content)
