"""The W&B run of a fit. No server, whatever it does, stops a fit, slows it or changes its weights."""

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
    """The W&B run, with `samples_seen` as the one axis of every chart. wandb is imported when a fit starts.

    Lightning's WandbLogger counts optimizer steps on its axis and passes settings that wandb now warns of.

    Args:
        run_id: W&B's id; a run that resumes goes on in the W&B run of its id.
        name: shown by W&B.
        folder: of the run; W&B's own files go to its `wandb/`.
        project: of W&B.
        online: whether to ask a server; kept offline where it does not answer.
        config: shown by W&B as the run's configuration.
        commit: of the code that runs, or None.
        rows: logged in earlier sittings: W&B numbers a run's rows, and knows of earlier ones only from its server.
        patience_s: seconds that a server may take to answer at the start, and to take what is left at the end.
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
        """Whether W&B's service died: nothing can be told it any more."""
        self._said_left_out = False
        self._counting = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

        def start(mode: Literal["online", "offline"]) -> Any:  # noqa: ANN401 - wandb's own type
            settings = wandb.Settings(
                console="off",  # its progress bar would fill output.log
                git_commit=commit,  # of this code; W&B would look where the command was given
            )
            if mode == "online":  # offline there is nobody to lose patience with, only W&B's own service, maybe slow
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
                f"W&B cannot be used ({reason}): this run is kept offline, `wandb sync` can bring it up",
                file=sys.stderr,
            )
            wandb.teardown()  # its service holds on to the id of the run that failed
            self.experiment = start("offline")
        self.rows = max(rows, self.experiment.starting_step)
        """Logged in all sittings together."""
        if rows > self.experiment.starting_step:
            self.experiment.log({}, step=rows, commit=False)  # no row, only where the next one goes
        self.experiment.define_metric("samples_seen")
        self.experiment.define_metric("*", step_metric="samples_seen")

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return str(self.experiment.id)

    def log_hyperparams(self, params: Any, *args: object) -> None:  # noqa: ANN401
        """The configuration went along with `init`."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._tell(lambda: self._log({**metrics, "samples_seen": step}))

    def log_picture(self, name: str, picture: Tensor, samples_seen: int) -> None:
        """Sends a uint8 (C, H, W) picture as it is."""
        import wandb

        pixels = picture.permute(1, 2, 0).cpu().numpy()
        self._tell(lambda: self._log({name: wandb.Image(pixels), "samples_seen": samples_seen}))

    def log_figures(self, figures: Mapping[str, FigureRecord], samples_seen: int) -> None:
        """Sends run.json's `figures` as a table, one row a figure with its protocol."""
        import wandb

        rows: list[Any] = []
        for name, figure in figures.items():
            best = (figure.best.value, figure.best.samples_seen) if figure.best else (None, None)
            values = [figure.value, figure.spread, figure.samples_seen, *best]
            # W&B refuses a column of whole numbers here and fractions there.
            numbers = [None if value is None else float(value) for value in values]
            rows.append([name, *numbers, json.dumps(figure.protocol)])
        table = wandb.Table(columns=FIGURE_COLUMNS, data=rows)
        self._aside(lambda: self._log({"figures": table, "samples_seen": samples_seen}))

    def log_texts(self, name: str, texts: Sequence[str], samples_seen: int) -> None:
        """Sends texts as a table, one row each."""
        import wandb

        table = wandb.Table(columns=["sample", "text"], data=[list(pair) for pair in enumerate(texts)])
        self._aside(lambda: self._log({name: table, "samples_seen": samples_seen}))

    def log_checkpoint(self, path: Path, aliases: Sequence[str]) -> None:
        """Sends a checkpoint as the newest version of this run's artifact; W&B copies the file before this returns."""
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.version}", "model", metadata={"checkpoint": path.name})
        try:
            artifact.add_file(str(path), name="model.ckpt")
        except Exception as error:  # such as a full disk, where W&B keeps its copies
            self._say_left_out(error)
            return
        self._aside(lambda: self.experiment.log_artifact(artifact, aliases=list(aliases)))

    def finalize(self, status: str) -> None:
        if self._closed:  # Lightning closes once more after a Ctrl-C here
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
                f"W&B's server did not take all of this run within {self._patience_s:g} s (run.wandb_patience_s): "
                f"`wandb sync --no-skip-online {files}` brings it up, maybe without tables and artifacts",
                file=sys.stderr,
            )
        except Exception as error:
            self._say_lost(error)
        else:
            if waiting and not self._lost:
                self._say_left_out(TimeoutError(f"not within {self._patience_s:g} s, run.wandb_patience_s"))
        if self._lost:
            self._leave()
        self._said_left_out = True  # a table that still waits fails after the last word

    def _log(self, row: Mapping[str, Any]) -> None:
        self.experiment.log(dict(row))
        with self._counting:  # tables come from a thread
            self.rows += 1

    def _tell(self, what: Callable[[], object]) -> None:
        """Whatever happens in W&B's service, which is a process of its own, training goes on without it."""
        if self._lost or self._closed:
            return
        try:
            what()
        except Exception as error:
            self._say_lost(error)

    def _aside(self, what: Callable[[], object]) -> None:
        """In a thread: before it takes a table or an artifact, W&B asks the server, and waits 20 s for the answer."""
        self._jobs.put(what)
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._lost:
            try:
                job()
            except Exception as error:
                # The server's fault is no reason to give up the log, which can be synced; a dead service is.
                self._tell(lambda: self.experiment.step)
                self._say_left_out(error)

    def _say_left_out(self, error: Exception) -> None:
        if not self._lost and not self._said_left_out:
            print(
                f"W&B did not take a table or a checkpoint ({_reason(error)}), and may not take others; "
                "the fit goes on, and the run's folder has them",
                file=sys.stderr,
            )
            self._said_left_out = True

    def _say_lost(self, error: Exception) -> None:
        if not self._lost:
            print(f"W&B is lost ({_reason(error)}); the fit goes on without it", file=sys.stderr)
        self._lost = True

    def _leave(self) -> None:
        """Ends the threads that wandb left when its service died.

        `finish` fails before it ends the checks on the run, and `teardown` before it ends the thread that they run in;
        the next one, up to 15 s later, would log an error with its traceback.
        """
        import wandb

        of_process = wandb.setup()
        with contextlib.suppress(Exception):  # wandb's own: another version may have another
            self.experiment._run_status_checker.join()
        with contextlib.suppress(Exception, SystemExit):  # it exits as the service did
            wandb.teardown()
        with contextlib.suppress(Exception):
            of_process.asyncer.join()


def _reason(error: Exception) -> str:
    """An error's type and the first line of what it says, if anything."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def has_wandb_key() -> bool:
    """Whether an API key is at hand, so that nobody has to be asked for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
