# SPDX-License-Identifier: Apache-2.0
"""Steps a list of tensors with the optimizer of another package, one step for every line of standard input, answered by its
nanoseconds: the same protocol as bench_models --serve. The first line out says what is run.

    peer.py PACKAGE THREADS TENSORS

TENSORS is a file of lines NAME ROWS COLS RANK, as bench_models --tensors prints them; rank 0 is stepped densely. The packages
run as they are installed; tests/parity knows how to import theirs without what they need for GPUs."""
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "parity"))
from references import reference_packages  # noqa: E402

LR = 1e-6  # many steps along one gradient must leave ordinary numbers
NEVER = 1 << 40


def torch_adamw(torch, modules, matrices, others, **form):
    return torch.optim.AdamW([p for p, _ in matrices] + others, lr=LR, **form)


def low_rank(optimizer, matrices, others, rank=None, **options):
    groups = [{"params": [p for p, _ in matrices], "rank": rank or matrices[0][1], "proj_type": "std", **options}]
    return optimizer(groups + ([{"params": others}] if others else []), lr=LR, no_deprecation_warning=True)


def apollo_torch(torch, modules, matrices, others, **options):
    return low_rank(modules["apollo"].AdamW, matrices, others, update_proj_gap=200, proj="random", **options)


def galore_torch(torch, modules, matrices, others, gap):
    return low_rank(modules["galore"].AdamW, matrices, others, update_proj_gap=gap, scale=0.25)


def bitsandbytes(torch, modules, matrices, others):
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    parameters = [p for p, _ in matrices] + others
    manager = GlobalOptimManager.get_instance()
    manager.register_parameters(parameters)
    manager.override_config(others, "optim_bits", 32)  # as the member that it is compared with steps them
    return AdamW8bit(parameters, lr=LR, min_8bit_size=1)


PACKAGES = {
    "torch_adamw_fused": lambda *a: torch_adamw(*a, fused=True),
    "torch_adamw_foreach": lambda *a: torch_adamw(*a, foreach=True),
    "apollo_torch": lambda *a: apollo_torch(*a, scale_type="channel", scale=1),
    "apollo_torch_mini": lambda *a: apollo_torch(*a, rank=1, scale_type="tensor", scale=128),
    "galore_torch": lambda *a: galore_torch(*a, gap=NEVER),
    "galore_torch_refresh": lambda *a: galore_torch(*a, gap=1),
    "bitsandbytes_adamw_8bit": bitsandbytes,
}


def parameters(torch, lines, **where):
    """Parameters with gradients: those stepped in low rank with their ranks, and the others. `where`: device and dtype."""
    matrices, others = [], []
    for line in lines:
        _, rows, cols, rank = line.split()
        shape = (int(rows), int(cols)) if int(rows) > 1 else (int(cols),)
        parameter = torch.nn.Parameter(2e-2 * torch.randn(shape, **where))
        parameter.grad = 1e-3 * torch.randn(shape, **where)
        if int(rank) > 0:
            matrices.append((parameter, int(rank)))
        else:
            others.append(parameter)
    return matrices, others


def main():
    package, threads, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch, _, modules = reference_packages("base")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    optimizer = PACKAGES[package](torch, modules, *parameters(torch, pathlib.Path(file).read_text().splitlines()))
    print(package, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter_ns()
        optimizer.step()
        print(time.perf_counter_ns() - start, flush=True)


if __name__ == "__main__":
    main()
