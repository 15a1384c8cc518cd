"""Plans a fit: measures memory, time and disk by a few trial steps before it begins, and prints them."""

import copy
import math
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.budget import budget_of
from callbacks.checkpoints import Checkpoints
from callbacks.lookup import data_of, find, model_of
from callbacks.memory import GIB, PeakMeter, bytes_kept
from callbacks.run import Run
from models.training.base import Batch, GenerativeModel
from records.run import Predicted

SILENT: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": -1,
    "limit_val_batches": 0,
}
"""Arguments of a Trainer that runs trial steps only."""


@dataclass(frozen=True)
class Cost:
    """The cost of training on this machine, as measured by `trial_steps`."""

    seconds_per_kimg: float
    peak_bytes: int
    """Peak memory of a step; 0 if unknown."""
    peak_source: str
    checkpoint_bytes: int
    samples_seen: int = 0
    """The place in training where it was measured."""
    stages: tuple["Cost", ...] = ()
    """The remaining stages of a model that grows; the other fields are then their mean speed and highest memory."""


def trial_steps(
    trainer: Trainer, model: GenerativeModel, batch: Batch, steps: int = 3, samples_seen: int | None = None
) -> Cost:
    """Measures training steps on `batch`, and restores everything: weights, optimizers, counters.

    The first step is a warm-up. If a model has lazy penalties, a step of each kind is timed: with all, some or none of
    them; each is weighted by its frequency.

    `steps` steps of the most frequent kind are timed, at `samples_seen` or where the model stands.
    """
    at = model.samples_seen if samples_seen is None else samples_seen
    own, there = state_at(model, model.samples_seen), state_at(model, at)
    weights = _on_cpu(model.state_dict())
    optimizers = [_on_cpu(optimizer.state_dict()) for optimizer in trainer.optimizers]
    plugin = _on_cpu(trainer.precision_plugin.state_dict())
    meter = PeakMeter(model.device)
    try:
        model.on_load_checkpoint(there)
        run_step(trainer, model, batch)
        state = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        kept = bytes_kept(model, list(trainer.optimizers))
        model.on_load_checkpoint(there)
        meter.start()
        kinds: dict[tuple[str, ...], list[int]] = {}
        cycle = model.work_cycle()
        for number, work in enumerate(cycle):
            kinds.setdefault(work, []).append(number)
        common = max(map(len, kinds.values()))
        total = 0.0
        for numbers in kinds.values():
            times = steps if len(numbers) == common else 1
            total += len(numbers) * min(_seconds(trainer, model, batch, numbers[0]) for _ in range(times))
        peak = meter.read()
    finally:
        model.load_state_dict(weights)
        for optimizer, saved in zip(trainer.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(saved)
            optimizer.zero_grad()
        trainer.precision_plugin.load_state_dict(plugin)
        model.on_load_checkpoint(own)
        model.reported()
    samples = len(batch[0]) * trainer.world_size
    return Cost(1000 * total / len(cycle) / samples, peak, meter.source, state + kept["optimizer state"], at)


def state_at(model: GenerativeModel, samples_seen: int) -> dict[str, Any]:
    """The model's own part of a checkpoint, for another place in training."""
    state: dict[str, Any] = {}
    model.on_save_checkpoint(state)
    state["atelier"]["samples_seen"] = samples_seen
    return state


def cost_at(trainer: Trainer, model: GenerativeModel, least: int, samples_seen: int) -> Cost:
    """Trial steps at a place in training, with the batch size that it has there: see `samples_per_step`."""
    size = model.samples_per_step(samples_seen, least) // trainer.world_size
    return trial_steps(trainer, model, random_batch(model, size), samples_seen=samples_seen)


def cost_until(trainer: Trainer, model: GenerativeModel, least: int, end: float) -> Cost:
    """Trial steps in each stage until `end` samples, and their total cost.

    A stage is measured at its beginning, where it costs the most: a network that fades in a resolution also computes
    the previous one. If `end` is infinite, so is the last stage, whose speed is then the mean.
    """
    now = model.samples_seen
    starts = [now, *(start for start in model.stage_starts if now < start < end)]
    stages = [cost_at(trainer, model, least, start) for start in starts]
    if len(stages) == 1:
        return stages[0]
    if math.isinf(end):
        speed = stages[-1].seconds_per_kimg
    else:
        lengths = [stop - start for start, stop in zip(starts, [*starts[1:], end], strict=True)]
        speed = sum(n * stage.seconds_per_kimg for n, stage in zip(lengths, stages, strict=True)) / sum(lengths)
    return Cost(
        seconds_per_kimg=speed,
        peak_bytes=max(stage.peak_bytes for stage in stages),
        peak_source=stages[0].peak_source,
        checkpoint_bytes=max(stage.checkpoint_bytes for stage in stages),
        samples_seen=now,
        stages=tuple(stages),
    )


def _seconds(trainer: Trainer, model: GenerativeModel, batch: Batch, number: int) -> float:
    """The time of training step `number`."""
    model.steps = number
    start = time.perf_counter()
    run_step(trainer, model, batch)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


def run_step(trainer: Trainer, model: GenerativeModel, batch: Batch) -> None:
    """One training step, without the loop around it, which would count it."""
    output = trainer.strategy.training_step(batch, 0)
    if model.automatic_optimization:
        loss = output["loss"] if isinstance(output, dict) else output
        assert isinstance(loss, Tensor)
        trainer.strategy.backward(loss, trainer.optimizers[0])
        for optimizer in trainer.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def _on_cpu(tree: Any) -> Any:  # noqa: ANN401 - any nesting of dicts, lists and tensors
    """A copy in main memory: a device that is nearly full may have no room for it."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_on_cpu(value) for value in tree]
    return copy.copy(tree)


def random_batch(model: GenerativeModel, size: int) -> Batch:
    """`size` samples of noise in [-1, 1], or of random tokens, with labels, on the model's device and in its layout."""
    generator = torch.Generator().manual_seed(0)
    if model.vocabulary_size:
        x = torch.randint(model.vocabulary_size, (size, *model.data_shape), generator=generator)
    else:
        x = torch.rand(size, *model.data_shape, generator=generator) * 2 - 1
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(max(model.num_classes, 1), (size,), generator=generator)
    return x.to(model.device), y.to(model.device)


class Trial(Callback):
    """Measures the cost of training when a fit starts, and ends the fit; the last stage of a model that grows."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.cost: Cost | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = model_of(pl_module)
        at = max(model.samples_seen, model.stage_starts[-1])
        self.cost = cost_at(trainer, model, self.batch_size * model.micro_batches, at)
        trainer.should_stop = True


class Plan(Callback):
    """Prints the plan before the first batch. Raises ValueError if the disk cannot hold the checkpoints."""

    def __init__(self) -> None:
        self.cost: Cost | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = model_of(pl_module)
        kimg = budget_of(trainer).kimg
        end = math.inf if kimg is None else 1000 * kimg
        self.cost = cost_until(trainer, model, data_of(trainer).batch_size * model.micro_batches, end)
        if not trainer.is_global_zero:
            return
        run, checkpoints = find(trainer, Run), find(trainer, Checkpoints)
        kept = checkpoints.keep + checkpoints.save_top_k if checkpoints else 0
        print("\n".join(plan_lines(trainer, model, self.cost, kept, run)), file=sys.stderr, flush=True)
        need = kept * self.cost.checkpoint_bytes
        if run is not None:
            free = free_bytes(run.folder)
            if free < need:
                raise ValueError(
                    f"checkpoints need {_size(need)}, but only {_size(free)} are free in {run.folder}: "
                    "choose another disk with --run.root, or keep fewer with --checkpoints.keep"
                )
            run.record.plan = Predicted(round(self.cost.seconds_per_kimg, 3), self.cost.peak_bytes)
            run.save(trainer)


def plan_lines(
    trainer: Trainer, model: GenerativeModel, cost: Cost, checkpoints_kept: int, run: Run | None
) -> list[str]:
    data = data_of(trainer)
    shape = " x ".join(map(str, model.data_shape))
    lines = [f"{type(model).__name__} on {type(data).__name__}: {data.train_size:,} examples of {shape}"]
    lines += [f"  {'data':<12} {data.note}"] if data.note else []
    lines += [f"  {name:<12} {text}" for name, text in describe_cost(model, cost).items()]
    budget = budget_of(trainer)
    if budget.kimg is not None:
        left = max(budget.kimg - model.samples_seen / 1000, 0)
        lines.append(
            f"  time         about {_duration(left * cost.seconds_per_kimg)} of training for {left:g} kimg, "
            "without evaluations"
        )
    if budget.hours is not None:
        lines.append(f"  time         at most {budget.hours:g} h")
    if budget.kimg is None and budget.hours is None:
        lines.append("  time         unlimited: Ctrl-C stops and saves; --budget.kimg or --budget.hours set a limit")
    if run is not None:
        disk = f"up to {checkpoints_kept} of {_size(cost.checkpoint_bytes)}"
        lines += [f"  checkpoints  {disk}", f"  run folder   {run.folder}"]
    return lines


def describe_cost(model: GenerativeModel, cost: Cost) -> dict[str, str]:
    """Parameters, memory and speed as text."""
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks().items()}
    peak = f"{cost.peak_bytes / GIB:.2f} GiB ({cost.peak_source})" if cost.peak_bytes else "not known on this system"
    facts = {
        "parameters": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        "peak memory": peak,
        "speed": f"{cost.seconds_per_kimg:.3g} s/kimg, {1000 / cost.seconds_per_kimg:.0f} samples/s on {model.device}",
    }
    if cost.stages:
        each = (
            f"{stage.seconds_per_kimg:.3g} s/kimg from {stage.samples_seen / 1000:g} kimg on" for stage in cost.stages
        )
        facts["stages"] = f"measured in each: {', '.join(each)}"
    return facts


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of `folder`."""
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
