# SPDX-License-Identifier: Apache-2.0
"""Times a step of ours and a step of a peer in turns, each in a process of its own, no third one alive. Prints NAME VALUE UNIT.

Each peer runs with malloc as it is and with one tuned for temporaries of many megabytes: by default glibc gives each of them
back to the system, and every step then pays for fresh pages."""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

# Ours and the peer's name of the same algorithm.
COMPARISONS = [
    ("adamw", "torch_adamw_fused"),
    ("adamw_unchecked", "torch_adamw_fused"),
    ("adamw", "torch_adamw_foreach"),
    ("adamw_8bit", "bitsandbytes_adamw_8bit"),
    ("adamw_8bit_dynamic", "bitsandbytes_adamw_8bit"),
    ("apollo_gaussian", "apollo_torch"),
    ("apollo_sparse", "apollo_torch"),
    ("apollo_mini", "apollo_torch_mini"),
    ("galore", "galore_torch"),
    ("galore_refresh", "galore_torch_refresh"),
]
REFRESH_PAIRS = 3  # the peer's singular value decompositions take seconds
GAP = 200

# Thresholds above 32 MB are refused by glibc; without any mapping, blocks of all sizes stay in the heap.
MALLOCS = {
    "default_malloc": {},
    "tuned_malloc": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 26)},
}


class Failed(Exception):
    pass


class Stepper:
    """A process that takes a step for every line it gets, and answers with its nanoseconds."""

    def __init__(self, command, environment):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        env={**os.environ, **environment}, text=True)
        try:
            self.answer()  # its name: it is ready
        except Failed:
            self.__exit__()
            raise

    def answer(self):
        line = self.process.stdout.readline()
        if line:
            return line.strip()
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        raise Failed(lines[-1] if lines else f"ended with {self.process.returncode}")

    def step(self):
        # The other process' threads spin for a moment after their step, before they sleep.
        time.sleep(0.02)
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says why
        return int(self.answer()) * 1e-6

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def figure(name, value, unit):
    print(f"{name} {value:.6g} {unit}", flush=True)


def quartile_figures(name, values, unit):
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    figure(name, median, unit)
    figure(f"{name}/lower_quartile", lower, unit)
    figure(f"{name}/upper_quartile", upper, unit)


def ratio_figures(name, times):
    """Of pairs (ours, theirs): above 1 where ours is faster."""
    quartile_figures(name, [theirs / ours for ours, theirs in times], "x")


def measure(ours_command, peer_command, environment, malloc, pairs):
    """Milliseconds of ours and of the peer, pair by pair, after a pair to warm up."""
    with Stepper(ours_command, environment) as ours, Stepper(peer_command, {**environment, **malloc}) as peer:
        return [(ours.step(), peer.step()) for _ in range(pairs + 1)][1:]


def compare(arguments, model, scope, threads, tensors):
    """All peers on one list. Returns how many could be run."""
    succeeded = 0
    environment = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    for malloc, variables in MALLOCS.items():
        galore = {}
        for member, peer in COMPARISONS:
            if arguments.peers and peer not in arguments.peers:
                continue
            name = f"peers/{scope}/{member}/{model}/t{threads}/{malloc}/{peer}"
            ours_command = [arguments.program, "--serve", "--lists", model, "--scopes", scope, "--members", member,
                            "--threads", str(threads)]
            peer_command = [arguments.python, os.path.join(os.path.dirname(__file__), "peer.py"), peer, str(threads),
                            tensors]
            pairs = min(REFRESH_PAIRS, arguments.pairs) if member == "galore_refresh" else arguments.pairs
            try:
                times = measure(ours_command, peer_command, environment, variables, pairs)
            except Failed as error:
                print(f"{name}: not run: {error}", file=sys.stderr, flush=True)
                continue
            succeeded += 1
            if member.startswith("galore"):
                galore[member] = times
            figure(name, statistics.median(theirs for _, theirs in times), "ms")
            figure(f"{name}/ours", statistics.median(ours for ours, _ in times), "ms")
            ratio_figures(f"{name}/over_ours", times)
        if len(galore) == 2:
            refresh = [statistics.median(side) for side in zip(*galore["galore_refresh"])]
            amortised = [[plain + (refresh[side] - plain) / GAP for side, plain in enumerate(pair)]
                         for pair in galore["galore"]]
            ratio_figures(f"peers/{scope}/galore_gap{GAP}/{model}/t{threads}/{malloc}/galore_torch/over_ours", amortised)
    return succeeded


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="bench_models")
    parser.add_argument("--python", default=sys.executable, help="that finds torch and the packages")
    parser.add_argument("--lists", default="60m,130m", type=lambda text: text.split(","))
    parser.add_argument("--scopes", default="whole", type=lambda text: text.split(","))
    parser.add_argument("--threads", default=str(os.cpu_count()), type=lambda text: [int(t) for t in text.split(",")])
    parser.add_argument("--peers", type=lambda text: text.split(","), help="only these")
    parser.add_argument("--pairs", default=21, type=int)
    arguments = parser.parse_args()
    if arguments.pairs < 2:
        parser.error("quartiles need two pairs")
    version = [arguments.python, "-c", "import torch; print(torch.__version__)"]
    print("peers/torch/version", subprocess.check_output(version, text=True).strip(), "version", flush=True)
    succeeded = 0
    for model in arguments.lists:
        for scope in arguments.scopes:
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as tensors:
                command = [arguments.program, "--tensors", "--lists", model, "--scopes", scope]
                subprocess.run(command, stdout=tensors, check=True)
                for threads in arguments.threads:
                    succeeded += compare(arguments, model, scope, threads, tensors.name)
    sys.exit(0 if succeeded else "no peer could be run")


if __name__ == "__main__":
    main()
