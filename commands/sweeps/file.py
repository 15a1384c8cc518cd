"""W&B's sweep files (https://docs.wandb.ai/guides/sweeps/sweep-config-keys), as far as local sweeps support them."""

import dataclasses
import itertools
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from commands.options.errors import InputError, read_yaml

Method = Literal["grid", "random", "bayes"]

KEYS = {
    "command", "description", "early_terminate", "entity", "method", "metric", "name", "parameters", "program",
    "project", "run_cap",
}  # fmt: skip
OF_THE_SWEEP = ("run.root", "run.name", "run.id")
"""Settings of a trial's run that the sweep itself chooses."""

BETWEEN = ("int_uniform", "uniform", "log_uniform", "log_uniform_values")
NORMAL = ("normal", "log_normal")
ROUNDED = ("q_uniform", "q_log_uniform", "q_log_uniform_values", "q_normal", "q_log_normal")
"""Distributions of a parameter, besides `value` and `values`."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter: its choices, or a distribution.

    Attributes:
        key: the setting, such as model.adversarial.lr.
        choices: the possible values; None for a distribution.
        distribution: its name in the file.
        low, high: limits of the values, or of their natural logarithms for log_uniform.
        mu, sigma: parameters of normal distributions.
        q: values are multiples of it; None for any value.
    """

    key: str
    choices: tuple[Any, ...] | None = None
    distribution: str = "categorical"
    low: float = 0.0
    high: float = 1.0
    mu: float = 0.0
    sigma: float = 1.0
    q: float | None = None

    def at(self, u: float) -> Any:  # noqa: ANN401 - any type that YAML has
        """The value at the quantile u in [0, 1), which is split equally between choices."""
        if self.choices is not None:
            return self.choices[int(u * len(self.choices))]
        kind = self.distribution.removeprefix("q_")
        low, high = self.low, self.high
        if kind == "int_uniform":
            return int(low) + int(u * (high - low + 1))
        if kind.endswith("_values"):
            low, high = math.log(low), math.log(high)
        if kind in NORMAL:
            z = statistics.NormalDist().inv_cdf(min(max(u, 1e-12), 1 - 1e-12))
            value = self.mu + self.sigma * z
        else:
            value = low + u * (high - low)
        if "log" in kind:
            value = math.exp(value)
        if self.q is None:
            return value
        rounded = round(value / self.q) * self.q
        return int(rounded) if float(self.q).is_integer() else float(f"{rounded:.12g}")


@dataclasses.dataclass(frozen=True)
class Hyperband:
    """Trials are compared after each number of measurements in `rungs`; the best 1 / eta of them continue."""

    rungs: tuple[int, ...]
    eta: float


@dataclasses.dataclass(frozen=True)
class SweepFile:
    """A sweep file; `content` is all of it."""

    method: Method
    metric: str
    goal: Literal["minimize", "maximize"]
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    program: str
    hyperband: Hyperband | None
    run_cap: int | None
    content: dict[str, Any]

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of choices; the last parameter changes fastest."""
        choices = [parameter.choices or () for parameter in self.parameters]
        keys = [parameter.key for parameter in self.parameters]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*choices)]

    def words(self, settings: Mapping[str, Any], interpreter: str) -> list[str]:
        """The command of a trial with these settings."""
        macros = {
            "${env}": [],
            "${interpreter}": [interpreter],
            "${program}": [self.program],
            "${args_json}": [json.dumps(settings)],
            "${args}": [f"--{key}={value}" for key, value in settings.items()],
        }
        return [word for part in self.command for word in macros.get(part, [part])]


def read_sweep_file(path: Path) -> SweepFile:
    """Reads and checks a file. Raises InputError, in one line, naming the key."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise InputError(f"cannot read the sweep file {path}: {error.strerror}") from error
    try:
        return _checked(content)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _checked(content: object) -> SweepFile:
    if not isinstance(content, dict):
        raise ValueError("a sweep file has the keys method, metric, parameters and command")
    _only(content, KEYS, "")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise ValueError(f"method: must be grid, random or bayes, not {method!r}")
    metric = content.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise ValueError("metric: needs a name, of a figure in metrics.jsonl such as fd_effnet, and a goal")
    _only(metric, {"name", "goal"}, "metric.")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"metric.goal: must be minimize or maximize, not {goal!r}")
    stated = content.get("parameters")
    if not isinstance(stated, dict) or not stated:
        raise ValueError("parameters: needs at least one")
    parameters = tuple(_parameter(str(key), how) for key, how in stated.items())
    for parameter in parameters:
        owner, _, rest = parameter.key.partition(".init_args.")
        short = [
            other.key for other in parameters if other.key.startswith(f"{owner}.") and ".init_args." not in other.key
        ]
        if rest and short:  # jsonargparse accepts either form in one JSON object, but not both
            raise ValueError(f"parameters.{parameter.key}: leave init_args out of it, as {short[0]} does")
    for parameter in parameters:
        if method == "grid" and parameter.choices is None:
            raise ValueError(f"parameters.{parameter.key}: a grid needs value or values, not a range")
    run_cap = content.get("run_cap")
    if run_cap is not None and not (isinstance(run_cap, int) and run_cap > 0):
        raise ValueError(f"run_cap: must be a whole number above 0, not {run_cap!r}")
    return SweepFile(
        method, metric["name"], goal, parameters, _command(content.get("command")), str(content.get("program", "")),
        _hyperband(content.get("early_terminate")), run_cap, content,
    )  # fmt: skip


def _command(stated: object) -> tuple[str, ...]:
    if not isinstance(stated, list) or not stated:
        raise ValueError("command: needs the words of a trial's command, such as ${interpreter}, main.py, fit, ...")
    words = tuple(str(word) for word in stated)
    known = ("${env}", "${interpreter}", "${program}", "${args}", "${args_json}")
    for word in words:
        if re.search(r"\$\{.*\}", word) and word not in known:
            raise ValueError(f"command: {word} is not supported; there are {', '.join(known)}")
    if not {"${args}", "${args_json}"} & set(words):
        raise ValueError("command: without ${args_json} all trials would be equal; end it with --config ${args_json}")
    return words


def _parameter(key: str, how: object) -> Parameter:
    where = f"parameters.{key}"
    if key in OF_THE_SWEEP:
        raise ValueError(f"{where}: the sweep sets it for every trial")
    if not isinstance(how, dict):
        raise ValueError(f"{where}: needs value, values, or min and max")
    if "parameters" in how:
        raise ValueError(f"{where}.parameters: nested parameters are not supported; write dotted keys: {key}.<name>")
    kind = how.get("distribution")
    if "value" in how or kind == "constant":
        _only(how, {"value", "distribution"}, f"{where}.")
        if kind not in (None, "constant"):
            raise ValueError(f"{where}.distribution: must be constant for a single value, not {kind}")
        return Parameter(key, (how.get("value"),), "constant")
    if "values" in how or kind == "categorical":
        _only(how, {"values", "distribution"}, f"{where}.")
        values = how.get("values")
        if kind not in (None, "categorical") or not isinstance(values, list) or not values:
            raise ValueError(f"{where}.values: must be a list of at least one, with the distribution categorical")
        return Parameter(key, tuple(values))
    if kind is None:
        both = [how.get("min"), how.get("max")]
        if all(type(bound) is int for bound in both):
            kind = "int_uniform"
        elif all(type(bound) is float for bound in both):
            kind = "uniform"
        else:
            raise ValueError(f"{where}: min and max must both be whole numbers or both have a point (1.0e-4, not 1e-4)")
    if kind not in (*BETWEEN, *NORMAL, *ROUNDED):
        raise ValueError(f"{where}.distribution: {kind!r} is not supported; there are constant, categorical, "
                         f"{', '.join((*BETWEEN, *NORMAL, *ROUNDED))}")  # fmt: skip
    return _distribution(key, str(kind), how)


def _distribution(key: str, kind: str, how: Mapping[str, Any]) -> Parameter:
    where = f"parameters.{key}"
    normal = kind.removeprefix("q_") in NORMAL
    ends = ("mu", "sigma") if normal else ("min", "max")
    _only(how, {"distribution", *ends, *(("q",) if kind in ROUNDED else ())}, f"{where}.")
    defaults = {"mu": 0.0, "sigma": 1.0, "q": 1}
    numbers = {name: how.get(name, defaults.get(name)) for name in (*ends, "q")}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{where}.{name}: must be a number, not {number!r} (write 1.0e-4, not 1e-4)")
    q = numbers["q"] if kind in ROUNDED else None
    if q is not None and q <= 0:
        raise ValueError(f"{where}.q: must be above 0, not {q}")
    if normal:
        if numbers["sigma"] <= 0:
            raise ValueError(f"{where}.sigma: must be above 0, not {numbers['sigma']}")
        return Parameter(key, None, kind, mu=numbers["mu"], sigma=numbers["sigma"], q=q)
    low, high = numbers["min"], numbers["max"]
    if kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"{where}: min and max must be whole numbers for int_uniform")
    if low >= high:
        raise ValueError(f"{where}: min must be below max")
    if kind.endswith("_values") and low <= 0:
        raise ValueError(f"{where}.min: must be above 0 for {kind}, not {low}")
    return Parameter(key, None, kind, low=low, high=high, q=q)


def _hyperband(stated: object) -> Hyperband | None:
    """Rungs as in W&B: min_iter, min_iter eta, min_iter eta² ...; or max_iter / eta, ..., max_iter / eta^s."""
    if stated is None:
        return None
    if not isinstance(stated, dict) or stated.get("type") != "hyperband":
        raise ValueError("early_terminate.type: must be hyperband")
    _only(stated, {"type", "min_iter", "max_iter", "s", "eta"}, "early_terminate.")
    eta = stated.get("eta", 3)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or eta <= 1:
        raise ValueError(f"early_terminate.eta: must be above 1, not {eta!r}")
    for name in ("min_iter", "max_iter", "s"):
        if name in stated and not (type(stated[name]) is int and stated[name] > 0):
            raise ValueError(f"early_terminate.{name}: must be a whole number above 0, not {stated[name]!r}")
    if ("min_iter" in stated) == ("max_iter" in stated):
        raise ValueError("early_terminate: needs either min_iter, or max_iter and s, in measurements of the metric")
    if "min_iter" in stated:
        rungs = [math.ceil(stated["min_iter"] * eta**k) for k in range(32)]
    else:
        if "s" not in stated:
            raise ValueError("early_terminate.s: the number of comparisons before max_iter is missing")
        rungs = [int(stated["max_iter"] / eta**k) for k in range(1, stated["s"] + 1)]
    return Hyperband(tuple(sorted({rung for rung in rungs if rung > 0})), float(eta))


def _only(found: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in found:
        if key not in known:
            raise ValueError(f"{where}{key}: not supported; there are {', '.join(sorted(known))}")


def is_beaten(values: Sequence[float], rung: int, others: Sequence[Sequence[float]], eta: float) -> bool:
    """Whether hyperband stops a trial: whether its best of the first `rung` measurements is worse than the best 1 / eta
    (rounded up) of all trials that got there. Lower measurements are better.
    """
    mine = min(values[:rung])
    reached = sorted([mine, *(min(other[:rung]) for other in others if len(other) >= rung)])
    return mine > reached[math.ceil(len(reached) / eta) - 1]
