"""Which device to compute on."""

import torch


def current_device() -> torch.device:
    """The GPU if there is one, else the CPU; CUDA_VISIBLE_DEVICES="" hides the GPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
