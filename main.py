"""Atelier's command line: `python main.py VERB ...`. Wiring only; each verb lives in `commands/`."""

import importlib
import sys
from collections.abc import Sequence

TRAINING = {
    "fit": "train a model by a run config: --config configs/dcgan_fashion_mnist.yaml",
    "validate": "measure a checkpoint against the config's data: --config ... --ckpt_path ...",
    "test": "measure a checkpoint against the held-out data: --config ... --ckpt_path ...",
    "predict": "draw samples through the Trainer, on all its devices: --config ... --ckpt_path ...",
}
COMMANDS = {
    "sample": "draw samples from a checkpoint: PNGs, one grid, or an npz",
    "interpolate": "ways between samples of a checkpoint, as a strip of pictures, a GIF or an MP4",
    "mix": "a sheet of samples that mix the styles of two (StyleGAN2)",
    "project": "a picture as a checkpoint would draw it: the latent that comes nearest, and the way there as a GIF",
    "directions": "a sheet of edits: latents moved along the directions that change pictures most",
    "reconstruct": "pictures, each with what a checkpoint makes of it after encoding it",
    "evaluate": "figures of quality of a checkpoint, or of finished samples, with their protocol",
    "compare": "runs side by side: quality by protocol, time, parameters, memory; tables, CSV or a page",
    "runs": "list finished runs, find the best, see what they take on disk, remove them",
    "path_length": "how evenly a checkpoint's pictures change with its latents: perceptual path length",
    "diagnose": "what is wrong with a checkpoint: collapse, memorisation, overfitting, instability, uneven classes",
    "import": "a checkpoint of an official one: stylegan2-ada-pytorch, BigGAN-PyTorch",
    "export": "the averaged generator as ONNX, torch.export, TorchScript or safetensors",
    "sweep": "the trials of a W&B sweep file, without an account: configs/sweeps/dcgan_fashion_mnist_grid.yaml",
    "info": "parameters, output, memory and time of a checkpoint or a config",
}
MODULES = {"import": "importing"}
"""Of verbs whose name no module can have."""

USAGE = "usage: python main.py VERB [--help] [--debug] [--import FILE] [arguments]"


def main(args: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0, 1 for a crash, 2 for bad input, 130 and 143 after a signal."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    verb, rest = words[0], words[1:]
    if verb not in {**TRAINING, **COMMANDS}:
        return _complain(f"no verb {verb!r}; there are {', '.join({**TRAINING, **COMMANDS})}")
    # Imported here: some verbs need neither torch nor Lightning, whose import takes ten seconds on a small machine.
    from commands.options.errors import BAD_INPUT, InputError, one_line
    from commands.options.own_files import import_own, split_imports

    try:
        rest, files = split_imports(rest)
        for file in files:
            import_own(file)
        if verb in TRAINING:
            return int(importlib.import_module("commands.training").run(verb, rest))
        return int(importlib.import_module(f"commands.{MODULES.get(verb, verb)}").run(rest))
    except InputError as error:
        if debug:
            raise
        return _complain(one_line(error))
    except BAD_INPUT as error:
        if debug or verb in TRAINING:  # a verb of TRAINING turns what the user can mend into an InputError itself
            raise
        return _complain(one_line(error))
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130


def help_text() -> str:
    """Every verb with a line each."""
    width = max(map(len, {**TRAINING, **COMMANDS}))
    rows = [f"  {verb:<{width}}  {line}" for verb, line in {**TRAINING, **COMMANDS}.items()]
    return "\n".join(
        [USAGE, "", "Train, measure and compare generative models.", "", *rows, "",
         "--debug shows the traceback behind an error; VERB --help shows a verb's arguments.",
         "--import FILE runs a Python file of yours first, whose classes a checkpoint or a config names."]
    )  # fmt: skip


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
