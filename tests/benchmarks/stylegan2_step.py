"""Times a StyleGAN2 step by phase: ours, and a plain float32 loop of the same computation.

    python tests/benchmarks/stylegan2_step.py [--rounds 5] [--resolution 32 --width 64 --batch 32]

They alternate in one process, a period of the lazy penalties (16 steps) each, so that other work on the machine affects
all of them equally. Peak memory is measured in a separate process for each, above what it held before its first step.

- ours: Lightning's Trainer runs `models.stylegan2`, in bf16 where the device has units for it.
- plain: the same networks, losses, penalties, intervals and averages in a straightforward form: float32, contiguous
  tensors, convolutions with each sample's own weights as groups (Karras et al. 2020, eq. 1 to 3), Adam and averages
  parameter by parameter, D not frozen in the G step, the losses read back at every step.
- plain, scaled: the same with activations scaled instead of weights, which accounts for half of our speed-up.
"""

import argparse
import contextlib
import copy
import functools
import json
import logging
import math
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from phases import Clock, Innermost, SameBatch

import models.stylegan2
from callbacks.hardware import hardware, has_bf16_units
from callbacks.memory import GIB, PeakMeter
from models.parts.losses import NonSaturating
from models.parts.ops import modulated_conv2d
from models.parts.regularizers import R1, path_lengths, squared_gradient_norm
from models.stylegan2 import Discriminator, Generator, StyleGAN2, broadcast
from models.training.base import Batch
from models.training.ema import decay_for
from settings.training import AdversarialTraining

LR, BETAS, GAMMA, R1_EVERY = 2.5e-3, (0.0, 0.99), 0.1, 16
PATH_WEIGHT, PATH_EVERY, PATH_DECAY, HALFLIFE_KIMG = 2.0, 4, 0.01, 10.0
PERIOD = 16
PLAIN = ("plain", "plain, scaled")
PHASES = ("D step", "G step", "regularizer")

Phase = Callable[[str], contextlib.AbstractContextManager[None]]


def network(resolution: int, width: int) -> StyleGAN2:
    """The model, with at most `width` channels, and half as many at the largest side."""
    torch.manual_seed(0)
    adversarial = AdversarialTraining(
        NonSaturating(), [R1(GAMMA, every=R1_EVERY)], lr=LR, beta1=BETAS[0], beta2=BETAS[1],
        ema_halflife_kimg=HALFLIFE_KIMG,
    )  # fmt: skip
    return StyleGAN2(
        (3, resolution, resolution), channel_base=width * resolution // 2, channel_max=width, mapping_layers=2,
        path_length_weight=PATH_WEIGHT, path_length_every=PATH_EVERY, path_length_decay=PATH_DECAY, mixing=0.0,
        clamp=None, adversarial=adversarial,
    )  # fmt: skip


def real_batch(resolution: int, batch: int) -> Batch:
    """Noise in [-1, 1]."""
    x = torch.rand(batch, 3, resolution, resolution, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return x, torch.zeros(batch, dtype=torch.int64)


@contextlib.contextmanager
def grouped_convolutions() -> Iterator[None]:
    """Within the block, modulated convolutions use each sample's own weights."""
    models.stylegan2.modulated_conv2d = functools.partial(modulated_conv2d, grouped=True)
    try:
        yield
    finally:
        models.stylegan2.modulated_conv2d = modulated_conv2d


def plain_steps(model: StyleGAN2, batch: Batch, grouped: bool) -> Callable[[Phase], None]:
    """The step of `GAN` and `models.stylegan2` as a plain function, which marks its phases by its argument."""
    generator = copy.deepcopy(model.generator).to(memory_format=torch.contiguous_format)
    discriminator = copy.deepcopy(model.discriminator).to(memory_format=torch.contiguous_format)
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    average = copy.deepcopy(generator).requires_grad_(False)

    def adam(network: torch.nn.Module, every: int) -> torch.optim.Adam:
        c = every / (every + 1)
        betas = (BETAS[0] ** c, BETAS[1] ** c)
        return torch.optim.Adam(network.parameters(), LR * c, betas, foreach=False, fused=False)

    g_optimizer, d_optimizer = adam(generator, PATH_EVERY), adam(discriminator, R1_EVERY)
    x, labels = batch
    layers, mean_length = generator.synthesis.layers, torch.zeros(())
    steps = seen = 0

    def latents(count: int) -> Tensor:
        return torch.randn(count, model.latent_dim)

    def fakes(count: int) -> Tensor:
        w = generator.mapping(latents(count), labels[:count])
        generator.track(w, 0.995)
        return generator.synthesis(broadcast(w, layers))

    def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        loss.item()

    def step(phase: Phase) -> None:
        nonlocal steps, seen, mean_length
        with phase("D step"):
            with torch.no_grad():
                fake = fakes(len(x))
            loss = F.softplus(-discriminator(x, labels)) + F.softplus(discriminator(fake, labels))
            update(d_optimizer, loss.mean())
        if steps % R1_EVERY == 0:
            with phase("regularizer"):
                penalty = GAMMA / 2 * squared_gradient_norm(lambda real: discriminator(real, labels), x)
                update(d_optimizer, penalty.mean() * R1_EVERY)
        with phase("G step"):
            update(g_optimizer, F.softplus(-discriminator(fakes(len(x)), labels)).mean())
        if steps % PATH_EVERY == 0:
            with phase("regularizer"):
                some = len(x) // 2
                ws = broadcast(generator.mapping(latents(some), labels[:some]), layers)
                pictures = generator.synthesis(ws)
                lengths = path_lengths(pictures, ws, torch.randn_like(pictures) / math.sqrt(pictures[0, 0].numel()))
                average_length = torch.lerp(mean_length, lengths.mean(), PATH_DECAY)
                mean_length = average_length.detach()
                update(g_optimizer, PATH_WEIGHT * PATH_EVERY * (lengths - average_length).square().mean())
        decay = decay_for(len(x), seen, HALFLIFE_KIMG)
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), generator.parameters(), strict=True):
                mine.copy_(mine * decay + theirs * (1 - decay))
        steps, seen = steps + 1, seen + len(x)

    def run(phase: Phase) -> None:
        with grouped_convolutions() if grouped else contextlib.nullcontext():
            step(phase)

    return run


class Turns(lightning.Callback):
    """Times our steps by phase, and runs the plain loops after each period.

    Args:
        rounds: periods of each loop.
        plain: the plain loops, by name.
    """

    def __init__(self, rounds: int, plain: dict[str, Callable[[Phase], None]]) -> None:
        self.rounds, self.plain = rounds, plain
        self.clock = Clock(torch.device("cpu"))
        self.seconds: dict[str, list[dict[str, float]]] = {"ours": [], **{name: [] for name in plain}}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        pl_module.phase_observers.append(self.clock)  # type: ignore[operator, union-attr]
        self._start = self.clock.now()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % PERIOD:
            return
        self._keep("ours")
        for name, step in self.plain.items():
            self._start = self.clock.now()
            for _ in range(PERIOD):
                step(self.clock)
            self._keep(name)
        last = ", ".join(f"{name} {rounds[-1]['step']:.1f} s" for name, rounds in self.seconds.items())
        number = len(self.seconds["ours"]) - 1
        print(f"{f'round {number}' if number else 'warm-up'}: {last}", flush=True)
        trainer.should_stop = number == self.rounds
        self._start = self.clock.now()

    def _keep(self, name: str) -> None:
        self.seconds[name].append(self.clock.read() | {"step": self.clock.now() - self._start})


def precision() -> Any:  # noqa: ANN401 - Lightning's long Literal
    """The precision that `fit` chooses."""
    return "bf16-mixed" if has_bf16_units(torch.device("cpu")) else "32-true"


def trainer(callbacks: list[lightning.Callback], steps: int) -> lightning.Trainer:
    """Lightning's loop in the fastest precision, without anything that writes files."""
    return lightning.Trainer(
        accelerator="cpu", precision=precision(), max_steps=steps, logger=False, callbacks=callbacks,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


class Peaks(Innermost):
    """The peak memory of each phase, above what the process held at first."""

    def __init__(self) -> None:
        super().__init__()
        self.meter = PeakMeter(torch.device("cpu"))
        self.meter.start()
        self.before = self.meter.read()
        self.peaks: dict[str, float] = {}

    def turn(self, phase: str | None) -> None:
        if phase is not None:
            peak = (self.meter.read() - self.before) / GIB
            self.peaks[phase] = max(self.peaks.get(phase, 0.0), peak)
        self.meter.start()


def peaks_of(which: str, resolution: int, width: int, batch: int) -> dict[str, float]:
    """The peak GiB by phase of a few steps of one loop, in this process."""
    model, data = network(resolution, width), real_batch(resolution, batch)
    torch.nn.functional.conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3))  # the library's own buffers
    if which == "ours":
        peaks = Peaks()
        model.phase_observers.append(peaks)
        in_layout = data[0].contiguous(memory_format=torch.channels_last), data[1]
        trainer([], 5).fit(model, DataLoader(SameBatch(in_layout), batch_size=None))
    else:
        step = plain_steps(model, data, which == "plain")
        peaks = Peaks()
        for _ in range(5):
            step(peaks)
    return peaks.peaks


def peak_in_a_process(which: str, arguments: argparse.Namespace) -> dict[str, float]:
    """`peaks_of` in a separate process."""
    sizes = ["--resolution", arguments.resolution, "--width", arguments.width, "--batch", arguments.batch]
    command = [sys.executable, str(Path(__file__).resolve()), "--peaks", which, *map(str, sizes)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    peaks: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return peaks


def report(turns: Turns, peaks: dict[str, dict[str, float]], batch: int) -> str:
    """Ratios by round, then s/kimg and peaks by phase."""
    kept = {name: rounds[1:] for name, rounds in turns.seconds.items()}  # the first warms up
    kimg = PERIOD * batch / 1000
    lines = ["", f"{'time over ours':<28}{'min':>10}{'median':>10}{'max':>10}"]
    for name in PLAIN:
        for phase in ("step", *PHASES):
            ratios = [a[phase] / b[phase] for a, b in zip(kept[name], kept["ours"], strict=True)]
            numbers = "".join(f"{number:>10.2f}" for number in (min(ratios), statistics.median(ratios), max(ratios)))
            lines.append(f"{f'{name}: {phase}':<28}{numbers}")
    lines += ["", f"{'median s/kimg':<28}" + "".join(f"{phase:>14}" for phase in ("step", *PHASES))]
    for name, rounds in kept.items():
        medians = [statistics.median(each[phase] for each in rounds) / kimg for phase in ("step", *PHASES)]
        lines.append(f"{name:<28}" + "".join(f"{number:>14.2f}" for number in medians))
    lines += ["", f"{'peak GiB above the start':<28}" + "".join(f"{phase:>14}" for phase in PHASES)]
    for name, found in peaks.items():
        lines.append(f"{name:<28}" + "".join(f"{found.get(phase, math.nan):>14.2f}" for phase in PHASES))
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="periods of 16 steps of each loop (5)")
    parser.add_argument("--resolution", type=int, default=32, help="side in pixels (32)")
    parser.add_argument("--width", type=int, default=64, help="most channels of a layer (64)")
    parser.add_argument("--batch", type=int, default=32, help="samples per step (32)")
    parser.add_argument("--peaks", choices=("ours", *PLAIN), help="print only the peak memory of one loop, as JSON")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    sizes = arguments.resolution, arguments.width, arguments.batch
    if arguments.peaks:
        print(json.dumps(peaks_of(arguments.peaks, *sizes)))
        return
    model, data = network(*sizes[:2]), real_batch(arguments.resolution, arguments.batch)
    shown = hardware(torch.device("cpu")).to_json()
    counts = [sum(p.numel() for p in net.parameters()) for net in model.networks().values()]
    print(f"StyleGAN2 at {sizes[0]} px, {counts[0]:,} and {counts[1]:,} parameters, batch {arguments.batch}")
    print(f"ours in {precision()}; torch {torch.__version__}; {shown}")
    plain = {name: plain_steps(model, data, name == "plain") for name in PLAIN}
    turns = Turns(arguments.rounds, plain)
    in_layout = data[0].contiguous(memory_format=torch.channels_last), data[1]
    trainer([turns], 10**9).fit(model, DataLoader(SameBatch(in_layout), batch_size=None))
    peaks = {name: peak_in_a_process(name, arguments) for name in ("ours", *PLAIN)}
    print(report(turns, peaks, arguments.batch))


if __name__ == "__main__":
    main()
