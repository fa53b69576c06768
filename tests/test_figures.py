"""Plots: what is drawn, and that plotting has no side effects."""

import csv
import itertools
import json
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
from tinystories import figures, sweepfigures
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
    columns = dict.fromkeys((*COLUMNS, *rows[-1])) if rows else COLUMNS  # an old log has fewer
    with open(folder / "log.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def step(number: int, **cells) -> dict:
    """A row of a step of 100 tokens, a tenth of a minute long."""
    row = {"loss": 8 - number / 100, "learning_rate": 1e-3, "grad_norm": 1.5, "mfu": "n/a"}
    return row | {"step": number, "tokens": 100 * number, "minutes": number / 10} | cells


def evaluation(number: int, bits: float, whole: float | None = None) -> dict:
    """A row of an evaluation; `whole` are the bits per byte of the whole validation file."""
    losses = {"train_loss": float(bits) * 2, "val_loss": float(bits) * 2.5}
    row = losses | {"step": number, "val_bits_per_byte": bits}
    if whole is not None:
        row |= {"full_val_loss": whole * 2.5, "full_val_bits_per_byte": whole}
    return row


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


def scales(figure):
    """All axes of a figure, and the scales that belong to them."""
    return [each for axes in figure.axes for each in (axes, *axes.child_axes)]


def tick_labels(axis) -> list:
    """The labels of ticks that can be seen, as matplotlib's Text."""
    low, high = sorted(axis.get_view_interval())
    x_or_y = "xy".index(axis.axis_name)
    shown = (label for label in axis.get_ticklabels() if label.get_visible())
    return [text for text in shown if low <= text.get_position()[x_or_y] <= high]


def assert_readable(figure):
    """No label of an axis touches the next one, and no text leaves the picture."""
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    for axes in scales(figure):
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label for label in tick_labels(axis) if label.get_text()]
            boxes = [label.get_window_extent() for label in labels if not label.get_rotation()]
            for a, b in itertools.pairwise(boxes):
                assert not a.overlaps(b), [label.get_text() for label in labels]
            texts = [*labels, axis.label, axes.title, axes._left_title]
            for text in filter(lambda text: text.get_text(), texts):
                box = text.get_window_extent()
                assert page.containsx(box.x0), text.get_text()
                assert page.containsx(box.x1), text.get_text()
                assert page.containsy(box.y0), text.get_text()
                assert page.containsy(box.y1), text.get_text()


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
    each, train, val = map(points, loss.lines)
    assert each == [(1, 7.99), (2, 7.98), (3, 7.97)]
    assert train == [(0, 6.0), (3, 3.0)]
    assert val == [(0, 7.5), (3, 3.75)]
    assert points(rate.lines[0]) == [(n, 1e-3) for n in (1, 2, 3)]
    assert points(norm.lines[0]) == [(n, 1.5) for n in (1, 2, 3)]
    assert legend(loss)[2] == "evaluated on val: 3.7500"


def test_steps_tokens_and_minutes_are_scales_of_one_axis(tmp_path, drawn):
    uneven = step(20, minutes=8)  # the second ten steps took seven minutes, the first one
    figures.plot_run(log_of(tmp_path, step(10), uneven))
    tokens, minutes = drawn[0].axes[2].child_axes
    assert "minutes" in [text.get_text() for text in drawn[0].axes[2].texts]
    of_tokens = {label.get_text(): label.get_position()[0] for label in tokens.get_xticklabels()}
    of_minutes = {label.get_text(): label.get_position()[0] for label in minutes.get_xticklabels()}
    assert of_tokens["1,000"] == 10
    assert of_tokens["2,000"] == 20
    assert of_minutes["1"] == 10
    assert of_minutes["8"] == 20
    assert of_minutes["4"] == pytest.approx(10 + 10 * 3 / 7)


@pytest.mark.parametrize(("minutes", "unit", "last"), [(0.05, "seconds", 3), (240, "hours", 4)])
def test_the_time_of_a_run_has_a_unit_that_fits(tmp_path, drawn, minutes, unit, last):
    folder = log_of(tmp_path / "run", step(1, minutes=minutes), evaluation(1, 2.0))
    figures.plot_run(folder)
    norm = drawn[0].axes[2]
    assert unit in [text.get_text() for text in norm.texts]
    assert tick_labels(norm.child_axes[1].xaxis)[-1].get_text() == str(last)
    assert drawn[0].axes[0].get_title(loc="left") == f"run: {last} {unit} of training"
    figures.plot_runs([folder], tmp_path / "runs.png")
    assert drawn[1].axes[2].get_xlabel() == f"{unit} of training"
    assert points(drawn[1].axes[2].lines[0]) == [(pytest.approx(last), 2.0)]


def test_the_title_says_dataset_parameters_and_time(tmp_path, drawn):
    folder = log_of(tmp_path / "mine", step(50), evaluation(50, 2.0))
    (folder / "settings.json").write_text(json.dumps({"dataset": "/somewhere/stories"}))
    figures.plot_run(folder, parameters=1_234_567)
    title = drawn[0].axes[0].get_title(loc="left")
    assert title == "mine: stories, 1.23M parameters, 5 minutes of training"


def test_the_loss_of_the_whole_validation_file_is_apart_from_the_curve(tmp_path, drawn):
    rows = [evaluation(0, 3.0), step(5), evaluation(5, 2.0), step(9), evaluation(9, 1.5, whole=1.8)]
    folder = log_of(tmp_path / "run", *rows)
    figures.plot_run(folder)
    figures.plot_runs([folder], tmp_path / "runs.png")
    loss, steps = drawn[0].axes[0], drawn[1].axes[0]
    assert points(loss.lines[2]) == [(0, 7.5), (5, 5.0), (9, 3.75)]
    assert points(steps.lines[0]) == [(5, 2.0), (9, 1.5)]
    for axes, whole in ((loss, 4.5), (steps, 1.8)):
        mark = axes.lines[-1]
        assert points(mark) == [(9, whole)]
        assert mark.get_linestyle() == "None"
        low, high = axes.get_ylim()
        assert low < whole < high
    assert legend(loss)[3] == "on the whole validation file: 4.5000"
    assert legend(drawn[1]) == ["run: 1.5000, whole file 1.8000", "on the whole validation file"]


def test_a_log_without_the_columns_of_the_whole_file_has_no_mark(tmp_path, drawn):
    folder = tmp_path
    log = "step,tokens,minutes,loss,train_loss,val_loss,val_bits_per_byte\n9,9,9,4,4,4,2\n"
    (folder / "log.csv").write_text(log)
    figures.plot_run(folder)
    figures.plot_runs([folder], tmp_path / "runs.png")
    assert len(legend(drawn[0].axes[0])) == 3
    assert len(legend(drawn[1])) == 1


def test_bits_per_byte_are_a_second_scale_of_the_loss(tmp_path, drawn):
    figures.plot_run(log_of(tmp_path, step(5), evaluation(5, 2.0), step(9), evaluation(9, 1.5)))
    (bits,) = drawn[0].axes[0].child_axes
    assert bits.get_ylabel() == "bits per byte of validation"
    assert np.allclose(np.array(bits.get_ylim()) * 2.5, drawn[0].axes[0].get_ylim())


def test_the_first_losses_do_not_take_the_height_from_the_others(tmp_path, drawn):
    steps = [step(n, loss=1 + 9 * np.exp(-n)) for n in range(1, 101)]
    figures.plot_run(log_of(tmp_path, evaluation(0, 4.0), *steps, evaluation(100, 0.5)))
    loss = drawn[0].axes[0]
    assert loss.get_ylim()[1] < 1.5
    assert [text.get_text() for text in loss.texts] == ["evaluated on val at step 0: 10.00"]


def test_a_first_loss_below_the_others_is_shown(tmp_path, drawn):
    rows = [evaluation(0, 1.0), step(100), evaluation(100, 2.0)]  # fine-tuning made it worse
    figures.plot_run(log_of(tmp_path, *rows))
    assert drawn[0].axes[0].get_ylim()[0] < 2.5
    assert not drawn[0].axes[0].texts


def test_a_running_mean_that_equals_the_curve_is_not_in_the_legend(tmp_path, drawn):
    figures.plot_run(log_of(tmp_path / "few", *map(step, range(1, 99))))
    figures.plot_run(log_of(tmp_path / "many", *map(step, range(1, 299))))
    few, many = (figure.axes[0] for figure in drawn)
    assert legend(few) == ["each logged step"]
    assert legend(many) == ["each logged step", "running mean"]


def test_a_logarithmic_axis_says_so_and_has_labels_at_both_ends(tmp_path, drawn):
    figures.plot_run(log_of(tmp_path, step(1, grad_norm=0.6), step(2, grad_norm=1.7)))
    norm = drawn[0].axes[2]
    assert (norm.get_yscale(), norm.get_ylabel()) == ("log", "gradient norm\n(log scale)")
    assert [label.get_text() for label in tick_labels(norm.yaxis)] == ["0.5", "1", "2"]
    assert norm.get_ylim() == (0.5, 2)


def test_labels_of_a_run_do_not_overlap_and_stay_in_the_picture(tmp_path, drawn):
    slow_start = step(1, minutes=2)  # compiling: most of the minutes are at the first step
    rows = [slow_start, *(step(n, minutes=2 + n / 500) for n in range(2, 300)), evaluation(299, 1)]
    figures.plot_run(log_of(tmp_path / ("a_long_name" * 20), *rows), parameters=10**8)
    assert_readable(drawn[0])


def test_a_picture_is_opaque_for_pages_of_any_color(tmp_path):
    figures.plot_run(log_of(tmp_path, step(1)))
    assert (imread(tmp_path / "loss.png")[..., 3] == 1).all()


def test_a_log_with_only_a_header_gives_an_empty_plot(tmp_path, drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.plot_run(log_of(tmp_path))
    assert not any(len(line.get_xdata()) for line in drawn[0].axes[0].lines)
    assert imread(tmp_path / "loss.png").std() > 0  # axes
    assert drawn[0].axes[0].get_legend() is None
    assert not tick_labels(drawn[0].axes[0].yaxis)


def test_values_that_are_missing_or_not_finite_are_not_plotted(tmp_path, drawn):
    cells = ("", "nan", "inf", "-inf", "n/a", None, "1e400")
    bad = [step(n, loss=cell, grad_norm=cell, learning_rate=cell) for n, cell in enumerate(cells)]
    figures.plot_run(log_of(tmp_path, *bad, step(8), step(9), evaluation(9, "nan")))
    for axes in drawn[0].axes:
        assert [x for x, _ in points(axes.lines[0])] == [8, 9]
    assert legend(drawn[0].axes[0]) == ["each logged step"]


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
    assert legend(drawn[0]) == ["one: 2.0000", "two: 1.7500 (lowest 1.5000)"]
    assert pixels(tmp_path / "runs.png", figures.BLUE) > 10
    assert pixels(tmp_path / "runs.png", figures.VERMILLION) > 10


def test_an_evaluation_after_the_last_logged_step_is_extrapolated(tmp_path, drawn):
    folder = log_of(tmp_path / "run", step(10), evaluation(15, 2.0))
    figures.plot_runs([folder], tmp_path / "runs.png")
    _, tokens, time = drawn[0].axes
    assert points(tokens.lines[0]) == [(1500, 2.0)]
    assert points(time.lines[0]) == [(90, 2.0)]  # seconds


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


def test_runs_of_different_datasets_say_so(tmp_path, drawn):
    folders = [log_of(tmp_path / name, evaluation(1, 2.0)) for name in "ab"]
    for folder, dataset in zip(folders, ("x", "/data/y"), strict=True):
        (folder / "settings.json").write_text(json.dumps({"dataset": dataset}))
    figures.plot_runs(folders, tmp_path / "runs.png")
    figures.plot_runs(folders[1:], tmp_path / "runs.png")
    assert legend(drawn[0]) == ["a (x): 2.0000", "b (y): 2.0000"]
    titles = [figure.get_suptitle() for figure in drawn]
    assert titles == ["validation bits per byte, datasets differ", "validation bits per byte, y"]


def test_a_comparison_has_labels_over_all_of_its_height(tmp_path, drawn):
    worse = [evaluation(n, 3 - n / 40) for n in range(1, 11)]
    better = [evaluation(n, 1 - n / 20) for n in range(1, 11)]
    folders = [log_of(tmp_path / "a", *worse), log_of(tmp_path / "b", *better)]
    figures.plot_runs(folders, tmp_path / "runs.png")
    steps = drawn[0].axes[0]
    low, high = steps.get_ylim()
    ticks = [label.get_position()[1] for label in tick_labels(steps.yaxis)]
    assert steps.get_yscale() == "linear"
    assert np.diff([low, *ticks, high]).max() < 0.3 * (high - low)
    assert_readable(drawn[0])


def test_long_names_stay_in_the_picture(tmp_path, drawn):
    folders = [
        log_of(tmp_path / (name * 200), step(10**6), evaluation(10**6, 2, 2)) for name in "ab"
    ]
    for folder in folders:
        (folder / "settings.json").write_text(json.dumps({"dataset": folder.name}))
    figures.plot_runs(folders, tmp_path / "runs.png")
    assert_readable(drawn[0])
    assert drawn[0].legends[0].get_window_extent().x1 < drawn[0].bbox.x1


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
    sweepfigures.plot_sweep(rows, "n_head", tmp_path / "n_head.png")
    axes = drawn[0].axes[0]
    runs, best = map(points, axes.lines)
    assert sorted(runs) == [(2, 0.7), (2, 0.8), (2, 1.0), (4, 0.6), (8, 0.9)]
    assert best == [(2, 0.7), (4, 0.6), (8, 0.9)]
    assert axes.get_xscale() == "linear"
    assert labels(axes) == ["2", "4", "8"]
    assert pixels(tmp_path / "n_head.png", figures.BLUE) > 30


def test_values_that_span_a_factor_of_ten_or_more_have_a_logarithmic_scale(tmp_path, drawn):
    rows = sweep("learning_rate", **{"3e-4": [0.8], "1e-3": [0.7], "1e-2": [0.9]})
    sweepfigures.plot_sweep(rows, "learning_rate", tmp_path / "rate.png")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "learning_rate (log scale)"
    assert labels(axes) == ["0.0003", "0.001", "0.01"]


def test_the_title_of_a_sweep_is_its_name_and_budget(tmp_path, drawn):
    rows = sweep("n_head", **{"2": [0.9], "4": [0.8], "8": [""]})
    rows[0] |= {"step": "100", "minutes": "3.0"}
    rows[1] |= {"step": "1200", "minutes": "3.004"}
    (tmp_path / "heads").mkdir()
    sweepfigures.plot_sweep(rows, "n_head", tmp_path / "heads/n_head.png")
    sweepfigures.plot_sweep(rows[:1], "n_head", tmp_path / "heads/n_head.png")
    titles = [figure.axes[0].get_title(loc="left") for figure in drawn]
    assert titles == [
        "heads: 3 runs of 100 to 1,200 steps, 3 minutes each",
        "heads: 1 run of 100 steps, 3 minutes",
    ]


def test_rates_of_a_factor_of_ten_are_logarithmic_too(tmp_path, drawn):
    sweepfigures.plot_sweep(
        sweep("r", **{"1e-4": [0.8], "1e-3": [0.7]}), "r", tmp_path / "rate.png"
    )
    assert drawn[0].axes[0].get_xscale() == "log"


def test_numbers_come_in_order_before_none(tmp_path, drawn):
    rows = sweep("n", **{"1000": [0.7], "None": [0.6], "100": [0.9]})
    sweepfigures.plot_sweep(rows, "n", tmp_path / "n.png")
    assert labels(drawn[0].axes[0]) == ["100", "1000", "None"]


def test_values_close_to_each_other_share_a_label(tmp_path, drawn):
    sizes = (257, 512, 1024, 2048, 4096, 8192, 10_000, 50_257)
    rows = [{"vocab_size": size, "val_bits_per_byte": 1.0} for size in sizes]
    sweepfigures.plot_sweep(rows, "vocab_size", tmp_path / "size.png")
    shown = ["257", "512", "1,024", "2,048", "4,096", "8,192", "50,257"]
    assert [label.get_text() for label in tick_labels(drawn[0].axes[0].xaxis)] == shown
    assert_readable(drawn[0])


@pytest.mark.parametrize("values", [["gelu", "relu"], ["50", "None"], [True, False]])
def test_values_that_are_not_all_numbers_are_categories(tmp_path, drawn, values):
    rows = [{"what": value, "val_bits_per_byte": 0.5 + i} for i, value in enumerate(values)]
    sweepfigures.plot_sweep(rows, "what", tmp_path / "what.png")
    axes = drawn[0].axes[0]
    assert labels(axes) == list(map(str, values))
    assert points(axes.lines[0]) == [(0, 0.5), (1, 1.5)]


def test_a_run_without_a_result_is_a_cross(tmp_path, drawn):
    rows = sweep("n_head", **{"2": [0.9, ""], "4": ["nan"]})
    sweepfigures.plot_sweep(rows, "n_head", tmp_path / "n_head.png")
    axes = drawn[0].axes[0]
    assert points(axes.lines[0]) == [(2, 0.9)]
    assert axes.lines[1].get_xdata().tolist() == [2, 4]
    assert legend(axes) == ["one run", "no result: 2"]


@pytest.mark.parametrize("rows", [[], sweep("n_head", **{"2": [""]})])
def test_a_sweep_without_any_result_is_plotted(tmp_path, rows):
    sweepfigures.plot_sweep(rows, "n_head", tmp_path / "n_head.png")
    assert imread(tmp_path / "n_head.png").std() > 0


@pytest.mark.parametrize("count", [2, 9, 40])
def test_labels_of_a_random_sweep_do_not_overlap(tmp_path, drawn, count):
    rng = random.Random(count)
    rows = [{"r": 10 ** rng.uniform(-4, -1), "val_bits_per_byte": 1 + i} for i in range(count)]
    sweepfigures.plot_sweep(rows, "r", tmp_path / "r.png")
    assert_readable(drawn[0])


def test_long_categories_stay_in_the_picture(tmp_path, drawn):
    rows = [{"dataset": name * 90, "val_bits_per_byte": 1} for name in "abcdef"]
    sweepfigures.plot_sweep(rows, "dataset", tmp_path / "dataset.png")
    assert_readable(drawn[0])


def test_two_settings_are_a_table_with_the_best_result_of_each_pair(tmp_path, drawn):
    rows = [
        {"rate": rate, "layers": layers, "val_bits_per_byte": bits}
        for rate, layers, bits in [
            *(("1e-2", "4", "0.7"), ("1e-3", "2", "0.9"), ("1e-3", "2", "0.8"), ("1e-3", "4", "")),
            *(("1e-2", "2", "1.5"), ("None", "2", "1.0")),
        ]
    ]
    sweepfigures.plot_sweep_table(rows, ("layers", "rate"), tmp_path / "table.png")
    axes = drawn[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layers", "rate")
    columns, lines = labels(axes), [label.get_text() for label in axes.get_yticklabels()]
    assert (columns, lines) == (["2", "4"], ["1e-3", "1e-2", "None"])
    cells = {}
    for text in axes.texts:
        x, y = text.get_position()
        cells[lines[y], columns[x]] = text.get_text()
    assert cells == {
        ("1e-3", "2"): "0.8000",
        ("1e-3", "4"): "no result",
        ("1e-2", "2"): "1.5000",
        ("1e-2", "4"): "0.7000",
        ("None", "2"): "1.0000",
    }
    colors = axes.images[0].to_rgba(axes.images[0].get_array())
    assert colors[1, 1].sum() < colors[0, 0].sum() < colors[1, 0].sum()  # the best is the darkest
    assert_readable(drawn[0])


def test_a_table_that_would_be_mostly_empty_is_not_drawn(tmp_path):
    rows = [{"a": n, "b": n, "val_bits_per_byte": 1.0} for n in range(3)]
    sweepfigures.plot_sweep_table(rows, ("a", "b"), tmp_path / "table.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", ["", "1.0"])
def test_a_table_with_one_result_or_none_is_drawn(tmp_path, bits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = [{"a": 1, "b": 2, "val_bits_per_byte": bits}]
        sweepfigures.plot_sweep_table(rows, ("a", "b"), tmp_path / "table.png")
    assert imread(tmp_path / "table.png").std() > 0


def test_each_finished_run_is_a_line_over_the_axes_of_all_settings(tmp_path, drawn):
    rows = [
        {"rate": rate, "kind": kind, "val_bits_per_byte": bits, "pruned": pruned}
        for rate, kind, bits, pruned in [
            *(("1e-3", "a", "0.9", ""), ("1e-1", "b", "0.7", ""), ("1e-2", "b", "0.8", "")),
            *(("1e-2", "a", "0.6", "40"), ("1e-2", "a", "", "")),
        ]
    ]
    sweepfigures.plot_parallel(rows, {"rate": 0.75, "kind": 0.0}, tmp_path / "parallel.png")
    axes = drawn[0].axes[0]
    lines = [line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata()) == 3]
    lines = sorted([round(y, 9) for y in line] for line in lines)
    assert lines == [[0, 0, 1], [0.5, 1, 0.5], [1, 1, 0]]
    assert labels(axes) == ["rate\n75 %", "kind", "validation\nbits per byte"]
    assert legend(axes) == ["the best: 0.7000"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["0.001", "0.01", "0.1", "a", "b", "0.7", "0.8", "0.9"]
    assert_readable(drawn[0])


def test_a_pruned_run_is_no_result(tmp_path, drawn):
    rows = sweep("n_head", **{"2": [0.9], "4": [0.5]})
    rows[1]["pruned"] = "40"
    sweepfigures.plot_sweep(rows, "n_head", tmp_path / "n_head.png")
    assert legend(drawn[0].axes[0]) == ["one run", "no result or pruned: 1"]
    sweepfigures.plot_parallel(rows, {"n_head": 0, "b": 0}, tmp_path / "parallel.png")
    assert not (tmp_path / "parallel.png").exists()  # one finished run compares with nothing


# Parts of plots -----------------------------------------------------------------------------


def test_a_histogram_counts_every_value_but_the_longest_half_percent(tmp_path, drawn):
    values = np.array([3] * 500 + [100] * 498 + [10_000] * 2)
    with figures.saved_figure(tmp_path / "a.png", height=2) as figure:
        figures.histogram(figure.add_subplot(), values, "title", "words", "stories")
    bars = drawn[0].axes[0].patches[0].get_data()
    assert bars.values.sum() == 998
    assert bars.values[np.searchsorted(bars.edges, 3, "right") - 1] == 500
    assert drawn[0].axes[0].get_xlabel() == "words (median 52, 95 % below 100)"


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


def test_the_mark_of_a_curve_has_its_place_between_labels(tmp_path, drawn):
    sizes, ratios = np.array([257, 512, 1024, 2048, 4096, 8192]), np.linspace(1, 4, 6)
    mark = 50_257, 4.1, "the dataset's: 50,257 ids"
    with figures.saved_figure(tmp_path / "a.png", height=3) as figure:
        axes = figure.subplots(1, 2)[0]
        figures.curve(axes, "title", ("ids", "bytes per token"), sizes, ratios, mark)
    places = [label.get_position()[0] for label in tick_labels(axes.xaxis)]
    assert places == [1000, 10_000, 100_000]
    assert axes.get_xlabel() == "ids (log scale)"
    assert legend(axes) == ["the dataset's: 50,257 ids"]
    assert_readable(drawn[0])


@pytest.mark.parametrize("count", [1, 3, 300, 50_257])
def test_a_curve_over_ranks_has_round_labels(tmp_path, drawn, count):
    x = np.unique(np.geomspace(1, count, 200).astype(int))
    with figures.saved_figure(tmp_path / "a.png", height=3) as figure:
        axes = figure.subplots(1, 2)[1]
        figures.curve(axes, "title", ("ids", "%"), x, np.linspace(1, 100, len(x)))
    if count >= 10:
        digits = {f"{label.get_position()[0]:e}"[0] for label in tick_labels(axes.xaxis)}
        assert digits <= set("125")
    assert_readable(drawn[0])
