#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the reference optimizers on small matrices and keeps the weights they reach, for the C++ parity test.

  generate.py --output FILE   run the reference packages and write FILE
  generate.py --check FILE    run them again and compare with FILE
  generate.py --verify FILE   recompute FILE in double precision from the published equations (no torch needed)
  generate.py --faults FILE   show that FILE notices each of a list of wrong equations

README.md describes the file and the formulas.
"""
import argparse
import base64
import hashlib
import json
import math
import sys
import time

import numpy as np

STEPS = 50
KEPT_STEPS = (1, 10, 25, 50)
GAP = 20
LR, DECAY = 2.0**-7, 2.0**-3  # 1 - LR * DECAY is exact in float32, so no rounding of it piles up over the steps
SHAPES = {"tall": (37, 23), "wide": (21, 34), "square": (20, 20)}
CHECK_TOLERANCE = 1e-6  # weights, regenerated against the file
PROJECTION_TOLERANCE = 1e-4  # projections, regenerated against the file, up to the sign of each direction
# Double precision against the references' float32: 100 roundings of a weight (50 steps, with decay) wander to about 1e-6.
VERIFY_TOLERANCE = 2e-6
FAULT_THRESHOLD = 1e-5
SMALL = 1e-8  # the reference's guard in its norm quotients


# Numbers that C++ repeats bit by bit ----------------------------------------------------------------------------------

def splitmix64(x):
    """The output of splitmix64 whose state before the call was x (an array of uint64)."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform_matrix(seed, step, rows, cols):
    """rows x cols values in [-1, 1), multiples of 2^-23 and therefore exact in float32."""
    key = splitmix64(splitmix64(np.array([seed], np.uint64)) + np.uint64(step))
    bits = splitmix64(key + np.arange(rows * cols, dtype=np.uint64)) >> np.uint64(40)
    return (bits.astype(np.float64) * 2.0**-23 - 1.0).reshape(rows, cols)


def initial_weights(case):
    return uniform_matrix(case["seed"], 0, case["rows"], case["cols"])


def gradient(case, step):
    if step == case["zero_step"]:
        return np.zeros((case["rows"], case["cols"]))
    return uniform_matrix(case["seed"], step, case["rows"], case["cols"]) * 2.0 ** case["gradient_exponents"][step - 1]


def encode(matrix):
    return base64.b64encode(np.ascontiguousarray(matrix, "<f4").tobytes()).decode("ascii")


def decode(text, rows, cols):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(rows, cols).astype(np.float64)


def metric(x, y):
    """The largest |x - y| / max(|y|, rms(y)); NaN when either side has one, so that no comparison passes."""
    rms = math.sqrt(float(np.mean(np.square(y))))
    return float(np.max(np.abs(x - y) / np.maximum(np.abs(y), rms)))


# The cases ------------------------------------------------------------------------------------------------------------

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


def make_cases():
    cases = []

    def add(algorithm, shape, *, rank=0, proj_type="", weight_decay=0.0, base=0, zero_step=0, lr=LR, note="", **other):
        rows, cols = SHAPES[shape]
        options = {"lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8 if algorithm == "adamw_torch" else 1e-6,
                   "weight_decay": weight_decay, **other}
        if rank:
            options["update_proj_gap"] = GAP
            options.setdefault("scale", {"apollo": 1.0, "apollo_mini": 128.0, "galore": 0.25}[algorithm])
        if algorithm in ("apollo", "apollo_mini"):
            options["limiter_gamma"] = 1.01
            options["limiter_floor"] = 0.0
        options = {k: exact(v) if isinstance(v, float) else v for k, v in options.items()}
        name = "-".join(str(x) for x in (
            algorithm, shape, f"r{rank}" if rank else "", proj_type, "decay" if weight_decay else "",
            f"g2^{base}" if base else "", f"zero{zero_step}" if zero_step else "", note) if x != "")
        case = {"name": name, "algorithm": algorithm, "rows": rows, "cols": cols, "rank": rank, "proj_type": proj_type,
                "removed": removed_side(proj_type, rows, cols) if rank else "",
                "layouts": ["row_major", "column_major"], "options": options, "steps": STEPS, "zero_step": zero_step,
                "seed": 7000 + len(cases), "gradient_exponents": exponents(base)}
        cases.append(case)

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
    return cases


# Running the references -----------------------------------------------------------------------------------------------

def reference_packages():
    """The three optimizers. The packages' own __init__ imports 8-bit variants that need bitsandbytes; it is passed by."""
    import importlib
    import importlib.metadata
    import types

    import torch

    torch.set_num_threads(1)

    def package(name, path):
        module = types.ModuleType(name)
        module.__path__ = path
        sys.modules[name] = module
        return module

    for name in ("transformers", "transformers.utils"):
        package(name, [])
    versions = types.ModuleType("transformers.utils.versions")
    versions.require_version = lambda *_: None
    sys.modules[versions.__name__] = versions

    described = [{"name": "torch", "version": torch.__version__, "source": "Debian python3-torch"},
                 {"name": "numpy", "version": np.__version__, "source": "Debian python3-numpy"}]
    for name in ("apollo-torch", "galore-torch"):
        distribution = importlib.metadata.distribution(name)
        record = distribution.read_text("RECORD")
        digests = sorted(",".join(line.rsplit(",", 2)[:2]) for line in record.splitlines()
                         if line.split(",")[0].endswith(".py"))
        described.append({"name": name, "version": distribution.version, "source": "PyPI",
                          "sha256_of_sources": hashlib.sha256("\n".join(digests).encode()).hexdigest()})
        package(name.replace("-", "_"), [str(distribution.locate_file(name.replace("-", "_")))])
    load = importlib.import_module
    return torch, described, {
        "torch": torch.optim.AdamW,
        "apollo": load("apollo_torch.apollo"), "apollo_projector": load("apollo_torch.random_projector").GradientProjector,
        "galore": load("galore_torch.adamw"), "galore_projector": load("galore_torch.galore_projector").GaLoreProjector}


def wheel_hashes():
    """The sha256 of each wheel, as pinned in requirements.txt."""
    import pathlib
    hashes = {}
    for line in (pathlib.Path(__file__).parent / "requirements.txt").read_text().splitlines():
        if "--hash=sha256:" in line and not line.startswith("#"):
            hashes[line.split("==")[0]] = line.split("--hash=sha256:")[1].strip()
    return hashes


def run_case(torch, modules, case, committed=None):
    """The case with what the reference did. With `committed`, its projections replace the ones just drawn (whose
    distance is returned): a singular vector's sign depends on the LAPACK that found it, and the weights on the sign."""
    o, rank = case["options"], case["rank"]
    weights = torch.nn.Parameter(torch.tensor(initial_weights(case), dtype=torch.float32))
    group = {"params": [weights], "lr": o["lr"], "betas": (o["beta1"], o["beta2"]), "eps": o["eps"],
             "weight_decay": o["weight_decay"]}
    if rank:
        group.update(rank=rank, update_proj_gap=o["update_proj_gap"], scale=o["scale"], proj_type=case["proj_type"])
    if case["algorithm"] in ("apollo", "apollo_mini"):
        group.update(proj="random", scale_type="channel" if case["algorithm"] == "apollo" else "tensor")
    if case["algorithm"] == "adamw_torch":
        optimizer = modules["torch"]([group], foreach=False)
    elif case["algorithm"] == "galore":
        optimizer = modules["galore"].AdamW([group], no_deprecation_warning=True)
    else:
        optimizer = modules["apollo"].AdamW([group])
        optimizer.state[weights]["seed"] = case["seed"]  # else every case would draw from seed 1

    step, projections, limited, worst = 0, [], [], 0.0

    def capture(original):
        def wrapped(self, *args, **kwargs):
            nonlocal worst
            drawn = original(self, *args, **kwargs)
            left = kwargs["type"] == "left"
            canonical = (drawn.t() if left else drawn).numpy().astype(np.float64)  # r x S
            if committed is not None:
                kept = committed["projections"][len(projections)]
                wanted = decode(kept["data"], rank, canonical.shape[1])
                signs = np.where(np.sum(wanted * canonical, axis=1, keepdims=True) < 0, -1.0, 1.0)
                signs = signs if case["algorithm"] == "galore" else 1.0
                worst = max(worst, metric(signs * canonical, wanted)) if kept["step"] == step else math.inf
                canonical = wanted
                drawn = torch.tensor(wanted.T if left else wanted, dtype=torch.float32).contiguous()
            projections.append({"step": step, "data": encode(canonical)})
            return drawn
        return wrapped

    def watched_max(*values):
        if len(values) == 2 and values[1] == 1.01 and float(values[0]) > values[1]:
            limited.append(step)
        return max(*values)

    projector = modules.get({"galore": "galore_projector"}.get(case["algorithm"], "apollo_projector"))
    original = projector.get_orthogonal_matrix
    projector.get_orthogonal_matrix = capture(original)
    modules["apollo"].max = watched_max  # the package compares |U| / nu with gamma there: the only way to see it
    try:
        kept = []
        for step in range(1, STEPS + 1):
            weights.grad = torch.tensor(gradient(case, step), dtype=torch.float32)
            optimizer.step()
            if step in KEPT_STEPS:
                kept.append({"step": step, "data": encode(weights.detach().numpy())})
    finally:
        projector.get_orthogonal_matrix = original
        del modules["apollo"].max
    return {**case, "limiter_active_steps": len(limited), "limiter_steps": limited, "projections": projections,
            "weights": kept}, worst


def write(path, packages, cases):
    with open(path, "w", encoding="ascii") as file:
        file.write('{"format": 1,\n "packages": [\n  ')
        file.write(",\n  ".join(json.dumps(p) for p in packages))
        file.write('],\n "cases": [\n  ')
        file.write(",\n  ".join(json.dumps(c, separators=(",", ":")) for c in cases))
        file.write("]}\n")


def generate(path):
    torch, packages, modules = reference_packages()
    for package in packages:
        if package["name"] in wheel_hashes():
            package["sha256_of_wheel"] = wheel_hashes()[package["name"]]
    write(path, packages, [run_case(torch, modules, case)[0] for case in make_cases()])
    return 0


def check(path):
    with open(path, encoding="ascii") as file:
        stored = json.load(file)
    torch, packages, modules = reference_packages()
    failures = []
    known = {p["name"]: p for p in stored["packages"]}
    for package in packages:
        if package["source"] == "PyPI":
            for key in ("version", "sha256_of_sources"):
                if known.get(package["name"], {}).get(key) != package[key]:
                    failures.append(f"{package['name']}: {key} is {package[key]}, the file has another")
        elif known.get(package["name"], {}).get("version") != package["version"]:
            print(f"note: {package['name']} is {package['version']}, the file was made with "
                  f"{known.get(package['name'], {}).get('version')}")
    cases = make_cases()
    if [c["name"] for c in cases] != [c["name"] for c in stored["cases"]]:
        failures.append("the list of cases differs")
        cases = []
    largest, largest_projection = 0.0, 0.0
    for case, old in zip(cases, stored["cases"]):
        new, projection_error = run_case(torch, modules, case, old)
        largest_projection = max(largest_projection, projection_error)
        if not projection_error <= PROJECTION_TOLERANCE:
            failures.append(f"{case['name']}: projections differ, {projection_error:.2g}")
        for key in new:
            if key not in ("weights", "projections") and new[key] != old.get(key):
                failures.append(f"{case['name']}: {key} differs")
        if [p["step"] for p in new["projections"]] != [p["step"] for p in old["projections"]]:
            failures.append(f"{case['name']}: refreshes at other steps")
        for x, y in zip(new["weights"], old["weights"]):
            error = metric(decode(x["data"], case["rows"], case["cols"]), decode(y["data"], case["rows"], case["cols"]))
            largest = max(largest, error)
            if x["step"] != y["step"] or not error <= CHECK_TOLERANCE:
                failures.append(f"{case['name']}: weights after step {x['step']} differ, {error:.2g}")
    for failure in failures:
        print(f"parity: {failure}")
    if failures:
        print(f"parity: FAILED ({len(failures)} differences)")
        return 1
    print(f"largest difference: weights {largest:.2g}, projections {largest_projection:.2g}")
    print(f"parity: {len(cases)} cases regenerated, agree")
    return 0


# The equations in double precision ------------------------------------------------------------------------------------

FAULTS = ("no bias correction", "bias correction before the limiter", "scale without its root", "root of alpha",
          "eps inside the root", "eps of the other order", "decay at the other end", "no limiter",
          "limiter floor 0.5", "zero update leaves nu alone", "a previous norm of zero is none", "stale projection",
          "moments reset at refresh", "no 1e-8 in the channel quotient", "channels on the other axis",
          "gradient of the step before")


def simulate(case, fault=""):
    """Weights at the kept steps and the steps on which the limiter acted, by the equations, in double."""
    o, rank, algorithm = case["options"], case["rank"], case["algorithm"]
    rows, cols = case["rows"], case["cols"]
    transpose = case["removed"] == "rows"
    lr, b1, b2, eps, decay = o["lr"], o["beta1"], o["beta2"], o["eps"], o["weight_decay"]
    kept_side, removed = (cols, rows) if transpose else (rows, cols)
    projections = {p["step"]: decode(p["data"], rank, removed) for p in case["projections"]}
    w = initial_weights(case)
    p = np.eye(removed)
    m = v = 0.0
    nu, limited, out = None, [], {}
    decay_first = (algorithm == "adamw_torch") != (fault == "decay at the other end")
    guard = 0.0 if fault == "no 1e-8 in the channel quotient" else SMALL
    for t in range(1, case["steps"] + 1):
        x = gradient(case, max(1, t - 1) if fault == "gradient of the step before" else t)
        x = x.T if transpose else x
        if rank and (t - 1) % o["update_proj_gap"] == 0 and not (fault == "stale projection" and t > 1):
            p = projections[t]
            if fault == "moments reset at refresh":
                m = v = 0.0
        r = x @ p.T if rank else x
        m = b1 * m + (1 - b1) * r
        v = b2 * v + (1 - b2) * r * r
        c = math.sqrt(1 - b2**t) / (1 - b1**t)
        own_eps = eps
        if (algorithm == "adamw_torch") != (fault == "eps of the other order"):
            own_eps = eps * math.sqrt(1 - b2**t)  # bias corrected form: eps is added to sqrt(vhat)
        normal = m / (np.sqrt(v + own_eps**2) if fault == "eps inside the root" else np.sqrt(v) + own_eps)
        if fault == "no bias correction":
            c = 1.0
        if not rank:
            u = c * normal
        elif algorithm == "galore":
            alpha = math.sqrt(o["scale"]) if fault == "root of alpha" else o["scale"]
            u = c * alpha * (normal @ p)
        else:
            if algorithm == "apollo":
                axis = 0 if fault == "channels on the other axis" and kept_side == removed else 1
                s = np.linalg.norm(normal, axis=1) / np.maximum(np.linalg.norm(r, axis=1) + guard, 1e-300)
                s = s[:, None] if axis else s[None, :]
            else:
                s = np.linalg.norm(normal) / max(np.linalg.norm(r) + guard, 1e-300)
            root = o["scale"] if fault == "scale without its root" else math.sqrt(o["scale"])
            u = s * x
            if fault == "bias correction before the limiter":
                u, c = u * c, 1.0
            if fault != "no limiter":
                norm = float(np.linalg.norm(u))
                if nu == 0 and fault == "a previous norm of zero is none":
                    nu = None
                if nu is not None and not (norm == 0 and fault == "zero update leaves nu alone"):
                    ratio = norm / (nu + SMALL)
                    if ratio > o["limiter_gamma"]:
                        limited.append(t)
                    divisor = max(ratio, o["limiter_gamma"]) / o["limiter_gamma"]
                    u, norm = u / divisor, norm / divisor
                    floor = 0.5 if fault == "limiter floor 0.5" else o["limiter_floor"]
                    norm = max(norm, floor * nu)
                if not (norm == 0 and fault == "zero update leaves nu alone"):
                    nu = norm
            u = c * root * u
        if decay_first:
            w = w * (1 - lr * decay)
        w = w - lr * (u.T if transpose else u)
        if not decay_first:
            w = w * (1 - lr * decay)
        if t in KEPT_STEPS:
            out[t] = w.copy()
    return out, limited


def largest_error(case, fault=""):
    with np.errstate(all="ignore"):
        out, limited = simulate(case, fault)
    errors = [metric(out[k["step"]], decode(k["data"], case["rows"], case["cols"])) for k in case["weights"]]
    return (math.inf if any(math.isnan(e) for e in errors) else max(errors)), limited


def verify_projections(case):
    """GaLore: rows orthonormal and, up to sign, the leading singular vectors. Random: the pooled samples, times
    sqrt(r). Returns (error, pooled samples)."""
    error, samples = 0.0, []
    transpose, rank = case["removed"] == "rows", case["rank"]
    removed = case["rows"] if transpose else case["cols"]
    for kept in case["projections"]:
        p = decode(kept["data"], rank, removed)
        if case["algorithm"] != "galore":
            samples.append(p.ravel() * math.sqrt(rank))
            continue
        x = gradient(case, kept["step"])
        v = np.linalg.svd(x.T if transpose else x)[2][:rank]
        error = max(error, float(np.max(np.abs(p @ p.T - np.eye(rank)))),
                    float(np.max(np.abs(p - v * np.sign(np.sum(p * v, axis=1, keepdims=True))))))
    return error, samples


def verify(path):
    with open(path, encoding="ascii") as file:
        cases = json.load(file)["cases"]
    failed, samples = 0, []
    for case in cases:
        error, limited = largest_error(case)
        projection_error, drawn = verify_projections(case)
        samples += drawn
        good = error <= VERIFY_TOLERANCE and limited == case["limiter_steps"] and projection_error <= PROJECTION_TOLERANCE
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {error:8.2e}  limiter {len(limited):2}/{case['limiter_active_steps']:2}  "
              f"{case['name']}")
    pooled = np.concatenate(samples)
    print(f"random projections: {pooled.size} entries times sqrt(r): mean {pooled.mean():+.3f}, "
          f"variance {pooled.var():.3f}, fourth moment {np.mean(pooled**4):.2f}")
    if not (abs(pooled.mean()) < 0.05 and abs(pooled.var() - 1) < 0.05 and abs(np.mean(pooled**4) - 3) < 0.5):
        failed += 1
    print(f"verify: {len(cases)} cases, {failed} failed")
    return 1 if failed else 0


def faults(path):
    with open(path, encoding="ascii") as file:
        cases = json.load(file)["cases"]
    unseen = 0
    for fault in FAULTS:
        seen = {}
        for case in cases:
            if not largest_error(case, fault)[0] <= FAULT_THRESHOLD:
                seen[case["algorithm"]] = seen.get(case["algorithm"], 0) + 1
        unseen += not seen
        print(f"{fault}: " + (", ".join(f"{k} {n}" for k, n in seen.items()) or "NOT SEEN"))
    return 1 if unseen else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group(required=True)
    for name, what in (("output", generate), ("check", check), ("verify", verify), ("faults", faults)):
        choice.add_argument(f"--{name}", metavar="FILE", help=what.__name__)
    arguments = parser.parse_args()
    started = time.monotonic()
    if arguments.output:
        result = generate(arguments.output)
    elif arguments.check:
        result = check(arguments.check)
    elif arguments.verify:
        result = verify(arguments.verify)
    else:
        result = faults(arguments.faults)
    print(f"took {time.monotonic() - started:.1f} s", file=sys.stderr)
    return result


if __name__ == "__main__":
    sys.exit(main())
