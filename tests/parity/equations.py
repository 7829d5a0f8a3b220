# SPDX-License-Identifier: Apache-2.0
"""The equations in double precision, and wrong ones that the files must notice."""
import math

import numpy as np

from cases import KEPT_STEPS
from matrices import decode, gradient, initial_weights, metric

SMALL = 1e-8  # the references' guard in their norm quotients
DECAY_FIRST = ("adamw_torch", "adam_mini", "galore_adafactor")
EPS_AFTER_CORRECTION = ("adamw_torch", "adam_mini")  # eps is added to sqrt(vhat), elsewhere to sqrt(v)

FAULTS = {
    "base": (
        "no bias correction", "bias correction before the limiter", "scale without its root", "root of alpha",
        "eps inside the root", "eps of the other order", "decay at the other end", "no limiter", "limiter floor 0.5",
        "zero update leaves nu alone", "a previous norm of zero is none", "stale projection",
        "moments reset at refresh", "no 1e-8 in the channel quotient", "channels on the other axis",
        "gradient of the step before"),
    "family": (
        "no bias correction", "bias correction before the limiter", "eps inside the root", "eps of the other order",
        "decay at the other end", "no limiter", "limiter floor 0.5", "zero update leaves nu alone",
        "a previous norm of zero is none", "stale projection", "moments reset at refresh",
        "no 1e-8 in the channel quotient", "channels on the other axis", "gradient of the step before",
        # Fira
        "residual as in the paper", "residual times alpha", "limiter on the whole update", "limiter on the lifted part",
        "nu is the norm before the limiter", "one scale for the tensor", "no residual",
        # Adafactor and Adam-mini
        "V per element", "no clipping", "clipping after the scale", "clipping of the lifted update",
        "beta2 of the step before", "beta2 fixed", "no eps1", "factors not divided by their mean",
        "V of the whole tensor", "V per row", "sum of squares", "square of the mean")}


class State:
    """What the optimizer of one tensor remembers, in the canonical orientation: the removed side is the columns."""

    def __init__(self, case, fault):
        self.case, self.options, self.algorithm, self.fault = case, case["options"], case["algorithm"], fault
        self.transpose = case["removed"] == "rows"
        self.kept, self.removed = case["rows"], case["cols"]
        if self.transpose:
            self.kept, self.removed = self.removed, self.kept
        self.projections = {p["step"]: decode(p["data"], case["rank"], self.removed) for p in case["projections"]}
        self.p = np.eye(self.removed)
        self.t, self.nu, self.limited = 0, None, []
        self.forget()

    def forget(self):
        self.m = self.v = self.v_row = self.v_col = 0.0

    def is_fault(self, name):
        return self.fault == name

    def gradient(self):
        x = gradient(self.case, max(1, self.t - 1) if self.is_fault("gradient of the step before") else self.t)
        return x.T if self.transpose else x

    def refresh(self):
        if not self.case["rank"] or (self.t - 1) % self.options["update_proj_gap"] != 0:
            return
        if self.is_fault("stale projection") and self.t > 1:
            return
        self.p = self.projections[self.t]
        if self.is_fault("moments reset at refresh"):
            self.forget()

    def normalized(self, r, squares):
        """Adam's moments of r; N = m / (sqrt(v) + eps) and, apart from it, the step's bias correction."""
        o, t = self.options, self.t
        self.m = o["beta1"] * self.m + (1 - o["beta1"]) * r
        self.v = o["beta2"] * self.v + (1 - o["beta2"]) * squares
        root = math.sqrt(1 - o["beta2"] ** t)
        corrected = (self.algorithm in EPS_AFTER_CORRECTION) != self.is_fault("eps of the other order")
        eps = o["eps"] * root if corrected else o["eps"]
        n = self.m / (np.sqrt(self.v + eps**2) if self.is_fault("eps inside the root") else np.sqrt(self.v) + eps)
        return n, 1.0 if self.is_fault("no bias correction") else root / (1 - o["beta1"] ** t)

    def channel_scales(self, n, r):
        """|N| / |R| of each row of the kept side, over the r directions."""
        guard = 0.0 if self.is_fault("no 1e-8 in the channel quotient") else SMALL
        s = np.linalg.norm(n, axis=1) / np.maximum(np.linalg.norm(r, axis=1) + guard, 1e-300)
        other_axis = self.is_fault("channels on the other axis") and self.kept == self.removed
        return s[None, :] if other_axis else s[:, None]

    def tensor_scale(self, n, r):
        guard = 0.0 if self.is_fault("no 1e-8 in the channel quotient") else SMALL
        return np.linalg.norm(n) / max(np.linalg.norm(r) + guard, 1e-300)

    def limit(self, u):
        """u, shortened where its norm exceeds gamma times the last one's. The first has none to exceed."""
        if self.is_fault("no limiter"):
            return u
        gamma, norm = self.options["limiter_gamma"], float(np.linalg.norm(u))
        passed_by = norm == 0 and self.is_fault("zero update leaves nu alone")
        if self.nu == 0 and self.is_fault("a previous norm of zero is none"):
            self.nu = None
        if self.nu is not None and not passed_by:
            ratio = norm / (self.nu + SMALL)
            if ratio > gamma:
                self.limited.append(self.t)
            divisor = max(ratio, gamma) / gamma
            u = u / divisor
            if not self.is_fault("nu is the norm before the limiter"):
                norm /= divisor
            norm = max(norm, (0.5 if self.is_fault("limiter floor 0.5") else self.options["limiter_floor"]) * self.nu)
        if not passed_by:
            self.nu = norm
        return u


def adamw(state, x):
    n, c = state.normalized(x, x * x)
    return c * n


def galore(state, x):
    r = x @ state.p.T
    n, c = state.normalized(r, r * r)
    scale = state.options["scale"]
    return c * (math.sqrt(scale) if state.is_fault("root of alpha") else scale) * (n @ state.p)


def apollo(state, x):
    r = x @ state.p.T
    n, c = state.normalized(r, r * r)
    u = x * (state.channel_scales(n, r) if state.algorithm == "apollo" else state.tensor_scale(n, r))
    if state.is_fault("bias correction before the limiter"):
        u, c = u * c, 1.0
    scale = state.options["scale"]
    return c * (scale if state.is_fault("scale without its root") else math.sqrt(scale)) * state.limit(u)


def fira(state, x):
    """U = c (alpha lift(N) + limit(s (G - alpha lift(R)))): alpha is on both lifted terms, and not on the residual."""
    alpha, r = state.options["scale"], x @ state.p.T
    n, c = state.normalized(r, r * r)
    lifted = alpha * (n @ state.p)
    scales = state.tensor_scale(n, r) if state.is_fault("one scale for the tensor") else state.channel_scales(n, r)
    inside = 1.0 if state.is_fault("residual as in the paper") else alpha
    rest = scales * (x - inside * (r @ state.p))
    if state.is_fault("residual times alpha"):
        rest = alpha * rest
    if state.is_fault("limiter on the whole update"):
        return c * state.limit(lifted + rest)
    if state.is_fault("limiter on the lifted part"):
        return c * (state.limit(lifted) + rest)
    if state.is_fault("no residual"):
        return c * lifted
    if state.is_fault("bias correction before the limiter"):
        return c * lifted + state.limit(c * rest)
    return c * (lifted + state.limit(rest))


def root_mean_square(x):
    return math.sqrt(float(np.mean(x * x)))


def adafactor_beta2(state):
    """1 - t^-0.8: the first step keeps nothing of the zeros before it, and no bias correction is needed."""
    if state.is_fault("beta2 fixed"):
        return 0.999
    step = max(1, state.t - 1) if state.is_fault("beta2 of the step before") else state.t
    return 1.0 - step ** state.options["decay_rate"]


def adafactor_direction(state, r):
    """R / sqrt(V), where V_ij = row_i col_j / mean(row)."""
    squares = r * r + (0.0 if state.is_fault("no eps1") else state.options["eps1"])
    beta2 = adafactor_beta2(state)
    state.v_row = beta2 * state.v_row + (1 - beta2) * squares.mean(axis=1)
    state.v_col = beta2 * state.v_col + (1 - beta2) * squares.mean(axis=0)
    state.v = beta2 * state.v + (1 - beta2) * squares
    if state.is_fault("V per element"):
        return r / np.sqrt(state.v)
    mean = 1.0 if state.is_fault("factors not divided by their mean") else state.v_row.mean()
    return r / np.sqrt(np.outer(state.v_row, state.v_col) / mean)


def galore_adafactor(state, x):
    """U = alpha lift(D / max(1, rms(D) / d))."""
    scale, threshold = state.options["scale"], state.options["clip_threshold"]
    d = adafactor_direction(state, x @ state.p.T)
    if state.is_fault("no clipping"):
        threshold = math.inf
    lifted = scale * (d @ state.p)
    clipped = {"clipping of the lifted update": lifted, "clipping after the scale": scale * d}.get(state.fault, d)
    return lifted / max(1.0, root_mean_square(clipped) / threshold)


def block_squares(state, x):
    """Each element's block mean of g^2. A block is a number of whole rows."""
    per_block = state.case["blocks"]["rows_per_block"]
    if state.is_fault("V per element"):
        return x * x
    per_block = {"V of the whole tensor": x.shape[0], "V per row": 1}.get(state.fault, per_block)
    blocks = x.reshape(x.shape[0] // per_block, -1)
    if state.is_fault("sum of squares"):
        values = np.sum(blocks * blocks, axis=1)
    elif state.is_fault("square of the mean"):
        values = np.mean(blocks, axis=1) ** 2
    else:
        values = np.mean(blocks * blocks, axis=1)
    return np.repeat(values, per_block)[:, None]


def adam_mini(state, x):
    n, c = state.normalized(x, block_squares(state, x))
    return c * n


RULES = {"adamw_torch": adamw, "adamw_huggingface": adamw, "apollo": apollo, "apollo_mini": apollo, "galore": galore,
         "fira": fira, "galore_adafactor": galore_adafactor, "adam_mini": adam_mini}


def simulate(case, fault=""):
    """Weights at the kept steps and the steps on which the limiter acted, by the equations, in double."""
    state, out = State(case, fault), {}
    w = initial_weights(case)
    lr, decay = case["options"]["lr"], case["options"]["weight_decay"]
    decay_first = (case["algorithm"] in DECAY_FIRST) != (fault == "decay at the other end")
    for t in range(1, case["steps"] + 1):
        state.t = t
        state.refresh()
        u = RULES[case["algorithm"]](state, state.gradient())
        if decay_first:
            w = w * (1 - lr * decay)
        w = w - lr * (u.T if state.transpose else u)
        if not decay_first:
            w = w * (1 - lr * decay)
        if t in KEPT_STEPS:
            out[t] = w.copy()
    return out, state.limited


def largest_error(case, fault=""):
    with np.errstate(all="ignore"):
        out, limited = simulate(case, fault)
    errors = [metric(out[k["step"]], decode(k["data"], case["rows"], case["cols"])) for k in case["weights"]]
    return (math.inf if any(math.isnan(e) for e in errors) else max(errors)), limited


def verify_projections(case):
    """Singular vectors: rows orthonormal and, up to sign, the leading ones. Random: the pooled samples, times sqrt(r).
    Returns (error, pooled samples)."""
    error, samples = 0.0, []
    transpose, rank = case["removed"] == "rows", case["rank"]
    removed = case["rows"] if transpose else case["cols"]
    for kept in case["projections"]:
        p = decode(kept["data"], rank, removed)
        if case["algorithm"] in ("apollo", "apollo_mini"):
            samples.append(p.ravel() * math.sqrt(rank))
            continue
        x = gradient(case, kept["step"])
        v = np.linalg.svd(x.T if transpose else x)[2][:rank]
        error = max(error, float(np.max(np.abs(p @ p.T - np.eye(rank)))),
                    float(np.max(np.abs(p - v * np.sign(np.sum(p * v, axis=1, keepdims=True))))))
    return error, samples
