"""The W&B run of a fit. W&B and its server can neither stop a fit, nor slow it, nor change its weights."""

import contextlib
import json
import netrc
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from torch import Tensor

from records.figures import FigureRecord

WandbMode = Literal["auto", "online", "offline", "off"]
ArtifactChoice = Literal["none", "last", "best", "all"]

FIGURE_COLUMNS: list[str | int] = ["figure", "value", "spread", "samples_seen", "best", "best_samples_seen", "protocol"]


class WandbRun(Logger):
    """The W&B run, with `samples_seen` as the axis of every chart. wandb is imported when a fit starts.

    Lightning's WandbLogger uses optimizer steps as its axis, and passes settings that wandb now warns about.

    Args:
        run_id: W&B's id; a resumed run continues the W&B run of its id.
        name: shown by W&B.
        folder: the run's folder; W&B writes into its `wandb/`.
        project: the W&B project.
        online: whether to contact the server; without an answer, the run is kept offline.
        config: shown by W&B as the run's configuration.
        commit: of this code, or None.
        rows: rows logged by earlier fits of the run: W&B numbers rows, and only its server knows the earlier ones.
        patience_s: seconds that the server may take to answer at the start, and to finish at the end.
    """

    def __init__(
        self,
        run_id: str,
        name: str,
        folder: Path,
        project: str,
        online: bool,
        config: dict[str, Any],
        commit: str | None,
        rows: int,
        patience_s: float,
    ) -> None:
        super().__init__()
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        self._folder, self._patience_s = folder, patience_s
        self._closed = False
        self._lost = False
        """Whether W&B's service died."""
        self._said_left_out = False
        self._counting = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

        def start(mode: Literal["online", "offline"]) -> Any:  # noqa: ANN401 - wandb's own type
            settings = wandb.Settings(
                console="off",  # the progress bar would fill output.log
                git_commit=commit,  # of this code, not of the working directory
            )
            if mode == "online":  # offline there is only W&B's own service, which may be slow
                settings.init_timeout = settings.finish_timeout = patience_s
                settings.finish_timeout_raises = True
            return wandb.init(
                id=run_id,
                name=name,
                dir=str(folder),
                project=project,
                mode=mode,
                resume="allow" if mode == "online" else None,
                config=config,
                settings=settings,
            )

        try:
            self.experiment = start("online" if online else "offline")
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            print(
                f"W&B cannot be used ({reason}): this run is kept offline, and `wandb sync` can upload it",
                file=sys.stderr,
            )
            wandb.teardown()  # its service keeps the id of the failed run
            self.experiment = start("offline")
        self.rows = max(rows, self.experiment.starting_step)
        """Rows logged by all fits together."""
        if rows > self.experiment.starting_step:
            self.experiment.log({}, step=rows, commit=False)  # adds no row, but sets the number of the next
        self.experiment.define_metric("samples_seen")
        self.experiment.define_metric("*", step_metric="samples_seen")

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return str(self.experiment.id)

    def log_hyperparams(self, params: Any, *args: object) -> None:  # noqa: ANN401
        """Does nothing: `init` has sent the configuration."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._tell(lambda: self._log({**metrics, "samples_seen": step}))

    def log_picture(self, name: str, picture: Tensor, samples_seen: int) -> None:
        """Sends a uint8 (C, H, W) picture unchanged."""
        import wandb

        pixels = picture.permute(1, 2, 0).cpu().numpy()
        self._tell(lambda: self._log({name: wandb.Image(pixels), "samples_seen": samples_seen}))

    def log_figures(self, figures: Mapping[str, FigureRecord], samples_seen: int) -> None:
        """Sends run.json's `figures` as a table, with a row for each figure."""
        import wandb

        rows: list[Any] = []
        for name, figure in figures.items():
            best = (figure.best.value, figure.best.samples_seen) if figure.best else (None, None)
            values = [figure.value, figure.spread, figure.samples_seen, *best]
            # W&B refuses columns that mix whole numbers and fractions.
            numbers = [None if value is None else float(value) for value in values]
            rows.append([name, *numbers, json.dumps(figure.protocol)])
        table = wandb.Table(columns=FIGURE_COLUMNS, data=rows)
        self._aside(lambda: self._log({"figures": table, "samples_seen": samples_seen}))

    def log_texts(self, name: str, texts: Sequence[str], samples_seen: int) -> None:
        """Sends texts as a table, with a row for each."""
        import wandb

        table = wandb.Table(columns=["sample", "text"], data=[list(pair) for pair in enumerate(texts)])
        self._aside(lambda: self._log({name: table, "samples_seen": samples_seen}))

    def log_checkpoint(self, path: Path, aliases: Sequence[str]) -> None:
        """Sends a checkpoint as the newest version of the run's artifact. W&B copies the file before this returns."""
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.version}", "model", metadata={"checkpoint": path.name})
        try:
            artifact.add_file(str(path), name="model.ckpt")
        except Exception as error:  # such as a full disk for W&B's copies
            self._say_left_out(error)
            return
        self._aside(lambda: self.experiment.log_artifact(artifact, aliases=list(aliases)))

    def finalize(self, status: str) -> None:
        if self._closed:  # Lightning closes twice after Ctrl-C
            return
        self._closed = True
        exit_code = 0 if status in ("success", "finished") else 1
        self._jobs.put(None)
        if self._worker is not None:
            self._worker.join(self._patience_s)
        waiting = self._worker is not None and self._worker.is_alive()
        try:
            self.experiment.finish(exit_code=exit_code)
        except TimeoutError:
            files = self._folder / "wandb" / "run-*"
            print(
                f"W&B's server did not receive all of this run within {self._patience_s:g} s (run.wandb_patience_s): "
                f"`wandb sync --no-skip-online {files}` uploads it, perhaps without tables and artifacts",
                file=sys.stderr,
            )
        except Exception as error:
            self._say_lost(error)
        else:
            if waiting and not self._lost:
                self._say_left_out(TimeoutError(f"not within {self._patience_s:g} s, run.wandb_patience_s"))
        if self._lost:
            self._leave()
        self._said_left_out = True  # waiting tables that fail later are not reported

    def _log(self, row: Mapping[str, Any]) -> None:
        self.experiment.log(dict(row))
        with self._counting:  # tables are logged from a thread
            self.rows += 1

    def _tell(self, what: Callable[[], object]) -> None:
        """Runs `what`; if W&B's service, a separate process, fails, training continues without it."""
        if self._lost or self._closed:
            return
        try:
            what()
        except Exception as error:
            self._say_lost(error)

    def _aside(self, what: Callable[[], object]) -> None:
        """Runs `what` in a thread: before W&B sends a table or an artifact, it waits up to 20 s for its server."""
        self._jobs.put(what)
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._lost:
            try:
                job()
            except Exception as error:
                # An error of the server is no reason to give up the log, which can be synced later; a dead service is.
                self._tell(lambda: self.experiment.step)
                self._say_left_out(error)

    def _say_left_out(self, error: Exception) -> None:
        if not self._lost and not self._said_left_out:
            print(
                f"W&B did not receive a table or a checkpoint ({_reason(error)}), and may miss others; "
                "the fit continues, and the run's folder has them",
                file=sys.stderr,
            )
            self._said_left_out = True

    def _say_lost(self, error: Exception) -> None:
        if not self._lost:
            print(f"W&B is lost ({_reason(error)}); the fit continues without it", file=sys.stderr)
        self._lost = True

    def _leave(self) -> None:
        """Ends the threads that wandb leaves behind when its service dies.

        `finish` fails before it ends the status checks, and `teardown` before it ends the thread that runs them. Within
        15 s the next check would log an error with its traceback.
        """
        import wandb

        of_process = wandb.setup()
        with contextlib.suppress(Exception):  # an internal of wandb, which may change
            self.experiment._run_status_checker.join()
        with contextlib.suppress(Exception, SystemExit):  # it exits with the service's code
            wandb.teardown()
        with contextlib.suppress(Exception):
            of_process.asyncer.join()


def _reason(error: Exception) -> str:
    """An error's type and the first line of its message, if any."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def has_wandb_key() -> bool:
    """Whether an API key is available, so that W&B need not prompt."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
