"""Bits per dimension of a dataset's test pictures, from the frequencies of the training pictures' values.

python docs/programs/histogram_bits.py configs/vae_fashion_mnist.yaml
"""

import argparse
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from commands.options.sources import data_from
from media.pictures import to_uint8
from metrics.histogram import histogram_bits

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    data = data_from(parser.parse_args().config)

    def pictures(split: Literal["train", "test"]) -> Tensor:
        """A whole split, uint8 (N, C, H, W)."""
        chunks = torch.arange(data.size(split)).split(1000)
        return torch.cat([to_uint8(data.examples(split, chunk.tolist())[0]) for chunk in chunks])

    train, test = pictures("train"), pictures("test")
    print(f"{len(train):,} training pictures, {len(test):,} test pictures, {' x '.join(map(str, train.shape[1:]))}")
    for name, each_pixel in (("each pixel its own histogram", True), ("one histogram", False)):
        print(f"{name}: {histogram_bits(train, test, each_pixel):.3f} bits/dim")
