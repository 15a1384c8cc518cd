"""Counts the parameters and the memory of the models in docs/claims.md.

python docs/programs/make_claims.py
"""

import json
import sys
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

sys.path.insert(0, str(Path(__file__).parents[2]))

from commands.options.configs import MODE, read_config
from models.training.base import GenerativeModel

CONFIGS = Path(__file__).parents[2] / "configs"
CLAIMED = {
    "StyleGAN2, 1024 px": ("stylegan2_ffhq1024.yaml", (3, 1024, 1024), 0),
    "BigGAN, 128 px": ("biggan_imagenet128.yaml", (3, 128, 128), 1000),
    "ProGAN, 1024 px": ("progan_celeba.yaml", (3, 1024, 1024), 0),
    "DCGAN, 64 px": ("dcgan_celeba64.yaml", (3, 64, 64), 0),
}
"""Config, shape of the data and number of classes, by name."""

ALL_RESOLUTIONS = {"batch_factors": [16, 16, 16, 8, 4, 2, 1, 1, 1]}
"""For ProGAN, whose config ends at 128 px: one factor for each resolution from 4 to 1024 px."""


def counted(config: str, data_shape: tuple[int, ...], num_classes: int) -> tuple[dict[str, int], float]:
    """Parameters by network, and the GiB of weights, gradients, Adam's two moments and averages, all in float32."""
    described = read_config(CONFIGS / config)["model"]
    arguments = {**described["init_args"], "data_shape": list(data_shape), "num_classes": num_classes}
    if "batch_factors" in arguments:
        arguments |= ALL_RESOLUTIONS
    parser = ArgumentParser(parser_mode=MODE, exit_on_error=False)
    parser.add_subclass_arguments(GenerativeModel, "model")
    parsed = parser.parse_string(json.dumps({"model": {**described, "init_args": arguments}}))
    with torch.device("meta"):  # shapes only: nothing is initialised
        model: GenerativeModel = parser.instantiate(parsed).model
    networks = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks().items()}
    averages = sum(p.numel() for net in model.averages().values() for p in net.parameters())
    return networks, (4 * sum(networks.values()) + averages) * 4 / 2**30


if __name__ == "__main__":
    print("| model | generator | discriminator | together | weights, gradients, Adam, average (GiB) |")
    print("| --- | --- | --- | --- | --- |")
    for name, (config, shape, classes) in CLAIMED.items():
        networks, gib = counted(config, shape, classes)
        cells = [f"{count:,}" for count in networks.values()]
        print(f"| {name} | {' | '.join(cells)} | {sum(networks.values()):,} | {gib:.2f} |")
