"""The parameters of the next trial of a sweep: a function of the file, the seed and the trials so far."""

import random
import warnings
from collections.abc import Sequence
from typing import Any

from commands.options.errors import InputError
from commands.sweeps.file import SweepFile
from records.sweep import Trial


def next_trial(file: SweepFile, trials: Sequence[Trial], seed: int) -> Trial | None:
    """The next trial, or None after the last of a grid."""
    number = len(trials)
    if file.method == "grid":
        grid = file.grid()
        return Trial(number, grid[number]) if number < len(grid) else None
    if file.method == "random":
        draw = random.Random(f"{seed}/{number}")
        quantiles = {parameter.key: draw.random() for parameter in file.parameters}
    else:
        quantiles = _bayes(file, trials, seed)
    return Trial(number, {p.key: p.at(quantiles[p.key]) for p in file.parameters}, quantiles)


def _bayes(file: SweepFile, trials: Sequence[Trial], seed: int) -> dict[str, float]:
    """Quantiles from Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), given the trials so far.

    In quantiles, every distribution is uniform. The study is rebuilt each time, so that sweep.json is the only record
    of a sweep.

    Raises InputError if Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise InputError("method: bayes needs Optuna: pip install -e '.[sweep]'; random does not") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges: dict[str, Any] = {}
    for parameter in file.parameters:
        if parameter.choices is None:
            ranges[parameter.key] = optuna.distributions.FloatDistribution(0.0, 1.0)
        else:
            ranges[parameter.key] = optuna.distributions.CategoricalDistribution(range(len(parameter.choices)))
    choices = {parameter.key: len(parameter.choices) for parameter in file.parameters if parameter.choices is not None}
    states = optuna.trial.TrialState
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # A few random trials come first. Running trials count as bad, so that parallel ones keep apart.
        sampler = optuna.samplers.TPESampler(n_startup_trials=4, constant_liar=True, seed=seed * 100_003 + len(trials))
        study = optuna.create_study(direction=file.goal, sampler=sampler)
        for trial in trials:
            if not (trial.counts or trial.state == "running"):
                continue
            params = {
                key: int(quantile * choices[key]) if key in choices else quantile
                for key, quantile in trial.quantiles.items()
            }
            state, value = (states.COMPLETE, trial.value) if trial.counts else (states.RUNNING, None)
            study.add_trial(optuna.trial.create_trial(state=state, value=value, params=params, distributions=ranges))
        asked = study.ask(ranges).params
    # A choice is stored as the middle of its share of the quantiles.
    return {
        key: (value + 0.5) / choices[key] if key in choices else min(value, 1 - 1e-12) for key, value in asked.items()
    }
