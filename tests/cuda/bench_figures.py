# SPDX-License-Identifier: Apache-2.0
"""Whether the figures of bench_cuda are right, by the same program on the emulated device: bytes against counts made here from
the shapes alone, layers against the memory there is, rates against times, and the report that is made of them.

    bench_figures.py PROGRAM"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
REPORT = pathlib.Path(__file__).resolve().parents[2] / "bench" / "report"
sys.path.insert(0, str(REPORT))
from figures import Figures  # noqa: E402
from gpu import gpu  # noqa: E402

RANK = 8
# Of the matrices: bytes a value of the moments, reads of the gradient, whether they are of the projection.
MEMBERS = {
    "float": {"adamw": (4, 2, None), "adamw_unchecked": (4, 1, None), "adamw_bf16": (2, 2, None), "apollo_mini": (4, 2, 1),
              "apollo_sparse": (4, 2, RANK), "apollo_gaussian": (4, 2, RANK), "galore": (4, 1, RANK),
              "apollo_gaussian_tf32": (4, 2, RANK), "galore_tf32": (4, 1, RANK)},
    "bfloat16": {"adamw": (4, 2, None), "adamw_unchecked": (4, 1, None), "adamw_stochastic": (2, 2, None),
                 "apollo_mini": (4, 2, 1), "apollo_mini_stochastic": (4, 2, 1), "apollo_sparse": (4, 2, RANK),
                 "apollo_gaussian": (4, 2, RANK), "galore": (4, 1, RANK),
              "apollo_gaussian_tf32": (4, 2, RANK), "galore_tf32": (4, 1, RANK)},
}
RANKED = ("apollo_sparse", "apollo_gaussian", "apollo_gaussian_tf32", "galore", "galore_tf32")
VALUE = {"float": 4, "bfloat16": 2}
failures = []


def expect(holds, *what):
    if not holds:
        failures.append(" ".join(map(str, what)))


def close(a, b, part=1e-5):
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= part * abs(b)


def run(program, *options, status=0):
    done = subprocess.run([program, *options], capture_output=True, text=True, check=False)
    expect(done.returncode == status, options, "ended with", done.returncode, done.stderr)
    return done


def figures_of(output):
    figures = {}
    for line in output.splitlines():
        fields = line.split(" ")
        expect(len(fields) == 3 and fields[0] not in figures, "no figure, or one of a name that is taken:", line)
        figures[fields[0]] = (fields[1] if fields[2] == "name" else float(fields[1]), fields[2])
    return figures


def tensors_of(program, scope):
    lines = run(program, "--tensors", "--lists", "tiny", "--scopes", scope, "--ranks", str(RANK)).stdout.splitlines()
    return [(int(rows), int(cols), int(rank) > 0) for _, rows, cols, rank in map(str.split, lines)]


def counts(member, kind, tensors):
    """Bytes a parameter of a step and of the state."""
    width, reads, rank = MEMBERS[kind][member]
    dense_reads = 1 if member == "adamw_unchecked" else 2
    moved = state = 0
    for rows, cols, low_rank in tensors:
        if low_rank:
            moments = 2 * width * (rank * max(rows, cols) if rank else rows * cols)
            basis = 4 * rank * min(rows, cols) if member.startswith("galore") else 0
        else:
            moments, basis = 2 * 4 * rows * cols, 0
        moved += ((reads if low_rank else dense_reads) + 2) * rows * cols * VALUE[kind] + 2 * moments + basis
        state += moments + basis
    size = sum(rows * cols for rows, cols, _ in tensors)
    return moved / size, state / size


def check_cases(program):
    """Every member on the smallest list. Returns what was printed."""
    members = ",".join(sorted({member for each in MEMBERS.values() for member in each}))
    output = run(program, "--lists", "tiny", "--members", members, "--ranks", str(RANK), "--repetitions", "3",
                 "--seconds", "100").stdout
    figures = figures_of(output)
    expect(figures["cuda/device"] == ("emulated", "name"), "the device is", figures["cuda/device"])
    cases = 0
    for scope in ("whole", "matrices"):
        tensors = tensors_of(program, scope)
        size = sum(rows * cols for rows, cols, _ in tensors)
        expect(figures[f"cuda/{scope}/layers/tiny"][0] == 3, scope, "layers", figures[f"cuda/{scope}/layers/tiny"])
        expect(figures[f"cuda/{scope}/parameters/tiny"][0] == size, scope, "parameters")
        for kind, each in MEMBERS.items():
            for member in each:
                case = f"cuda/{scope}/{member}/tiny" + (f"/r{RANK}" if member in RANKED else "") + f"/{kind}"
                check_case(figures, case, counts(member, kind, tensors), size)
                cases += 1
        expect(figures[f"cuda/{scope}/adamw/tiny/float/graph/kernels"][0] == 4, "AdamW's launches")
    expect(len({name.split("/tiny")[0] + name.split("/tiny")[1] for name in figures if name.endswith("/kernels")}) == cases,
           "cases that were not asked for")
    return output


def check_case(figures, case, expected, size):
    moved, state = expected

    def value(what, how="graph"):
        found = figures.get(f"{case}/{how}{what}")
        expect(found is not None, case, how, "has no", what)
        return found[0] if found else math.nan

    expect(close(value("/bytes_per_parameter"), moved), case, "moves", value("/bytes_per_parameter"), "not", moved)
    expect(close(value("/state_bytes_per_parameter"), state), case, "state", value("/state_bytes_per_parameter"), "not", state)
    expect(value("/workspace_bytes_per_parameter") > 0 and value("/kernels") >= 3, case, "workspace, kernels")
    for how in ("graph", "eager"):
        expect(value("/repetitions", how) == 3, case, how, "repetitions")
        nanoseconds = value("/ns_per_parameter", how)
        expect(nanoseconds > 0 and close(value("", how) * 1e6, nanoseconds * size), case, how, "ms", value("", how), nanoseconds)
        expect(close(value("/bandwidth", how), moved / nanoseconds), case, how, "bandwidth")
        expect(value("/copy_bandwidth", how) > 0, case, how, "copy_bandwidth")
        for ordered in ("", "/of_copy"):
            lower, middle, upper = (value(ordered + end, how) for end in ("/lower_quartile", "", "/upper_quartile"))
            expect(0 < lower <= middle <= upper, case, how, ordered, "quartiles", lower, middle, upper)


def check_memory(program):
    """As many layers as fit, and no more; the emulated device has no byte beside those it is told."""
    options = ("--lists", "tiny", "--scopes", "matrices", "--members", "adamw,apollo_sparse", "--repetitions", "1")
    layer = sum(rows * cols for rows, cols, _ in tensors_of(program, "matrices")) // 3
    taken = []
    for layers in (1.5, 2.5, 3.5):  # W, G, M, V in fp32, the copies, and what is kept free
        memory = int(layer * layers * 16.5 * 16 / 15 * 16 / 15)
        figures = figures_of(run(program, *options, "--memory", str(memory)).stdout)
        taken.append(figures["cuda/matrices/layers/tiny"][0])
    expect(taken == [1, 2, 3], "layers that fit:", taken)
    refused = run(program, "--lists", "tiny", "--scopes", "matrices", "--members", "adamw,apollo_mini", "--repetitions", "1",
                  "--types", "float", "--memory", str(layer * 12), status=1)
    expect("/adamw/tiny/float: not run: " in refused.stderr, "too little memory:", refused.stderr)
    expect("/adamw/" not in refused.stdout, "figures of what does not fit:", refused.stdout)
    expect("/apollo_mini/tiny/float/graph/of_copy " in refused.stdout, "none of what fits:", refused.stdout)


def check_report(output):
    """A report of these figures, and of a peer's twice as fast as AdamW."""
    base = "cuda/whole/adamw/tiny/float"
    fastest = min(figures_of(output)[f"{base}/{how}/ns_per_parameter"][0] for how in ("graph", "eager"))
    output += (f"cuda/whole/torch_adamw_fused/tiny/float/eager 1 ms\n"
               f"cuda/whole/torch_adamw_fused/tiny/float/eager/ns_per_parameter {fastest / 2} ns\n")
    with tempfile.TemporaryDirectory() as folder:
        lines, made = pathlib.Path(folder) / "lines", pathlib.Path(folder) / "figures.json"
        lines.write_text(output)
        subprocess.run([sys.executable, str(REPORT / "collect.py"), "--command", "test", "--output", str(made), str(lines)],
                       check=True)
        figures = Figures()
        figures.add_file(made)
        figures.write(made)  # as docs/ keeps them
        kept = Figures()
        kept.add_file(made)
        expect(all(rest in ("graph", "eager") or "/" in rest for rest in
                   (case.rsplit("/", 1)[-1] for case in json.loads(made.read_text())["figures"] if case.count("/") > 3)),
               "figures that are kept as cases")
    report = gpu(kept)
    expect(report[0] == "**emulated**.", "the report begins with", report[0])
    expect(any(line.startswith("tiny, whole model (3 layers, 0.0396 million parameters)") for line in report), "no title", report)
    row = next((line.split(" | ") for line in report if line.startswith("| AdamW, fp32 |")), [])
    expect(len(row) > 6 and row[3] == "32", "AdamW's bytes in the report:", row)
    whole = report[next(i for i, line in enumerate(report) if line.startswith("tiny, whole")):]
    row = next((line.split(" | ") for line in whole if line.startswith("| AdamW, fp32 |")), [])
    expect(len(row) > 6 and row[6] == "0.500", "AdamW beside torch's in the report:", row)
    expect("| AdamW, fp32 against torch's fused AdamW | 0.500 |" in
           [" | ".join(line.split(" | ")[:1] + line.split(" | ")[-1:]) for line in report], "no comparison", report[-4:])


def main():
    program = sys.argv[1]
    output = check_cases(program)
    check_memory(program)
    check_report(output)
    for failure in failures:
        print(failure)
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
