"""Plots: what is drawn, and that plotting has no side effects."""

import csv
import random
import shutil
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from configurator import UserError
from tinystories import figures
from tinystories.log import COLUMNS


@pytest.fixture(autouse=True)
def low_resolution(monkeypatch):
    """Plots of low resolution are faster."""
    monkeypatch.setattr(figures, "DPI", 50)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as matplotlib holds them."""
    figures_saved, save = [], Figure.savefig

    def remember(figure, *args, **options):
        figures_saved.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures_saved


def log_of(folder, *rows: dict):
    """A run's folder whose log.csv holds these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def step(number: int, **cells) -> dict:
    """A row of a step of 100 tokens, a tenth of a minute long."""
    row = {"loss": 8 - number / 100, "learning_rate": 1e-3, "grad_norm": 1.5, "mfu": "n/a"}
    return row | {"step": number, "tokens": 100 * number, "minutes": number / 10} | cells


def evaluation(number: int, bits: float) -> dict:
    """A row of an evaluation."""
    losses = {"train_loss": float(bits) * 2, "val_loss": float(bits) * 2.5}
    return losses | {"step": number, "val_bits_per_byte": bits}


def pixels(path, color: str) -> int:
    """How many pixels of a PNG have this color."""
    plot = imread(path)[..., :3]
    return int((np.abs(plot - to_rgb(color)).max(axis=-1) < 0.01).sum())


def points(line) -> list[tuple[float, float]]:
    return list(zip(*map(np.ndarray.tolist, line.get_data()), strict=True))


def legend(of) -> list[str]:
    """The texts of the legend of a figure or of axes."""
    box = of.legends[0] if isinstance(of, Figure) else of.get_legend()
    return [text.get_text() for text in box.texts]


# One run ------------------------------------------------------------------------------------


def test_a_real_run_is_plotted_as_wide_as_a_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 100)
    shutil.copy(run / "log.csv", tmp_path)
    figures.plot_run(tmp_path)
    assert imread(tmp_path / "loss.png").shape[1] == 900
    for color in (figures.BLUE, figures.VERMILLION, figures.GREEN):
        assert pixels(tmp_path / "loss.png", color) > 100


def test_losses_rate_and_norm_are_plotted_at_their_steps(tmp_path, drawn):
    rows = [evaluation(0, 3.0), step(1), step(2), step(3), evaluation(3, 1.5)]
    figures.plot_run(log_of(tmp_path / "mine", *rows))
    loss, rate, norm = drawn[0].axes
    each, mean, train, val = map(points, loss.lines)
    assert each == [(1, 7.99), (2, 7.98), (3, 7.97)]
    assert np.allclose(mean, each)  # of three steps, each is its own mean
    assert train == [(0, 6.0), (3, 3.0)]
    assert val == [(0, 7.5), (3, 3.75)]
    assert points(rate.lines[0]) == [(n, 1e-3) for n in (1, 2, 3)]
    assert points(norm.lines[0]) == [(n, 1.5) for n in (1, 2, 3)]
    assert "evaluated on val: 3.7500, lowest 3.7500" in legend(loss)
    assert loss.get_title(loc="left") == "mine"


def test_steps_tokens_and_minutes_are_scales_of_one_axis(tmp_path, drawn):
    uneven = step(20, minutes=8)  # the second ten steps took seven minutes, the first one
    figures.plot_run(log_of(tmp_path, step(10), uneven))
    tokens, minutes = drawn[0].axes[2].child_axes
    of_tokens = {label.get_text(): label.get_position()[0] for label in tokens.get_xticklabels()}
    of_minutes = {label.get_text(): label.get_position()[0] for label in minutes.get_xticklabels()}
    assert of_tokens["1,000"] == 10
    assert of_tokens["2,000"] == 20
    assert of_minutes["1"] == 10
    assert of_minutes["8"] == 20
    assert of_minutes["4"] == pytest.approx(10 + 10 * 3 / 7)


def test_a_log_with_only_a_header_gives_an_empty_plot(tmp_path, drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.plot_run(log_of(tmp_path))
    assert not any(len(line.get_xdata()) for line in drawn[0].axes[0].lines)
    assert imread(tmp_path / "loss.png").std() > 0  # axes and legend


def test_values_that_are_missing_or_not_finite_are_not_plotted(tmp_path, drawn):
    cells = ("", "nan", "inf", "-inf", "n/a", None, "1e400")
    bad = [step(n, loss=cell, grad_norm=cell, learning_rate=cell) for n, cell in enumerate(cells)]
    figures.plot_run(log_of(tmp_path, *bad, step(8), step(9), evaluation(9, "nan")))
    for axes in drawn[0].axes:
        assert [x for x, _ in points(axes.lines[0])] == [8, 9]
    assert legend(drawn[0].axes[0])[-1] == "evaluated on val: none yet"


def test_numbers_without_a_logarithm_give_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.plot_run(
            log_of(tmp_path, step(1, loss=0, grad_norm=0), step(2, loss=-1, grad_norm=0))
        )


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    log_of(tmp_path, step(1), step(2))
    with open(tmp_path / "log.csv", "a", encoding="utf-8") as file:
        file.write("3,30")  # of 3,300
    assert figures.read_log(tmp_path / "log.csv")["tokens"].tolist() == [100, 200]


def test_a_single_spike_in_a_long_curve_is_visible(tmp_path, drawn):
    rows = [step(number) for number in range(1, 5001)]
    rows[1234]["grad_norm"] = 99.0
    figures.plot_run(log_of(tmp_path, *rows))
    plot = imread(tmp_path / "loss.png")
    x, y = drawn[0].axes[2].transData.transform((1235, 80.0)).astype(int)
    red, _, blue, _ = plot[len(plot) - y, x - 1 : x + 2].T
    assert (blue - red).max() > 0.1


def test_the_running_mean_of_noise_is_smooth(tmp_path, drawn):
    noise = np.random.default_rng(0).normal(size=1000)
    figures.plot_run(log_of(tmp_path, *(step(n + 1, loss=5 + noise[n]) for n in range(1000))))
    mean = drawn[0].axes[0].lines[1].get_ydata()
    assert len(mean) == 1000
    assert np.std(mean) < 0.4
    assert np.mean(mean) == pytest.approx(5 + noise.mean(), abs=0.02)


def test_a_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*log\.csv"):
        figures.plot_run(tmp_path)


def test_plotting_changes_neither_random_state_nor_matplotlib_settings(tmp_path):
    def state():
        numpy = np.random.get_state()[1].tolist()
        return dict(matplotlib.rcParams), random.getstate(), numpy, torch.get_rng_state().tolist()

    before = state()
    figures.plot_run(log_of(tmp_path, step(1), evaluation(1, 2.0)))
    assert state() == before


def test_a_plot_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), figures.saved_figure(path, height=1):
        1 / 0  # noqa: B018
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_plot_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "loss.png").mkdir()
    with (
        pytest.raises(UserError, match=r"cannot write .*loss\.png"),
        figures.saved_figure(tmp_path / "loss.png", height=1),
    ):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "loss.png"]


# Several runs -------------------------------------------------------------------------------


def test_runs_are_plotted_against_steps_tokens_and_minutes(tmp_path, drawn):
    one = log_of(tmp_path / "one", evaluation(0, 3.0), step(10), evaluation(10, 2.0), step(20))
    slow = [step(10, minutes=5), evaluation(15, 1.5), step(20, minutes=10), evaluation(20, 1.75)]
    figures.plot_runs([one, log_of(tmp_path / "two", *slow)], tmp_path / "runs.png")
    steps, tokens, minutes = drawn[0].axes
    assert list(map(points, steps.lines)) == [[(10, 2.0)], [(15, 1.5), (20, 1.75)]]
    assert list(map(points, tokens.lines)) == [[(1000, 2.0)], [(1500, 1.5), (2000, 1.75)]]
    assert list(map(points, minutes.lines)) == [[(1, 2.0)], [(7.5, 1.5), (10, 1.75)]]
    assert legend(drawn[0]) == ["one: 2.0000, lowest 2.0000", "two: 1.7500, lowest 1.5000"]
    assert pixels(tmp_path / "runs.png", figures.BLUE) > 10
    assert pixels(tmp_path / "runs.png", figures.VERMILLION) > 10


def test_an_evaluation_after_the_last_logged_step_is_extrapolated(tmp_path, drawn):
    folder = log_of(tmp_path / "run", step(10), evaluation(15, 2.0))
    figures.plot_runs([folder], tmp_path / "runs.png")
    _, tokens, minutes = drawn[0].axes
    assert points(tokens.lines[0]) == [(1500, 2.0)]
    assert points(minutes.lines[0]) == [(1.5, 2.0)]


def test_tokens_and_minutes_are_unknown_without_a_logged_step(tmp_path, drawn):
    figures.plot_runs([log_of(tmp_path / "run", evaluation(15, 2.0))], tmp_path / "runs.png")
    assert [points(axes.lines[0]) for axes in drawn[0].axes] == [[(15, 2.0)], [], []]


def test_runs_of_one_name_are_named_with_the_folders_above(tmp_path, drawn):
    rows = step(1), evaluation(1, 2.0)
    folders = [log_of(tmp_path / parent / "run", *rows) for parent in "ab"]
    figures.plot_runs([*folders, folders[0]], tmp_path / "runs.png")
    assert [text.partition(":")[0] for text in legend(drawn[0])] == ["a/run", "b/run"]


def test_a_run_without_an_evaluation_is_in_the_legend(tmp_path, drawn):
    figures.plot_runs([log_of(tmp_path / "new")], tmp_path / "runs.png")
    assert legend(drawn[0]) == ["new: none yet"]


def test_any_name_of_a_run_is_shown_as_it_is(tmp_path, drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folders = [log_of(tmp_path / name, evaluation(1, 2.0)) for name in ("_a", "$x_{$", "故事")]
        figures.plot_runs(folders, tmp_path / "runs.png")
    assert [text.partition(":")[0] for text in legend(drawn[0])] == ["_a", "$x_{$", "故事"]


# A sweep ------------------------------------------------------------------------------------


def sweep(setting: str, **bits) -> list[dict]:
    """Rows as a results.csv holds them, all text: sweep("n_head", **{"2": [0.9, ""]})."""
    return [
        {setting: value, "val_bits_per_byte": str(each)}
        for value, results in bits.items()
        for each in results
    ]


def labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_a_sweep_shows_every_run_and_the_best_at_each_value(tmp_path, drawn):
    rows = sweep("n_head", **{"8": [0.9], "2": [1.0, 0.8, 0.7], "4": [0.6]})
    figures.plot_sweep(rows, "n_head", tmp_path / "n_head.png")
    axes = drawn[0].axes[0]
    runs, best = map(points, axes.lines)
    assert sorted(runs) == [(2, 0.7), (2, 0.8), (2, 1.0), (4, 0.6), (8, 0.9)]
    assert best == [(2, 0.7), (4, 0.6), (8, 0.9)]
    assert axes.get_xscale() == "linear"
    assert labels(axes) == ["2", "4", "8"]
    assert pixels(tmp_path / "n_head.png", figures.BLUE) > 30


def test_values_that_span_a_factor_of_ten_or_more_have_a_logarithmic_scale(tmp_path, drawn):
    rows = sweep("learning_rate", **{"3e-4": [0.8], "1e-3": [0.7], "1e-2": [0.9]})
    figures.plot_sweep(rows, "learning_rate", tmp_path / "rate.png")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert labels(axes) == ["0.0003", "0.001", "0.01"]


def test_rates_of_a_factor_of_ten_are_logarithmic_too(tmp_path, drawn):
    figures.plot_sweep(sweep("r", **{"1e-4": [0.8], "1e-3": [0.7]}), "r", tmp_path / "rate.png")
    assert drawn[0].axes[0].get_xscale() == "log"


def test_numbers_come_in_order_before_none(tmp_path, drawn):
    rows = sweep("n", **{"1000": [0.7], "None": [0.6], "100": [0.9]})
    figures.plot_sweep(rows, "n", tmp_path / "n.png")
    assert labels(drawn[0].axes[0]) == ["100", "1000", "None"]


def test_values_close_to_each_other_share_a_label(tmp_path, drawn):
    sizes = (257, 512, 1024, 2048, 4096, 8192, 10_000, 50_257)
    rows = [{"vocab_size": size, "val_bits_per_byte": 1.0} for size in sizes]
    figures.plot_sweep(rows, "vocab_size", tmp_path / "size.png")
    shown = ["257", "512", "1,024", "2,048", "4,096", "8,192", "50,257"]
    assert labels(drawn[0].axes[0]) == shown


@pytest.mark.parametrize("values", [["gelu", "relu"], ["50", "None"], [True, False]])
def test_values_that_are_not_all_numbers_are_categories(tmp_path, drawn, values):
    rows = [{"what": value, "val_bits_per_byte": 0.5 + i} for i, value in enumerate(values)]
    figures.plot_sweep(rows, "what", tmp_path / "what.png")
    axes = drawn[0].axes[0]
    assert labels(axes) == list(map(str, values))
    assert points(axes.lines[0]) == [(0, 0.5), (1, 1.5)]


def test_a_run_without_a_result_is_a_cross(tmp_path, drawn):
    rows = sweep("n_head", **{"2": [0.9, ""], "4": ["nan"]})
    figures.plot_sweep(rows, "n_head", tmp_path / "n_head.png")
    axes = drawn[0].axes[0]
    assert points(axes.lines[0]) == [(2, 0.9)]
    assert axes.lines[2].get_xdata().tolist() == [2, 4]
    assert legend(axes)[2] == "no result: 2"


@pytest.mark.parametrize("rows", [[], sweep("n_head", **{"2": [""]})])
def test_a_sweep_without_any_result_is_plotted(tmp_path, rows):
    figures.plot_sweep(rows, "n_head", tmp_path / "n_head.png")
    assert imread(tmp_path / "n_head.png").std() > 0


# Parts of plots -----------------------------------------------------------------------------


def test_a_histogram_counts_every_value_but_the_longest_half_percent(tmp_path, drawn):
    values = np.array([3] * 500 + [100] * 498 + [10_000] * 2)
    with figures.saved_figure(tmp_path / "a.png", height=2) as figure:
        figures.histogram(figure.add_subplot(), values, "title", "words", "stories")
    bars = drawn[0].axes[0].patches[0].get_data()
    assert bars.values.sum() == 998
    assert bars.values[np.searchsorted(bars.edges, 3, "right") - 1] == 500
    assert drawn[0].axes[0].get_xlabel() == "words (dashed: median 52; 95 % below 100)"


def test_bars_are_as_long_as_their_numbers_and_show_them(tmp_path, drawn):
    with figures.saved_figure(tmp_path / "a.png", height=2) as figure:
        axes = figure.add_subplot()
        figures.bars(axes, "title", "unit", {"the": 59.64, "and": 46.0}, "{:.1f}")
    assert [bar.get_width() for bar in axes.patches] == [59.64, 46.0]
    assert [text.get_text() for text in axes.texts] == ["59.6", "46.0"]
    assert axes.yaxis_inverted()


def test_stacked_bars_add_up_to_a_hundred(tmp_path):
    with figures.saved_figure(tmp_path / "a.png", height=2) as figure:
        axes = figure.add_subplot()
        figures.stacked_bars(axes, "title", "%", {"a": [1, 3], "b": [0, 5]}, ("one", "two"))
    assert [bar.get_width() for bar in axes.patches] == [25, 0, 75, 100]


def test_nothing_to_show_is_an_empty_panel(tmp_path):
    with figures.saved_figure(tmp_path / "a.png", height=4) as figure:
        left, right = figure.subplots(1, 2)
        figures.bars(left, "title", "unit", {}, "{}")
        figures.stacked_bars(right, "title", "%", {}, ("one", "two"))
    assert imread(tmp_path / "a.png").std() > 0
