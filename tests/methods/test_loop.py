"""The loop: resuming, several players, several workers, and what is frozen when."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from methods.core.dropout import Dropout
from methods.core.loop import TrainState, batch_indices, train_steps, trained
from methods.core.rng import SeededRng, StepRng, fold, sample_tiles
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player
from tests.methods.toy import in_lockstep, shared

DATA = DataSpec((3,), 0, 1.0)
BATCH = 32
IMAGES = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Pair:
    """Two players on two networks, with dropout, an average, and a player that steps every third time."""

    rate: float = 0.01
    dropout: float = 0.2

    def players(self) -> tuple[Player, ...]:
        adam = Adam(lambda progress: self.rate * (1 + progress.step), clip_norm=1.0)
        return Player("d", "critic", adam, every=3), Player("g", "maker", adam, Ema(lambda progress: 0.9))

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        return {
            name: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), Dropout(self.dropout), nn.Linear(8, 3))
            for name in ("maker", "critic")
        }

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {"noise": rng.normal(*batch.images.shape)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        made = nets["maker"](draws["noise"])
        loss = (nets["critic"](made) - batch.images).square().mean()
        return (loss if player == "g" else -loss), {player: loss.detach()}


def batches(step: int) -> Batch:
    return Batch(IMAGES[batch_indices(len(IMAGES), BATCH, 1, step)])


def run(state: TrainState, steps: int, rank: int = 0, world: int = 1, **options) -> list[dict[str, Tensor]]:
    mine = shared(batches, BATCH, rank, world)
    return list(train_steps(Pair(), state, mine, seed=1, batch=BATCH, steps=steps, rank=rank, world=world, **options))


def flat(state: TrainState) -> Tensor:
    return torch.cat([p.detach().flatten() for net in state.nets.values() for p in net.parameters()])


def test_five_and_five_steps_equal_ten_bit_for_bit() -> None:
    whole = TrainState.fresh(Pair(), DATA, seed=1)
    run(whole, 10)
    first = TrainState.fresh(Pair(), DATA, seed=1)
    steps = train_steps(Pair(), first, batches, seed=1, batch=BATCH, steps=10)
    for _ in range(5):
        next(steps)
    torch.rand(7)  # whatever else happens in the process
    resumed = TrainState.fresh(Pair(), DATA, seed=99)
    resumed.load_state_dict(first.state_dict())
    run(resumed, 10)
    assert torch.equal(flat(whole), flat(resumed))
    for name, value in whole.averages["g"].items():
        assert torch.equal(value, resumed.averages["g"][name])


def test_a_player_that_waits_takes_no_step() -> None:
    steps = run(TrainState.fresh(Pair(), DATA, seed=1), 7)
    assert [("d" in metrics) for metrics in steps] == [True, False, False, True, False, False, True]


def test_only_the_players_own_network_moves() -> None:
    state = TrainState.fresh(Pair(), DATA, seed=1)
    before = {name: p.detach().clone() for name, p in state.nets["critic"].named_parameters()}
    next(train_steps(Pair(), state, batches, seed=1, batch=BATCH, steps=1))
    moved = [not torch.equal(p, before[name]) for name, p in state.nets["critic"].named_parameters()]
    assert all(moved)  # by its own player, in step 0
    after = {name: p.detach().clone() for name, p in state.nets["critic"].named_parameters()}
    run(state, 2)
    assert all(torch.equal(p, after[name]) for name, p in state.nets["critic"].named_parameters())


def test_workers_that_average_their_gradients_equal_one_alone_with_dropout() -> None:
    alone = TrainState.fresh(Pair(), DATA, seed=1, dtype=torch.float64)
    run(alone, 6)
    twins = [TrainState.fresh(Pair(), DATA, seed=1, dtype=torch.float64) for _ in range(2)]
    in_lockstep(lambda rank, reduce: run(twins[rank], 6, rank, 2, all_reduce=reduce))
    for twin in twins:
        torch.testing.assert_close(flat(twin), flat(alone), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("batch", "world", "fitting"), [(8, 1, "16"), (40, 1, "32 or 48"), (32, 3, "48"), (100, 2, "96 or 128")]
)
def test_a_batch_of_no_whole_blocks_per_worker_is_refused_with_the_nearest_that_fit(
    batch: int, world: int, fitting: str
) -> None:
    with pytest.raises(ValueError, match=rf"batch: {batch} came, a multiple of {16 * world} .*: {fitting}$"):
        next(train_steps(Pair(), TrainState.fresh(Pair(), DATA, 1), batches, seed=1, batch=batch, steps=1, world=world))


def test_an_epoch_shows_every_image_once() -> None:
    seen = torch.cat([batch_indices(24, 8, 3, step) for step in range(3)])
    assert sorted(seen.tolist()) == list(range(24))
    assert not torch.equal(seen, torch.cat([batch_indices(24, 8, 3, step) for step in range(3, 6)]))


def test_an_image_is_the_same_in_any_range() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 3)

    def sample(labels: Tensor | None, rng) -> Tensor:
        assert labels is not None
        return net(rng.normal(3)) + labels[:, None]

    def images(seeds: range) -> Tensor:
        return torch.cat(list(sample_tiles(sample, seeds, lambda seed: seed % 10)))

    whole = images(range(300))
    assert torch.equal(images(range(70, 71)), whole[70:71])
    assert torch.equal(torch.cat([images(range(s, min(s + 130, 300))) for s in range(0, 300, 130)]), whole)


def test_an_images_noise_does_not_depend_on_its_neighbours() -> None:
    together, alone = SeededRng([5, 6, 7]), SeededRng([6])
    assert torch.equal(together.normal(2, 2)[1], alone.normal(2, 2)[0])
    assert torch.equal(together.uniform(3)[1], alone.uniform(3)[0])


def test_seeds_fold_the_same_on_every_machine() -> None:
    assert fold(0, "init") == 1519069808562059438


@dataclass(frozen=True)
class HalfTrained(Pair):
    """Trains the last layer of the maker alone, with RAdam and a decay that changes."""

    def players(self) -> tuple[Player, ...]:
        adam = Adam(lambda progress: self.rate, lambda progress: (0.0, 0.9 + 0.009 * progress.step), rectified=True)
        return (Player("g", "maker", adam, Ema(lambda progress: 0.5), trains=lambda name: name.startswith("3.")),)


def test_a_player_trains_the_parameters_that_it_chooses() -> None:
    method = HalfTrained()
    state = TrainState.fresh(method, DATA, seed=1)
    before = {name: p.detach().clone() for name, p in state.nets["maker"].named_parameters()}
    list(train_steps(method, state, batches, seed=1, batch=BATCH, steps=8))
    changed = {name for name, p in state.nets["maker"].named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"3.weight", "3.bias"} == state.averages["g"].keys()
    assert state.optimisers["g"].param_groups[0]["betas"] == (0.0, 0.9 + 0.009 * 7)
    assert isinstance(state.optimisers["g"], torch.optim.RAdam)
    assert state.weights(method.players())["maker"].keys() == before.keys()


def test_a_choice_of_no_parameter_is_refused() -> None:
    nobody = replace(HalfTrained().players()[0], trains=lambda name: False)
    with pytest.raises(ValueError, match="player g: `trains` chooses none of the 4 parameters of maker"):
        trained(nobody, Pair().build(DATA)["maker"])
