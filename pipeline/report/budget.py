"""What a run and a sweep took in all, from the store's ledger: the analogue of discriminator guidance's budget table
(Kim et al. 2023, table 6). Evaluations are images through networks: steps times
batch in training, counted calls in sampling.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

from pipeline.config.study import Study
from pipeline.dag.graph import chain
from pipeline.dag.resolve import Planned, planned_calls
from pipeline.stages.pretrain import Train
from pipeline.store.open import open_store
from pipeline.store.store import Store
from pipeline.sweeps.entry import find_sweep
from pipeline.sweeps.trials import plan, trials_of
from pipeline.tables.markdown import markdown_table
from pipeline.training.early_stopping import GuideTrain

PARTS = {  # of a budget: the stages each is made of
    "generator": ("pretrain",),
    "fakes": ("generate",),
    "guides": ("classify", "discriminate"),
    "samples": ("sample",),
    "data and metrics": ("prepare", "features", "evaluate"),
}


class Account(NamedTuple):
    evaluations: float = 0.0
    seconds: float = 0.0
    images: int = 0  # sampled

    def plus(self, other: "Account") -> "Account":
        return Account(self.evaluations + other.evaluations, self.seconds + other.seconds, self.images + other.images)

    def __str__(self) -> str:
        return f"{self.evaluations:.3g} ({self.seconds:.0f} s)" if self.evaluations else f"{self.seconds:.0f} s"


def budget_section(study: Study) -> str:
    """Markdown: a row per run and guided entry, and one per sweep of params.yaml."""
    store = open_store(study)
    entries = [[name, *_entry(study, name, store)] for name in [*study.runs, *study.guided]]
    about = (
        "Evaluations (images through networks: steps times batch in training, counted in sampling, guides' calls too) "
        "and seconds. What entries share is in the row of each."
    )
    parts = ["## Budgets", about, markdown_table(["entry", *PARTS, "together", "images"], entries)]
    if study.sweeps:
        header = ["sweep", "trials", "stages asked for", "alone each would take", "stages", "they took together"]
        parts.append(markdown_table(header, [[name, *_sweep(study, name, store)] for name in study.sweeps]))
    return "\n\n".join(parts) + "\n"


def _entry(study: Study, name: str, store: Store) -> Iterator[str | int]:
    calls = list(planned_calls([(study, chain(study, "evaluate", name))], store).values())
    for stages in PARTS.values():
        chosen = [found for found in calls if found.call.stage in stages]
        yield str(_together(chosen, store)) if chosen else ""
    whole = _together(calls, store)
    yield from (str(whole), whole.images)


def _sweep(study: Study, name: str, store: Store) -> Iterator[str | int]:
    trials = trials_of(study, find_sweep(study, name, None, None, None), f"sweeps.{name}")
    alone = [found for trial in trials for found in plan([trial], store).values()]
    shared = plan(trials, store).values()
    yield from (len(trials), len(alone), str(_together(alone, store)), len(shared), str(_together(shared, store)))


def _together(calls: Iterable[Planned], store: Store) -> Account:
    return reduce(Account.plus, (_account(found, store) for found in calls), Account())


def _account(found: Planned, store: Store) -> Account:
    if found.key is None or found.manifest is None:
        return Account()
    computed = [note["seconds"] for note in store.notes(found.key) if note["event"] == "computed"]
    seconds, facts, stage = (computed or [0.0])[-1], found.manifest.facts, found.call.stage
    if stage in ("generate", "sample"):
        calls = facts["images"] * (facts["nfe"] + facts["guide_calls"])
        return Account(calls, seconds, facts["images"])
    if stage in ("pretrain", "classify", "discriminate"):
        usual = Train().batch if stage == "pretrain" else GuideTrain().batch
        return Account(facts["steps"] * found.call.config["train"].get("batch", usual), seconds)
    return Account(0.0, seconds)
