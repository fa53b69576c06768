"""The scaling law: the fit finds planted laws again, and docs/ has what it gives."""

from dataclasses import replace

import numpy as np
import pytest

from tinystories import scaling
from tinystories.law import COEFFICIENTS, NO_LIMIT, predict, read_law
from tinystories.planning import size_of

PLANTED = np.array([0.15, 60.0, 0.42, 330.0, 0.47, 9.0, NO_LIMIT])
START = np.array([0.1, 6.0, 0.5, 6.0, 0.5, 1.5])
SHAPES = ((2, 64), (2, 128), (3, 128), (3, 192), (4, 256))


def planted_runs(noise: float = 0.0) -> dict[str, np.ndarray]:
    """Runs whose losses follow PLANTED: four budgets, and stories that are repeated."""
    rng, rows = np.random.default_rng(0), []
    for steps in (120, 360, 1200, 3600):
        rows += [(*shape, steps, 3_000_000) for shape in SHAPES]
    for different in (200_000, 800_000):
        rows += [(3, 128, passes * different // 2048, different) for passes in (1, 2, 4, 8, 16)]
    layers, widths, steps, different = np.array(rows).T
    sizes = [size_of(*row[:2], 4096, 128) for row in rows]
    runs = {"n_layer": layers, "n_embd": widths, "steps": steps, "train_tokens": different}
    runs |= {name: np.array([size[name] for size in sizes]) for name in scaling.SIZES}
    runs |= {"tokens": 2048 * steps, "passes": 2048 * steps / different}
    same = {"vocab_size": 4096, "block_size": 128, "batch_size": 16, "seed": 1}
    same |= {"muon_learning_rate": 0.01, "learning_rate": 0.012, "bytes_per_token": 4.0}
    runs |= {name: np.full(len(rows), value) for name, value in same.items()}
    runs["name"] = np.array([f"run {i}" for i in range(len(rows))])
    bits = predict(PLANTED, runs["parameters"], runs["tokens"], different)
    runs["val_bits_per_byte"] = bits * np.exp(noise * rng.normal(size=len(rows)))
    runs["val_nats"] = runs["val_bits_per_byte"] * np.log(2) * 4
    runs["train_nats"] = runs["val_nats"] * (1 - np.minimum(0.5, 0.02 * runs["passes"]))
    return runs


def error_of(coefficients: np.ndarray) -> float:
    """The largest error of a law at places in between and four times beyond the planted runs."""
    N, D = np.meshgrid(np.geomspace(5e5, 1.6e7, 5), np.geomspace(5e5, 4e7, 5))
    places = (N, D, 2_000_000)
    return float(np.abs(np.log(predict(coefficients, *places) / predict(PLANTED, *places))).max())


def test_the_fit_finds_a_planted_law_again():
    x, cost = scaling.fit_forms(planted_runs(), "parameters")
    assert cost < 1e-4
    np.testing.assert_allclose(scaling.unpack(x), PLANTED, rtol=0.01)


def test_the_fit_finds_that_excess_parameters_gain_less():
    planted = np.array([*PLANTED[:-1], 4.0])
    runs = planted_runs()
    places = (runs["parameters"], runs["tokens"], runs["train_tokens"])
    runs["val_bits_per_byte"] = predict(planted, *places)
    x, cost = scaling.fit(runs, "parameters", [np.array([0.2, 5.0, 0.5, 5.0, 0.5, 1.5, 2.0])])
    assert cost < 1e-4
    assert scaling.unpack(x)[-1] == pytest.approx(4.0, rel=0.05)


def test_runs_that_went_wrong_do_not_move_it():
    runs = planted_runs(noise=0.003)
    runs["val_bits_per_byte"][[3, 12]] *= 1.5
    x, _ = scaling.fit(runs, "parameters", [START])
    assert error_of(scaling.unpack(x)) < 0.02


def test_the_interval_of_a_forecast_holds_what_was_planted():
    runs = planted_runs(noise=0.003)
    x, _ = scaling.fit(runs, "parameters", [START])
    fits = scaling.resample(runs, "parameters", x, count=8)
    law = replace(read_law(), coefficients=scaling.unpack(x), resamples=fits, scatter=0.003)
    for place in ((2e6, 1e7, 3e6), (8e6, 4e7, 1e9), (5e5, 2e7, 2e5)):
        low, high = law.interval(*place)
        assert low < predict(PLANTED, *place) < high
        assert high / low < 1.2


def test_repeated_tokens_are_worth_less_and_less():
    worth = [predict(PLANTED, 1e6, passes * 1e6, 1e6) for passes in (1, 2, 4, 8, 16, 32)]
    gains = -np.diff(worth)
    assert (gains > 0).all() and (np.diff(gains) < 0).all()


def test_the_critical_step_is_found_again():
    law = replace(read_law(), critical=9000.0, critical_tokens=1e6)
    place = {"tokens": 1e6, "different_tokens": 3e6}

    def bits(step: int) -> float:
        return float(law.loss(1e6, 1e6 * law.step_efficiency(1e6, step), 3e6)) + 0.05

    trials = place | {"bits_by_tokens_per_step": [(x, bits(x)) for x in (1024, 4096, 16384)]}
    assert scaling.fit_critical_step(law, trials, 1e6) == pytest.approx(9000, rel=0.01)


def test_more_passes_than_any_run_had_are_outside():
    law = read_law()
    size, tokens = (law.fitted[name][1] for name in (law.counts, "tokens"))
    assert not law.is_outside(size, tokens, 1.0)
    assert law.is_outside(size, tokens, 1.1 * max(1.5, law.fitted["passes"][1]))


def test_the_file_in_docs_is_the_fit_of_the_table_in_docs():
    law, runs = read_law(), scaling.read_runs()
    used = scaling.select(runs, scaling.comparable(runs))
    E, A, alpha, B, beta, R, S = law.coefficients
    x = np.array([E, np.log(A), alpha, np.log(B), beta, np.log(R), np.log(S)])
    x = x[:-1] if S == NO_LIMIT else x
    cost = np.log(predict(law.coefficients, used[law.counts], used["tokens"], used["train_tokens"]))
    assert np.median(np.abs(cost - np.log(used["val_bits_per_byte"]))) < 0.03
    refitted, _ = scaling.fit(used, law.counts, [x])
    assert scaling.unpack(refitted) == pytest.approx(law.coefficients, rel=0.02)
    assert len(law.resamples) == scaling.RESAMPLES
    assert law.coefficients.shape == (len(COEFFICIENTS),)
