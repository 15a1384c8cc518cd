"""Reads snapshots of the authors' stylegan2-ada-pytorch (network-snapshot-*.pkl)."""

import re
from typing import Any

from torch import Tensor

from commands.official.checkpoint import Foreign, networks_of, refuse_others, without_filters
from commands.official.pickles import Record
from models.parts.ops import RESAMPLE_TAPS

CLASSES = (
    "Generator", "MappingNetwork", "SynthesisNetwork", "SynthesisBlock", "SynthesisLayer", "ToRGBLayer",
    "Discriminator", "DiscriminatorBlock", "DiscriminatorEpilogue", "MinibatchStdLayer",
    "FullyConnectedLayer", "Conv2dLayer", "AugmentPipe",
)  # fmt: skip
"""Classes of the authors' training/networks.py and training/augment.py."""

LICENCE = "NVIDIA Source Code License for StyleGAN2 with Adaptive Discriminator Augmentation: non-commercial use only"

WHOLE_BATCH = 1 << 20
"""The group size of the minibatch statistic that stands for the whole batch, the authors' None."""


def read(content: dict[str, Any]) -> Foreign:
    """The networks in the content of a snapshot's pickle. Raises ValueError if our StyleGAN2 does not support them."""
    raw, average, critic, notes = networks_of(content, "Generator", "Discriminator")
    arguments = arguments_of(average, critic)
    networks = {"generator": generator_names(raw), "average.module": generator_names(average)}
    if critic is not None:
        networks["discriminator"] = discriminator_names(critic, arguments["data_shape"][1])
    description = {"class_path": "models.stylegan2.StyleGAN2", "init_args": arguments}
    origin = {"code": "NVlabs/stylegan2-ada-pytorch", "licence": LICENCE}
    return Foreign(description, networks, origin, ("path_length_mean",), notes)


def arguments_of(generator: Record, discriminator: Record | None) -> dict[str, Any]:
    """The arguments of our StyleGAN2. Those for training only keep their defaults, unless they are recorded.

    Raises ValueError if our networks lack something.
    """
    given = generator.arguments
    refuse_others(
        given, "generator",
        dict.fromkeys(("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"), ...)
        | dict.fromkeys(("mapping_kwargs", "synthesis_kwargs"), ...),
    )  # fmt: skip
    mapping, synthesis = dict(given.get("mapping_kwargs", {})), dict(given.get("synthesis_kwargs", {}))
    features = {"activation": "lrelu", "embed_features": None, "layer_features": None, "lr_multiplier": 0.01}
    refuse_others(mapping, "mapping network", {**features, "num_layers": ..., "w_avg_beta": ...})
    sizes = {"channel_base": ..., "channel_max": ..., "num_fp16_res": ..., "conv_clamp": ...}
    layers = {"activation": "lrelu", "resample_filter": list(RESAMPLE_TAPS), "fp16_channels_last": ...}
    refuse_others(
        synthesis, "synthesis network",
        {**sizes, **layers, "architecture": "skip", "use_noise": True, "kernel_size": 3},
    )  # fmt: skip
    try:
        arguments = {
            "data_shape": [given["img_channels"], given["img_resolution"], given["img_resolution"]],
            "num_classes": given["c_dim"],
            "conditional": given["c_dim"] > 0,
            "latent_dim": given["z_dim"],
            "w_dim": given["w_dim"],
            "mapping_layers": mapping.get("num_layers", 8),
            "w_average_beta": mapping.get("w_avg_beta", 0.995),
            "channel_base": synthesis.get("channel_base", 32768),
            "channel_max": synthesis.get("channel_max", 512),
            "low_resolutions": synthesis.get("num_fp16_res", 0),
            "clamp": synthesis.get("conv_clamp"),
        }
    except KeyError as error:
        raise ValueError(f"its generator does not record {error}") from error
    if discriminator is None:
        return arguments
    theirs = discriminator.arguments
    epilogue = dict(theirs.get("epilogue_kwargs", {}))
    refuse_others(
        theirs, "discriminator",
        {**sizes, "c_dim": ..., "img_resolution": ..., "img_channels": ..., "architecture": ..., "cmap_dim": None,
         "block_kwargs": ..., "mapping_kwargs": ..., "epilogue_kwargs": ...},
    )  # fmt: skip
    # Frozen layers concern training, not the network.
    refuse_others(dict(theirs.get("block_kwargs", {})), "discriminator", {**layers, "freeze_layers": ...})
    refuse_others(dict(theirs.get("mapping_kwargs", {})), "discriminator's mapping", {**features, "num_layers": 8})
    refuse_others(
        epilogue, "discriminator", {"mbstd_group_size": ..., "mbstd_num_channels": ..., "activation": "lrelu"}
    )
    same = (
        ("channel_base", "channel_base", 32768), ("channel_max", "channel_max", 512), ("clamp", "conv_clamp", None),
    )  # fmt: skip
    for ours, name, default in same:
        if theirs.get(name, default) != arguments[ours]:
            raise ValueError(
                f"its networks differ in {name}, {arguments[ours]} and {theirs.get(name, default)}: ours share it"
            )
    if (architecture := theirs.get("architecture", "resnet")) not in ("resnet", "orig"):
        raise ValueError(f"its discriminator's architecture is {architecture!r}; ours is resnet or orig")
    if (channels := epilogue.get("mbstd_num_channels", 1)) not in (0, 1):
        raise ValueError(f"its discriminator has {channels} minibatch statistics; ours has one")
    group = epilogue.get("mbstd_group_size", 4)
    arguments["architecture"] = architecture
    arguments["minibatch_group"] = None if channels == 0 else WHOLE_BATCH if group is None else group
    return arguments


def generator_names(generator: Record) -> dict[str, Tensor]:
    """A generator's tensors, renamed to our names."""
    return {_generator_name(name): value for name, value in without_filters(generator, "resample_filter").items()}


def _generator_name(name: str) -> str:
    if name == "mapping.w_avg":
        return "w_average"
    name = re.sub(r"^mapping\.fc(\d+)\.", r"mapping.layers.\1.", name)
    name = re.sub(r"^synthesis\.b4\.const$", "synthesis.const", name)
    name = re.sub(r"^synthesis\.b(\d+)\.", lambda found: f"synthesis.blocks.{_stage(found[1])}.", name)
    return name.replace(".torgb.", ".to_rgb.")


def discriminator_names(discriminator: Record, resolution: int) -> dict[str, Tensor]:
    """A discriminator's tensors, renamed to our names."""
    last = _stage(str(resolution))
    named = {}
    for name, value in without_filters(discriminator, "resample_filter").items():
        name = re.sub(rf"^b{resolution}\.fromrgb\.", "from_rgb.", name)
        name = re.sub(r"^mapping\.fc(\d+)\.", r"mapping.layers.\1.", name)
        name = re.sub(
            r"^b4\.(conv|fc|out)\.", lambda found: {"fc": "inner", "out": "last"}.get(found[1], "conv") + ".", name
        )
        named[re.sub(r"^b(\d+)\.", lambda found: f"blocks.{last - _stage(found[1])}.", name)] = value
    return named


def _stage(side: str) -> int:
    """0 for 4 px, 1 for 8 px, ..."""
    return int(side).bit_length() - 3
