"""Samples of a model of text, from the same random numbers every time, so that one sees what training changes."""

from lightning import Callback, LightningModule, Trainer

from callbacks.budget import budget_of
from callbacks.intervals import Interval
from callbacks.lookup import model_of
from callbacks.run import run_of
from callbacks.wandb_run import WandbRun
from media.files import write_text_whole
from models.training.base import GenerativeModel


class TextSamples(Callback):
    """Writes `samples/kimg<...>.txt` and logs it to W&B as a table, at the start, at intervals and at the end.

    Of models whose samples are text only.

    Args:
        every_kimg: thousand samples between two files; a tenth of the budget where left out (50 without a budget).
        num_samples: texts in a file, each as long as a training example.
    """

    def __init__(self, every_kimg: float | None = None, num_samples: int = 4) -> None:
        if num_samples < 1:
            raise ValueError(f"texts.num_samples must be at least 1, not {num_samples}")
        self.every_kimg, self.num_samples = every_kimg, num_samples
        self._interval = Interval(every_kimg or 50.0)
        self._written_at = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interval = Interval(self.every_kimg or (budget_of(trainer).kimg or 500.0) / 10)
        self._interval.start(model_of(pl_module).samples_seen)
        if model_of(pl_module).samples_seen == 0:
            self._write(trainer, model_of(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        model = model_of(pl_module)
        if self._interval.passed(model.samples_seen):
            self._write(trainer, model)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._written_at != model_of(pl_module).samples_seen:
            self._write(trainer, model_of(pl_module))

    def _write(self, trainer: Trainer, model: GenerativeModel) -> None:
        self._written_at = model.samples_seen
        if not trainer.is_global_zero or model.alphabet is None:
            return
        texts = model.text_of(model.sample(range(self.num_samples)))
        path = run_of(trainer).folder / "samples" / f"kimg{model.samples_seen / 1000:010.3f}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, joined(texts))
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.log_texts("texts", texts, model.samples_seen)


def joined(texts: list[str]) -> str:
    """Several texts as one, each under a line with its number."""
    return "".join(f"---- sample {number} ----\n{text}\n" for number, text in enumerate(texts))
