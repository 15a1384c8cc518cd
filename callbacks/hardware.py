"""Describes the hardware and software of a run, for its record."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from records.run import Hardware


def hardware(device: torch.device) -> Hardware:
    """The machine that `device` belongs to."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Hardware(
        device=device.type,
        gpu=None if gpu is None else gpu.name,
        gpu_gib=None if gpu is None else round(gpu.total_memory / 2**30, 1),
        cpu=_cpu_fact("model name") or platform.processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.machine()}",
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect figures."""
    packages = ("torch", "torchvision", "lightning", "numpy", "wandb", "jsonargparse")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def has_bf16_units(device: torch.device) -> bool:
    """Whether the device has bf16 units, so that bf16 is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return capability.startswith("AVX512") and "avx512_bf16" in _cpu_fact("flags").split()
    return False


def _cpu_fact(name: str) -> str:
    """Linux's value of this field for the first core; empty if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError):
        return None
