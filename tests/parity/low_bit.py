#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs bitsandbytes' quantizer and its 8-bit AdamW on the CPU, and keeps what they store, for tests/unit/core_parity_low_bit.cpp.

  low_bit.py --output FILE    run bitsandbytes and write FILE
  low_bit.py --check FILE     run it again and compare with FILE

tests/parity/run --bitsandbytes finds a torch and the package; README.md describes the file.
"""
import argparse
import base64
import importlib.metadata
import json
import logging
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
from cases import DECAY, LR, exact  # noqa: E402
from matrices import metric, uniform_matrix  # noqa: E402

STEPS = 50
KEPT_STEPS = (1, 2, 49, 50)
BLOCK = 256
ELEMENTS = 1 << 20  # stands for the step in what is drawn once for each element
# With torch's other CPU code paths weights differ by 4e-7, maps by a rounding; a value between two codes may get the other one.
EQUAL_CODES, WEIGHT_TOLERANCE = 0.99, 1e-3
MAP_TOLERANCE = 3e-7


def vectors():
    """What the quantizer alone is given: magnitudes of one size, or of `spread` powers of two; the second block is zero."""
    for number in (0, 1):
        for size, spread in ((2117, 1), (2117, 24), (1, 1)):
            yield {"number": number, "size": size, "spread": spread, "seed": 7200 + 10 * number + spread}


def cases():
    """`package` is its optimizer; `nearest` its quantizer for doubles, which has no table, around the equations."""
    options = {"lr": LR, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    for seed, (name, rows, cols, quantizer, spread, other) in enumerate((
            ("package-short_lines", 13, 41, "package", 1, {"weight_decay": DECAY}),
            ("package-spread", 2, 512, "package", 16, {}),
            ("package-row", 1, 700, "package", 4, {"weight_decay": DECAY, "beta1": 0.8, "beta2": 0.95}),
            ("nearest-short_lines", 13, 41, "nearest", 1, {"weight_decay": DECAY}),
            ("nearest-spread", 2, 512, "nearest", 16, {"weight_decay": DECAY})), 7300):
        chosen = {key: exact(value) for key, value in {**options, **other}.items()}
        yield {"name": name, "rows": rows, "cols": cols, "quantizer": quantizer, "spread": spread, "seed": seed,
               "steps": STEPS, "options": chosen}


def sizes(seed, step, spread, rows, cols):
    """2^0 ... 2^-(spread - 1), one for each element."""
    return 2.0 ** -np.floor((uniform_matrix(seed, step, rows, cols) + 1) / 2 * spread)


def vector_values(vector):
    values = uniform_matrix(vector["seed"], 0, 1, vector["size"]) * sizes(
        vector["seed"], ELEMENTS, vector["spread"], 1, vector["size"])
    values[0, BLOCK:2 * BLOCK] = 0
    return np.abs(values[0]) if vector["number"] == 1 else values[0]


def encode(values, kind):
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode("ascii")


def decode(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


class Package:
    def __init__(self):
        logging.disable(logging.WARNING)  # of kernels that only other functions need
        import torch

        torch.set_num_threads(1)
        import bitsandbytes

        self.torch, self.module = torch, bitsandbytes
        self.maps = [bitsandbytes.functional.create_dynamic_map(signed=signed) for signed in (True, False)]
        self.operators = torch.ops.bitsandbytes

    def described(self):
        pinned = (pathlib.Path(__file__).parent / "requirements-bitsandbytes.txt").read_text()
        return [{"name": "torch", "version": self.torch.__version__},
                {"name": "bitsandbytes", "version": importlib.metadata.version("bitsandbytes"), "source": "PyPI",
                 "sha256_of_wheel": pinned.split("--hash=sha256:")[1].split()[0]}]

    def quantize(self, values, number):
        """Floats go by the CPU library's table, doubles to the nearest code."""
        return self.operators.quantize_blockwise(values, self.maps[number], BLOCK)

    def dequantize(self, codes, scales, number):
        return self.operators.dequantize_blockwise(codes, scales, self.maps[number], BLOCK, self.torch.float32)


def run_vector(package, vector):
    values = package.torch.tensor(vector_values(vector), dtype=package.torch.float32)
    codes, scales = package.quantize(values, vector["number"])
    nearest, _ = package.quantize(values.double(), vector["number"])
    return {**vector, "scales": encode(scales, "<f4"), "codes": encode(codes, "u1"), "nearest": encode(nearest, "u1")}


class Nearest:
    """AdamW around the package's quantizer: the equations of its optimizer, without the table."""

    def __init__(self, package, weights, o):
        self.package, self.weights, self.o, self.steps = package, weights, o, 0
        zero = package.torch.zeros(weights.shape, dtype=package.torch.float64)
        self.state = [package.quantize(zero, number) for number in (0, 1)]

    def step(self):
        o, w, g = self.o, self.weights.data, self.weights.grad
        self.steps += 1
        m, v = (self.package.dequantize(*self.state[number], number) for number in (0, 1))
        m.mul_(o["beta1"]).add_(g, alpha=1 - o["beta1"])
        v.mul_(o["beta2"]).addcmul_(g, g, value=1 - o["beta2"])
        w.mul_(1 - o["lr"] * o["weight_decay"])
        root = (1 - o["beta2"]**self.steps)**0.5
        w.addcdiv_(m, (v.sqrt() / root).add_(o["eps"]), value=-o["lr"] / (1 - o["beta1"]**self.steps))
        self.state = [self.package.quantize(moment.double(), number) for number, moment in enumerate((m, v))]

    def stored(self):
        return self.state


class Optimizer:
    """The package's own."""

    def __init__(self, package, weights, o):
        self.weights = weights
        # Below 4096 elements it would keep 32 bits.
        self.optimizer = package.module.optim.AdamW8bit(
            [weights], lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], weight_decay=o["weight_decay"],
            min_8bit_size=1)

    def step(self):
        self.optimizer.step()

    def stored(self):
        state = self.optimizer.state[self.weights]
        return [(state["state1"], state["absmax1"]), (state["state2"], state["absmax2"])]


def run_case(package, case):
    torch, rows, cols, seed = package.torch, case["rows"], case["cols"], case["seed"]
    weights = torch.nn.Parameter(torch.tensor(uniform_matrix(seed, 0, rows, cols), dtype=torch.float32))
    optimizer = (Optimizer if case["quantizer"] == "package" else Nearest)(package, weights, case["options"])
    size = sizes(seed, ELEMENTS, case["spread"], rows, cols)
    states = []
    for step in range(1, STEPS + 1):
        weights.grad = torch.tensor(uniform_matrix(seed, step, rows, cols) * size, dtype=torch.float32)
        optimizer.step()
        if step in KEPT_STEPS:
            (m, m_scales), (v, v_scales) = optimizer.stored()
            states.append({"step": step, "weights": encode(weights.detach(), "<f4"),
                           "codes": [encode(m, "u1"), encode(v, "u1")],
                           "scales": [encode(m_scales, "<f4"), encode(v_scales, "<f4")]})
    return {**case, "states": states}


def generate():
    package = Package()
    return {"format": 1, "packages": package.described(), "maps": [encode(m, "<f4") for m in package.maps],
            "vectors": [run_vector(package, vector) for vector in vectors()],
            "cases": [run_case(package, case) for case in cases()]}


def write(path, result):
    with open(path, "w", encoding="ascii") as file:
        file.write('{"format": 1,\n "packages": ' + json.dumps(result["packages"]))
        for key in ("maps", "vectors", "cases"):
            file.write(f',\n "{key}": [\n  ')
            file.write(",\n  ".join(json.dumps(entry, separators=(",", ":")) for entry in result[key]) + "]")
        file.write("}\n")


def differences(new, old):
    if new["packages"][1] != old["packages"][1]:
        yield "another bitsandbytes than the file's"
    if new["vectors"] != old["vectors"]:
        yield "vectors differ"
    if not all(np.allclose(decode(x, "<f4"), decode(y, "<f4"), rtol=MAP_TOLERANCE, atol=0)
               for x, y in zip(new["maps"], old["maps"])):
        yield "maps differ"
    if [c["name"] for c in new["cases"]] != [c["name"] for c in old["cases"]]:
        yield "the list of cases differs"
        return
    for x, y in zip(new["cases"], old["cases"]):
        if {k: x[k] for k in x if k != "states"} != {k: y[k] for k in y if k != "states"}:
            yield f"{x['name']}: its settings differ"
        for a, b in zip(x["states"], y["states"]):
            share = min(float(np.mean(decode(p, "u1") == decode(q, "u1"))) for p, q in zip(a["codes"], b["codes"]))
            error = metric(*(decode(s["weights"], "<f4").astype(float) for s in (a, b)))
            print(f"{x['name']}, step {a['step']}: equal codes {share:.4f}, weights {error:.2g}")
            if a["step"] != b["step"] or not share >= EQUAL_CODES or not error <= WEIGHT_TOLERANCE:
                yield f"{x['name']}: step {b['step']} differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--output", metavar="FILE", help="generate")
    choice.add_argument("--check", metavar="FILE", help="generate and compare")
    arguments = parser.parse_args()
    result = generate()
    if arguments.output:
        write(arguments.output, result)
        return 0
    with open(arguments.check, encoding="ascii") as file:
        found = list(differences(result, json.load(file)))
    for failure in found:
        print(f"parity: {failure}")
    print(f"parity: {len(result['cases'])} cases of 8 bits regenerated, {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
