"""The trials of a sweep as parts of its work, which `trilemma repro` runs beside the stages."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.study import Study
from pipeline.dag.estimates import Estimates
from pipeline.dag.graph import chain, entries
from pipeline.dag.resolve import Cost, Part, identities, planned_calls
from pipeline.store.open import open_store

LEAST_SECONDS = 10.0  # shorter trials share a process, whose start costs one or two


@dataclass
class Group:
    """Trials that one process computes, one after the other."""

    needs: set[Path]  # outs of stages
    after: set[int]  # other groups
    trials: list[int] = field(default_factory=list)
    seconds: float = 0.0
    peak_mib: int = 0


def parts_of(study: Study, sweep: str) -> list[Part]:
    """Without trials that have nothing to compute but what a stage or another trial computes."""
    from pipeline.sweeps.entry import find_sweep  # here: they import methods, and so torch
    from pipeline.sweeps.overrides import evaluated
    from pipeline.sweeps.trials import trials_of

    trials = trials_of(study, find_sweep(study, sweep), f"sweeps.{sweep}")
    chains = [(trial.study, evaluated(trial.study, trial.point.of)) for trial in trials]
    own = [identities(study, chain(study, stage, name)) for stage, names in entries(study).items() for name in names]
    outs = defaultdict[str, set[Path]](set)  # of stages, by result: guides of one run share their fakes
    for names in own:
        for out, result in names.items():
            outs[result].add(out)
    planned, estimates = planned_calls(chains, open_store(study)), Estimates(study)
    groups: list[Group] = []
    maker: dict[str, int] = {}  # by result, the group that computes it
    for number, (changed, calls) in enumerate(chains):
        missing = [name for name in identities(changed, calls).values() if planned[name].manifest is None]
        new = [name for name in missing if name not in outs.keys() | maker.keys()]
        if not new:
            continue
        needs = set[Path]().union(*(outs[name] for name in missing if name in outs))
        after = {maker[name] for name in missing if name in maker}
        last = len(groups) - 1
        is_short = groups and groups[last].seconds < LEAST_SECONDS
        if not is_short or needs != groups[last].needs or not after <= groups[last].after | {last}:
            groups.append(Group(needs, after))
        group, costs = groups[-1], [estimates.of(planned[name].call) for name in new]
        group.trials.append(number)
        group.seconds += sum(cost.seconds for cost in costs)
        group.peak_mib = max(group.peak_mib, *(cost.peak_mib for cost in costs))
        maker |= dict.fromkeys(new, len(groups) - 1)
    labels = [f"{trials[group.trials[0]].id}{' ...' if group.trials[1:] else ''}" for group in groups]
    names = [f"sweep@{sweep}: {label}" for label in labels]
    return [
        Part(
            name,
            f"trilemma sweep {sweep} --trials {','.join(map(str, group.trials))}",
            frozenset(group.needs),
            frozenset(names[other] for other in group.after),
            Cost(group.seconds, group.peak_mib),
        )
        for name, group in zip(names, groups)
    ]
