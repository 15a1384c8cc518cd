"""What a run ran on: recorded beside every figure."""

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
        cpu=_cpu_name(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.machine()}",
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    packages = ("torch", "torchvision", "lightning", "numpy", "wandb", "jsonargparse")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def has_bf16_units(device: torch.device) -> bool:
    """Whether bf16 runs on units of its own there, and is therefore faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return capability.startswith("AVX512") and "avx512_bf16" in _cpu_flags()
    return False


def _cpu_flags() -> set[str]:
    return set(_cpu_fact("flags").split())


def _cpu_name() -> str:
    return _cpu_fact("model name") or platform.processor()


def _cpu_fact(name: str) -> str:
    """What Linux says of the first core under this name; empty where it says nothing."""
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
