"""Consistency training: stages, one dropout mask for both evaluations, and starting from a diffusion model."""

import pytest
import torch
from torch import Tensor

from methods.consistency import Consistency, consistency_squares
from methods.core.dropout import dropout, masks_from
from methods.core.loop import TrainState, train_steps
from methods.core.process.denoise import EDMScheme, Preconditioned
from methods.core.rng import SeededRng, StepRng
from methods.core.training.derived import begin
from methods.core.types import Batch, DataSpec, Parent
from methods.ddpm import DDPM
from methods.edm import EDM
from tests.methods.toy import LABELS, POINTS, X

UNET = {"width": 16, "depth": 1, "channel_mult": (1,), "attention": (), "dropout": 0.0}
SMALL = {"net": "mlp", "width": 16, "depth": 1}


def parent_of(method: EDM | DDPM, data: DataSpec) -> Parent:
    return Parent(method, {name: net.eval() for name, net in method.build(data).items()})


def test_it_starts_from_a_diffusion_model_without_its_inputs_for_augmentation() -> None:
    data = DataSpec((1, 8, 8), 3, 0.5)
    method, parent = Consistency(**UNET), parent_of(EDM(**UNET, augment=0.2), data)
    state = TrainState.fresh(method, data, 0)
    begin(method, state, parent, ["start"])
    x, sigma, labels = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 1.0, 10.0, 80.0]), torch.tensor([0, 1, 2, 0])
    denoised = parent.nets["denoiser"](x, sigma, labels)
    assert torch.equal(state.nets["denoiser"].eval()(x, sigma, labels), denoised)


def test_a_run_that_it_cannot_start_from_is_refused() -> None:
    state = TrainState.fresh(method := Consistency(**SMALL), POINTS, 0)
    with pytest.raises(ValueError, match=r"from: a DDPM came, an edm\.EDM was wanted"):
        begin(method, state, parent_of(DDPM(**SMALL, steps=50), POINTS), ["start"])
    with pytest.raises(ValueError, match=r"sigma_data: 1\.0 here, 0\.3 in the run it starts from"):
        begin(method, state, parent_of(EDM(**SMALL, sigma_data=0.3), POINTS), ["start"])


def test_r_approaches_t_from_stage_to_stage() -> None:
    method, draws = Consistency(**SMALL, stage_steps=10, first_stage_steps=40), torch.randn(1000)
    gaps = []
    for step in (0, 39, 40, 50, 60):
        t, r = method.levels(draws, step)
        assert ((r >= 0) & (r < t)).all()
        gaps.append(float(((t - r) / t).mean()))
    assert gaps[0] == gaps[1]
    assert gaps[1] > gaps[2] > gaps[3] > gaps[4]


def test_both_evaluations_have_one_dropout_mask() -> None:
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, *given: Tensor | None) -> Tensor:
            return self.weight * dropout(torch.ones_like(x), 0.5, self.training)

    net = Preconditioned(Masked(), (2,), EDMScheme(1.0))
    sigma, x = torch.ones(64), X.float()
    with masks_from(StepRng(0, 0, "denoiser", range(64))):
        assert not consistency_squares(net, x, sigma, sigma, x, None).any()
        first, second = net(x, sigma), net(x, sigma)
    assert not torch.equal(first, second)


def test_few_calls_from_a_short_training_lie_where_the_data_are() -> None:
    """From an EDM of two separate classes, one call gives samples of the label's class."""
    centres = torch.tensor([[0.8, 0.8], [-0.8, -0.8], [0.8, -0.8]])
    points = (centres[LABELS] + 0.05 * torch.randn(64, 2, generator=torch.Generator().manual_seed(1))).float()
    data = DataSpec((2,), 3, float(points.std()))

    def trained(method: EDM | Consistency, steps: int, parent: Parent | None = None) -> dict[str, torch.nn.Module]:
        state = TrainState.fresh(method, data, 0)
        if parent is not None:
            begin(method, state, parent, ["start"])
        for _ in train_steps(method, state, lambda step: Batch(points, LABELS), seed=0, batch=64, steps=steps):
            pass
        for name, weights in state.weights(method.players()).items():
            state.nets[name].load_state_dict(weights)
        return {name: net.eval() for name, net in state.nets.items()}

    net = {"net": "mlp", "width": 64, "depth": 2}
    edm = EDM(**net, lr=5e-3, lr_rampup_images=0, ema_halflife_images=2000)
    parent = Parent(edm, trained(edm, 300))
    method = Consistency(**net, lr=1e-3, ema=0.95, stage_steps=50)
    nets = trained(method, 300, parent)
    labels = torch.arange(96) % 3
    for levels in ((), (0.8,)):
        made = method.sample(nets, Consistency.Sampling(levels=levels), labels, SeededRng(range(96)))
        assert (made - centres[labels]).norm(dim=1).median() < 0.25
    with pytest.raises(ValueError, match=r"levels: .* came, levels that fall from sigma_max"):
        Consistency.Sampling(levels=(0.5, 0.8))
