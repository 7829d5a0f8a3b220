# SPDX-License-Identifier: Apache-2.0
"""Runs the published packages. They are imported from where they are installed; nothing of them is kept here."""
import contextlib
import hashlib
import importlib
import importlib.metadata
import math
import pathlib
import sys
import types

import numpy as np

from cases import KEPT_STEPS, STEPS
from matrices import decode, encode, gradient, initial_weights, metric

PACKAGES = {"base": ("apollo-torch", "galore-torch"), "family": ("galore-torch", "fira", "adam-mini")}
SOURCE_ONLY = ("fira",)  # not on PyPI as a wheel
SINGULAR = ("galore", "galore_adafactor", "fira")  # the projections are singular vectors: the sign is free


def stand_in(name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


def describe(name):
    """What a file says about a package; beside its version, a hash of the sources as RECORD lists them."""
    distribution = importlib.metadata.distribution(name)
    record = distribution.read_text("RECORD")
    digests = sorted(",".join(line.rsplit(",", 2)[:2]) for line in record.splitlines()
                     if line.split(",")[0].endswith(".py"))
    return {"name": name, "version": distribution.version, "source": "PyPI",
            "sha256_of_sources": hashlib.sha256("\n".join(digests).encode()).hexdigest()}


def archive_hashes():
    """The sha256 of each package's archive, as pinned in requirements.txt, under the key that names its kind."""
    hashes = {}
    for line in (pathlib.Path(__file__).parent / "requirements.txt").read_text().splitlines():
        if "--hash=sha256:" in line and not line.startswith("#"):
            name = line.split("==")[0]
            kind = "sha256_of_sdist" if name in SOURCE_ONLY else "sha256_of_wheel"
            hashes[name] = {kind: line.split("--hash=sha256:")[1].strip()}
    return hashes


def reference_packages(chosen):
    """The optimizers of one set of cases. A package's own __init__ may import 8-bit variants that need bitsandbytes: it
    is passed by."""
    import torch

    torch.set_num_threads(1)
    for name in ("transformers", "transformers.utils"):
        stand_in(name, __path__=[])
    stand_in("transformers.utils.versions", require_version=lambda *_: None)
    described = [{"name": "torch", "version": torch.__version__, "source": "Debian python3-torch"},
                 {"name": "numpy", "version": np.__version__, "source": "Debian python3-numpy"}]
    for name in PACKAGES[chosen]:
        described.append(describe(name))
        module = name.replace("-", "_")
        stand_in(module, __path__=[str(importlib.metadata.distribution(name).locate_file(module))])
    return torch, described, {"base": load_base, "family": load_family}[chosen](torch)


def load_base(torch):
    load = importlib.import_module
    return {"torch": torch.optim.AdamW, "apollo": load("apollo_torch.apollo"),
            "apollo_projector": load("apollo_torch.random_projector").GradientProjector,
            "galore": load("galore_torch.adamw"),
            "galore_projector": load("galore_torch.galore_projector").GaLoreProjector}


def load_family(torch):
    load = importlib.import_module
    try:
        load("torch.distributed._tensor")
    except ImportError:  # Adam-mini names it for tensors spread over machines; newer versions of torch have it
        stand_in("torch.distributed._tensor", Replicate=None)
    return {"fira": load("fira.fira_adamw"), "fira_projector": load("fira.gradient_projection").GradientProjector,
            "galore_adafactor": load("galore_torch.adafactor"),
            "galore_projector": load("galore_torch.galore_projector").GaLoreProjector,
            "adam_mini": load("adam_mini.adam_mini").Adam_mini}


def projector_of(modules, algorithm):
    name = {"galore": "galore", "galore_adafactor": "galore", "fira": "fira"}.get(algorithm, "apollo")
    return modules.get(f"{name}_projector")


def limiter_module(modules, algorithm):
    return modules["fira"] if algorithm == "fira" else modules.get("apollo")


def adam_group(case, weights):
    o = case["options"]
    group = {"params": [weights], "lr": o["lr"], "betas": (o["beta1"], o["beta2"]), "eps": o["eps"],
             "weight_decay": o["weight_decay"]}
    if case["rank"]:
        group.update(rank=case["rank"], update_proj_gap=o["update_proj_gap"], proj_type=case["proj_type"])
        group["alpha" if case["algorithm"] == "fira" else "scale"] = o["scale"]
    if case["algorithm"] in ("apollo", "apollo_mini"):
        group.update(proj="random", scale_type="channel" if case["algorithm"] == "apollo" else "tensor")
    return group


def adafactor(modules, case, weights):
    o = case["options"]
    group = {"params": [weights], "rank": case["rank"], "update_proj_gap": o["update_proj_gap"], "scale": o["scale"],
             "proj_type": case["proj_type"]}
    return modules["galore_adafactor"].Adafactor(
        [group], lr=o["lr"], eps=(o["eps1"], 1e-3), clip_threshold=o["clip_threshold"], decay_rate=o["decay_rate"],
        beta1=None, weight_decay=o["weight_decay"], scale_parameter=False, relative_step=False, warmup_init=False)


def adam_mini(modules, case, weights):
    o = case["options"]
    return modules["adam_mini"](
        [(case["parameter"], weights)], lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"],
        weight_decay=o["weight_decay"], verbose=False, **case["package_arguments"])


def optimizer_of(modules, case, weights):
    algorithm = case["algorithm"]
    if algorithm == "galore_adafactor":
        return adafactor(modules, case, weights)
    if algorithm == "adam_mini":
        return adam_mini(modules, case, weights)
    group = adam_group(case, weights)
    if algorithm == "adamw_torch":
        return modules["torch"]([group], foreach=False)
    if algorithm in ("galore", "fira"):
        return modules[algorithm].AdamW([group], no_deprecation_warning=True)
    optimizer = modules["apollo"].AdamW([group])
    optimizer.state[weights]["seed"] = case["seed"]  # else every case would draw from seed 1
    return optimizer


class Observer:
    """Sees the projections that a reference draws and the steps on which its limiter acts."""

    def __init__(self, torch, case, committed):
        self.torch, self.case, self.committed = torch, case, committed
        self.step, self.projections, self.limited, self.worst = 0, [], [], 0.0

    def projection(self, drawn, left):
        """What the reference goes on with: what it has drawn, or in its place what the file has."""
        canonical = (drawn.t() if left else drawn).numpy().astype(np.float64)  # r x S
        if self.committed is not None:
            kept = self.committed["projections"][len(self.projections)]
            wanted = decode(kept["data"], *canonical.shape)
            signs = np.where(np.sum(wanted * canonical, axis=1, keepdims=True) < 0, -1.0, 1.0)
            signs = signs if self.case["algorithm"] in SINGULAR else 1.0
            error = metric(signs * canonical, wanted) if kept["step"] == self.step else math.inf
            self.worst = max(self.worst, error)
            canonical = wanted
            # in place: another order in memory would be another order of summation
            drawn.copy_(self.torch.tensor(wanted.T if left else wanted, dtype=self.torch.float32))
        self.projections.append({"step": self.step, "data": encode(canonical)})
        return drawn

    def maximum(self, *values):
        """The packages compare |U| / nu with gamma by max(): the only place to see it."""
        if len(values) == 2 and values[1] == 1.01 and float(values[0]) > values[1]:
            self.limited.append(self.step)
        return max(*values)

    @contextlib.contextmanager
    def watching(self, projector, limiter):
        original = projector and projector.get_orthogonal_matrix

        def wrapped(target, *args, **kwargs):
            return self.projection(original(target, *args, **kwargs), kwargs["type"] == "left")

        try:
            if projector:
                projector.get_orthogonal_matrix = wrapped
            if limiter:
                limiter.max = self.maximum
            yield
        finally:
            if projector:
                projector.get_orthogonal_matrix = original
            if limiter:
                del limiter.max


def run_case(torch, modules, case, committed=None):
    """The case with what the reference did. With `committed`, its projections replace the ones just drawn (whose
    distance is returned): a singular vector's sign depends on the LAPACK that found it, and the weights on the sign."""
    weights = torch.nn.Parameter(torch.tensor(initial_weights(case), dtype=torch.float32))
    optimizer = optimizer_of(modules, case, weights)
    observer, kept, algorithm = Observer(torch, case, committed), [], case["algorithm"]
    with observer.watching(projector_of(modules, algorithm), limiter_module(modules, algorithm)):
        for step in range(1, STEPS + 1):
            observer.step = step
            weights.grad = torch.tensor(gradient(case, step), dtype=torch.float32)
            optimizer.step()
            if step in KEPT_STEPS:
                kept.append({"step": step, "data": encode(weights.detach().numpy())})
    return {**case, "limiter_active_steps": len(observer.limited), "limiter_steps": observer.limited,
            "projections": observer.projections, "weights": kept}, observer.worst
