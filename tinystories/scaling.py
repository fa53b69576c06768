"""Fit the scaling law to the runs in docs/scaling.csv, and draw it.

    python -m tinystories.scaling

It reads docs/scaling.csv (one run per row) and docs/scaling.toml (what else the law needs), writes
docs/scaling.json, which plan.py reads, and the plots docs/scaling_*.png, and prints tables. law.py
has the formula. scipy is needed here only: pip install -r requirements-dev.txt
"""

import csv
import itertools
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares, minimize_scalar

from configurator import ROOT, UserError, start
from tinystories.files import write_json
from tinystories.law import COEFFICIENTS, RESULT, Law, predict, read_law
from tinystories.terminal import right_aligned, short_count

RUNS, KNOWN = ROOT / "docs/scaling.csv", ROOT / "docs/scaling.toml"
HUBER = 1e-3  # log loss from which the error of a run counts linearly (Hoffmann et al. 2022)
RESAMPLES = 200
SIZES = ("parameters", "block_parameters")
RATES = ("muon_learning_rate", "learning_rate")
TEXT = ("name", "dataset")  # columns of RUNS that are no numbers
LOW = np.array([0.0, -20.0, 0.05, -20.0, 0.05, 0.1])  # bounds of E, log A, alpha, log B, beta, R
HIGH = np.array([1.0, 40.0, 2.0, 40.0, 2.0, 300.0])


def read_runs(path: Path = RUNS) -> dict[str, np.ndarray]:
    """The columns of the table of runs; those of TEXT as text, the others as numbers."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UserError(f"{path} has no runs")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {
        name: values if name in TEXT else np.array([float(x or "nan") for x in values])
        for name, values in columns.items()
    }


def select(runs: dict, chosen: np.ndarray) -> dict:
    """Some of the runs, by a mask or by their places."""
    return {name: values[chosen] for name, values in runs.items()}


def comparable(runs: dict) -> np.ndarray:
    """Which runs the law is fitted to: the recipe's rates, window, step and vocabulary.

    The commonest value of each column is the recipe's; of the rates, the best one of each shape.
    """
    mask = np.ones(len(runs["name"]), dtype=bool)
    for name in ("vocab_size", "block_size", "batch_size"):
        values, counts = np.unique(runs[name], return_counts=True)
        mask &= runs[name] == values[counts.argmax()]
    same = ("n_layer", "n_embd", "steps", "train_tokens", "seed")
    keys = list(zip(*(runs[name] for name in same), strict=True))
    for key in set(keys):
        rows = [i for i, other in enumerate(keys) if other == key and mask[i]]
        best = min(rows, key=lambda i: runs["val_bits_per_byte"][i], default=None)
        for i in rows:
            mask[i] = i == best
    return mask


# Fitting ------------------------------------------------------------------------------------


def unpack(x: np.ndarray) -> np.ndarray:
    """Coefficients from what is fitted: A and B as logarithms."""
    E, a, alpha, b, beta, R = x
    return np.array([E, np.exp(a), alpha, np.exp(b), beta, R])


def residuals(x: np.ndarray, runs: dict, size: str) -> np.ndarray:
    """Log of predicted over measured loss, of each run."""
    expected = predict(unpack(x), runs[size], runs["tokens"], runs["train_tokens"])
    return np.log(expected / runs["val_bits_per_byte"])


def fit(runs: dict, size: str, starts: Sequence[np.ndarray] | None = None):
    """The best of the fits from several starts: coefficients as `residuals` takes them, and cost.

    The loss is Huber's, of the log of the losses, as in Hoffmann et al. 2022: one run that went
    wrong does not move the law.
    """
    if starts is None:
        grid = itertools.product((0.1, 0.4), (0.3, 0.7), (0.3, 0.7), (5.0, 15.0))
        starts = [
            np.array([E, alpha * np.log(3e5), alpha, beta * np.log(1e6), beta, R])
            for E, alpha, beta, R in grid
        ]
    options = {"loss": "huber", "f_scale": HUBER, "bounds": (LOW, HIGH), "x_scale": "jac"}
    fits = [least_squares(residuals, x, args=(runs, size), max_nfev=400, **options) for x in starts]
    best = min(fits, key=lambda found: found.cost)
    return best.x, float(best.cost)


def resample(runs: dict, size: str, x: np.ndarray, count: int = RESAMPLES) -> np.ndarray:
    """Coefficients of fits to runs drawn with replacement, shape (count, 6)."""
    rng = np.random.default_rng(0)
    number = len(runs["name"])
    draws = [rng.integers(number, size=number) for _ in range(count)]
    return np.array([unpack(fit(select(runs, draw), size, [x])[0]) for draw in draws])


def fit_gap(runs: dict, size: str) -> list[float]:
    """Factor and exponents of the train loss' distance below validation: see Law.train_gap."""
    gap = 1 - runs["train_nats"] / runs["val_nats"]
    rows = (gap > 0.005) & (runs["passes"] > 0.5)
    if rows.sum() < 4:
        return [0.0, 1.0, 0.5]
    different = np.minimum(runs["tokens"], runs["train_tokens"])
    terms = [np.ones(rows.sum()), np.log(runs["passes"][rows])]
    terms.append(np.log((runs[size] / different)[rows]))
    solution = np.linalg.lstsq(np.stack(terms, 1), np.log(gap[rows]), rcond=None)[0]
    return [float(np.exp(solution[0])), float(solution[1]), float(solution[2])]


def fit_critical_step(law: Law, known: dict, size: float) -> float:
    """The tokens per step that halve what a token is worth, from losses at equal tokens."""
    steps, bits = np.array(known["bits_by_tokens_per_step"]).T
    tokens, different = known["tokens"], known["different_tokens"]

    def error(log_critical: float) -> float:
        worth = tokens / (1 + steps / np.exp(log_critical))
        difference = law.loss(size, worth, different) - bits
        return float(((difference - difference.mean()) ** 2).sum())  # another vocabulary's level

    bounds = (np.log(500.0), np.log(5e5))
    return float(np.exp(minimize_scalar(error, bounds=bounds, method="bounded").x))


def worth_of_recipes(law: Law, known: dict, size: float) -> dict[str, float]:
    """How many tokens of the law's recipe one of another recipe is worth, from equal tokens."""
    names = [name for name, value in known.items() if "," in name]
    own = "qwen3, muon"

    def worth(bits: float) -> float:
        target = law.loss(size, known["tokens"], known["different_tokens"]) + bits - known[own]

        def error(log_worth: float) -> float:
            tokens = known["tokens"] * np.exp(log_worth)
            return float((law.loss(size, tokens, known["different_tokens"]) - target) ** 2)

        return float(np.exp(minimize_scalar(error, bounds=(-4.0, 0.0), method="bounded").x))

    found = {name: 1.0 if name == own else worth(known[name]) for name in names}
    # Not measured: as if the gains of the block and of the optimizer were independent.
    return found | {"gpt2, muon": found["gpt2, adamw"] / found["qwen3, adamw"]}


def best_rates(runs: dict) -> list[dict]:
    """The best rates of each width at which several were tried, else those of the commonest."""
    rates = np.stack([runs[name] for name in RATES], 1)
    places = np.stack([runs[name] for name in ("n_embd", "n_layer", "steps", "train_tokens")], 1)
    found = {}
    for place in np.unique(places, axis=0):
        group = np.flatnonzero((places == place).all(1))
        if len(np.unique(rates[group], axis=0)) > 1:
            found[int(place[0])] = rates[group[runs["val_bits_per_byte"][group].argmin()]]
    if not found:
        values, counts = np.unique(rates, axis=0, return_counts=True)
        found[int(np.median(runs["n_embd"]))] = values[counts.argmax()]
    return [
        {"n_embd": width} | dict(zip(RATES, map(float, pair), strict=True))
        for width, pair in found.items()
    ]


# The command --------------------------------------------------------------------------------


def fit_law(runs: dict, known: dict, count: int = RESAMPLES) -> tuple[Law, dict[str, float]]:
    """The law of the runs, and the cost of the fit by what N counts."""
    from tinystories.planning import size_of

    used = select(runs, comparable(runs))
    fits = {size: fit(used, size) for size in SIZES}
    size = min(SIZES, key=lambda name: fits[name][1])
    x = fits[size][0]
    fitted = {n: [used[n].min(), used[n].max()] for n in (*SIZES, "tokens", "passes")}
    law = Law(
        coefficients=unpack(x),
        resamples=resample(used, size, x, count),
        scatter=float(1.4826 * np.median(np.abs(residuals(x, used, size)))),
        counts=size,
        fitted={name: [float(low), float(high)] for name, (low, high) in fitted.items()},
        critical=0.0,
        critical_tokens=float(known["steps"]["tokens"]),
        gap=fit_gap(used, size),
        recipes={},
        rates=best_rates(runs),
        bytes_per_token=float(np.median(used["bytes_per_token"])),
        block_size=int(used["block_size"][0]),
        tokens_per_step=int(used["block_size"][0] * used["batch_size"][0]),
        texts=known["texts"],
    )
    values = vars(law).copy()
    places = {
        name: size_of(known[name]["n_layer"], known[name]["n_embd"], 2048, 128)[law.counts]
        for name in ("steps", "recipes")
    }
    values["critical"] = fit_critical_step(law, known["steps"], places["steps"])
    values["recipes"] = worth_of_recipes(law, known["recipes"], places["recipes"])
    return Law(**values), {name: cost for name, (_, cost) in fits.items()}


def write_law(law: Law, path: Path = RESULT) -> None:
    saved = {"format": 1} | vars(law)
    saved["coefficients"] = dict(zip(COEFFICIENTS, law.coefficients.tolist(), strict=True))
    # Four digits are more than the fits agree on.
    saved["resamples"] = [[float(f"{v:.4g}") for v in row] for row in law.resamples]
    write_json(path, saved)


def print_tables(runs: dict, law: Law, costs: dict[str, float]) -> None:
    low, high = np.quantile(law.resamples, (0.025, 0.975), axis=0)
    rows = [("", "fit", "95 % of resamples")]
    for i, name in enumerate(COEFFICIENTS):
        rows.append((name, f"{law.coefficients[i]:.4g}", f"{low[i]:.4g} to {high[i]:.4g}"))
    print("\n".join(right_aligned(rows)))
    print(f"\nN counts {law.counts}; Huber loss:", {k: float(f"{v:.4g}") for k, v in costs.items()})
    print(f"scatter of the runs around the law: {100 * law.scatter:.2f} %")
    print(f"critical step: {law.critical:,.0f} tokens; worth: {law.recipes}; rates: {law.rates}")
    rows = [["run", "N", "tokens", "passes", "measured", "law", "error"]]
    used = comparable(runs)
    for i, name in enumerate(runs["name"]):
        where = (runs[law.counts][i], runs["tokens"][i], runs["train_tokens"][i])
        expected, measured = float(law.loss(*where)), runs["val_bits_per_byte"][i]
        row = [str(name) if used[i] else f"({name})", short_count(where[0]), short_count(where[1])]
        row += [f"{runs['passes'][i]:.2f}", f"{measured:.4f}", f"{expected:.4f}"]
        rows.append([*row, f"{100 * (measured / expected - 1):+.2f} %"])
    print("\n" + "\n".join(right_aligned(rows)))


def main() -> None:
    from tinystories import scalingfigures

    runs, known = read_runs(), tomllib.loads(KNOWN.read_text(encoding="utf-8"))
    law, costs = fit_law(runs, known)
    write_law(law)
    print_tables(runs, law, costs)
    scalingfigures.plot_all(select(runs, comparable(runs)), read_law(), known["published"])


if __name__ == "__main__":
    start(main)
