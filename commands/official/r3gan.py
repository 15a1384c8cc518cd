"""Reads snapshots of the authors' R3GAN (network-snapshot-*.pkl).

They do not record constructor arguments, so these are inferred from tensor shapes. The recorded number format of each
stage says which resolutions were trained in 16 bits.
"""

import re
from typing import Any

import torch
from torch import Tensor

from commands.official.checkpoint import Foreign, networks_of, without_filters
from commands.official.pickles import Record

GENERATOR, DISCRIMINATOR = "training.networks.Generator", "training.networks.Discriminator"

CLASSES = (
    GENERATOR,
    DISCRIMINATOR,
    *(
        f"R3GAN.Networks.{name}"
        for name in (
            "Generator", "Discriminator", "GeneratorStage", "DiscriminatorStage", "GenerativeBasis",
            "DiscriminativeBasis", "ResidualBlock", "UpsampleLayer", "DownsampleLayer", "Convolution",
        )
    ),
    "R3GAN.FusedOperators.BiasedActivationCUDA",
    "R3GAN.Resamplers.InterpolativeUpsamplerCUDA",
    "R3GAN.Resamplers.InterpolativeDownsamplerCUDA",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.linear.Linear",
)  # fmt: skip
"""Classes of the authors' training/networks.py and R3GAN/, and of torch, that their snapshots contain."""

LICENCE = "none stated by its authors; parts of the code bear NVIDIA's notice that forbids use without a licence"

BLOCK = {
    "LinearLayer1.Layer.weight": "conv1.weight",
    "LinearLayer2.Layer.weight": "conv2.weight",
    "LinearLayer3.Layer.weight": "conv3.weight",
    "NonLinearity1.Bias": "conv1.bias",
    "NonLinearity2.Bias": "conv2.bias",
}
"""Names of the tensors of a residual block."""


def read(content: dict[str, Any]) -> Foreign:
    """The networks in the content of a snapshot's pickle. Raises ValueError if our R3GAN does not support them."""
    raw, average, critic, notes = networks_of(content, GENERATOR, DISCRIMINATOR)
    networks = {"generator": generator_names(raw), "average.module": generator_names(average)}
    if critic is not None:
        networks["discriminator"] = discriminator_names(critic)
    arguments = arguments_of(networks["average.module"])
    low = low_resolutions(average, critic)
    if low is None:
        notes.append(
            "16 bits were not used at exactly the highest resolutions, as ours are: training resumes in 32 bits"
        )
    arguments["low_resolutions"] = low or 0
    seen = content.get("cur_nimg")
    return Foreign(
        {"class_path": "models.r3gan.R3GAN", "init_args": arguments},
        networks,
        {"code": "brownvc/R3GAN", "licence": LICENCE},
        notes=notes,
        samples_seen=seen if type(seen) is int and seen >= 0 else None,
    )


def arguments_of(generator: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of our R3GAN except `low_resolutions`, inferred from the shapes of a generator's renamed tensors.

    Raises ValueError if a tensor is missing, or resolutions differ in their number of blocks.
    """
    stages: dict[int, set[int]] = {}
    for name in generator:
        if found := re.match(r"stages\.(\d+)\.(\d+)\.", name):
            stages.setdefault(int(found[1]), set()).add(int(found[2]))
    counts = sorted({len(blocks) for blocks in stages.values()})
    if len(counts) != 1:
        raise ValueError(
            f"its generator has {counts or 'no'} residual blocks per resolution; ours has the same everywhere"
        )
    try:
        first = [generator[f"stages.{i}.0.conv1.weight"] for i in range(len(stages))]
        grouped = [generator[f"stages.{i}.0.conv2.weight"] for i in range(len(stages))]
        latent_dim, channels = generator["linear.weight"].shape[1], generator["to_rgb.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"its generator has no counterpart of our {str(error)[1:-1]}") from error
    embedding = generator.get("embed.weight")
    classes = 0 if embedding is None else embedding.shape[1]
    side = 4 << len(stages) - 1
    return {
        "data_shape": [channels, side, side],
        "num_classes": classes,
        "conditional": classes > 0,
        "widths": [weight.shape[1] for weight in first],
        "groups": [weight.shape[0] // weight.shape[1] for weight in grouped],
        "blocks": counts[0],
        "expansion": first[0].shape[0] // first[0].shape[1],
        "latent_dim": latent_dim if embedding is None else latent_dim - embedding.shape[0],
    }


def low_resolutions(generator: Record, discriminator: Record | None) -> int | None:
    """The number of highest resolutions in bfloat16; None if others, or 4 px, use it."""
    upwards = _low_stages(generator)
    count = sum(upwards)
    expected = [i >= len(upwards) - count for i in range(len(upwards))]
    if upwards != expected or upwards[0]:
        return None
    return None if discriminator is not None and _low_stages(discriminator) != expected[::-1] else count


def _low_stages(network: Record) -> list[bool]:
    """Whether each stage computes in bfloat16, in order of computation."""
    return [stage.state.get("DataType") is torch.bfloat16 for stage in network.part("Model").part("MainLayers").items]


def generator_names(generator: Record) -> dict[str, Tensor]:
    """A generator's tensors, renamed to our names. Layer 0 of a stage changes width and resolution."""
    outer = {
        "MainLayers.0.Layers.0.Basis": "basis",
        "MainLayers.0.Layers.0.LinearLayer.weight": "linear.weight",
        "EmbeddingLayer.weight": "embed.weight",
        "AggregationLayer.Layer.weight": "to_rgb.weight",
    }
    named = {}
    for name, value in without_filters(generator, "Kernel").items():
        name, stage, layer, rest = _place(name)
        if name in outer:
            name = outer[name]
        elif layer == 0:
            name = f"resize.{stage - 1}.{rest.removeprefix('LinearLayer.Layer.')}"
        elif layer > 0:
            name = f"stages.{stage}.{layer - 1}.{BLOCK.get(rest, rest)}"
        named[name] = value
    return named


def discriminator_names(discriminator: Record) -> dict[str, Tensor]:
    """A discriminator's tensors, renamed to our names. The last layer of a stage changes resolution and width."""
    outer = {"EmbeddingLayer.weight": "embed.weight", "ExtractionLayer.Layer.weight": "from_rgb.weight"}
    last = [len(stage.part("Layers").items) - 1 for stage in discriminator.part("Model").part("MainLayers").items]
    named = {}
    for name, value in without_filters(discriminator, "Kernel").items():
        name, stage, layer, rest = _place(name)
        if name in outer:
            name = outer[name]
        elif layer >= 0 and layer != last[stage]:
            name = f"stages.{stage}.{layer}.{BLOCK.get(rest, rest)}"
        elif layer >= 0 and stage == len(last) - 1:
            name = {"Basis.weight": "basis.weight", "LinearLayer.weight": "linear.weight"}.get(rest, rest)
        elif layer >= 0:
            name = f"resize.{stage}.{rest.removeprefix('LinearLayer.Layer.')}"
        named[name] = value
    return named


def _place(name: str) -> tuple[str, int, int, str]:
    """A tensor's name, its stage, its layer and the rest of the name; outside of stages -1, -1 and the name."""
    name = name.removeprefix("Model.")
    found = re.fullmatch(r"MainLayers\.(\d+)\.Layers\.(\d+)\.(.+)", name)
    return (name, int(found[1]), int(found[2]), found[3]) if found else (name, -1, -1, name)
