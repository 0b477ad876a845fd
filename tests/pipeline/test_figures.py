"""Figures say what the data say, and are the same bytes each time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pipeline.figures import Bar, bars, loss_curves, save, scatter
from tests.pipeline.children import ROOT


def history() -> pd.DataFrame:
    step = np.arange(10, 2010, 10)
    frame = pd.DataFrame({"step": step, "loss": 2.0 * np.exp(-step / 300) + 0.01, "generator": np.sin(step)})
    return frame.assign(held_out_loss=np.where(step % 100 == 0, frame["loss"] + 0.1, np.nan))


def comparison() -> dict[str, list[Bar]]:
    values = [Bar("edm-digits", 3.0, 2.8, 3.3, 1.2), Bar("edm-digits with its guide", 2.0, 1.7, 2.4, 1.2)]
    return {"fd ↓": values, "recall ↑": [Bar("edm-digits", 0.5, 0.4, 0.7)]}


def test_training_and_held_out_share_a_panel() -> None:
    loss, generator = loss_curves(history()).axes
    assert (loss.get_title(), generator.get_title()) == ("loss", "generator")
    assert loss.get_legend_handles_labels()[1] == ["training", "held out"]
    assert loss.get_yscale() == "log"
    assert generator.get_yscale() == "linear"
    held_out = loss.get_lines()[-1]
    assert list(np.asarray(held_out.get_xdata())) == list(range(100, 2001, 100))


def test_bars_have_their_intervals_and_the_floor() -> None:
    fd, recall = bars(comparison()).axes
    assert [bar.get_extents().width for bar in fd.patches] == pytest.approx(
        [fd.transData.transform((value, 0))[0] - fd.transData.transform((0, 0))[0] for value in (3.0, 2.0)]
    )
    intervals, floors = ([np.asarray(path.vertices)[:, 0] for path in drawn.get_paths()] for drawn in fd.collections)
    assert np.allclose(intervals, [[2.8, 3.3], [1.7, 2.4]])
    assert np.allclose(floors, 1.2)
    assert len(recall.collections) == 1
    assert [label.get_text() for label in fd.get_yticklabels()] == ["edm-digits", "edm-digits with its guide"]


def test_points_and_centres_lie_in_a_frame_that_the_points_do_not_move() -> None:
    centres = np.array([[0.0, 0.0], [10.0, 10.0]])
    frames = [scatter(points, centres).axes[0] for points in (centres, centres * 50)]
    assert frames[0].get_xlim() == frames[1].get_xlim() == pytest.approx((-1.2, 11.2))
    assert [len(np.asarray(drawn.get_offsets())) for drawn in frames[0].collections] == [2, 2]


DRAW = """
import sys
from pathlib import Path
from pipeline.figures import bars, loss_curves, save
from tests.pipeline.test_figures import comparison, history
save(bars(comparison()), Path(sys.argv[1]))
save(loss_curves(history()), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_data_make_the_same_bytes_in_another_process(suffix: str, tmp_path: Path) -> None:
    draw: dict[str, Callable[[], Figure]] = {
        "bars": lambda: bars(comparison()),
        "curves": lambda: loss_curves(history()),
    }
    here = [save(make(), tmp_path / f"{name}.{suffix}") for name, make in draw.items()]
    there = [tmp_path / f"{name}-again.{suffix}" for name in draw]
    subprocess.run([sys.executable, "-c", DRAW, *there], cwd=ROOT, check=True)
    assert [file.read_bytes() for file in here] == [file.read_bytes() for file in there]
    assert matplotlib.__version__.encode() not in here[0].read_bytes()
