"""Non-leaky augmentation: the transformation of each image is an input of the network (EDM, appendix F.2).

Geometry is that of StyleGAN2-ADA: flips, then one warp with a wavelet low-pass at twice the resolution.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.core.rng import StepRng
from methods.core.shapes import per_sample
from methods.core.types import Draws

Operation: TypeAlias = Literal["xflip", "yflip", "scale", "rotate", "aniso", "translate"]
OPERATIONS: tuple[Operation, ...] = ("xflip", "yflip", "scale", "rotate", "aniso", "translate")
AUGMENT_LABELS = 9  # length of the network's input that describes all six operations

SCALE_STD = 0.2  # octaves, of both scalings
TRANSLATE_STD = 0.125  # of the image's side
# the symlet-6 scaling filter
LOW_PASS = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
HALF_WIDTH = len(LOW_PASS) // 2


class Transform(NamedTuple):
    """What happens to each image; 0 everywhere: nothing."""

    xflip: Tensor  # [B] 0 or 1
    yflip: Tensor  # [B] 0 or 1
    scale: Tensor  # [B] standard normals: the image grows by 2^(0.2 scale)
    rotate: Tensor  # [B] radians in (-pi, pi)
    aniso: Tensor  # [B] standard normals: by 2^(0.2 aniso) along one axis and the inverse across it
    aniso_axis: Tensor  # [B] radians, that axis
    translate: Tensor  # [B, 2] standard normals: moved by 0.125 of the width and height


def draw_transform(count: int, probability: float, rng: StepRng) -> Draws:
    """Every operation with `probability`, independently, but flips along x always by a fair coin.

    Fields of `Transform` by name, so that they travel with a step's other draws.
    """
    uniform, normal = rng.uniform(count, 10), rng.normal(count, 4)
    yflip, scale, rotate, aniso, translate = (uniform[:, :5] < probability).float().unbind(1)
    xflipped, yflipped, turned = (uniform[:, 5:8] < 0.5).float().unbind(1)
    angle, axis = (math.pi * (2 * uniform[:, 8:] - 1)).unbind(1)
    return Transform(
        xflip=xflipped,
        yflip=yflip * yflipped,
        scale=scale * normal[:, 0],
        rotate=rotate * angle,
        aniso=aniso * normal[:, 1],
        aniso_axis=aniso * turned * axis,
        translate=translate[:, None] * normal[:, 2:],
    )._asdict()


def identity(count: int) -> Transform:
    """The transform that changes nothing."""
    zero = torch.zeros(count)
    return Transform(*[zero] * 6, translate=torch.zeros(count, 2))


def labels_of(transform: Transform, operations: Sequence[Operation] = OPERATIONS) -> Tensor:
    """[B, labels] input of the network, in the order of OPERATIONS; nine numbers for all six."""
    t = transform
    columns = {
        "xflip": [t.xflip],
        "yflip": [t.yflip],
        "scale": [t.scale],
        "rotate": [t.rotate.cos() - 1, t.rotate.sin()],
        "aniso": [t.aniso * t.aniso_axis.cos(), t.aniso * t.aniso_axis.sin()],
        "translate": [t.translate[:, 0], t.translate[:, 1]],
    }
    return torch.stack([column for name in OPERATIONS if name in operations for column in columns[name]], dim=1)


def augment(images: Tensor, transform: Transform) -> Tensor:
    """[B, C, H, W] images after flips and one resampled warp."""
    return warp(flip(images, transform), _sampling_matrix(transform, images.shape[3], images.shape[2]))


def flip(images: Tensor, transform: Transform) -> Tensor:
    """The flips alone: nothing is resampled."""
    images = torch.where(per_sample(transform.xflip, images) > 0, images.flip(3), images)
    return torch.where(per_sample(transform.yflip, images) > 0, images.flip(2), images)


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Images resampled at `matrix` [B, 3, 3] times the output's pixel places, origin at the image's centre.

    Mirror padding wide enough for the whole batch, filtered up by two, read bilinearly, filtered down by two.
    """
    batch, channels, height, width = images.shape
    low_pass = torch.tensor(LOW_PASS, dtype=images.dtype, device=images.device)
    left, top, right, bottom = _margins(matrix, width, height)
    images = F.pad(images, [left, right, top, bottom], mode="reflect")
    matrix = _shift((left - right) / 2, (top - bottom) / 2, matrix) @ matrix
    images = _upsample(_upsample(images, low_pass, dim=3), low_pass, dim=2)
    matrix = _stretch(2.0, 2.0, matrix) @ matrix @ _stretch(0.5, 0.5, matrix)
    matrix = _shift(-0.5, -0.5, matrix) @ matrix @ _shift(0.5, 0.5, matrix)
    out_width, out_height = 2 * (width + HALF_WIDTH), 2 * (height + HALF_WIDTH)
    into = _stretch(2 / images.shape[3], 2 / images.shape[2], matrix)
    matrix = into @ matrix @ _stretch(out_width / 2, out_height / 2, matrix)
    grid = F.affine_grid(matrix[:, :2], [batch, channels, out_height, out_width], align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return _downsample(_downsample(images, low_pass, dim=3), low_pass, dim=2)


def _sampling_matrix(t: Transform, width: int, height: int) -> Tensor:
    """[B, 3, 3] from places in the output to places in the input, in pixels from the centre."""
    grown, along = torch.exp2(SCALE_STD * t.scale), torch.exp2(SCALE_STD * t.aniso)
    stretched = _rotation(-t.aniso_axis) @ _stretch(1 / along, along, grown) @ _rotation(t.aniso_axis)
    dx, dy = (t.translate * TRANSLATE_STD).unbind(1)
    moved = _shift(-dx * width, -dy * height, grown)
    return _stretch(1 / grown, 1 / grown, grown) @ _rotation(t.rotate) @ stretched @ moved


def _margins(matrix: Tensor, width: int, height: int) -> tuple[int, int, int, int]:
    """Pixels of padding that the furthest corner of the batch needs: left, top, right, bottom.

    On a GPU the most that mirroring allows, which spares waiting for the corners; the images are the same to rounding.
    """
    if matrix.is_cuda:
        return width - 1, height - 1, width - 1, height - 1
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = matrix.new_tensor([[-cx, -cy, 1], [cx, -cy, 1], [cx, cy, 1], [-cx, cy, 1]])
    reached = (matrix @ corners.T)[:, :2].movedim(1, 0).flatten(1)  # [2, 4 B]
    needed = torch.cat([-reached, reached]).amax(1) + matrix.new_tensor([HALF_WIDTH - cx, HALF_WIDTH - cy] * 2)
    limit = needed.new_tensor([width - 1, height - 1] * 2)
    left, top, right, bottom = needed.clamp(min=0).minimum(limit).ceil().long().tolist()
    return left, top, right, bottom


def _upsample(images: Tensor, low_pass: Tensor, dim: int) -> Tensor:
    """Twice the samples less one: zeros between them, then the reversed filter."""
    spread = torch.stack([images, torch.zeros_like(images)], dim=dim + 1).flatten(dim, dim + 1)
    return _filter(spread.narrow(dim, 0, spread.shape[dim] - 1), low_pass.flip(0), dim, padding=HALF_WIDTH, stride=1)


def _downsample(images: Tensor, low_pass: Tensor, dim: int) -> Tensor:
    """Half the samples, less the margin of the filter."""
    halved = _filter(images, low_pass, dim, padding=HALF_WIDTH - 1, stride=2)
    crop = HALF_WIDTH // 2
    return halved.narrow(dim, crop, halved.shape[dim] - 2 * crop)


def _filter(images: Tensor, taps: Tensor, dim: int, padding: int, stride: int) -> Tensor:
    """Every row (dim 3) or column (dim 2) correlated with `taps`."""
    channels = images.shape[1]
    if dim == 2:
        kernel = taps[:, None].expand(channels, 1, -1, -1)
        return F.conv2d(images, kernel, padding=(padding, 0), stride=(stride, 1), groups=channels)
    kernel = taps[None, :].expand(channels, 1, -1, -1)
    return F.conv2d(images, kernel, padding=(0, padding), stride=(1, stride), groups=channels)


def _matrix(rows: Sequence[Sequence[Tensor | float]], like: Tensor) -> Tensor:
    """[B, 3, 3] from numbers, each one for all or [B]."""
    count = len(like)
    numbers = [[torch.as_tensor(v, dtype=like.dtype, device=like.device).expand(count) for v in row] for row in rows]
    return torch.stack([torch.stack(row, -1) for row in numbers], -2)


def _stretch(x: Tensor | float, y: Tensor | float, like: Tensor) -> Tensor:
    return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]], like)


def _shift(x: Tensor | float, y: Tensor | float, like: Tensor) -> Tensor:
    return _matrix([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], like)


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], angle)
