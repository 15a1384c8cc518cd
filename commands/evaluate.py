"""`evaluate`: quality figures, with their protocol, of a checkpoint or finished samples against real pictures."""

import argparse
import json
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.options.figures import as_json, keep_and_print, protocol_lines
from commands.options.parsers import evaluation_parser, parsed, require_suffix, with_machine
from commands.options.sampler import add_arguments, add_settings, refuse_settings, sampled_with, sweep_of
from records.evaluation import LIKELIHOOD_SAMPLES, NUM_SAMPLES, Evaluation
from records.figures import Figure
from settings import likelihood

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.metric import Context, Metric, Need
    from metrics.picture_set import PictureSet
    from metrics.real_statistics import GivenStatistics, RealStatistics
    from metrics.sample_statistics import SampleStatistics
    from models.training.base import GenerativeModel
    from settings.sampling import SamplerSettings


def parser() -> argparse.ArgumentParser:
    parser = evaluation_parser("evaluate", "Measures a checkpoint, or finished samples, against real pictures.")
    parser.add_argument(
        "--reference", type=Path,
        help="a folder, zip or npz of pictures, a data or run config, or an npz of mu and sigma (the run's own data)",
    )  # fmt: skip
    parser.add_argument("--split", choices=("train", "test"), default="train", help="split of the reference (train)")
    parser.add_argument("--samples_split", choices=("train", "test"), default="test", help="split of --samples (test)")
    parser.add_argument(
        "--metrics", nargs="+", metavar="METRIC",
        help="names such as frechet or precision_recall (an unknown name lists them all), or bits_per_dim (for text "
        "bits_per_character) of held-out data (all that apply, except lpips and slow ones)",
    )  # fmt: skip
    parser.add_argument("--num_samples", type=int, help=f"samples to measure ({NUM_SAMPLES} of a checkpoint, else all)")
    parser.add_argument("--reference_samples", type=int, help="real pictures to measure, drawn with a fixed seed (all)")
    parser.add_argument("--resize", choices=("bicubic", "tf1-bilinear"), default="bicubic", help="filter (bicubic)")
    parser.add_argument("--extractor_precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--save_statistics", type=Path, metavar="X.npz", help="write mu and sigma of the samples")
    add_arguments(parser, several=True)
    examples = f"examples for bits_per_dim ({LIKELIHOOD_SAMPLES})"
    parser.add_argument("--likelihood_samples", type=int, default=LIKELIHOOD_SAMPLES, help=examples)
    add_settings(parser, likelihood.offered(), "likelihood_")
    return with_machine(parser, "seed of a checkpoint's samples", "pictures per batch", 128)


def run(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    options = parsed(parser(), arguments, {"num_samples": 2, "reference_samples": 2, "likelihood_samples": 1})
    if options.ckpt_path is None:
        refuse_settings(options)

    from commands.options import bits
    from commands.options.checkpoints import draws_pictures, loaded, run_folder_of, usable_device
    from features.extractors import make_extractor
    from metrics.bits_per_dimension import PREFIX
    from metrics.cache import default_folder
    from metrics.evaluation import chosen, figures, needs_of, require_available
    from metrics.metric import Context

    device = usable_device(options.device)
    model, checkpoint = loaded(options) if options.ckpt_path is not None else (None, None)
    swept, drawn_with = (None, []) if model is None else sweep_of(model, options)
    if swept is not None and options.save_statistics is not None:
        raise ValueError(f"--save_statistics needs one value of --{swept}, not several")
    run_folder = run_folder_of(checkpoint) if checkpoint is not None else None
    if bits.wanted(model, options.metrics) and model is not None and checkpoint is not None:
        name, figure, how = bits.measured(model, checkpoint, options)
        keep_and_print({name: figure}, how, run_folder, options)
        others = [metric for metric in options.metrics or () if not metric.startswith(PREFIX)]
        if (options.metrics and not others) or not draws_pictures(model) or model.why_no_samples is not None:
            return 0
        options.metrics = others or None
        if not options.json:
            print()
    extractor = make_extractor(
        options.extractor,
        resolution=options.resolution,
        resize=options.resize,
        precision=options.extractor_precision,
        weights=options.extractor_weights,
    ).to(device)
    folder = options.cache_dir or default_folder()
    sides, shape = judged(options, model, checkpoint, drawn_with)
    fake = sides[0][0]
    if options.reference is None and checkpoint is None:
        if options.save_statistics is None:
            raise ValueError("--samples needs --reference, or --save_statistics to write their mu and sigma")
        save(observe({"gaussian"}, extractor, fake, None, folder, options), extractor, fake, options.save_statistics)
        return 0
    real = reference(options, checkpoint, extractor, shape, folder)
    pictures = getattr(real, "pictures", None)
    context = Context(extractor, pictures, fake, real.count or fake.count)
    metrics = chosen(options.metrics) if options.metrics else applicable(context)
    require_available(metrics, context)
    needs = needs_of(metrics)
    real.prepare(needs)
    rows: list[tuple[dict[str, Figure], dict[str, Any]]] = []
    results: list[Evaluation] = []
    for fake, facts in sides:
        seen = observe(needs, extractor, fake, pictures, folder, options)
        if options.save_statistics is not None:
            save(seen, extractor, fake, options.save_statistics)
        counted = {"num_samples": fake.count, "device": device.type}
        protocol = {**extractor.protocol(), **described(real, options), **counted, **facts}
        rows.append((figures(metrics, real, seen), protocol))
        if swept is not None:
            results.append(Evaluation.of(*rows[-1]))
            results[-1].keep(run_folder)
    notes = [f"note: {note}" for metric in metrics if (note := metric.note(context)) is not None]
    if swept is None:
        keep_and_print(*rows[0], run_folder, options, notes)
        return 0
    values = [getattr(settings, swept) for settings in drawn_with]
    if options.json:
        print(as_json({"swept": swept, "values": values, "results": [result.to_json() for result in results]}))
    else:
        print(sweep_table(swept, values, rows, notes))
    return 0


def judged(
    options: argparse.Namespace,
    model: "GenerativeModel | None",
    path: Path | None,
    drawn_with: "Sequence[SamplerSettings]",
) -> "tuple[list[tuple[PictureSet, dict[str, Any]]], tuple[int, ...]]":
    """The pictures to measure for each of the settings, with their part of the protocol, and a picture's shape."""
    from callbacks.picture_sets import model_samples
    from commands.options.bits import why_not
    from commands.options.checkpoints import require_pictures
    from commands.options.sources import pictures_at

    if model is None or path is None:
        pictures, shape = pictures_at(options.samples, options.samples_split)
        count = options.num_samples or pictures.count
        if count > pictures.count:
            raise ValueError(f"--num_samples {count}: {options.samples} has {pictures.count}")
        return [(pictures.subset(count), {"samples": pictures.name, "samples_data": pictures.fingerprint})], shape
    if model.why_no_samples is not None:
        raise ValueError(f"{path}: {model.why_no_samples}")
    require_pictures(model, path, "" if why_not(model) else "; measure --metrics bits_per_dim of this model")
    count = options.num_samples or NUM_SAMPLES
    sides = [
        (model_samples(model, count, options.seed, settings), sampled_with(model, options.seed, settings))
        for settings in drawn_with
    ]
    return sides, model.data_shape


def reference(
    options: argparse.Namespace,
    checkpoint: Path | None,
    extractor: "Extractor",
    shape: tuple[int, ...],
    folder: Path,
) -> "RealStatistics | GivenStatistics":
    """The statistics of real pictures, which must be as large as the samples.

    Raises ValueError if the reference is unknown, or does not fit.
    """
    from commands.options.sources import config_of_run, pictures_at
    from metrics.real_statistics import RealStatistics
    from metrics.statistics import known_statistics

    path = options.reference
    if path is None:
        assert checkpoint is not None
        path = config_of_run(checkpoint)
        if path is None:
            raise ValueError(f"{checkpoint} is not in a run's folder: name the real pictures by --reference")
    if path.suffix == ".npz":
        known = known_statistics(path, extractor)
        if known is not None:
            return known
    pictures, real_shape = pictures_at(path, options.split)
    if real_shape[1:] != shape[1:]:
        sizes = [f"{width}x{height}" for _, height, width in (shape, real_shape)]
        raise ValueError(
            f"the samples are {sizes[0]} and the pictures of {path} {sizes[1]}: a figure would measure the difference "
            "in size; give a reference of the samples' size"
        )
    if options.reference_samples is not None:
        pictures = pictures.subset(options.reference_samples)
    return RealStatistics(pictures, extractor, folder, options.batch_size, quiet=options.json)


def applicable(context: "Context") -> "list[Metric]":
    """The metrics that can be measured; prints which cannot. Those that may download weights must be named.

    Raises ValueError if no metric can be measured.
    """
    from metrics.evaluation import METRICS, unavailable

    reasons = {metric.name: unavailable(metric, context) for metric in METRICS if not metric.only_if_named}
    found = [metric for metric in METRICS if metric.name in reasons and reasons[metric.name] is None]
    left_out = [f"{name} ({why})" for name, why in reasons.items() if why is not None]
    if not found:
        raise ValueError(f"nothing can be measured: {', '.join(left_out)}")
    if left_out:
        print(f"left out: {', '.join(left_out)}", file=sys.stderr)
    return found


def observe(
    needs: "AbstractSet[Need]",
    extractor: "Extractor",
    fake: "PictureSet",
    real: "PictureSet | None",
    folder: Path,
    options: argparse.Namespace,
) -> "SampleStatistics":
    """The statistics of the samples, from one pass with a progress bar."""
    from tqdm import tqdm

    from callbacks.picture_sets import in_batches
    from commands.options.checkpoints import usable_device
    from metrics.sample_statistics import SampleStatistics

    modes = real.modes if real is not None else None
    seen = SampleStatistics(
        needs, extractor, fake.count, range(fake.count), folder, modes, usable_device(options.device)
    )
    quiet = options.json or not sys.stderr.isatty()
    with tqdm(total=fake.count, desc=f"Features of {fake.name}", unit="picture", disable=quiet) as bar:
        for pictures, labels in in_batches(fake, range(fake.count), options.batch_size):
            seen.update(pictures, labels)
            bar.update(len(pictures))
    return seen


def save(seen: "SampleStatistics", extractor: "Extractor", fake: "PictureSet", path: Path) -> None:
    """Writes the samples' mean and covariance in the common format, and prints where."""
    require_suffix("save_statistics", path, [".npz"])
    path.parent.mkdir(parents=True, exist_ok=True)
    seen.gaussian.save(path, json.dumps({**extractor.protocol(), "data": fake.fingerprint}))
    print(f"{path}: mu and sigma of {fake.count} pictures", file=sys.stderr)


def described(real: "RealStatistics | GivenStatistics", options: argparse.Namespace) -> dict[str, Any]:
    """The part of the protocol that describes the real pictures."""
    from metrics.real_statistics import RealStatistics

    if not isinstance(real, RealStatistics):
        return {"data": real.fingerprint, "reference": str(options.reference), "reference_samples": real.count or None}
    name = real.pictures.name.removeprefix("the ").removesuffix(" split")
    return {"data": real.pictures.fingerprint, "reference": name, "reference_samples": real.count}


def sweep_table(
    swept: str, values: Sequence[float], rows: "Sequence[tuple[dict[str, Figure], dict[str, Any]]]", notes: list[str]
) -> str:
    """A Markdown table with a row for each value of the swept setting, and the protocol that the rows share."""
    names = list({name: None for found, _ in rows for name in found})  # modes_kl is missing where it has no value
    cells = [[swept, *names], ["---"] * (len(names) + 1)]
    for value, (found, _) in zip(values, rows, strict=True):
        cells.append([f"{value:g}", *(f"{found[name].value:.6g}" if name in found else "" for name in names)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(names) + 1)]
    lines = [f"| {' | '.join(f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    protocol = rows[0][1]
    shared = {**protocol, "sampler": {key: value for key, value in protocol["sampler"].items() if key != swept}}
    return "\n".join([*lines, "", *notes, *protocol_lines(shared)])
