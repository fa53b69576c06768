"""Fit the scaling law to the runs in docs/scaling.csv, and draw it.

    python -m tinystories.scaling

It reads docs/scaling.csv (one run per row) and docs/scaling.toml (what else the law needs), and
writes docs/scaling.json, which plan.py reads, the plots docs/scaling_*.png, and the tables in
docs/scaling.md. law.py has the formula. scipy is needed here only: pip install -r
requirements-dev.txt
"""

import csv
import itertools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares, minimize_scalar

from configurator import ROOT, UserError, start
from tinystories import scalingfigures
from tinystories.files import atomic_write, write_json
from tinystories.law import COEFFICIENTS, NO_LIMIT, RESULT, Law, predict, read_law, saturating
from tinystories.planning import RECIPE, Stories, expect, size_of
from tinystories.terminal import short_count

RUNS, KNOWN = ROOT / "docs/scaling.csv", ROOT / "docs/scaling.toml"
PAGE = ROOT / "docs/scaling.md"
BEGIN, END = "<!-- from here on by python -m tinystories.scaling -->", "<!-- to here -->"
HUBER = 1e-3  # log loss from which the error of a run counts linearly (Hoffmann et al. 2022)
RESAMPLES = 200
NOISE = 0.004  # least scatter of log losses: three seeds differ by as much (docs/findings.md)
SIZES = ("parameters", "block_parameters")
RATES = ("muon_learning_rate", "learning_rate")
TEXT = ("name", "dataset")  # columns of RUNS that are no numbers
# Bounds of E, log A, alpha, log B, beta, log R, log S.
LOW = np.array([0.0, -20.0, 0.05, -20.0, 0.05, -3.0, -3.0])
# E cannot be above the loss of any run: a published one has 0.31 on TinyStories' validation stories
# (scaling.toml; llama2.c's are on other ones).
HIGH = np.array([0.3, 40.0, 2.0, 40.0, 2.0, 6.0, 6.0])
# What the fit holds to where the runs leave it open, and the standard deviation of that: the same,
# but the log of A / N^alpha and of B / D^beta at 2M parameters and tokens. The exponents are those
# of Hoffmann et al. 2022, R and S those of Muennighoff et al. 2023. It weighs less than a
# thousandth of the loss in one run.
PRIOR = np.array([0.2, np.log(0.1), 0.34, np.log(0.6), 0.28, np.log(15.4), np.log(5.3)])
SPREAD = np.array([0.1, 1.0, 0.1, 0.5, 0.1, 1.0, 1.0])
OVERFITS = 2  # times the train loss: the validation loss of a run that the law does not know
BETTER = 0.8  # of the cost of the simpler law, which S, or counting blocks only, must reach
FEWEST_REPEATED = 6  # runs with repeated stories that S needs


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
    Not a run that overfits, since the law saturates with passes and never rises.
    """
    mask = ~(runs["val_nats"] > OVERFITS * runs["train_nats"])
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
    """Coefficients from what is fitted: A, B, R and S as logarithms; S may be left out."""
    E, a, alpha, b, beta, r, *s = x
    S = np.exp(s[0]) if s else NO_LIMIT
    return np.array([E, np.exp(a), alpha, np.exp(b), beta, np.exp(r), S])


def errors(x: np.ndarray, runs: dict, size: str) -> np.ndarray:
    """Log of predicted over measured loss, of each run."""
    expected = predict(unpack(x), runs[size], runs["tokens"], runs["train_tokens"])
    return np.log(expected / runs["val_bits_per_byte"])


def fit(
    runs: dict, size: str, starts: Sequence[np.ndarray], prior: np.ndarray = PRIOR
) -> tuple[np.ndarray, float]:
    """The best of the fits from several starts: what `unpack` takes, and its cost.

    The loss is Huber's, of the log of the losses, as in Hoffmann et al. 2022: one run that went
    wrong does not move the law.
    """
    number = len(starts[0])

    def residuals(x: np.ndarray) -> np.ndarray:
        held = x.copy()
        held[[1, 3]] -= held[[2, 4]] * np.log(2e6)
        away = HUBER * (held - prior[:number]) / SPREAD[:number]
        return np.concatenate([errors(x, runs, size), away])

    options: dict[str, Any] = {"loss": "huber", "f_scale": HUBER, "x_scale": "jac"}
    options |= {"max_nfev": 400, "bounds": (LOW[:number], HIGH[:number])}
    fits = [least_squares(residuals, x, **options) for x in starts]
    best = min(fits, key=lambda found: found.cost)
    return best.x, float(best.cost)


def fit_forms(runs: dict, size: str) -> tuple[np.ndarray, float]:
    """The best fit without S; with S, where that is better by far."""
    grid = itertools.product((0.3, 0.7), (0.3, 0.7), (0.5, 2.0))
    starts = [np.array([0.2, 12.6 * a, a, 13.8 * b, b, r]) for a, b, r in grid]  # e^12.6 weights
    x, cost = fit(runs, size, starts)
    if (runs["passes"] > 1.5).sum() < FEWEST_REPEATED:
        return x, cost
    with_s = fit(runs, size, [np.append(x, s) for s in (0.5, 3.0)])
    return with_s if with_s[1] < BETTER * cost else (x, cost)


def resample(runs: dict, size: str, x: np.ndarray, count: int = RESAMPLES) -> np.ndarray:
    """Coefficients of fits to runs drawn with replacement, shape (count, 7).

    What the runs leave open is drawn, too: from PRIOR with its SPREAD.
    """
    rng, number, found = np.random.default_rng(0), len(runs["name"]), []
    for _ in range(count):
        draw = select(runs, rng.integers(number, size=number))
        found.append(unpack(fit(draw, size, [x], rng.normal(PRIOR, SPREAD))[0]))
    return np.array(found)


def fit_gap(runs: dict, size: str, known: dict) -> list[float]:
    """Factor and exponents of the train loss' distance below validation: see Law.train_gap.

    With few runs that repeat their stories, those that are `known` from elsewhere.
    """
    gap = 1 - runs["train_nats"] / runs["val_nats"]
    rows = (gap > 0.005) & (runs["passes"] > 1.5)
    if rows.sum() < FEWEST_REPEATED:
        return [known[name] for name in ("factor", "by_passes", "by_size")]
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
        critical = np.exp(log_critical)
        worth = tokens * (1 + law.tokens_per_step / critical) / (1 + steps / critical)
        difference = law.loss(size, worth, different) - bits
        return float(((difference - difference.mean()) ** 2).sum())  # another vocabulary's level

    bounds = (np.log(500.0), np.log(5e5))
    return float(np.exp(minimize_scalar(error, bounds=bounds, method="bounded").x))


def worth_of_recipes(law: Law, known: dict, size: float) -> dict[str, float]:
    """How many tokens of the law's recipe one of another recipe is worth, from equal tokens."""
    bits_of = known["recipes"]

    def worth(bits: float) -> float:
        target = law.loss(size, known["tokens"], known["different_tokens"])
        target += bits - bits_of[RECIPE]

        def error(log_worth: float) -> float:
            tokens = known["tokens"] * np.exp(log_worth)
            return float((law.loss(size, tokens, known["different_tokens"]) - target) ** 2)

        return float(np.exp(minimize_scalar(error, bounds=(-4.0, 0.0), method="bounded").x))

    found = {name: 1.0 if name == RECIPE else worth(bits) for name, bits in bits_of.items()}
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


def with_level(law: Law, text: dict) -> dict:
    """What is known of a published source, and its losses over those of the law's text."""
    found = {name: value for name, value in text.items() if name != "runs"}
    ratios = []
    for n_layer, n_embd, tokens, bits in text.get("runs", []):
        size = size_of(n_layer, n_embd, text["vocab_size"], block_size=1)[law.counts]
        tokens *= text["bytes_per_token"] / law.bytes_per_token
        ratios.append(bits / law.loss(size, tokens, np.inf))
    return found | ({"level": round(float(np.median(ratios)), 4)} if ratios else {})


# The command --------------------------------------------------------------------------------


def fit_law(runs: dict, known: dict, count: int = RESAMPLES) -> tuple[Law, dict[str, float]]:
    """The law of the runs, and the cost of the fit by what N counts."""
    used = select(runs, comparable(runs))
    fits = {size: fit_forms(used, size) for size in SIZES}
    blocks_only = fits["block_parameters"][1] < BETTER * fits["parameters"][1]
    size = "block_parameters" if blocks_only else "parameters"
    x = fits[size][0]
    fitted = {n: [used[n].min(), used[n].max()] for n in (*SIZES, "tokens", "passes")}
    law = Law(
        coefficients=unpack(x),
        resamples=resample(used, size, x, count),
        scatter=max(NOISE, float(1.4826 * np.median(np.abs(errors(x, used, size))))),
        counts=size,
        fitted={name: [float(low), float(high)] for name, (low, high) in fitted.items()},
        critical=0.0,
        critical_tokens=float(known["trials"]["tokens"]),
        gap=fit_gap(used, "parameters", known["gap"]),
        recipes={},
        rates=best_rates(runs),
        adamw_rate=float(known["rates"]["adamw_times_width"]),
        bytes_per_token=float(np.median(used["bytes_per_token"])),
        vocab_size=int(used["vocab_size"][0]),
        tokens_per_step=int(used["block_size"][0] * used["batch_size"][0]),
        densities=known["vocabularies"],
        texts={},
    )
    values = vars(law).copy()
    values["texts"] = {name: with_level(law, text) for name, text in known["texts"].items()}
    shape = [known["trials"][name] for name in ("n_layer", "n_embd", "vocab_size")]
    place = size_of(*shape, block_size=1)[law.counts]
    values["critical"] = fit_critical_step(law, known["trials"], place)
    values["recipes"] = worth_of_recipes(law, known["trials"], place)
    return Law(**values), {name: cost for name, (_, cost) in fits.items()}


def write_law(law: Law, path: Path = RESULT) -> None:
    saved = {"format": 2} | vars(law)
    saved["coefficients"] = dict(zip(COEFFICIENTS, law.coefficients.tolist(), strict=True))
    # Four digits are more than the fits agree on.
    saved["resamples"] = [" ".join(f"{v:.4g}" for v in row) for row in law.resamples]
    write_json(path, saved)


def tables(runs: dict, law: Law, costs: dict[str, float], known: dict) -> str:
    """The tables of docs/scaling.md, in Markdown."""
    low, high = np.quantile(law.resamples, (0.025, 0.975), axis=0)
    rows = [["", "fit", "95 % of the resampled fits"]]
    for i, name in enumerate(COEFFICIENTS):
        if law.coefficients[i] != NO_LIMIT:
            rows.append([name, f"{law.coefficients[i]:.4g}", f"{low[i]:.4g} to {high[i]:.4g}"])
    parts = [markdown(rows)]
    other = next(size for size in SIZES if size != law.counts)
    ratio = costs[other] / costs[law.counts]
    rates = ", ".join(f"{r['n_embd']} wide: {r[RATES[0]]:g}, {r[RATES[1]]:g}" for r in law.rates)
    worth = ", ".join(f"{name} {value:.2f}" for name, value in law.recipes.items())
    parts.append(
        f"- N counts `{law.counts}`: with `{other}` the loss of the fit is {ratio:.2f} times as "
        f"high.\n- The runs scatter by {100 * law.scatter:.2f} % around the law.\n"
        f"- A step of {law.critical:,.0f} tokens halves what a token is worth, at "
        f"{short_count(law.critical_tokens)} tokens.\n- What a token is worth in another recipe "
        f"(block, optimizer): {worth}.\n- The best rates of Muon and AdamW: {rates}."
    )
    parts.append("### Repeated stories\n\n" + passes_table(law))
    parts.append("### Forecasts\n\n" + forecasts_table(law, known["forecasts"]))
    parts.append("### The published runs\n\n" + published_table(law, known["published"]))
    parts.append("### All runs\n\n" + runs_table(runs, law))
    return "\n\n".join(parts)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def passes_table(law: Law) -> str:
    """How many fresh tokens some passes over a text are worth."""
    R = law.coefficients[COEFFICIENTS.index("R")]
    rows = [["passes", *(str(n) for n in (1, 2, 4, 8, 16, 32))]]
    worth = [float(saturating(np.array(float(n)), np.array(1.0), R)) for n in (1, 2, 4, 8, 16, 32)]
    rows.append(["worth so many fresh ones", *(f"{value:.2f}" for value in worth)])
    return markdown(rows)


def forecasts_table(law: Law, forecasts: Sequence[dict]) -> str:
    """What was forecast of runs that the law is not fitted to, and what came out."""
    rows = [["run", "settings", "forecast", "measured", "error"]]
    for f in forecasts:
        size = size_of(f["n_layer"], f["n_embd"], law.vocab_size, f["block_size"])
        known = ("", "", "", f["different_tokens"], f["stories"], law.vocab_size)
        stories, tokens = Stories(*known, law.bytes_per_token), f["steps"] * f["tokens_per_step"]
        now = expect(law, stories, size, tokens, f["tokens_per_step"])[:3]
        loss, low, high = f.get("forecast", now)
        settings = f"{f['n_layer']} layers of {f['n_embd']}, window {f['block_size']}, "
        settings += f"{f['steps']:,} steps, {f['stories']:,} stories"
        row = [f["name"], settings, f"{loss:.3f} [{low:.3f}-{high:.3f}]", "not yet run", ""]
        if bits := f.get("measured"):
            missed = "" if low <= bits <= high else ", outside"
            row[3:] = [f"{bits:.3f}", f"{100 * (bits / loss - 1):+.1f} %{missed}"]
        rows.append(row)
    return markdown(rows)


def published_table(law: Law, published: Sequence[dict]) -> str:
    """Runs on other machines, with other recipes, and their distance from the law."""
    rows = [["run", "parameters", "tokens", "bits per byte", "law, extrapolated", "distance"]]
    for p in published:
        expected = float(law.loss(p[law.counts], p["tokens"], p["different_tokens"]))
        bits = p["bits_per_byte"]
        row = [p["name"], short_count(p["parameters"]), short_count(p["tokens"]), f"{bits:.3f}"]
        rows.append([*row, f"{expected:.3f}", f"{100 * (bits / expected - 1):+.0f} %"])
    return markdown(rows)


def runs_table(runs: dict, law: Law) -> str:
    """Every run, with what the law says of it."""
    rows = [["run", "N", "tokens", "passes", "measured", "law", "error"]]
    used = comparable(runs)
    for i, name in enumerate(runs["name"]):
        place = (runs[law.counts][i], runs["tokens"][i], runs["train_tokens"][i])
        expected, bits = float(law.loss(*place)), runs["val_bits_per_byte"][i]
        row = [str(name) if used[i] else f"({name})", short_count(place[0])]
        row += [short_count(place[1]), f"{runs['passes'][i]:.2f}", f"{bits:.4f}"]
        rows.append([*row, f"{expected:.4f}", f"{100 * (bits / expected - 1):+.1f} %"])
    return markdown(rows)


def write_page(text: str, path: Path = PAGE) -> None:
    """Put the tables in their place in docs/scaling.md."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise UserError(f"{path} has no place for the tables, between {BEGIN} and {END}")
    atomic_write(path, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())


def main() -> None:
    runs, known = read_runs(), tomllib.loads(KNOWN.read_text(encoding="utf-8"))
    law, costs = fit_law(runs, known)
    write_law(law)
    write_page(tables(runs, law, costs, known))
    scalingfigures.plot_all(select(runs, comparable(runs)), read_law(), known["published"])
    print(f"fitted to {comparable(runs).sum()} of {len(runs['name'])} runs: see {PAGE}")


if __name__ == "__main__":
    start(main)
