# SPDX-License-Identifier: Apache-2.0
"""The small problems: `base` is kept in reference.json, `family` in reference_family.json."""
import numpy as np

STEPS = 50
KEPT_STEPS = (1, 10, 25, 50)
GAP = 20
LR, DECAY = 2.0**-7, 2.0**-3  # 1 - LR * DECAY is exact in float32, so no rounding of it piles up over the steps
SHAPES = {"tall": (37, 23), "wide": (21, 34), "square": (20, 20)}
LIMITED = ("apollo", "apollo_mini", "fira")  # the algorithms with a norm-growth limiter
SCALES = {"apollo": 1.0, "apollo_mini": 128.0, "galore": 0.25, "fira": 1.0, "galore_adafactor": 0.25}


def exact(value):
    """Options go to the reference as the value that a C++ float holds."""
    return float(np.float32(value))


def removed_side(proj_type, rows, cols):
    """Which side the projection removes, by the canonical orientation."""
    if proj_type == "right":
        return "columns"
    if proj_type == "left":
        return "rows"
    shorter = "columns" if rows >= cols else "rows"
    if proj_type == "std":
        return shorter
    return "rows" if shorter == "columns" else "columns"


def exponents(base):
    """Powers of two of the gradient at each step: up by 8 at 20, down by 128 at 32, up by 16 at 44."""
    return [base + (0 if t < 20 else 3 if t < 32 else -4 if t < 44 else 0) for t in range(1, STEPS + 1)]


def options_of(algorithm, rank, lr, weight_decay, other):
    if algorithm == "galore_adafactor":
        options = {"lr": lr, "decay_rate": -0.8, "eps1": 1e-30, "clip_threshold": 1.0, "weight_decay": weight_decay}
    else:
        eps = 1e-8 if algorithm in ("adamw_torch", "adam_mini") else 1e-6
        options = {"lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": eps, "weight_decay": weight_decay}
    options.update(other)
    if rank:
        options["update_proj_gap"] = GAP
        options.setdefault("scale", SCALES[algorithm])
    if algorithm in LIMITED:
        options["limiter_gamma"] = 1.01
        options["limiter_floor"] = 0.0
    return {k: exact(v) if isinstance(v, float) else v for k, v in options.items()}


class Cases(list):
    """Collects cases; seeds count up from the first."""

    def __init__(self, first_seed):
        super().__init__()
        self.first_seed = first_seed

    def add(self, algorithm, shape, *, rank=0, proj_type="", weight_decay=0.0, base=0, zero_step=0, lr=LR, note="",
            keys=None, **other):
        rows, cols = SHAPES[shape]
        name = "-".join(str(x) for x in (
            algorithm, shape, f"r{rank}" if rank else "", proj_type, "decay" if weight_decay else "",
            f"g2^{base}" if base else "", f"zero{zero_step}" if zero_step else "", note) if x != "")
        self.append({
            "name": name, "algorithm": algorithm, "rows": rows, "cols": cols, "rank": rank, "proj_type": proj_type,
            "removed": removed_side(proj_type, rows, cols) if rank else "", "layouts": ["row_major", "column_major"],
            "options": options_of(algorithm, rank, lr, weight_decay, other), "steps": STEPS, "zero_step": zero_step,
            "seed": self.first_seed + len(self), "gradient_exponents": exponents(base), **(keys or {})})


def base_cases():
    cases = Cases(7000)
    add = cases.add
    for shape in SHAPES:
        quarter = min(SHAPES[shape]) // 4
        add("adamw_torch", shape)
        add("adamw_torch", shape, weight_decay=DECAY, base=-18, zero_step=37)
        add("adamw_huggingface", shape)
        add("adamw_huggingface", shape, weight_decay=DECAY, base=-12, zero_step=37)
        # rank 4 and a quarter of the side; the zero step is late because the reference hardly moves after one
        add("apollo", shape, rank=4, proj_type="std")
        add("apollo", shape, rank=4, proj_type="std", weight_decay=DECAY, base=-12)
        add("apollo", shape, rank=quarter, proj_type="std", weight_decay=DECAY, zero_step=35)
        # the explicit side on which the reference's channel axis is right
        add("apollo", shape, rank=quarter, proj_type="left" if shape == "wide" else "right", base=-12,
            scale=0.25, note="scale0.25")
        add("apollo_mini", shape, rank=1, proj_type="std")
        add("apollo_mini", shape, rank=1, proj_type="std", weight_decay=DECAY, base=-12, zero_step=35)
        add("apollo_mini", shape, rank=1, proj_type="reverse_std", weight_decay=DECAY, base=-6)
        add("apollo_mini", shape, rank=1, proj_type="right" if shape == "wide" else "left")
        add("galore", shape, rank=4, proj_type="std")
        add("galore", shape, rank=quarter, proj_type="std", weight_decay=DECAY, base=-12, zero_step=37)
        add("galore", shape, rank=quarter, proj_type="reverse_std", base=-12)
        add("galore", shape, rank=4, proj_type="right" if shape == "wide" else "left", weight_decay=DECAY)
    # other decay rates, and a first gradient of zero
    add("adamw_torch", "tall", beta1=0.8, beta2=0.95, weight_decay=DECAY, note="betas")
    add("apollo", "wide", rank=4, proj_type="std", beta1=0.8, beta2=0.95, weight_decay=DECAY, note="betas")
    add("galore", "tall", rank=4, proj_type="std", beta1=0.8, beta2=0.95, weight_decay=DECAY, note="betas")
    add("apollo", "square", rank=4, proj_type="std", weight_decay=DECAY, zero_step=1)
    return list(cases)


def fira_cases(add):
    for shape in SHAPES:
        add("fira", shape, rank=4, proj_type="std")
        add("fira", shape, rank=8, proj_type="std", weight_decay=DECAY, base=-12, zero_step=35, scale=0.25,
            note="scale0.25")
    add("fira", "tall", rank=4, proj_type="left", weight_decay=DECAY, base=-12)
    add("fira", "wide", rank=8, proj_type="right", scale=0.25, note="scale0.25")
    add("fira", "square", rank=4, proj_type="reverse_std", base=-12)
    add("fira", "tall", rank=8, proj_type="reverse_std", scale=0.25, beta1=0.8, beta2=0.95, weight_decay=DECAY,
        note="scale0.25-betas")


def adafactor_cases(add):
    for shape in SHAPES:
        add("galore_adafactor", shape, rank=4, proj_type="std", scale=1.0, note="scale1")
        add("galore_adafactor", shape, rank=8, proj_type="std", weight_decay=DECAY, base=-12, zero_step=37)
    # gradients so small that eps1, which is added to their squares, shows
    add("galore_adafactor", "tall", rank=4, proj_type="reverse_std", weight_decay=DECAY, base=-46)
    add("galore_adafactor", "wide", rank=8, proj_type="right", base=-46)


def adam_mini_cases(add):
    def keys(shape, rows_per_block, parameter, **arguments):
        return {"blocks": {"rows_per_block": rows_per_block or SHAPES[shape][0]}, "parameter": parameter,
                "package_arguments": arguments}

    for shape, name in (("tall", "embed_tokens"), ("wide", "layers.0.mlp.up_proj"), ("square", "layers.0.attn.wv")):
        add("adam_mini", shape, weight_decay=DECAY, base=-18, zero_step=37, note="rows",
            keys=keys(shape, 1, f"{name}.weight"))
    # the package's block is dim * dim / n_heads elements, whatever the shape of the tensor
    add("adam_mini", "square", weight_decay=DECAY, note="heads5",
        keys=keys("square", 5, "layers.0.attn.q_proj.weight", dim=20, n_heads=4))
    add("adam_mini", "wide", base=-18, note="heads3",
        keys=keys("wide", 3, "layers.0.attn.k_proj.weight", dim=102, n_heads=102))
    add("adam_mini", "wide", beta1=0.8, beta2=0.95, weight_decay=DECAY, zero_step=1, note="heads7-betas",
        keys=keys("wide", 7, "layers.0.attn.wk.weight", dim=238, n_heads=238))
    for shape in SHAPES:
        small = shape == "square"
        add("adam_mini", shape, weight_decay=0.0 if small else DECAY, base=-18 if small else 0, note="whole",
            keys=keys(shape, None, "router.weight"))


def family_cases():
    cases = Cases(7100)
    for collect in (fira_cases, adafactor_cases, adam_mini_cases):
        collect(cases.add)
    return list(cases)


SETS = {"base": base_cases, "family": family_cases}
