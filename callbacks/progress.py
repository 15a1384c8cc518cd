"""The progress bar: kimg done and to do, time left, losses and the newest figure."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from callbacks.budget import budget_of
from callbacks.lookup import model_of
from callbacks.run import run_of

SHOWN = ("d_loss", "g_loss", "loss")
"""Losses shown beside the main figure, if the model reports them."""


class Progress(ProgressBar):
    """One bar for a whole fit, refreshed at most once a second, or every half minute without a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm | None = None
        self._shown_at = 0.0

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not (self._enabled and trainer.is_global_zero):
            return
        seen, total, hours = model_of(pl_module).samples_seen / 1000, budget_of(trainer).kimg, budget_of(trainer).hours
        counter = "{n:.1f} kimg" if total is None else "{percentage:3.0f}%|{bar:20}| {n:.1f}/{total:g} kimg"
        left = "" if total is None else "<{remaining}"
        if hours is not None:
            left += f" of {tqdm.format_interval(max(0.0, hours * 3600 - run_of(trainer).seconds))}"
        self._bar = tqdm(
            total=total,
            initial=seen,
            bar_format=f"{counter} [{{elapsed}}{left}{{postfix}}]",
            dynamic_ncols=True,
            mininterval=1.0,
            file=sys.stderr,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._shown_at >= (1.0 if sys.stderr.isatty() else 30.0):
            self._shown_at = now
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._show(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._bar is not None
        latest = run_of(trainer).latest
        headline = run_of(trainer).headline
        names = (*SHOWN, *([headline[0]] if headline else []))
        figures = {name: latest[name] for name in names if name in latest}
        shown = {name: f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}" for name, value in figures.items()}
        rate = latest.get("samples_per_s")
        self._bar.set_postfix({**({"samples/s": f"{rate:.0f}"} if rate else {}), **shown}, refresh=False)
        done = model_of(pl_module).samples_seen / 1000
        self._bar.n = done if self._bar.total is None else min(done, self._bar.total)
        self._bar.refresh()

    def print(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's signature
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)
