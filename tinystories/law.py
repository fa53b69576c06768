"""The scaling law: the validation loss that a model of a size reaches with so many tokens.

    bits per byte = E + A / N'^alpha + B / D'^beta        (Hoffmann et al. 2022, section 3.3)
    D' = U + U·R·(1 - exp(-(D/U - 1) / R))                (Muennighoff et al. 2023, section 3)
    N' = M + M·S·(1 - exp(-(N/M - 1) / S))                (the same, for excess parameters)

N are parameters, D tokens of training, U the different ones among them, M the parameters that suit
U fresh tokens, or N where those are fewer. R says after how many passes repeated tokens hardly add
anything, S how much larger than M a model gains from it. docs/scaling.json has the coefficients,
which scaling.py fits to docs/scaling.csv; docs/scaling.md is about both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configurator import ROOT
from tinystories.files import read_json

RESULT = ROOT / "docs/scaling.json"
COEFFICIENTS = ("E", "A", "alpha", "B", "beta", "R", "S")
NO_LIMIT = 1e9  # S where excess parameters count like others
ADVICE = "python -m tinystories.scaling writes it"


def predict(coefficients: np.ndarray, parameters, tokens, different_tokens) -> np.ndarray:
    """Bits per byte by the law, of arrays that broadcast.

    Args:
        coefficients: those of COEFFICIENTS on the last axis.
        different_tokens: how many tokens there are to train on.
    """
    E, A, alpha, B, beta, R, S = np.moveaxis(np.asarray(coefficients, dtype=float), -1, 0)
    N, D = np.asarray(parameters, float), np.asarray(tokens, float)
    U = np.minimum(D, different_tokens)
    M = np.minimum(N, suiting_parameters(A, alpha, B, beta, U))
    return E + A * saturating(N, M, S) ** -alpha + B * saturating(D, U, R) ** -beta


def saturating(amount: np.ndarray, enough: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """What an amount is worth if all beyond `enough` of it adds less and less."""
    excess = amount / enough - 1
    return enough * (1 + limit * -np.expm1(-excess / limit))


def suiting_parameters(A, alpha, B, beta, tokens) -> np.ndarray:
    """The size for so many fresh tokens at which both terms gain equally from more compute."""
    return (alpha * A / (beta * B) * tokens**beta) ** (1 / alpha)


@dataclass(frozen=True)
class Law:
    """What docs/scaling.json has. Losses are of the recipe, text and vocabulary of its runs."""

    coefficients: np.ndarray  # (7,)
    resamples: np.ndarray  # (K, 7): fits of resampled runs
    scatter: float  # standard deviation of log losses around the law
    counts: str  # parameters, or block_parameters: which of them N are
    fitted: Mapping[str, Sequence[float]]  # lowest and highest value among the runs, by name
    critical: float  # tokens per step that halve what a token is worth, at critical_tokens
    critical_tokens: float
    gap: Sequence[float]  # of train loss below validation: factor, exponents
    recipes: Mapping[str, float]  # tokens of the law's recipe that one of another is worth
    rates: Sequence[Mapping[str, float]]  # measured best rates, by n_embd
    adamw_rate: float  # AdamW's alone, times n_embd
    bytes_per_token: float
    vocab_size: int
    tokens_per_step: int
    densities: Mapping[str, Any]  # bytes per token of TinyStories: gpt2's; trained ones by size
    texts: Mapping[str, Mapping[str, float]]  # what is known of published sources, by name

    def loss(self, parameters, tokens, different_tokens) -> np.ndarray:
        """Expected bits per byte; the tokens are those of the law's vocabulary."""
        return predict(self.coefficients, parameters, tokens, different_tokens)

    def interval(
        self, parameters: float, tokens: float, different_tokens: float
    ) -> tuple[float, float]:
        """Where 95 % of such runs are expected: the fit's uncertainty and the runs' own scatter."""
        middle = math.log(self.loss(parameters, tokens, different_tokens))
        fits = np.log(predict(self.resamples, parameters, tokens, different_tokens))
        low, high = np.quantile(fits, (0.025, 0.975))
        own = 1.96 * self.scatter
        below = math.hypot(max(0.0, middle - low), own)
        above = math.hypot(max(0.0, high - middle), own)
        return math.exp(middle - below), math.exp(middle + above)

    def step_efficiency(self, tokens: float, tokens_per_step: float) -> float:
        """What a token is worth at a step of this size, 1 at that of the law's runs.

        1 / (1 + step / critical step) is from McCandlish et al. 2018, section 2.2; the critical
        step grows with the tokens of the run to the power 0.47 (Zhang et al. 2024, "How Does
        Critical Batch Size Scale in Pre-training?").
        """
        critical = self.critical_step(tokens)
        return (1 + self.tokens_per_step / critical) / (1 + tokens_per_step / critical)

    def critical_step(self, tokens: float) -> float:
        """The tokens per step at which a token is worth half."""
        return self.critical * (tokens / self.critical_tokens) ** 0.47

    def train_gap(self, parameters: float, tokens: float, different_tokens: float) -> float:
        """The fraction by which the train loss ends below the validation loss."""
        factor, by_passes, by_size = self.gap
        different = min(tokens, different_tokens)
        passes = tokens / different_tokens
        gap = factor * passes**by_passes * (parameters / different) ** by_size
        return min(0.95, gap)

    def best_rates(self, n_embd: int) -> tuple[float, float]:
        """Muon's and AdamW's rate for a width: between the measured widths, else the nearest."""
        widths = np.log([row["n_embd"] for row in self.rates])
        names = ("muon_learning_rate", "learning_rate")
        logs = [np.log([row[name] for row in self.rates]) for name in names]
        muon, adamw = (math.exp(np.interp(math.log(n_embd), widths, y)) for y in logs)
        return muon, adamw

    def is_outside(self, parameters: float, tokens: float, passes: float) -> bool:
        """Whether the law is extrapolated: none of its runs is as small, large, or repeated."""
        values = {self.counts: parameters, "tokens": tokens}
        outside = any(not self.fitted[k][0] <= v <= self.fitted[k][1] for k, v in values.items())
        return outside or passes > max(1.5, self.fitted["passes"][1])

    def is_own_text(self, text: str) -> bool:
        """Whether the law was measured on such a text, by the name of its source."""
        return text.startswith("tinystories")

    def has_level(self, text: str) -> bool:
        """Whether it is known how the losses of a text compare with the law's."""
        return self.is_own_text(text) or "level" in self.texts.get(text, {})

    def vocab_size_of(self, text: str) -> int:
        """How many trained ids suit a text."""
        return int(self.texts.get(text, {}).get("vocab_size", self.vocab_size))

    def density(self, vocab_size: int, text: str, kind: str = "bpe") -> float:
        """Bytes per token of a text in a vocabulary; of a text without numbers, TinyStories'.

        Args:
            kind: prepare.py's tokenizer.
        """
        sizes, values = np.array(self.densities["trained"], dtype=float).T

        def at(size: int) -> float:
            return float(np.interp(math.log(size), np.log(sizes), values))

        own = self.texts.get(text, {}).get("bytes_per_token", self.bytes_per_token)
        wanted = at(vocab_size) if kind == "bpe" else self.densities["gpt2"]
        return wanted * own / at(self.vocab_size_of(text))


def read_law(path: Path = RESULT) -> Law:
    """Read the fitted law; raises UserError where the file is damaged."""

    def is_valid(value: dict) -> bool:
        shape = (len(value["resamples"]), len(COEFFICIENTS))
        rows = [row.split() for row in value["resamples"]]
        return (
            value["format"] == 2
            and Law.__dataclass_fields__.keys() <= value.keys()
            and set(value["coefficients"]) == set(COEFFICIENTS)
            and np.shape(np.array(rows, dtype=float)) == shape
            and value["counts"] in value["fitted"]
            and all(row["n_embd"] > 0 for row in value["rates"])
        )

    saved = read_json(path, is_valid, ADVICE)
    saved["coefficients"] = np.array([saved["coefficients"][name] for name in COEFFICIENTS])
    saved["resamples"] = np.array([row.split() for row in saved["resamples"]], dtype=float)
    return Law(**{name: saved[name] for name in Law.__dataclass_fields__})
