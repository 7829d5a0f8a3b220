# SPDX-License-Identifier: Apache-2.0
"""The numbers that C++ repeats bit by bit, the form in which matrices are kept, and the files of cases."""
import base64
import json
import math

import numpy as np


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


def read(path):
    with open(path, encoding="ascii") as file:
        return json.load(file)


def write(path, chosen, packages, cases):
    with open(path, "w", encoding="ascii") as file:
        file.write('{"format": 1,\n')
        if chosen != "base":
            file.write(f' "set": {json.dumps(chosen)},\n')
        file.write(' "packages": [\n  ')
        file.write(",\n  ".join(json.dumps(p) for p in packages))
        file.write('],\n "cases": [\n  ')
        file.write(",\n  ".join(json.dumps(c, separators=(",", ":")) for c in cases))
        file.write("]}\n")
