"""Later methods: post-hoc averages."""

import numpy as np

from methods.core.posthoc import Profile, coefficients, gamma_of, inner_products, length_of, power_decay
from tests.methods.reference_cases.fixture import Fixture, case, close


@case("modern_phema")
def posthoc_averages(data: Fixture) -> None:
    for name in data.cases("/trajectory"):
        _posthoc(data, f"{name}/")


def _posthoc(data: Fixture, at: str) -> None:
    close(np.array([gamma_of(length) for length in data[f"{at}std_grid"]]), data[f"{at}gamma_of_std"], 1e-9)
    close(np.array([length_of(g) for g in data[f"{at}gamma_of_std"]]), data[f"{at}std_of_gamma"], 1e-9)
    trajectory, batch, lengths = data[f"{at}trajectory"], int(data[f"{at}batch"]), data[f"{at}stds"]
    steps = range(1, len(trajectory))
    betas = np.array([[power_decay(length, step * batch, batch) for length in lengths] for step in steps])
    close(betas, data[f"{at}betas"], 1e-9)
    times = data[f"{at}snapshot_images"].tolist()
    stored, at_times = tracked(trajectory, batch, lengths.tolist()), [time // batch - 1 for time in times]
    close(stored[at_times], data[f"{at}snapshots"], 1e-9)
    profiles = [Profile(int(t), float(s)) for t, s in zip(data[f"{at}in_images"], data[f"{at}in_stds"])]
    assert profiles == [Profile(time, length) for time in times for length in lengths.tolist()]
    gram = inner_products(profiles, profiles)
    close(gram, data[f"{at}gram"], 1e-9)
    close(np.linalg.cond(gram), data[f"{at}condition_number"], 0, rtol=1e-7)
    targets = data[f"{at}out_stds"].tolist()
    found = np.stack([coefficients(profiles, Profile(times[-1], length)) for length in targets], 1)
    close(found, data[f"{at}coefficients"], 1e-7)
    averages = data[f"{at}snapshots"].reshape(len(profiles), -1)
    close(found.T @ averages, data[f"{at}reconstructed"], 1e-7)
    direct = tracked(trajectory, batch, targets)[-1]
    close(direct, data[f"{at}direct_average"], 1e-9)
    middle = int(data[f"{at}mid_images"])
    early = [profile for profile in profiles if profile.images <= middle]
    halfway = np.stack([coefficients(profiles, Profile(middle, length)) for length in targets], 1)
    close(halfway[: len(early)], data[f"{at}mid_coefficients"], 1e-7)
    assert not halfway[len(early) :].any()
    end, points = float(data[f"{at}response_ofs"]), int(data[f"{at}response_len"])
    close(np.stack([response(length, end, points) for length in targets]), data[f"{at}response"], 1e-9)


def tracked(trajectory: np.ndarray, batch: int, lengths: list[float]) -> np.ndarray:
    """[steps, lengths, values]: the averages after every step."""
    average, after = np.zeros((len(lengths), trajectory.shape[1])), []
    for step, value in enumerate(trajectory[1:], 1):
        decay = np.array([[power_decay(length, step * batch, batch)] for length in lengths])
        average = decay * average + (1 - decay) * value
        after.append(average)
    return np.stack(after)


def response(length: float, end: float, points: int) -> np.ndarray:
    """The weights of an average that ends at point `end`, of points 0, 1, ..."""
    at = np.arange(points)
    weights = np.where(at <= end, (at / end) ** gamma_of(length), 0)
    return weights / weights.sum()
