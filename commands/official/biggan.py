"""Reads weights of the authors' BigGAN-PyTorch (G.pth, D.pth, G_ema.pth, or the same as safetensors).

State dicts do not record the arguments of a network, so these are inferred from tensor shapes. The epsilons cannot be
inferred: BigGAN-PyTorch's scripts use 1e-5 for batch norms, as we do, and spectral norms are insensitive to theirs.
"""

import pickle
import re
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from commands.official.checkpoint import Foreign

SUFFIXES = (".pth", ".safetensors")

LICENCE = "MIT (of the code; weights may have terms of their own)"

BLOCKS = {3: 32, 4: 64, 5: 128, 6: 256, 7: 512}
"""Resolution in pixels, by a generator's number of blocks."""

REPORTED = re.compile(r"(^|\.)sv\d+$")
"""Singular values that the authors' layers keep for logging."""


def read(path: Path) -> Foreign:
    """Reads a generator's weights, G<...> or G_ema<...>, and existing siblings G, G_ema and D with the same ending.

    Raises ValueError if a file is damaged, or is not such a network.
    """
    named = re.fullmatch(r"(?:G_ema|G)(_.*)?", path.stem)
    if named is None:
        raise ValueError(
            f"{path.name} is not called G{path.suffix} or G_ema{path.suffix}, as BigGAN-PyTorch calls them"
        )
    ending = (named[1] or "") + path.suffix
    states = {
        name: state_dict_at(found) for name in ("G", "G_ema", "D") if (found := path.parent / (name + ending)).is_file()
    }
    notes = []
    for missing, other in (("G", "G_ema"), ("G_ema", "G")):
        if missing not in states:
            states[missing] = states[other]
            notes.append(f"there is no {missing}{ending}: {other}{ending} takes its place")
    if "D" not in states:
        notes.append(f"there is no D{ending}: a new discriminator takes its place")
    networks = {"generator": generator_names(states["G"]), "average.module": generator_names(states["G_ema"])}
    arguments = arguments_of(networks["generator"])
    if "D" in states:
        networks["discriminator"] = discriminator_names(states["D"], arguments["conditional"])
        arguments["d_width"] = d_width(networks["discriminator"], arguments)
    description = {"class_path": "models.biggan.BigGAN", "init_args": arguments}
    return Foreign(description, networks, {"code": "ajbrock/BigGAN-PyTorch", "licence": LICENCE}, (), notes)


def state_dict_at(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name. Raises ValueError if it is damaged, or holds anything else."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises running the file's code
        raise ValueError(f"{path} cannot be read: it is damaged, or holds more than tensors") from error
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # damaged bytes may raise any of a dozen errors
        raise ValueError(f"{path} cannot be read: {shorten(str(error), 200) or type(error).__name__}") from error
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} does not hold the tensors of one network alone")
    # Without DataParallel's prefix.
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def generator_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A generator's tensors, renamed to our names."""
    # The last norm, a plain one, and the two norms of each block differ in names.
    plain = {"gain": "weight", "bias": "bias", "stored_mean": "running_mean", "stored_var": "running_var"}
    inner = {"stored_mean": "norm.running_mean", "stored_var": "norm.running_var"}
    named = {}
    for name, value in _common(state).items():
        name = re.sub(r"^shared\.", "embedding.", name)
        name = re.sub(r"^output_layer\.2\.", "conv.", name)
        name = re.sub(r"^output_layer\.0\.(\w+)$", lambda found: f"norm.{plain.get(found[1], found[1])}", name)
        name = re.sub(
            r"\.bn([12])\.(\w+)", lambda found: f".norm{found[1]}.{inner.get(found[2], found[2])}", name
        )  # fmt: skip
        named[name] = value
    # Counters of training steps, which running averages with a momentum do not use.
    counters = [name for name in named if name.endswith("running_mean")]
    return named | {
        name.replace("running_mean", "num_batches_tracked"): torch.zeros((), dtype=torch.int64) for name in counters
    }


def discriminator_names(state: dict[str, Tensor], conditional: bool) -> dict[str, Tensor]:
    """A discriminator's tensors, renamed to our names; without a projection if it is unconditional."""
    return {name: value for name, value in _common(state).items() if conditional or not name.startswith("embed.")}


def _common(state: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, value in state.items():
        if REPORTED.search(name):
            continue
        if name.endswith(".u0"):
            name, value = name.removesuffix("0"), value.flatten()
        elif re.search(r"\.u\d+$", name):
            raise ValueError(f"it has {name}: spectral norms with several singular values are not supported")
        name = re.sub(r"\.(theta|phi|g)\.(\w+)$", r".attention.project.\1.\2", name.replace(".conv_sc.", ".shortcut."))
        named[re.sub(r"\.o\.(\w+)$", r".attention.out.\1", name)] = value
    return named


def arguments_of(generator: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of our BigGAN, inferred from the shapes of a generator's renamed tensors.

    Raises ValueError if they do not fit BigGAN's layers.
    """
    blocks = {int(found[1]) for name in generator if (found := re.match(r"blocks\.(\d+)\.0\.", name))}
    resolution = BLOCKS.get(len(blocks))
    try:
        first, last = generator["linear.weight"], generator["conv.weight"]
        gain = generator["blocks.0.0.norm1.gain.weight"]
    except KeyError as error:
        raise ValueError(f"it has no {str(error)[1:-1]}, as generators of BigGAN-PyTorch have") from error
    if resolution is None:
        raise ValueError(f"a generator of {len(blocks)} blocks is not BigGAN's, which has 3 to 7")
    if "blocks.0.0.conv1.u" not in generator:
        raise ValueError("it has no spectral norms (G_param other than SN), but our BigGAN does")
    # The first layer has 4 x 4 positions, times four widths at 32 px and sixteen otherwise.
    width = first.shape[0] // 16 // (4 if resolution == 32 else 16)
    arguments: dict[str, Any] = {
        "data_shape": [last.shape[0], resolution, resolution],
        "width": width,
        "attention": sorted(
            8 << int(found[1]) for name in generator if (found := re.match(r"blocks\.(\d+)\.1\.gamma", name))
        ),
        "latent_dim": first.shape[1],
        "conditional": True,
        "initialization": "orthogonal",
    }
    if (embedding := generator.get("embedding.weight")) is None:
        return {**arguments, "num_classes": gain.shape[0]}  # each norm has its own embedding (classes, channels)
    classes, shared = embedding.shape
    hierarchical = gain.shape[1] > shared  # a chunk of the latent is concatenated to the embedding
    if hierarchical:
        arguments["latent_dim"] = first.shape[1] * (len(blocks) + 1)
    return {**arguments, "num_classes": classes, "shared_dim": shared, "hierarchical": hierarchical}


def d_width(discriminator: dict[str, Tensor], arguments: dict[str, Any]) -> int:
    try:
        first = discriminator["blocks.0.0.conv1.weight"].shape[0]
    except KeyError as error:
        raise ValueError("its D has no blocks.0.0.conv1.weight") from error
    return first // 4 if arguments["data_shape"][1] == 32 else first
