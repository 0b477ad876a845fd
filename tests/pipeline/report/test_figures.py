"""Figures say what the data say, and are the same bytes each time."""

import resource
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pipeline.errors import StoreError
from pipeline.report.figures import Curve, Panel, bars, curves, loss_curves, save, scatter, sweep_plane
from pipeline.report.page import write_page
from tests.support.children import ROOT


def history() -> pd.DataFrame:
    step = np.arange(10, 2010, 10)
    frame = pd.DataFrame({"step": step, "loss": 2.0 * np.exp(-step / 300) + 0.01, "generator": np.sin(step)})
    return frame.assign(held_out_loss=np.where(step % 100 == 0, frame["loss"] + 0.1, np.nan))


def comparison() -> pd.DataFrame:
    rows = [
        ("fd ↓", "edm-digits", 3.0, 2.8, 3.3, 1.2),
        ("fd ↓", "edm-digits with its guide", 2.0, 1.7, 2.4, 1.2),
        ("recall ↑", "edm-digits", 0.5, 0.4, 0.7, np.nan),
    ]
    return pd.DataFrame(rows, columns=["column", "entry", "value", "ci_low", "ci_high", "real_vs_real"])


@pytest.mark.parametrize("name", ["figure.png", "index.html"])
def test_on_a_full_disk_the_earlier_file_stays_and_no_half_of_a_new_one(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("earlier")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**10, hard))
    try:
        with pytest.raises(StoreError, match=rf"{name}: file too large .* make room"):
            save(bars(comparison()), file) if name.endswith("png") else write_page(tmp_path, "", {}, [], {}, {}, "toy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


def test_training_and_held_out_share_a_panel() -> None:
    loss, generator = loss_curves(history()).axes
    assert (loss.get_title(), generator.get_title()) == ("loss", "generator")
    assert loss.get_legend_handles_labels()[1] == ["training", "held out"]
    assert loss.get_yscale() == "log"
    assert generator.get_yscale() == "linear"
    held_out = loss.get_lines()[-1]
    assert list(np.asarray(held_out.get_xdata())) == list(range(100, 2001, 100))


def test_bars_have_their_intervals_and_the_real_vs_real_value() -> None:
    fd, recall = bars(comparison()).axes
    assert [bar.get_extents().width for bar in fd.patches] == pytest.approx(
        [fd.transData.transform((value, 0))[0] - fd.transData.transform((0, 0))[0] for value in (3.0, 2.0)]
    )
    intervals, real = ([np.asarray(path.vertices)[:, 0] for path in drawn.get_paths()] for drawn in fd.collections)
    assert np.allclose(intervals, [[2.8, 3.3], [1.7, 2.4]])
    assert np.allclose(real, 1.2)
    assert len(recall.collections) == 1
    assert [label.get_text() for label in fd.get_yticklabels()] == ["edm-digits", "edm-digits with its guide"]


def test_points_and_centres_lie_in_a_frame_that_the_points_do_not_move() -> None:
    centres = np.array([[0.0, 0.0], [10.0, 10.0]])
    frames = [scatter(points, centres).axes[0] for points in (centres, centres * 50)]
    assert frames[0].get_xlim() == frames[1].get_xlim() == pytest.approx((-1.2, 11.2))
    assert [len(np.asarray(drawn.get_offsets())) for drawn in frames[0].collections] == [2, 2]


def sweep() -> dict[str, Panel]:
    ours = Curve("measured", [0.5, 1, 2], [3.0, 2.0, 2.5], [2.8, 1.7, 2.2], [3.2, 2.3, 2.8])
    return {"fd": Panel([ours, Curve("paper", [0.5, 2], [2.9, 2.1])], "weight", is_log=True)}


def test_curves_have_their_intervals() -> None:
    (fd,) = curves(sweep()).axes
    measured, paper = fd.get_lines()
    assert [line.get_label() for line in (measured, paper)] == ["measured", "paper"]
    (interval,) = fd.collections
    (path,) = interval.get_paths()
    assert {(0.5, 2.8), (0.5, 3.2), (2.0, 2.2)} <= {tuple(vertex) for vertex in np.asarray(path.vertices)}
    assert (fd.get_xscale(), fd.get_xlabel()) == ("log", "weight")


DRAW = """
import sys
from pathlib import Path
from pipeline.report.figures import save
from tests.pipeline.report.test_figures import drawn
for figure, file in zip(drawn(), sys.argv[1:]):
    save(figure, Path(file))
"""


def drawn() -> list[Figure]:
    return [bars(comparison()), loss_curves(history()), curves(sweep())]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_data_make_the_same_bytes_in_another_process(suffix: str, tmp_path: Path) -> None:
    here = [save(figure, tmp_path / f"{number}.{suffix}") for number, figure in enumerate(drawn())]
    there = [file.with_stem(f"{file.stem}-again") for file in here]
    subprocess.run([sys.executable, "-c", DRAW, *there], cwd=ROOT, check=True)
    assert [file.read_bytes() for file in here] == [file.read_bytes() for file in there]
    assert matplotlib.__version__.encode() not in here[0].read_bytes()


def test_a_sweep_over_a_plane_is_a_heat_map_with_every_cell_written_out() -> None:
    cells = [(first, second) for first in ("0", "1", "2") for second in ("0", "10", "20")]
    rows = pd.DataFrame(cells, columns=["first", "second"]).assign(value=[float(n) for n in range(9)])
    rows = rows.assign(ci_low=rows["value"] - 0.5, ci_high=rows["value"] + 0.5).drop(index=4)  # one trial failed
    (axes, _) = sweep_plane(rows, ["first", "second"], "fd").axes
    assert [text.get_text() for text in axes.texts] == [f"{n}\n± 0.5" for n in range(9) if n != 4]
    drawn = np.ma.filled(np.ma.asarray(axes.images[0].get_array()), np.nan)
    np.testing.assert_array_equal(drawn, [[0, 3, 6], [1, np.nan, 7], [2, 5, 8]])
