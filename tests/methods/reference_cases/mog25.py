"""Golden data of the distribution of 25 Gaussians."""

import torch

from methods.core.density import mog25
from tests.methods.reference_cases.fixture import Fixture, case, close


@case("mog25_law")
def law(fixture: Fixture) -> None:
    mean, covariance = mog25.moments()
    close(mog25.centres(), fixture["centres"], 0)
    close(mog25.STD, float(fixture["std_before_clip"]), 1e-12)
    close(mog25.CLIP, float(fixture["clip"]), 0)
    close(mog25.variance_within(), float(fixture["within_mode_var"]), 1e-9)
    close(mean, fixture["total_mean"], 1e-9)
    close(covariance, fixture["total_cov"], 1e-9)
    for seed in (int(name.removeprefix("emp_mean_seed")) for name in fixture if name.startswith("emp_mean_seed")):
        points = mog25.points(int(fixture["n_per_mode"]), seed)
        close(points[:8], fixture[f"first8_seed{seed}"], 1e-5)
        close(points[-8:], fixture[f"last8_seed{seed}"], 1e-5)
        exact = points.double()
        close(exact.mean(0), fixture[f"emp_mean_seed{seed}"], 1e-5, 1e-5)
        close(torch.cov(exact.T), fixture[f"emp_cov_seed{seed}"], 1e-5, 1e-5)
        close(exact.mean(), float(fixture[f"scalar_mean_seed{seed}"]), 1e-5, 1e-5)
        close(exact.std(), float(fixture[f"scalar_std_seed{seed}"]), 1e-5, 1e-5)
