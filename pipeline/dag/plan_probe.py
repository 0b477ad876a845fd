"""What a stage will cost, by a little of its own work: a launcher that tries a few steps, tiles or items of what the
stage hands it, and reckons what all of them would take."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar, cast

import numpy as np

from methods.core.devices import current_device
from methods.core.rng import TILE
from methods.core.types import Diffusion
from pipeline.config.build import build
from pipeline.context import RunContext
from pipeline.dag.graph import Call
from pipeline.dag.plan_meter import MIB, WARM, Clock, Enough, Flops, Peak, Spent, first_of, tile
from pipeline.data.artifacts import Artifact, new_artifact
from pipeline.launch.determinism import reproducible
from pipeline.launch.launcher import Worker
from pipeline.sampling.fan_out import SamplingTask
from pipeline.sampling.sampler import guided_sampler
from pipeline.stages.check_metrics import LARGEST
from pipeline.store.store import Store
from pipeline.training.loop import Job
from pipeline.training.stacked import StackJob

Item = TypeVar("Item")
T = TypeVar("T")

BOX = 3.0  # seconds of steps or of tiles that are tried of one configuration
LONGEST = 30.0  # seconds that the fewest steps of a whole batch may take, to be tried
FOREVER = 10**9  # steps: a probe ends by its clock, before any preview
PARTS = 8  # of a batch
STATES = 14  # times its weights is what a training holds while a checkpoint is written: 5 live, 9 copies


@dataclass(frozen=True)
class Cost:
    """Of one execution of a stage, as predicted, without what its process takes to start."""

    spent: Spent
    mib: float  # at the peak, beyond what its process has when it starts; of the device that computes
    disk_mib: float
    flops: float | None = None
    evaluations: float | None = None  # images through networks: steps times batch, or samples times calls

    def times(self, factor: float) -> "Cost":
        """Of so many times the work, one after the other."""
        counts = [None if count is None else count * factor for count in (self.flops, self.evaluations)]
        return Cost(self.spent.times(factor), self.mib, self.disk_mib, *counts)


class Size(NamedTuple):
    """A stage with less to do."""

    units: float
    settings: dict[str, Any]


SIZES: dict[str, Callable[[Any], tuple[float, list[Size]]]] = {  # units of the whole, and sizes that are tried
    "features": lambda config: (config.epochs, [Size(n, {"epochs": n}) for n in (1, 3)]),
    "immune": lambda config: (
        min(config.images, LARGEST),
        [Size(n, {"images": n}) for n in (min(config.images, LARGEST) // part for part in (4, 2))],
    ),
    "translate": lambda config: (
        config.sets * -(-config.images // TILE),
        [Size(1, {"sets": 1, "images": min(TILE, config.images)})],
    ),
    "toys": lambda config: (config.steps, [Size(n, {"steps": n}) for n in (12, 36)]),
}


def cost_of(call: Call, inputs: Mapping[str, Artifact], limit_mib: float, seconds: float = BOX) -> Cost:
    """limit_mib: beyond what a process has when it starts; a batch that would need more is not tried.

    seconds: of steps or of tiles that are tried.
    """
    stage = import_module(f"pipeline.stages.{call.stage}")
    config = build(stage.Config, call.config, f"params.yaml: {call.stage} {call.name}")
    if call.stage in SIZES:
        share = share_read(inputs) if call.stage == "features" else 1.0
        return _by_size(stage, inputs, config, *SIZES[call.stage](config)).times(share)
    launch = Probe(limit_mib, seconds)
    with suppress(Enough):
        return _run(stage, inputs, config, launch)
    assert launch.cost is not None
    return launch.cost


def _run(stage: Any, inputs: Mapping[str, Artifact], config: Any, launch: "Probe") -> Cost:
    """All of it, but for what the launcher leaves out."""
    peak, begin = Peak(), Spent.now()
    with peak.watching(), tempfile.TemporaryDirectory() as folder, reproducible():
        state = Store(f"{folder}/store").state("probe")
        with new_artifact(Path(folder, "out"), "probe", "", {}, {}) as draft:
            stage.run(inputs, config, draft, RunContext(cast(Any, launch), state, cast(Any, Unwatched())))
    disk = sum(file.bytes for file in draft.artifact.manifest.files.values()) / MIB
    return Cost(Spent.now().since(begin).plus(launch.further), peak.mib, disk)


def _by_size(stage: Any, inputs: Mapping[str, Artifact], config: Any, units: float, sizes: list[Size]) -> Cost:
    """A straight line through two sizes, after a warm-up; or in proportion to one."""
    tried = [_run(stage, inputs, replace(config, **size.settings), Probe(inf, BOX)) for size in [*sizes[:-1], *sizes]]
    last, by = tried[-1], sizes[-1].units
    slope = last.spent.times(1 / by)
    if len(sizes) > 1:
        slope = last.spent.since(tried[-2].spent).times(1 / (by - sizes[0].units))
    return replace(last, spent=last.spent.plus(slope, units - by))


def share_read(inputs: Mapping[str, Artifact]) -> float:
    """Records of the data, by those that what stands in for them has."""
    facts = inputs["data"].manifest.facts
    return facts["records"] / (facts["train"] + facts["held_out"]) if "records" in facts else 1.0


class Unwatched:
    """Nobody looks on."""

    @contextmanager
    def opened(self) -> Iterator["Unwatched"]:
        yield self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *told: None


class Probe:
    """A launcher that goes only so far."""

    workers = 0

    def __init__(self, limit_mib: float, seconds: float) -> None:
        self.limit_mib, self.seconds = limit_mib, seconds
        self.cost: Cost | None = None
        self.further = Spent(0.0, 0.0)  # of items that were not tried

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def fit(self, loop: Callable[..., T], job: Job, *others: Any) -> T:
        alone = partial(loop, Worker(0, 1, current_device(), None))
        self.cost = _training(alone, job, others[-1], self.limit_mib, self.seconds)
        raise Enough

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        match items[0]:
            case SamplingTask():
                self.cost = _painting(cast(Sequence[SamplingTask], items), self.seconds)
                raise Enough
            case StackJob():
                self.cost = _stack(cast(Any, function), cast(Any, items), self.limit_mib, self.seconds)
                raise Enough
        return self._some(function, items)

    def _some(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        """The first, which also warms up, the middle and the last one; the others would take what these two take."""
        tried = {0: function(items[0])}
        begin, chosen = Spent.now(), sorted({len(items) // 2, len(items) - 1} - {0})
        tried |= {number: function(items[number]) for number in chosen}
        if chosen:
            self.further = Spent.now().since(begin).times((len(items) - 1) / len(chosen) - 1)
        return (tried.get(number, tried[0]) for number in range(len(items)))


class Need(NamedTuple):
    """Of one training step."""

    step: Spent
    flops: float
    mib: float


Try = Callable[[int, float, float], Clock]  # steps of so many rows, for so many seconds, at most so many


def _training(loop: Callable[..., object], job: Job, watch: object, limit_mib: float, seconds: float) -> Cost:
    nets = {name: net.to(current_device(), job.dtype).eval() for name, net in job.method.build(job.data).items()}

    def steps(rows: int, enough: float, most: float) -> Clock:
        clock = Clock(job.batches, rows, enough, most)
        with suppress(Enough), tempfile.TemporaryDirectory() as folder, reproducible():
            probe = replace(job, batches=clock, batch=rows, steps=FOREVER, unseen=clock.cut(job.unseen))
            loop(probe, Store(folder).state("probe"), watch)
        return clock

    need = _of_step(job.batch, steps, limit_mib, seconds)
    spent = need.step.times(job.steps)
    if job.preview is not None:
        sample = first_of(job.method, nets, cast(Any, job.method).Sampling(), job.data.classes)
        shown = tile(partial(job.preview, nets), sample, nets, seconds)
        spent = spent.plus(shown.spent, -(-job.steps // job.preview_every))
    weights = sum(value.nbytes for net in nets.values() for value in net.state_dict().values()) / MIB
    mib = max(need.mib, STATES * weights)
    return Cost(spent, mib, weights, need.flops * job.steps, float(job.steps * job.batch))


def _stack(function: Callable[[StackJob], object], jobs: Sequence[StackJob], limit_mib: float, seconds: float) -> Cost:
    """One job after the other."""
    needs = []
    for job in jobs:

        def steps(rows: int, enough: float, most: float, job: StackJob = job) -> Clock:
            clock = Clock(job.batches, rows, enough, most)
            with suppress(Enough), tempfile.TemporaryDirectory() as folder, reproducible():
                train = replace(job.train, steps=FOREVER, batch=rows)
                function(replace(job, batches=clock, train=train, state=Store(folder).state("probe")))
            return clock

        needs.append(_of_step(job.train.batch, steps, limit_mib, seconds / len(jobs)))
    number, models = jobs[0].train.steps, sum(len(job.models) for job in jobs)
    spent = Spent(sum(need.step.cpu for need in needs), sum(need.step.gpu for need in needs)).times(number)
    flops, mib = number * sum(need.flops for need in needs), max(need.mib for need in needs)
    nets = [net for job in jobs for model in job.models for net in model.method.build(job.data).values()]
    weights = sum(value.nbytes for net in nets for value in net.state_dict().values()) / MIB
    return Cost(spent, max(mib, STATES * weights), weights, flops, float(number * jobs[0].train.batch * models))


def _of_step(batch: int, steps: Try, limit_mib: float, seconds: float) -> Need:
    """First with parts of a batch: what a whole one needs follows from two of them, for all grows in proportion.

    A batch that does not fit, or would take too long, is not tried: its seconds follow from its operations.
    """
    rows = [max(batch // PARTS // WARM, 1) * WARM * part for part in (1, 2)]
    found = [_of_part(steps, part) for part in (rows if rows[1] < batch else [batch])]
    need = found[-1]
    if len(found) == 2:
        more = (batch - rows[1]) / (rows[1] - rows[0])
        flops = need.flops + more * (need.flops - found[0].flops)
        mib = need.mib + more * max(need.mib - found[0].mib, 0.0)
        need = Need(need.step.times(flops / need.flops), flops, mib)
    if need.mib > limit_mib or sum(need.step) * 2 * WARM > LONGEST:
        return need
    peak = Peak()
    with peak.watching():
        step = steps(batch, seconds, inf).step
    return Need(step, need.flops, peak.mib)


def _of_part(steps: Try, rows: int) -> Need:
    peak = Peak()
    with peak.watching():
        clock = steps(rows, inf, WARM)
    with Flops() as flops:
        steps(rows, inf, WARM)
    return Need(clock.step, flops.total / WARM, peak.mib)


def _painting(pieces: Sequence[SamplingTask], seconds: float) -> Cost:
    """A path is drawn besides, and where there are guides what they say along two."""
    artist = guided_sampler(pieces[0].recipe)
    one = first_of(artist.method, artist.nets, artist.sampling, artist.data.classes)
    shown = tile(lambda: list(artist.paint(range(TILE))), one, artist.nets, seconds)
    tiles = sum(-(-piece.seeds.stop // TILE) - piece.seeds.start // TILE for piece in pieces)
    images = sum(len(piece.seeds) for piece in pieces)
    further = (1 if isinstance(artist.method, Diffusion) else 0) + (2 if artist.guides else 0)
    size = int(np.prod(artist.data.shape)) * (1 if len(artist.data.shape) == 3 else 4)
    disk, spent = images * size / MIB, shown.spent.times(tiles + further)
    flops = shown.flops * (tiles + further)
    return Cost(spent, shown.mib + 2 * disk, disk, flops, float(images * shown.calls))
