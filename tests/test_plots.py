"""What the book's figures draw: the numbers that they were given, in the method's colour."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from mmbook import plots
from mmbook.names import style_of


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_training_curves_have_a_panel_for_each_number_that_was_recorded():
    history = [{"epoch": k, "loss": 2.0 / (k + 1), "validation_accuracy": None} for k in range(4)]
    (only,) = plots.training_curves(history).axes
    np.testing.assert_allclose(only.lines[0].get_xydata(), [[k, 2 / (k + 1)] for k in range(4)])
    history[3]["validation_accuracy"] = 90.0
    loss, validation = plots.training_curves(history).axes
    assert (loss.get_ylabel(), validation.get_ylabel()) == ("training loss (nats)", "validation accuracy (%)")
    assert validation.lines[0].get_xydata().tolist() == [[3, 90]]


def test_a_confusion_matrix_has_true_classes_as_rows_and_their_shares_as_colours():
    confusion = torch.tensor([[3, 1], [0, 2]])
    (axis,) = plots.confusion_matrix(confusion, ["cat", "dog"]).axes
    assert texts(axis) == ["3", "1", "", "2"]
    np.testing.assert_allclose(np.ravel(axis.collections[0].get_array()), [0.75, 0.25, 0, 1])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")


def test_a_reliability_diagram_has_a_dot_for_each_bin_that_holds_predictions():
    bins = torch.tensor([[4.0, 0.0, 16.0], [1.0, 0.0, 12.0], [2.0, 0.0, 8.0]])  # counts, confidences, right ones
    figure = plots.reliability({"MultiMix": bins, "after scaling": bins})
    named, other = figure.axes
    for axis in (named, other):
        dots = axis.collections[0]
        np.testing.assert_allclose(dots.get_offsets(), [[0.25, 0.5], [0.75, 0.5]])
        np.testing.assert_allclose(dots.get_sizes(), [4 + 300 * 0.2, 4 + 300 * 0.8])
    assert to_rgb(named.collections[0].get_facecolor()[0][:3]) == to_rgb(style_of("multimix").colour)
    assert to_rgb(other.collections[0].get_facecolor()[0][:3]) == to_rgb(plots.ACCENT)


def test_a_map_of_positions_has_each_number_written_into_it():
    _, axis = plt.subplots()
    plots.position_map(axis, torch.tensor([[0.25, 0.5], [0.125, 1.0]]), "attention")
    assert texts(axis) == ["0.25", "0.50", "0.12", "1.00"]
    assert axis.get_title() == "attention"


def test_layouts_are_drawn_in_panels_and_their_classes_in_one_legend():
    layouts = {"erm": np.array([[0.0, 1.0], [2.0, 3.0]]), "multimix": np.array([[4.0, 5.0], [6.0, 7.0]])}
    figure = plots.scatter_panels(layouts, np.array([0, 1]), columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["ERM", "MultiMix"]
    for axis, points in zip(figure.axes, layouts.values(), strict=True):
        np.testing.assert_allclose(axis.collections[0].get_offsets(), points)
        assert axis.collections[0].get_array().tolist() == [0, 1]
    assert len(figure.legends[0].get_texts()) == 2


def test_runs_lie_at_their_uniformity_and_alignment():
    rows = pd.DataFrame({"variant": ["erm", "erm", "mixup"], "uniformity": [-2, -3, -1], "alignment": [0.5, 0.4, 0.6]})
    (axis,) = plots.alignment_uniformity(rows).axes
    drawn = {dots.get_label(): dots.get_offsets().tolist() for dots in axis.collections}
    assert drawn == {"ERM": [[-2, 0.5], [-3, 0.4]], "mixup": [[-1, 0.6]]}


def test_distances_are_counted_apart_for_pairs_of_one_class_and_of_two():
    embeddings = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [-1.0, 0.0]])  # on the circle at 0, 90, 90, 180 degrees
    figure = plots.pair_distances({"erm": {"embeddings": embeddings, "labels": np.array([0, 0, 1, 1])}})
    axis = figure.axes[0]
    assert (axis.get_title(), axis.get_xlabel()) == ("ERM", "distance")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["same class", "different classes"]
    filled = [patch.get_path().vertices for patch in axis.patches]
    same, different = (corners[corners[:, 1] > 0, 0] for corners in filled)
    np.testing.assert_allclose([same.min(), same.max()], [2**0.5] * 2, atol=1 / 30)  # a bin is a thirtieth wide
    np.testing.assert_allclose([different.min(), different.max()], [0, 2], atol=1 / 30)


@pytest.mark.parametrize("given", [["a"], ["a", "b"]])
def test_boxes_are_named_and_enclose_whole_pixels(given):
    images = torch.zeros(len(given), 3, 8, 8)
    figure = plots.boxed_row(images, [[(1, 2, 5, 4)]] * len(given), [[name] for name in given])
    assert [texts(axis) for axis in figure.axes] == [[name] for name in given]
    box = figure.axes[0].patches[0]
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((0.5, 1.5), 4, 2)


def test_names_of_boxes_stay_in_the_picture_and_off_one_another():
    boxes = [(10, 30, 30, 50), (11, 30, 30, 50), (40, 1, 60, 20)]  # two of one object, and one at the upper border
    figure = plots.boxed_row(torch.zeros(1, 3, 64, 64), [boxes], [["a", "b", "c"]])
    first, second, third = (text.get_position()[1] for text in figure.axes[0].texts)
    assert 4 <= first < 30
    assert 50 < second < 64
    assert 20 < third < 64


@pytest.mark.parametrize("name", ["x", "y"])
def test_points_are_marked_with_signs_as_far_as_they_are_drawn(name):
    _, axis = plt.subplots()
    ends = [-30.0, 6.0]
    axis.plot(ends, ends)
    axis.margins(0)
    plots.scale_points(getattr(axis, f"{name}axis"))
    labels = [label.get_text() for label in getattr(axis, f"get_{name}ticklabels")()]
    assert labels == ["−20", "−10", "−5", "−2", "−1", "0", "+1", "+2", "+5"]
    assert getattr(axis, f"get_{name}scale")() == "symlog"
    plots.scale_points(getattr(axis, f"{name}axis"), highest=1)
    assert [label.get_text() for label in getattr(axis, f"get_{name}ticklabels")()] == labels[:7]
    assert getattr(axis, f"get_{'y' if name == 'x' else 'x'}scale")() == "linear"
    plt.close()
