# SPDX-License-Identifier: Apache-2.0
"""Steps the lists of bench_cuda with optimizers of other packages on a GPU, each step in turns with a copy within the device's
memory, timed by events. Prints NAME VALUE UNIT, under the names that bench_cuda would use. --device cpu runs all of it without a
GPU, to try the program."""
import argparse
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench" / "peers"), str(ROOT / "tests" / "parity")]
from compare import figure, quartile_figures  # noqa: E402
from peer import PACKAGES, parameters, torch_adamw  # noqa: E402
from references import reference_packages  # noqa: E402

RANKED = ("apollo_torch", "galore_torch")
# What can be captured in a graph, and how it is made then.
GRAPHED = {"torch_adamw_fused": lambda *a: torch_adamw(*a, fused=True, capturable=True)}
DEFAULT = ("torch_adamw_fused", "torch_adamw_foreach", "apollo_torch", "apollo_torch_mini", "galore_torch")


class Cuda:
    """Marks in the current stream, and the seconds between them."""

    def __init__(self, torch):
        self.torch, self.events = torch, []
        name = torch.cuda.get_device_name(0).replace(" ", "_")
        print("cuda/torch/device", name, "name", flush=True)

    def free_bytes(self):
        self.torch.cuda.empty_cache()
        return self.torch.cuda.mem_get_info()[0]

    def mark(self):
        self.events.append(self.torch.cuda.Event(enable_timing=True))
        self.events[-1].record()

    def between_marks(self):
        self.events[-1].synchronize()
        seconds = [1e-3 * a.elapsed_time(b) for a, b in zip(self.events, self.events[1:])]
        self.events = []
        return seconds

    def reset_peak(self):
        self.torch.cuda.reset_peak_memory_stats()
        return self.torch.cuda.memory_allocated()

    def peak(self):
        return self.torch.cuda.max_memory_allocated()

    def record(self, step):
        """What step() enqueues, as something to be called again and again."""
        side = self.torch.cuda.Stream()
        side.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(side):
            for _ in range(3):
                step()
        self.torch.cuda.current_stream().wait_stream(side)
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            step()
        return graph.replay


class Cpu:
    """The same by the processor's clock, where nothing can be recorded and nobody counts memory."""
    record = None

    def __init__(self, torch):
        self.times = []

    def free_bytes(self):
        return 1 << 32

    def mark(self):
        self.times.append(time.perf_counter())

    def between_marks(self):
        seconds = [b - a for a, b in zip(self.times, self.times[1:])]
        self.times = []
        return seconds

    def reset_peak(self):
        return 0

    peak = None


def size_of(line):
    _, rows, cols, _ = line.split()
    return int(rows) * int(cols)


def layer_of(line):
    """Number of the layer that a tensor belongs to; -1 of what stands around the layers."""
    name = line.split()[0]
    return int(name.split(".")[1]) if name.startswith("layers.") else -1


def fitting(lines, itemsize, free):
    """The tensors of as many layers as fit with AdamW's moments, and with some temporaries of the largest tensor."""
    def bytes_of(chosen):
        return itemsize * 4 * sum(map(size_of, chosen)) + 10 * 4 * max(map(size_of, chosen))

    for layers in range(1 + max(map(layer_of, lines)), 0, -1):
        chosen = [line for line in lines if layer_of(line) < layers]
        if bytes_of(chosen) <= free:
            return chosen, layers
    raise RuntimeError(f"one layer takes {bytes_of(chosen)} bytes, and there are {free}")


class Copies:
    """As those of bench_cuda: model.hpp."""

    def __init__(self, torch, device, free):
        self.bytes = min(1 << 30, free // 32)
        self.source = torch.zeros(self.bytes, dtype=torch.uint8, device=device)
        self.target = torch.empty_like(self.source)

    def run(self, total):
        count = -(-total // 2 // self.bytes)
        each = total // 2 // count
        for _ in range(count):
            self.target[:each].copy_(self.source[:each])
        return 2 * count * each


def measure(clock, copies, step, total, arguments):
    """Seconds of each step, gigabytes a second of the copy before it."""
    def pairs(count):
        clock.mark()
        for _ in range(count):
            copied[0] = copies.run(total)
            clock.mark()
            step()
            clock.mark()
        return clock.between_marks()

    copied = [0]
    pairs(1)  # to warm up
    affordable = int(arguments.seconds / sum(pairs(1)))
    times = pairs(min(arguments.repetitions, max(3, affordable)))
    return times[1::2], [1e-9 * copied[0] / seconds for seconds in times[0::2]]


def print_figures(name, times, rates, parameters_count):
    quartile_figures(name, [1e3 * seconds for seconds in times], "ms")
    figure(f"{name}/ns_per_parameter", 1e9 * statistics.median(times) / parameters_count, "ns")
    figure(f"{name}/copy_bandwidth", statistics.median(rates), "GB/s")
    figure(f"{name}/repetitions", len(times), "1")


def state_bytes(torch, optimizer):
    """Of all tensors of the optimizer's state, those of projections among them."""
    def tensors(value):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            for each in value.values():
                yield from tensors(each)
        elif hasattr(value, "ortho_matrix"):
            yield from tensors(value.ortho_matrix)

    return sum(tensor.numel() * tensor.element_size() for state in optimizer.state.values() for tensor in tensors(state))


def run_peer(torch, modules, clock, copies, peer, name, lines, where, arguments):
    """One peer, launched operation by operation, and replayed from a graph where it can be."""
    count = sum(map(size_of, lines))
    total = 7 * count * torch.empty(0, dtype=where["dtype"]).element_size()  # AdamW's: W, M, V in and out, G in
    makers = {"eager": PACKAGES[peer]}
    if peer in GRAPHED and clock.record:
        makers["graph"] = GRAPHED[peer]
    for how, make in makers.items():
        values = parameters(torch, lines, **where)
        before = clock.reset_peak()
        optimizer = make(torch, modules, *values)
        optimizer.step()  # states, first bases
        step = clock.record(optimizer.step) if how == "graph" else optimizer.step
        times, rates = measure(clock, copies, step, total, arguments)
        print_figures(f"{name}/{how}", times, rates, count)
        state = state_bytes(torch, optimizer)
        figure(f"{name}/{how}/state_bytes_per_parameter", state / count, "B")
        if clock.peak:
            figure(f"{name}/{how}/workspace_bytes_per_parameter", (clock.peak() - before - state) / count, "B")


def run_list(torch, modules, clock, model, scope, arguments):
    """All peers on one list. Returns how many cases could be run, and how many could not."""
    command = [arguments.program, "--tensors", "--lists", model, "--scopes", scope, "--ranks", str(arguments.rank)]
    lines = subprocess.check_output(command, text=True).splitlines()
    done = failed = 0
    for kind in arguments.types:
        where = {"device": arguments.device, "dtype": getattr(torch, {"float": "float32"}.get(kind, kind))}
        free = clock.free_bytes()
        copies = Copies(torch, arguments.device, free)
        chosen, layers = fitting(lines, torch.empty(0, dtype=where["dtype"]).element_size(), free - free // 8)
        rank = max(int(line.split()[3]) for line in chosen)
        for peer in arguments.peers:
            name = f"cuda/{scope}/{peer}/{model}" + (f"/r{rank}" if peer in RANKED else "") + f"/{kind}"
            try:
                run_peer(torch, modules, clock, copies, peer, name, chosen, where, arguments)
                figure(f"{name}/eager/layers", layers, "1")
                done += 1
            except Exception as error:  # pylint: disable=broad-except  # whatever a package may raise: the others go on
                failed += 1
                print(f"{name}: not run: {error!r}", file=sys.stderr, flush=True)
            clock.free_bytes()
        del copies
    return done, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="bench_cuda")
    names = {"type": lambda text: text.split(",")}
    parser.add_argument("--lists", default=["60m", "350m"], **names)
    parser.add_argument("--scopes", default=["whole"], **names)
    parser.add_argument("--types", default=["float", "bfloat16"], **names)
    parser.add_argument("--peers", default=list(DEFAULT), help="of " + ", ".join(DEFAULT), **names)
    parser.add_argument("--rank", default=0, type=int, help="0: a quarter of the width")
    parser.add_argument("--repetitions", default=51, type=int)
    parser.add_argument("--seconds", default=3, type=float, help="after which a case is repeated no more, but for three times")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    arguments = parser.parse_args()
    if arguments.repetitions < 2:
        parser.error("quartiles need two repetitions")
    unknown = set(arguments.peers) - set(DEFAULT)
    if unknown:
        parser.error(f"no such peers: {' '.join(sorted(unknown))}")
    torch, _, modules = reference_packages("base")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"SKIP: torch {torch.__version__} finds no GPU", file=sys.stderr)
        sys.exit(77)
    torch.manual_seed(0)
    print("cuda/torch/version", torch.__version__, "version", flush=True)
    clock = {"cuda": Cuda, "cpu": Cpu}[arguments.device](torch)
    counts = [run_list(torch, modules, clock, model, scope, arguments)
              for model in arguments.lists for scope in arguments.scopes]
    if sum(done for done, _ in counts) == 0:
        sys.exit("no peer could be run")
    sys.exit(1 if any(failed for _, failed in counts) else 0)


if __name__ == "__main__":
    main()
