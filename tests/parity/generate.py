#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the reference optimizers on small matrices and keeps the weights they reach, for the C++ parity test.

  generate.py --output FILE [--set SET]   run the reference packages and write FILE; SET is base or family
  generate.py --check FILE...             run them again and compare with each FILE
  generate.py --verify FILE...            recompute in double precision from the published equations (no torch needed)
  generate.py --faults FILE...            show that each FILE notices each of a list of wrong equations

README.md describes the files and the formulas.
"""
import argparse
import sys
import time

import numpy as np

sys.dont_write_bytecode = True  # the imports below would leave a __pycache__ among the sources
from cases import SETS  # noqa: E402
from equations import FAULTS, largest_error, verify_projections  # noqa: E402
from matrices import decode, metric, read, write  # noqa: E402

CHECK_TOLERANCE = 1e-6  # weights, regenerated against the file
# Projections, regenerated against the file, up to the sign of each direction: LAPACK and OpenBLAS, in floats, come to 1.8e-4.
CHECK_PROJECTION_TOLERANCE = 5e-4
PROJECTION_TOLERANCE = 1e-4  # those of the file against double precision
# Double precision against the references' float32: 100 roundings of a weight (50 steps, with decay) wander to 1e-6.
VERIFY_TOLERANCE = 2e-6
FAULT_THRESHOLD = 1e-5


def set_of(stored):
    return stored.get("set", "base")


def generate(path, chosen):
    from references import archive_hashes, reference_packages, run_case
    torch, packages, modules = reference_packages(chosen)
    for package in packages:
        package.update(archive_hashes().get(package["name"], {}))
    write(path, chosen, packages, [run_case(torch, modules, case)[0] for case in SETS[chosen]()])
    return 0


def compare_packages(packages, stored):
    failures = []
    known = {p["name"]: p for p in stored["packages"]}
    for package in packages:
        name, old = package["name"], known.get(package["name"], {})
        if package["source"] == "PyPI":
            failures += [f"{name}: {key} is {package[key]}, the file has another"
                         for key in ("version", "sha256_of_sources") if old.get(key) != package[key]]
        elif old.get("version") != package["version"]:
            print(f"note: {name} is {package['version']}, the file was made with {old.get('version')}")
    return failures


def compare_case(new, old, projection_error):
    """The differences, as sentences, and the largest one of the weights."""
    name, failures, largest = new["name"], [], 0.0
    if not projection_error <= CHECK_PROJECTION_TOLERANCE:
        failures.append(f"{name}: projections differ, {projection_error:.2g}")
    failures += [f"{name}: {key} differs" for key in new
                 if key not in ("weights", "projections") and new[key] != old.get(key)]
    if [p["step"] for p in new["projections"]] != [p["step"] for p in old["projections"]]:
        failures.append(f"{name}: refreshes at other steps")
    for x, y in zip(new["weights"], old["weights"]):
        error = metric(decode(x["data"], new["rows"], new["cols"]), decode(y["data"], new["rows"], new["cols"]))
        largest = max(largest, error)
        if x["step"] != y["step"] or not error <= CHECK_TOLERANCE:
            failures.append(f"{name}: weights after step {x['step']} differ, {error:.2g}")
    return failures, largest


def check(path):
    from references import reference_packages, run_case
    stored = read(path)
    torch, packages, modules = reference_packages(set_of(stored))
    failures = compare_packages(packages, stored)
    cases = SETS[set_of(stored)]()
    if [c["name"] for c in cases] != [c["name"] for c in stored["cases"]]:
        failures.append("the list of cases differs")
        cases = []
    largest, largest_projection = 0.0, 0.0
    for case, old in zip(cases, stored["cases"]):
        new, projection_error = run_case(torch, modules, case, old)
        found, error = compare_case(new, old, projection_error)
        failures += found
        largest, largest_projection = max(largest, error), max(largest_projection, projection_error)
    for failure in failures:
        print(f"parity: {failure}")
    if failures:
        print(f"parity: FAILED ({len(failures)} differences)")
        return 1
    print(f"largest difference: weights {largest:.2g}, projections {largest_projection:.2g}")
    print(f"parity: {len(cases)} cases regenerated, agree")
    return 0


def random_projections_fail(samples):
    if not samples:
        return False
    pooled = np.concatenate(samples)
    print(f"random projections: {pooled.size} entries times sqrt(r): mean {pooled.mean():+.3f}, "
          f"variance {pooled.var():.3f}, fourth moment {np.mean(pooled**4):.2f}")
    return not (abs(pooled.mean()) < 0.05 and abs(pooled.var() - 1) < 0.05 and abs(np.mean(pooled**4) - 3) < 0.5)


def verify(path):
    cases = read(path)["cases"]
    failed, samples = 0, []
    for case in cases:
        error, limited = largest_error(case)
        projection_error, drawn = verify_projections(case)
        samples += drawn
        good = (error <= VERIFY_TOLERANCE and projection_error <= PROJECTION_TOLERANCE
                and limited == case["limiter_steps"])
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {error:8.2e}  limiter {len(limited):2}/{case['limiter_active_steps']:2}  "
              f"{case['name']}")
    failed += random_projections_fail(samples)
    print(f"verify: {len(cases)} cases, {failed} failed")
    return 1 if failed else 0


def faults(path):
    stored = read(path)
    unseen = 0
    for fault in FAULTS[set_of(stored)]:
        seen = {}
        for case in stored["cases"]:
            if not largest_error(case, fault)[0] <= FAULT_THRESHOLD:
                seen[case["algorithm"]] = seen.get(case["algorithm"], 0) + 1
        unseen += not seen
        print(f"{fault}: " + (", ".join(f"{k} {n}" for k, n in seen.items()) or "NOT SEEN"))
    return 1 if unseen else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--output", metavar="FILE", help="generate")
    actions = {"check": check, "verify": verify, "faults": faults}
    for name in actions:
        choice.add_argument(f"--{name}", metavar="FILE", nargs="+", help=name)
    parser.add_argument("--set", choices=SETS, default="base", help="which cases --output writes; base if absent")
    arguments = parser.parse_args()
    started = time.monotonic()
    if arguments.output:
        result = generate(arguments.output, arguments.set)
    else:
        name = next(n for n in actions if getattr(arguments, n))
        result = max([actions[name](path) for path in getattr(arguments, name)])
    print(f"took {time.monotonic() - started:.1f} s", file=sys.stderr)
    return result


if __name__ == "__main__":
    sys.exit(main())
