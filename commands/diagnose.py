"""`diagnose`: looks for problems of a checkpoint, or of finished samples; reports in words and one picture."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.options.figures import as_json
from commands.options.parsers import evaluation_parser, require_least, with_machine
from records.diagnosis import NUM_SAMPLES, Findings
from records.figures import Direction
from records.folder import read_run


def parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(
        "diagnose", "Looks for mode collapse, memorisation, discriminator overfitting, instability, uneven classes."
    )
    parser.add_argument("--data", type=Path, help="config of the training data (the run's own)")
    parser.add_argument("--out", type=Path, help="picture of nearest training pictures, x.png (in the run's folder)")
    parser.add_argument("--num_samples", type=int, default=NUM_SAMPLES, help=f"samples to look at ({NUM_SAMPLES})")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or last weights (ema)")
    return with_machine(parser, "seed of a checkpoint's samples", "pictures per batch", 128)


def run(arguments: Sequence[str]) -> int:
    """Diagnoses and prints the findings."""
    options = parser().parse_args(arguments)
    require_least(options, {"num_samples": 10, "batch_size": 1})

    from callbacks.diagnosis import diagnose, in_words
    from callbacks.picture_sets import model_samples
    from commands.options.checkpoints import loaded, run_folder_of, usable_device
    from commands.options.sources import config_of_run, data_from, pictures_at
    from features.extractors import make_extractor
    from media.pictures import save_png
    from metrics.cache import default_folder

    device = usable_device(options.device)
    model = curves = run_folder = None
    if options.ckpt_path is not None:
        model, path = loaded(options)
        if len(model.data_shape) != 3:
            raise ValueError(f"{path}: samples of shape {model.data_shape} are not pictures; only those are diagnosed")
        settings = model.settled(model.settings_class(weights=options.weights))
        samples, shape = model_samples(model, options.num_samples, options.seed, settings), tuple(model.data_shape)
        run_folder = run_folder_of(path)
        curves = None if run_folder is None else curves_of(run_folder, model.samples_seen)
        config = options.data or config_of_run(path)
        out = options.out or ((run_folder or path.parent) / "diagnosis" / f"{path.stem}.png")
    else:
        pictures, shape = pictures_at(options.samples, "train")
        samples, config, out = pictures.subset(options.num_samples), options.data, options.out
        if out is None:
            raise ValueError("--samples needs --out, for the picture of nearest training pictures")
    if config is None:
        raise ValueError("name the training data by --data configs/data/x.yaml")
    data = data_from(config)
    if data.data_shape != tuple(shape):
        raise ValueError(f"the samples have shape {tuple(shape)}, but the data of {config} has {data.data_shape}")
    extractor = make_extractor(options.extractor, resolution=options.resolution, weights=options.extractor_weights)
    folder, quiet = options.cache_dir or default_folder(), options.json or not sys.stderr.isatty()
    diagnosed = diagnose(samples, data, extractor.to(device), folder, options.batch_size, model, curves, quiet)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(diagnosed.closest, out)
    if model is not None and run_folder is not None:
        (run_folder / "diagnosis").mkdir(exist_ok=True)
        found = Findings(model.samples_seen, diagnosed.findings, options.num_samples, options.weights, device.type)
        found.write(run_folder / "diagnosis" / f"{path.stem}.json")  # run.json belongs to the fit
    if options.json:
        findings = [finding.to_json() for finding in diagnosed.findings]
        print(as_json({"findings": findings, "picture": str(out)}))
    else:
        print(f"{in_words(diagnosed.findings)}\n\nthe samples closest to training pictures, beside those: {out}")
    return 0


def curves_of(run_folder: Path, samples_seen: int) -> tuple[list[dict[str, Any]], str, Direction | None] | None:
    """A run's curves up to a checkpoint, and its main quality figure with its direction; None if it has none."""
    if not (run_folder / "metrics.jsonl").is_file():
        return None
    try:
        run = read_run(run_folder)
        rows = [row for row in run.rows() if row["samples_seen"] <= samples_seen]
    except (OSError, ValueError):
        return None
    name, figure = next(iter(run.record.figures.items()), ("", None))
    return rows, name, None if figure is None else figure.better
