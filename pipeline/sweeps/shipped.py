"""The sweeps that come with trilemma: an entry of that name under `sweeps:` says what is swept, and what differs.

Sources: SIDDM (Xu et al. 2023, arXiv:2306.12511), DG (Kim et al. 2022, arXiv:2211.17091), ADM (Dhariwal and Nichol
2021, arXiv:2105.05233), TDPM (Zheng et al. 2022, arXiv:2202.09671).
"""

from math import inf
from typing import Any

AFD_WEIGHTS = [0, 0.1, 0.5, 1, 5, inf]
CONSTANT = {"model.afd_weight_last": None, "model.afd_anneal": None}
AFD_FID = {1.0: [77.15, 3.32, 2.63, 2.24, 2.55, 41.27], None: [51.67, 4.64, 4.79, 3.2, 2.95, 51.55]}
STEPS_FID = {1: 27.39, 2: 3.17, 4: 2.24, 8: 2.31, 16: 2.15, 32: 2.46}
DENSITY_RATIO_FID = {"bce": 1.77, "lsif": 1.84, "ukl": 1.84}
TRUNCATION_FID = {999: 3.07, 99: 3.1, 49: 3.3, 3: 3.41, 0: 8.91}
ADM_BASE = {
    "model.channel_mult": [2, 2], "model.depth": 1, "model.attention": [4], "model.heads": 1, "model.head_width": None,
    "model.block_resampling": False, "model.rescale_residuals": False,
}  # fmt: skip
ADM_ARMS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "depth": {"model.channel_mult": [1, 2], "model.depth": 2},  # narrower, for as many parameters within 1 per cent
    "heads": {"model.heads": 4},
    "attention": {"model.attention": [8, 4]},
    "resampling": {"model.block_resampling": True},
    "rescaled": {"model.rescale_residuals": True},
    "all": {"model.heads": 4, "model.attention": [8, 4], "model.block_resampling": True},
}
ARCHITECTURE_FID = {  # after 700,000 steps
    "baseline": 15.33, "depth": 15.12, "heads": 14.79, "attention": 14.61, "resampling": 14.13, "rescaled": 15.49,
    "all": 12.19,
}  # fmt: skip

SHIPPED: dict[str, dict[str, Any]] = {
    "afd-weight": {
        "table": "siddm-table-5",
        "method": "siddm.SIDDM",
        "field": "model.afd_weight",
        "values": AFD_WEIGHTS,
        "changes": {f"{weight:g}": {"model.afd_weight": weight, **CONSTANT} for weight in AFD_WEIGHTS}
        | {"inf": {"model.afd_weight": 1.0, "model.adversarial_weight": 0.0, **CONSTANT}},  # the game's part vanishes
        "also": {"model.clean_weight": list(AFD_FID)},  # the regulariser of the discriminator, on and off
        "paper": {
            "source": "SIDDM, Table 5",
            "metric": "FID",
            "rows": [[weight, reg, fid] for reg, row in AFD_FID.items() for weight, fid in zip(AFD_WEIGHTS, row)],
        },
    },
    "steps": {
        "table": "siddm-table-6",
        "method": "siddm.SIDDM",
        "field": "model.steps",
        "values": list(STEPS_FID),
        "paper": {"source": "SIDDM, Table 6", "metric": "FID", "rows": [list(row) for row in STEPS_FID.items()]},
    },
    "nfe": {"table": "nfe", "field": "sample.steps", "values": [4, 6, 9, 18, 36], "seeds": 5},
    "cg-scale": {"table": "cg-scale", "field": "guides.0.scale", "values": [0, 0.5, 1, 2, 5, 10], "seeds": 5},
    "dg-weight": {
        "table": "dg-weight",
        "field": "guides.0.weight",
        "values": [0, 0.5, 1, 2, 4],
        "seeds": 5,
        "paper": {"source": "DG, CIFAR-10 main table", "metric": "FID", "rows": [[0, 2.03], [2, 1.77]]},
    },
    "dg-orders": {
        "table": "dg-orders",
        "field": "guides.0.weight",
        "values": [0, 1, 2, 3],
        "also": {"guides.0.second_weight": [0, 1, 2, 3]},
    },
    "cg-dg": {
        "table": "cg-dg",
        "field": "guides.0.scale",
        "values": [0, 0.5, 1, 2],
        "also": {"guides.1.weight": [0, 0.5, 1, 2]},
    },
    "guidance-scale": {"table": "guidance-scale", "field": "guidance", "values": [0, 0.5, 1, 2, 4], "seeds": 5},
    "truncation": {
        "table": "tdpm-truncation",
        "method": "tdpm.TDPM",
        "field": "model.kept",
        "values": list(TRUNCATION_FID),
        "paper": {
            "source": "TDPM, efficiency table of its repository",
            "metric": "FID",
            "rows": [list(row) for row in TRUNCATION_FID.items()],
        },
    },
    "fakes": {"table": "dg-fakes", "field": "dataset.fakes", "values": [256, 512, 1024, 2560]},
    "dg-epochs": {  # one check, at the end: the last weights are kept, over-fitted or not
        "table": "dg-epochs",
        "field": "guide_steps",
        "changes": {"0": {"guides.0.weight": 0}}
        | {
            str(steps): {"guides.0.train.steps": steps, "guides.0.train.check_every": steps}
            for steps in (100, 250, 500, 1000, 2000, 4000)
        },
    },
    "density-ratio": {
        "table": "density-ratio",
        "field": "guides.0.model.density_ratio",
        "values": list(DENSITY_RATIO_FID),
        "paper": {
            "source": "DG, Bregman table",
            "metric": "FID",
            "rows": [list(row) for row in DENSITY_RATIO_FID.items()],
        },
    },
    "modes": {"table": "modes", "field": "dataset.options.side", "values": [5, 10, 20]},
    "architecture": {
        "table": "architecture",
        "method": "iddpm.IDDPM",
        "field": "arm",
        "changes": {arm: ADM_BASE | changes for arm, changes in ADM_ARMS.items()},
        "paper": {"source": "ADM, Table 1", "metric": "FID", "rows": [list(row) for row in ARCHITECTURE_FID.items()]},
    },
    "dg-arms": {
        "table": "dg-arms",
        "field": "arm",
        "changes": {
            "as it is": {},
            "from scratch": {"guides.0.trunk": None},
            "cosine clock": {"guides.0.model.clock": "cosine"},
            "other times": {"guides.0.model.time_min": 0.01},
            "t_min 0.001": {"guides.0.time_min": 0.001},
            "more score training": {"guides": [], "run.train.steps": 2600},  # as long as fakes and guide would take
        },
    },
}
