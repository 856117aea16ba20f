"""Figures: what is drawn where, and that any history or label can be drawn."""

import re

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex

from segtune.plots import calibration, comparison, curves, patients, style
from segtune.runs.files import write_files

HISTORY = {
    "epoch": [1, 2, 3, 4],
    "train_loss": [2.0, 1.5, 1.0, 0.8],
    "val_loss": [4.0, 2.0, 1.5, 1.6],
    "train_dice": [0.1, 0.4, 0.6, 0.7],
    "val_dice": [0.1, 0.5, 0.6, 0.55],
}


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def test_losses_are_scaled_by_their_common_maximum_and_dice_is_not():
    found = lines(curves.curves(HISTORY, 3, title="x"))
    assert list(found["training loss / max"].get_ydata()) == [0.5, 0.375, 0.25, 0.2]
    assert list(found["validation loss / max"].get_ydata()) == [1.0, 0.5, 0.375, 0.4]
    assert list(found["validation Dice"].get_ydata()) == HISTORY["val_dice"]


def test_colours_are_the_published_ones_and_the_marker_is_at_the_best_epoch():
    found = lines(curves.curves(HISTORY, 3, title="x"))
    assert [to_hex(line.get_color()) for line in found.values()][:4] == ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728"]
    marker = found["best: 0.600"]
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (3, 0.6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_run_is_drawn_all_the_same(bad, tmp_path):
    history = {**HISTORY, "train_loss": [2.0, bad, bad, bad], "val_loss": [bad] * 4, "val_dice": [float("nan")] * 4}
    write_files(tmp_path / "curves", style.rendered(curves.curves(history, 1, title="x")))
    assert lines(curves.curves(history, 1, title="x"))["training loss / max"].get_ydata()[0] == 1


def test_saved_as_png_and_svg_and_the_same_bytes_each_time(tmp_path):
    paths = write_files(tmp_path / "a", style.rendered(curves.curves(HISTORY, 3, title="x")))
    again = write_files(tmp_path / "b", style.rendered(curves.curves(HISTORY, 3, title="x")))
    assert [path.name for path in paths] == ["a.png", "a.svg"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert matplotlib.image.imread(paths[0]).std() > 0.1
    assert re.match(r"<\?xml", paths[1].read_text())


def test_overview_has_a_panel_per_run_in_rows_and_columns():
    panels = {(row, column): curves.Panel([HISTORY]) for row in ("bce", "focal") for column in ("0.2", "0.8")}
    panels.pop(("focal", "0.8"))
    figure = curves.overview(panels, title="x")
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles == ["bce\n0.2", "bce\n0.8", "focal\n0.2"]
    assert np.allclose(figure.axes[0].get_ylim(), (0, 1.03))


def test_sides_colour_each_patient_by_where_it_is_and_a_leak_red():
    columns = {
        "patient 0.2": {"train": ["A", "B"], "val": ["C"], "unused": ["D"]},
        "image 0.2": {"train": ["A", "B", "C"], "val": ["C", "D"], "unused": []},
    }
    (axes,) = patients.sides(columns, title="x").axes
    found = [to_hex(cell.get_facecolor()) for cell in axes.patches]
    blue, orange, red, grey = (to_hex(colour) for colour in ("tab:blue", "tab:orange", "tab:red", "lightgrey"))
    assert found == [blue, blue, orange, grey, blue, blue, red, orange]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B", "C", "D"]


def test_calibration_draws_the_ratio_and_marks_a_collapse():
    record = {
        "ratio": 1.0,
        "lambda": 1e-3,
        "start": {"loss": 2.0, "penalty": 2000.0, "loss_gradient": 1.0, "penalty_gradient": 100.0},
        "table": [{"lambda": 1e-5}, {"lambda": 1e-2}],
        "trials": [
            {"strength": 0.0, "penalty": [2000.0, 1000.0], "collapsed": False},
            {"strength": 1e-5, "penalty": [2000.0, 900.0], "collapsed": False},
            {"strength": 1e-2, "penalty": [2000.0, 20.0], "collapsed": True},
        ],
    }
    ratio, left = calibration.calibration(record, title="x").axes
    assert list(ratio.get_lines()[0].get_ydata()) == [0.01, 10]
    assert list(left.get_lines()[0].get_ydata()) == [0.9, 0.02]
    assert [text.get_text() for text in left.texts] == ["collapse"]


def test_an_overview_of_what_is_no_grid_leaves_no_holes():
    panels = {(f"row {i}", f"column {i % 4}"): curves.Panel([HISTORY]) for i in range(8)}
    figure = curves.overview(panels, title="x")
    assert [axes.axison for axes in figure.axes] == [True] * 8 + [False] * 4
    assert figure.axes[7].get_title() == "row 7\ncolumn 3"


def test_replicates_are_a_median_and_a_band_and_shorter_ones_end_early():
    short = {name: values[:2] for name, values in HISTORY.items()}
    better = {**HISTORY, "val_dice": [0.2, 0.6, 0.7, 0.65]}
    figure = curves.overview({("a", "b"): curves.Panel([HISTORY, better, short])}, title="x")
    found = lines(figure)
    assert list(found["validation Dice"].get_ydata()) == pytest.approx([0.1, 0.5, 0.65, 0.6])
    assert len(figure.axes[0].collections) == 4


def test_unscaled_losses_keep_their_level_on_one_logarithmic_axis():
    low = {**HISTORY, "val_loss": [0.4, 0.2, 0.15, 0.16]}
    figure = curves.overview({("a", "b"): curves.Panel([HISTORY]), ("a", "c"): curves.Panel([low])}, title="x", scaled=False)
    right = [axes for axes in figure.axes if axes.get_yscale() == "log"]
    assert len(right) == 2
    assert right[0].get_ylim() == right[1].get_ylim()
    drawn = {line.get_label(): line for line in right[0].get_lines()}
    assert list(drawn["validation loss"].get_ydata()) == HISTORY["val_loss"]


def test_a_label_with_dollars_is_no_formula(tmp_path):
    groups = [("$x$ and $y", [0.1, 0.2])]
    write_files(tmp_path / "strip", style.rendered(comparison.strip(groups, unit="Dice")))
    sides = patients.sides({"a $b$": {"train": ["$P1$"], "val": ["P$2"]}}, title="$ $")
    write_files(tmp_path / "sides", style.rendered(sides))
    assert (tmp_path / "strip.png").exists()


def test_patients_show_a_window_that_holds_both_masks(tmp_path):
    true, predicted = np.zeros((128, 128), bool), np.zeros((128, 128), bool)
    true[100:120, 10:30], predicted[5:20, 90:110] = True, True
    window = patients._window(true | predicted)
    assert (true[window].sum(), predicted[window].sum()) == (true.sum(), predicted.sum())
    small = patients._window(true)
    assert true[small].sum() == true.sum()
    assert true[small].shape == (96, 96)
    assert patients._window(np.zeros((8, 8), bool)) == (slice(None), slice(None))
