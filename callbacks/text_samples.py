"""Text samples from fixed random numbers, to show the progress of training."""

from lightning import Trainer

from callbacks.intervals import Shows
from callbacks.run import kimg_name, run_of
from callbacks.wandb_run import WandbRun
from media.files import write_text_whole
from models.training.base import GenerativeModel


class TextSamples(Shows):
    """Writes `samples/kimg<...>.txt` and logs it to W&B as a table, at the start, at intervals and at the end.

    It applies to models of text only.

    Args:
        num_samples: number of texts in a file, each as long as a training example.
    """

    def __init__(self, every_kimg: float | None = None, num_samples: int = 4) -> None:
        if num_samples < 1:
            raise ValueError(f"texts.num_samples must be at least 1, not {num_samples}")
        super().__init__(every_kimg)
        self.num_samples = num_samples

    def show(self, trainer: Trainer, model: GenerativeModel) -> None:
        """Writes the texts; see `Shows.show`."""
        if model.alphabet is None:
            return
        texts = model.text_of(model.sample(range(self.num_samples)))
        path = run_of(trainer).folder / "samples" / f"{kimg_name(model.samples_seen)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, joined(texts))
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.log_texts("texts", texts, model.samples_seen)


def joined(texts: list[str]) -> str:
    """Several texts as one, each below a line with its number."""
    return "".join(f"---- sample {number} ----\n{text}\n" for number, text in enumerate(texts))
