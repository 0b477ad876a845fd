"""Translated images, and log density ratios along guided paths, on the toy study."""

import numpy as np
import pandas as pd
import pytest

from pipeline.data.artifacts import read_artifact
from pipeline.data.shards import read_pictures
from pipeline.errors import UserError
from pipeline.sampling.recording import LOG_RATIO
from pipeline.stages.translate import EXAMPLES, ROWS, blocky
from tests.support.toy_study import ToyStudy


def test_blocks_keep_the_mean_of_what_they_cover() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    blocks = blocky(images)
    assert (blocks[..., ::2, ::2] == blocks[..., 1::2, 1::2]).all()
    assert blocks[0, 0, 0, 0] == pytest.approx(images[0, 0, :2, :2].mean(), abs=0.5)
    assert np.array_equal(blocky(blocks), blocks)


def test_a_small_start_keeps_to_the_input_and_a_large_one_does_not(reproduced: ToyStudy) -> None:
    translated = read_artifact(reproduced.out / "translate" / "blocky")
    rows = pd.read_parquet(translated.path / ROWS)
    assert len(rows) == 2 * 2 * 2  # starts, guidance, sets
    near, far = (float(rows.loc[rows["start"] == start, "distance"].to_numpy().mean()) for start in (0.1, 5.0))
    assert near < 0.05 < far
    assert translated.manifest.facts["real_fd"] < translated.manifest.facts["source_fd"]
    guided, unguided = (rows[rows.is_guided == is_guided].distance.to_numpy() for is_guided in (True, False))
    assert (guided != unguided).all()
    examples = np.load(translated.path / EXAMPLES)
    held_out = read_pictures(reproduced.out / "prepare" / "digits", "held_out").images
    assert np.array_equal(examples[0], held_out[:8])
    assert np.array_equal(examples[1], blocky(held_out[:8]))
    assert len(examples) == 2 + 2 * 2


def test_the_translations_page_names_existing_figures(reproduced: ToyStudy) -> None:
    page = reproduced.folder / "reports" / "translations" / "blocky"
    named = {part.partition(")")[0] for part in (page / "README.md").read_text().split("](")[1:]}
    assert named == {"curves.png", "examples.png"}
    for name in named:
        assert (page / name).stat().st_size > 0
    table = pd.read_csv(page / "table.csv")
    assert list(table.start) == [0.1] * 4 + [5.0] * 4
    assert set(zip(table.entry, table.metric)) == {(e, m) for e in ("toy", "toy-dg") for m in ("distance", "fd")}
    assert (table.ci_low <= table.value).all()


def test_guided_entries_record_log_density_ratios_along_the_path(reproduced: ToyStudy) -> None:
    assert not (reproduced.out / "sample" / "toy" / LOG_RATIO).exists()
    rows = pd.read_parquet(reproduced.out / "sample" / "toy-dg" / LOG_RATIO)
    guided, unguided = (rows[rows.path == path].reset_index() for path in ("guided", "unguided"))
    assert list(guided.sigma) == list(unguided.sigma)
    assert guided.sigma.is_monotonic_decreasing
    assert guided["mean"].iloc[0] == unguided["mean"].iloc[0]  # before the guidance has an effect
    assert guided["mean"].iloc[-1] != unguided["mean"].iloc[-1]
    assert (reproduced.folder / "reports" / "figures" / "toy-dg-log-ratio.png").stat().st_size > 0


def test_more_images_than_are_held_out_are_refused(reproduced: ToyStudy) -> None:
    from types import SimpleNamespace

    from pipeline.stages.translate import Config, run

    inputs = {"prepare": read_artifact(reproduced.out / "prepare" / "digits")}
    config = Config(sampler=None, starts=[1.0], images=501, sets=1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="501 came, but 2 to 500"):
        run(inputs, config, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
