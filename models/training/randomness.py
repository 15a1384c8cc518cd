"""Random numbers as functions of a key, so that no generator's state is ever saved.

The key of a sample is (seed, index), that of a training step (seed, samples seen). So a picture is the same whatever
the batch size, the order or the number of devices, and a resumed run draws what it would have drawn.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def keyed_seed(*key: int) -> int:
    """A well-mixed 63-bit seed for a tuple of integers."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_generator(*key: int) -> torch.Generator:
    """A CPU generator for a tuple of integers."""
    return torch.Generator().manual_seed(keyed_seed(*key))


def normals(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """The next standard normal numbers of each CPU generator, (N, *shape)."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The CPU generator of sample `index`.

    torch's CPU generator reads 32 bits of its seed. Two of 50,000 hashed seeds would coincide with a probability above
    1/4. Multiplying the index by an odd number modulo 2^32 keeps all indices of one seed distinct.
    """
    return torch.Generator().manual_seed((keyed_seed(seed) + index * 0x9E3779B1) & 0xFFFFFFFF)
