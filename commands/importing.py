"""`import`: a checkpoint of what others trained, by the official code of a family, made without running any of it."""

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from commands.options.parsers import verb_parser

if TYPE_CHECKING:
    from commands.official.checkpoint import Foreign


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = verb_parser(
        "import",
        "Makes a checkpoint of an official one: a snapshot of stylegan2-ada-pytorch or R3GAN "
        "(network-snapshot-*.pkl), or weights of BigGAN-PyTorch (G_ema.pth or G_ema.safetensors, with G and D beside "
        "it). Nothing that the file holds is run.",
    )
    parser.add_argument("path", type=Path, help="the snapshot, or the generator's weights")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the checkpoint to write, x.ckpt")
    parser.add_argument(
        "--kimg", type=float, help="thousand samples it was trained for (what the file says; 0 where it does not)"
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Reads, converts and writes; prints where to, and the licence."""
    options = parser().parse_args(arguments)
    if not options.path.is_file():
        raise FileNotFoundError(f"no file to import at {options.path}")
    if options.out.suffix != ".ckpt":
        raise ValueError(f"--out {options.out} must end in .ckpt")
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
        # Well-formed files may hold anything in place of a size or a tensor, and what that breaks is theirs to choose.
        reason = shorten(str(error), 200) or type(error).__name__
        raise ValueError(f"{options.path} holds no such networks as are known here: {reason}") from error
    WholeCheckpointIO().save_checkpoint(checkpoint, options.out)
    for note in foreign.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.out}  from {foreign.origin['code']}, licence: {foreign.origin['licence']}")
    return 0


def reader_of(path: Path) -> Callable[[Path], "Foreign"]:
    """What reads files of this kind.

    Raises:
        ValueError: if nothing does.
    """
    from commands.official import biggan

    if path.suffix == ".pkl":
        return read_snapshot
    if path.suffix in biggan.SUFFIXES:
        return biggan.read
    raise ValueError(f"{path} is none of {', '.join(('.pkl', *biggan.SUFFIXES))}, which can be imported")


def read_snapshot(path: Path) -> "Foreign":
    """The networks of a pickle, which the class of its generators says the kind of.

    Raises:
        ValueError: if the file is damaged, or of no kind that is known here.
    """
    from commands.official import r3gan, stylegan2
    from commands.official.pickles import Record, read_network_pickle

    content = read_network_pickle(path, stylegan2.CLASSES, r3gan.CLASSES)
    generators = [content.get(name) for name in ("G_ema", "G")]
    if any(isinstance(found, Record) and found.class_name == r3gan.GENERATOR for found in generators):
        return r3gan.read(content)
    return stylegan2.read(content)
