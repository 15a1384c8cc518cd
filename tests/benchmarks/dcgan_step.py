"""Times a DCGAN step at 64 px, batch 64: ours as `fit` runs it, a bare loop and a plain loop of the same computation.

    python tests/benchmarks/dcgan_step.py [--rounds 5] [--steps 8]

The three alternate in one process, so that other work on the machine affects all of them equally. Ours runs under the
real command line with everything that a fit has: callbacks, log files, the progress bar, an offline W&B run. It is
timed from the end of one batch to the end of a later one, which includes the loader and every callback, but no set-up.

- ours: the Trainer's steps, in bf16 where the device has units for it.
- bare: a loop without Lightning, logging or callbacks, with the same networks, layout, precision, losses, optimizers.
- plain: the loop of the PyTorch DCGAN example: float32, contiguous tensors, binary cross-entropy on a sigmoid with
  separate backward passes for real and fake, activations in place, Adam parameter by parameter, D not frozen in the G
  step, five losses and means read back at every step. It prints nothing and decodes nothing.
"""

import argparse
import contextlib
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lightning

from callbacks.hardware import hardware
from commands.options.command_line import TrainingCLI, as_input_errors, quietly
from commands.training import fit
from datamodules.base import to_float
from models.dcgan import DCGAN, Discriminator, Generator, initialize
from models.training.ema import decay_for

BATCH, RESOLUTION, WIDTH, LATENT_DIM = 64, 64, 64, 100
LR, BETAS = 2e-4, (0.5, 0.999)
HALFLIFE_KIMG = 10.0
WARM_UP = 4

Step = Callable[[], None]


def networks(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """A fresh generator and discriminator."""
    generator = Generator(LATENT_DIM, WIDTH, 3, RESOLUTION, classes=0).apply(initialize)
    discriminator = Discriminator(WIDTH, 3, RESOLUTION, classes=0).apply(initialize)
    return generator.to(device), discriminator.to(device)


def latents(device: torch.device) -> Tensor:
    """One batch of latents."""
    return torch.randn(BATCH, LATENT_DIM, device=device)


def bare_step(pictures: Callable[[], Tensor], device: torch.device, precision: str) -> Step:
    """The computation of `models.training.gan` for these settings, and nothing else."""
    generator, discriminator = networks(device)
    generator = generator.to(memory_format=torch.channels_last)
    discriminator = discriminator.to(memory_format=torch.channels_last)
    average = copy.deepcopy(generator).requires_grad_(False)
    g_optimizer = torch.optim.Adam(generator.parameters(), LR, BETAS, fused=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), LR, BETAS, fused=True)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    seen = 0

    def autocast() -> AbstractContextManager[Any]:
        if precision != "bf16-mixed":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def step() -> None:
        nonlocal seen
        with autocast():
            real = to_float(pictures())
            fake = generator(latents(device), labels)
            real_logits, fake_logits = discriminator(real, labels), discriminator(fake.detach(), labels)
            loss = (F.softplus(-real_logits) + F.softplus(fake_logits)).mean()
        loss.backward()
        d_optimizer.step()
        d_optimizer.zero_grad()

        discriminator.requires_grad_(False)
        with autocast():
            loss = F.softplus(-discriminator(fake, labels)).mean()
        loss.backward()
        discriminator.requires_grad_(True)
        g_optimizer.step()
        g_optimizer.zero_grad()

        with torch.no_grad():
            decay = decay_for(BATCH, seen, HALFLIFE_KIMG)
            torch._foreach_lerp_(tuple(average.parameters()), tuple(generator.parameters()), 1 - decay)
            for mine, theirs in zip(average.buffers(), generator.buffers(), strict=True):
                mine.copy_(theirs)
        seen += BATCH

    return step


def plain_step(pictures: Callable[[], Tensor], device: torch.device) -> Step:
    """The step of the PyTorch example, with its settings, in float32."""
    generator, discriminator = networks(device)
    for layer in [*generator.modules(), *discriminator.modules()]:
        if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
            layer.inplace = True
    g_optimizer = torch.optim.Adam(generator.parameters(), LR, BETAS, foreach=False, fused=False)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), LR, BETAS, foreach=False, fused=False)
    criterion = nn.BCELoss()
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    ones, zeros = torch.ones(BATCH, device=device), torch.zeros(BATCH, device=device)

    def probability(x: Tensor) -> Tensor:
        return torch.sigmoid(discriminator(x, labels))

    def step() -> None:
        discriminator.zero_grad()
        real_output = probability(to_float(pictures()).contiguous())
        real_loss = criterion(real_output, ones)
        real_loss.backward()
        fake = generator(latents(device), labels)
        fake_output = probability(fake.detach())
        fake_loss = criterion(fake_output, zeros)
        fake_loss.backward()
        d_optimizer.step()

        generator.zero_grad()
        output = probability(fake)
        loss = criterion(output, ones)
        loss.backward()
        g_optimizer.step()
        for value in (real_loss + fake_loss, loss, real_output.mean(), fake_output.mean(), output.mean()):
            value.item()

    return step


class Turns(lightning.Callback):
    """The last of a fit's callbacks: times its steps, and runs the two loops in between."""

    def __init__(self, rounds: int, steps: int) -> None:
        self.rounds, self.steps = rounds, steps
        self.device = torch.device("cpu")
        self.precision = ""
        self.seconds: dict[str, list[float]] = {"ours": [], "bare": [], "plain": []}
        self._loops: dict[str, Step] = {}
        self._batches = 0
        self._start = 0.0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        self._batches += 1
        if self._batches < WARM_UP:
            return
        if self._batches == WARM_UP:
            self._prepare(trainer, pl_module)
        elif (self._batches - WARM_UP) % self.steps:
            return
        else:
            self.seconds["ours"].append((self._now() - self._start) / self.steps)
            for name, step in self._loops.items():
                start = self._now()
                for _ in range(self.steps):
                    step()
                self.seconds[name].append((self._now() - start) / self.steps)
            last = ", ".join(f"{name} {1000 * seconds[-1]:.0f} ms" for name, seconds in self.seconds.items())
            print(f"round {len(self.seconds['ours'])}: {last}", flush=True)
            trainer.should_stop |= len(self.seconds["ours"]) == self.rounds
        self._start = self._now()

    def _prepare(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self.device, self.precision = model.device, str(trainer.precision)
        split = trainer.datamodule.dataset("train")  # type: ignore[attr-defined]

        def pictures() -> Tensor:
            return split[torch.randint(len(split), (BATCH,))][0].to(self.device)

        self._loops = {
            "bare": bare_step(pictures, self.device, self.precision),
            "plain": plain_step(pictures, self.device),
        }
        for step in self._loops.values():
            for _ in range(WARM_UP):
                step()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measure(rounds: int, steps: int, wandb: str) -> Turns:
    """Runs a fit in which each loop has `rounds` turns of `steps` steps.

    Raises:
        commands.options.errors.InputError: the fit's settings do not parse.
    """
    turns = Turns(rounds, steps)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with as_input_errors(), quietly():
            cli = TrainingCLI(
                [
                    "fit",
                    f"--run.root={folder}",
                    "--run.name=dcgan_step",
                    f"--run.wandb={wandb}",
                    "--model=models.dcgan.DCGAN",
                    f"--model.width={WIDTH}",
                    f"--model.latent_dim={LATENT_DIM}",
                    "--data=datamodules.shapes.Shapes",
                    f"--data.resolution={RESOLUTION}",
                    f"--data.batch_size={BATCH}",
                    "--data.train_size=2048",
                    "--data.test_size=64",
                    "--quality.every_kimg=1000000",
                    "--samples.every_kimg=1000000",
                ]
            )
        settings = cli.model.adversarial
        assert isinstance(cli.model, DCGAN)
        assert (settings.lr, settings.beta1, settings.beta2) == (LR, *BETAS)
        assert settings.ema_halflife_kimg == HALFLIFE_KIMG
        assert settings.reuse_fakes
        cli.trainer.callbacks.append(turns)  # type: ignore[attr-defined]
        fit(cli)
    return turns


def row(name: str, values: list[float], digits: int) -> str:
    """A line of the table: minimum, median, maximum."""
    numbers = (min(values), statistics.median(values), max(values))
    return f"{name:<24}" + "".join(f"{number:>10.{digits}f}" for number in numbers)


def report(turns: Turns) -> str:
    """The ratios by round, and the speeds."""
    seconds = turns.seconds
    machine = hardware(turns.device).to_json()
    lines = [
        f"{turns.rounds} rounds of {turns.steps} steps; {turns.precision}, plain in float32; torch {torch.__version__}",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        f"{'':<24}{'min':>10}{'median':>10}{'max':>10}",
        row("ours / bare, time", [a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True)], 3),
        row("plain / ours, time", [a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)], 3),
    ]
    lines += [row(f"{name}, images/s", [BATCH / value for value in values], 1) for name, values in seconds.items()]
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop (5)")
    parser.add_argument("--steps", type=int, default=8, help="steps per turn (8)")
    parser.add_argument("--wandb", choices=["off", "offline"], default="offline", help="W&B during our steps")
    arguments = parser.parse_args()
    os.environ.setdefault("WANDB_MODE", "offline")
    turns = measure(arguments.rounds, arguments.steps, arguments.wandb)
    print("\n" + report(turns))


if __name__ == "__main__":
    main()
