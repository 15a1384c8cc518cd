"""What docs/claims.md measures: the parameters of the models that claims are made about, and what they keep in memory.

python docs/programs/make_claims.py
"""

import sys
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.training.base import GenerativeModel
from settings.configurable import build

CONFIGS = Path(__file__).parents[2] / "configs"
CLAIMED = {
    "StyleGAN2, 1024 px": ("stylegan2_ffhq1024.yaml", (3, 1024, 1024), 0),
    "BigGAN, 128 px": ("biggan_imagenet128.yaml", (3, 128, 128), 1000),
    "ProGAN, 1024 px": ("progan_celeba.yaml", (3, 1024, 1024), 0),
    "DCGAN, 64 px": ("dcgan_celeba64.yaml", (3, 64, 64), 0),
}
"""By name: config, shape of the data, classes."""

ALL_RESOLUTIONS = {"batch_factors": [16, 16, 16, 8, 4, 2, 1, 1, 1]}
"""Of ProGAN, whose config ends at 128 px: one for each resolution from 4 to 1024 px."""


def counted(config: str, data_shape: tuple[int, ...], num_classes: int) -> tuple[dict[str, int], float]:
    """Parameters by network, and GiB of weights, gradients, Adam's two moments and averages, all in float32."""
    described = yaml.safe_load((CONFIGS / config).read_text())["model"]
    arguments = {**described.get("init_args", {}), "data_shape": list(data_shape), "num_classes": num_classes}
    if "batch_factors" in arguments:
        arguments |= ALL_RESOLUTIONS
    with torch.device("meta"):  # shapes alone: nothing is initialized
        model: GenerativeModel = build({"class_path": described["class_path"], "init_args": _parts(arguments)})
    networks = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks().items()}
    averages = sum(p.numel() for net in model.averages().values() for p in net.parameters())
    return networks, (4 * sum(networks.values()) + averages) * 4 / 2**30


def _parts(arguments: dict[str, object]) -> dict[str, object]:
    """A config's shorthand as `build` reads it: a GAN's `adversarial` has no class_path of its own."""
    adversarial = arguments.get("adversarial")
    if isinstance(adversarial, dict) and "class_path" not in adversarial:
        arguments["adversarial"] = {"class_path": "models.training.gan.AdversarialTraining", "init_args": adversarial}
    return arguments


if __name__ == "__main__":
    print("| model | generator | discriminator | together | weights, gradients, Adam, average (GiB) |")
    print("| --- | --- | --- | --- | --- |")
    for name, (config, shape, classes) in CLAIMED.items():
        networks, gib = counted(config, shape, classes)
        cells = [f"{count:,}" for count in networks.values()]
        print(f"| {name} | {' | '.join(cells)} | {sum(networks.values()):,} | {gib:.2f} |")
