"""A step's random numbers: the same for any number of workers, independent of each other, distributed as stated."""

import pytest
import torch
from torch import Tensor, nn

from methods.core.dropout import Dropout, masks_from, repeated_masks
from methods.core.rng import BLOCK, StepRng, rows_of_worker
from methods.core.types import Batch
from tests.methods.every_method import Case, every_case

BATCH, SHAPE = 512, (3, 16, 16)
LIMIT = 5.2  # standard deviations that the largest of 131,000 correlations may have


def drawn(rows: range, step: int = 7, player: str = "g", seed: int = 0) -> dict[str, Tensor]:
    """In any order: a block's draws follow one another."""
    rng, count = StepRng(seed, step, player, rows), len(rows)
    draws = {"u": rng.uniform(count), "z": rng.uniform(count, 2), "noise": rng.normal(count, *SHAPE)}
    return draws | {"index": rng.integers(10, count), "last": rng.normal(count), "row": rng.row_numbers(count)}


@pytest.mark.parametrize("world", [1, 2, 4, 8, 32])
def test_a_row_has_the_same_numbers_for_any_number_of_workers(world: int) -> None:
    whole = drawn(range(BATCH))
    parts = [drawn(rows_of_worker(BATCH, rank, world)) for rank in range(world)]
    for name, values in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), values), name


def test_any_blocks_alone_have_the_numbers_that_they_have_among_all() -> None:
    whole, some = drawn(range(BATCH)), drawn(range(5 * BLOCK, 7 * BLOCK))
    for name, values in some.items():
        assert torch.equal(values, whole[name][5 * BLOCK : 7 * BLOCK]), name


@pytest.mark.parametrize("case", every_case(), ids=str)
def test_a_methods_draws_are_the_same_for_any_number_of_workers(case: Case) -> None:
    method = case.make()
    for player in method.players():
        whole, first, second = (
            method.draw(player.name, Batch(torch.empty(len(rows), *case.spec.shape)), StepRng(1, 2, player.name, rows))
            for rows in (range(64), range(32), range(32, 64))
        )
        for name, values in whole.items():
            assert torch.equal(torch.cat([first[name], second[name]]), values), name


@pytest.mark.parametrize("rows", [range(8), range(8, 24), range(20), range(0, 32, 2)])
def test_rows_that_are_no_whole_blocks_are_refused(rows: range) -> None:
    with pytest.raises(ValueError, match="whole blocks of 16 rows were wanted"):
        StepRng(0, 0, "g", rows)


def test_another_number_of_rows_than_the_workers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"20 rows are drawn, but this worker has 32: range\(0, 32\)"):
        StepRng(0, 0, "g", range(32)).normal(20, 3)


def test_no_two_blocks_steps_players_or_seeds_are_correlated() -> None:
    steps = [drawn(range(BATCH), step)["noise"].view(BATCH // BLOCK, -1) for step in range(16)]
    blocks = torch.cat(steps)
    correlations = torch.corrcoef(blocks).fill_diagonal_(0)
    assert correlations.abs().max() < LIMIT / blocks.shape[1] ** 0.5
    others = [drawn(range(BATCH), player="d"), drawn(range(BATCH), seed=1), drawn(range(BATCH), step=8)]
    streams = torch.stack([part["noise"].flatten() for part in (drawn(range(BATCH)), *others)])
    assert torch.corrcoef(streams).fill_diagonal_(0).abs().max() < LIMIT / streams.shape[1] ** 0.5


def test_numbers_of_all_blocks_together_have_their_distribution() -> None:
    """Kolmogorov and Smirnov's test at the level 0.001, and moments within five standard errors."""
    draws = [drawn(range(BATCH), step) for step in range(4)]
    noise = torch.cat([part["noise"].flatten() for part in draws]).double()
    uniform = torch.cat([part["z"].flatten() for part in draws]).double()
    for cumulated in (torch.special.ndtr(noise), uniform):
        below = torch.arange(len(cumulated)) / len(cumulated)
        assert (cumulated.sort().values - below).abs().max() * len(cumulated) ** 0.5 < 1.95
    error = len(noise) ** -0.5
    assert noise.mean().abs() < 5 * error
    assert (noise.square().mean() - 1).abs() < 5 * 2**0.5 * error
    assert (noise**4 - 3).mean().abs() < 5 * 96**0.5 * error
    counts = torch.cat([part["index"] for part in draws]).bincount(minlength=10)
    assert ((counts - 204.8).square() / 204.8).sum() < 27.9  # chi-squared with 9 degrees, level 0.001


NET = nn.Sequential(nn.Linear(2, 8), Dropout(0.5), nn.Linear(8, 2), Dropout(0.2)).double()
POINTS = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_dropout_has_the_same_masks_for_any_number_of_workers_and_real_and_fake_images_have_their_own() -> None:
    def passed(rows: range) -> tuple[Tensor, Tensor]:
        with masks_from(StepRng(0, 0, "g", rows)):
            real, fake = NET(torch.cat([POINTS[rows.start : rows.stop]] * 2)).chunk(2)
        return real, fake

    before = torch.get_rng_state()
    whole, parts = passed(range(64)), [passed(range(32)), passed(range(32, 64))]
    assert torch.equal(torch.get_rng_state(), before)
    for output, first, second in zip(whole, *parts):
        torch.testing.assert_close(torch.cat([first, second]), output, rtol=1e-12, atol=1e-12)
    assert not torch.equal(*whole)


def test_dropout_keeps_its_share_and_the_mean() -> None:
    with masks_from(StepRng(0, 0, "g", range(64))):
        output = Dropout(0.2)(torch.ones(64, 1000))
    assert set(output.unique().tolist()) == {0.0, 1.25}
    assert abs(output.mean().item() - 1) < 5 * 0.5 / 64_000**0.5


def test_two_passes_have_equal_masks_if_wanted_and_different_ones_if_not() -> None:
    twin = nn.Sequential(*NET)  # another network with the same layers
    with masks_from(StepRng(0, 0, "g", range(64))):
        with repeated_masks():
            first = NET(POINTS)
        again = twin(POINTS)
        other = NET(POINTS)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_of_rows_that_are_no_multiple_of_the_batch_is_refused() -> None:
    with masks_from(StepRng(0, 0, "g", range(32))), pytest.raises(ValueError, match="48 rows in a step of 32"):
        NET(POINTS[:48])
