"""Measures memory: the peak of each phase, and the bytes of what is kept."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.lookup import model_of
from callbacks.run import run_of
from models.training.base import GenerativeModel
from records.run import MemoryUse
from settings.phases import OUTSIDE_STEPS

GIB = 2**30


class PeakMeter:
    """The peak memory between `start` and `read`, in bytes.

    On CUDA it is the allocator's own peak of tensors. On Linux's CPU it is the process's peak resident set, which
    /proc/self/clear_refs resets. Elsewhere it is 0, for unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._clear_refs, self._status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
        on_cpu = "resident set" if self._works() else "not available"
        self.source = "cuda allocator" if device.type == "cuda" else on_cpu

    def start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.source == "resident set":
            self._clear_refs.write_text("5")

    def read(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return self._status_bytes("VmHWM") if self.source == "resident set" else 0

    def _works(self) -> bool:
        try:
            self._clear_refs.write_text("5")
            return self._status_bytes("VmHWM") > 0
        except (OSError, StopIteration):
            return False

    def _status_bytes(self, field: str) -> int:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024


class Memory(Callback):
    """Reports `memory/<phase>_peak_gib` and, once, the bytes of parameters, gradients, optimizer state, averages and
    activations (what autograd keeps for the backward pass of each step).

    Args:
        batches: number of first batches that are measured.
        every_batches: batches between later measurements.
    """

    def __init__(self, batches: int = 20, every_batches: int = 100) -> None:
        if every_batches < 1:
            raise ValueError(f"memory.every_batches must be at least 1, not {every_batches}")
        self.batches, self.every_batches = batches, every_batches
        self.peaks: dict[str, int] = {}
        """Peak memory of each phase so far, in bytes."""
        self.kept: dict[str, int] = {}
        """Bytes of permanent tensors and of activations, by kind."""
        self._meter = PeakMeter(torch.device("cpu"))
        self._measuring = True
        self._open = 0
        self._activations: dict[str, int] = {}
        self._count_activations = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._meter = PeakMeter(model_of(pl_module).device)
        model_of(pl_module).phase_observers.append(self._observe)

    @contextlib.contextmanager
    def _observe(self, phase: str) -> Iterator[None]:
        rare = phase in OUTSIDE_STEPS
        if self._open or not (self._measuring or rare):
            yield
            return
        self._open += 1
        self._meter.start()
        counting: AbstractContextManager[dict[int, int]] = contextlib.nullcontext({})
        if self._count_activations and not rare:
            counting = count_saved_tensors()
        try:
            with counting as saved:
                yield
        finally:
            self._open -= 1
            self.peaks[phase] = max(self.peaks.get(phase, 0), self._meter.read())
            self._activations[phase] = max(self._activations.get(phase, 0), sum(saved.values()))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._measuring = batch_idx < self.batches or batch_idx % self.every_batches == 0
        self._count_activations = not self.kept

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not self.kept:
            model = model_of(pl_module)
            self.kept = bytes_kept(model, list(trainer.optimizers)) | {
                f"activations, {phase}": size for phase, size in self._activations.items() if size
            }
            self._report(trainer)
        elif self._measuring and batch_idx + 1 >= self.batches and batch_idx % self.every_batches == 0:
            self._report(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports last, since final figures and checkpoints are phases too."""
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        run = run_of(trainer)
        peaks = {f"memory/{phase.replace(' ', '_')}_peak_gib": peak / GIB for phase, peak in self.peaks.items()}
        run.write(trainer, {name: round(value, 4) for name, value in peaks.items()})
        peak_gib = {phase: round(peak / GIB, 4) for phase, peak in self.peaks.items()}
        run.record.memory = MemoryUse(self._meter.source, peak_gib, dict(self.kept))
        run.save(trainer)


def bytes_kept(model: GenerativeModel, optimizers: list[torch.optim.Optimizer]) -> dict[str, int]:
    """Bytes of parameters and buffers, gradients, optimizer state and averages.

    Gradients count as large as the parameters: they are freed between steps, but all exist within one.
    """
    networks, averages = model.networks().values(), model.averages().values()
    parameters = [p for network in networks for p in network.parameters()]
    state = [s for optimizer in optimizers for state in optimizer.state.values() for s in state.values()]
    return {
        "parameters": _bytes(parameters) + _bytes([b for network in networks for b in network.buffers()]),
        "gradients": _bytes([p for p in parameters if p.requires_grad]),
        "optimizer state": _bytes([s for s in state if isinstance(s, Tensor)]),
        "averages": _bytes([t for average in averages for t in [*average.parameters(), *average.buffers()]]),
    }


@contextlib.contextmanager
def count_saved_tensors() -> Iterator[dict[int, int]]:
    """Bytes that autograd saves for backward in the block, by storage, without parameters."""
    saved: dict[int, int] = {}
    kept_alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in saved:
                saved[storage.data_ptr()] = storage.nbytes()
                kept_alive.append(tensor.detach())  # so that no later tensor reuses its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _bytes(tensors: list[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
