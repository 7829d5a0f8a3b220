# SPDX-License-Identifier: Apache-2.0
"""What the names of the benchmarks' cases are made of, in the order and the words of a report."""
import re

MEMBERS = {
    "roofline_adamw": "roofline: plain AdamW loop",
    "roofline_axpy": "in-place axpy",
    "adamw_unchecked": "AdamW without the finite guard",
    "adamw": "AdamW",
    "adamw_8bit": "AdamW, 8-bit moments",
    "adamw_8bit_dynamic": "AdamW, 8-bit moments, dynamic map",
    "adamw_4bit": "AdamW, 4-bit moments",
    "sgd_momentum": "SGD with momentum",
    "adam_mini": "Adam-mini",
    "apollo_mini": "APOLLO-Mini",
    "apollo_mini_stochastic": "APOLLO-Mini, stochastic rounding",
    "apollo_sparse": "APOLLO, sparse signs",
    "apollo_sparse_k2": "APOLLO, sparse signs, k = 2",
    "apollo_sparse_k4": "APOLLO, sparse signs, k = 4",
    "apollo_gaussian": "APOLLO, Gaussian",
    "apollo_gaussian_tf32": "APOLLO, Gaussian, TF32",
    "galore": "GaLore between refreshes",
    "galore_tf32": "GaLore between refreshes, TF32",
    "galore_gap200": "GaLore, a refresh every 200 steps",
    "galore_refresh": "GaLore, refreshing",
    "fira": "Fira between refreshes",
    "adamw_bf16": "AdamW, bf16 moments",
    "adamw_stochastic": "AdamW, bf16 moments, stochastic rounding",
    "torch_adamw_fused": "torch's fused AdamW",
    "torch_adamw_foreach": "torch's AdamW, foreach",
    "apollo_torch": "apollo-torch",
    "apollo_torch_mini": "apollo-torch, Mini",
    "galore_torch": "galore-torch between refreshes",
}
LISTS = ["tiny", "small", "60m", "130m", "350m", "1b_6of24", "1b", "7b_1of32", "7b"]
TYPES = {"float": "fp32", "bfloat16": "bf16"}
# On a GPU: ours, and the packages' own of the same algorithm.
GPU_PEERS = [("adamw", "torch_adamw_fused"), ("adamw_stochastic", "torch_adamw_fused"), ("apollo_sparse", "apollo_torch"), ("apollo_gaussian_tf32", "apollo_torch"),
             ("apollo_mini", "apollo_torch_mini"), ("galore", "galore_torch")]
FLAGS = {"O2": "-O2", "O3": "-O3", "O3_native": "-O3 -march=native"}

MODEL = r"(?P<scope>whole|matrices)/(?P<member>\w+)/(?P<list>\w+)(?:/r\d+)?/(?P<type>\w+)/t(?P<threads>\d+)"
FLAGGED_MODEL = r"flags/(?P<flags>\w+)/" + MODEL
MATRIX = r"(?P<kind>step|reference|roofline)/(?P<member>\w+)/(?P<shape>\d+x\d+)(?:/r\d+)?/float/t(?P<threads>\d+)"
GROWTH = r"growth/(?P<member>\w+)/(?P<shape>\d+x\d+)/t(?P<threads>\d+)"
PEER = (r"peers/(?P<scope>\w+)/(?P<member>\w+)/(?P<list>\w+)/t(?P<threads>\d+)/(?P<malloc>\w+)_malloc/(?P<peer>\w+)"
        r"/over_ours")
GPU = (r"cuda/(?P<scope>whole|matrices)/(?P<member>\w+)/(?P<list>\w+)(?:/r(?P<rank>\d+))?/(?P<type>\w+)"
       r"/(?P<how>graph|eager)")


def parts(name, pattern):
    """The parts of a name with numbers of threads as such; None where it is another kind of name."""
    match = re.fullmatch(pattern, name)
    if not match:
        return None
    found = match.groupdict()
    return {**found, "threads": int(found["threads"])} if "threads" in found else found


def cases(figures, pattern, **wanted):
    """(parts, name) of every case of a kind whose parts are as wanted, in order of their names."""
    found = ((parts(name, pattern), name) for name in sorted(figures.names()))
    return [(each, name) for each, name in found if each and all(each[key] == wanted[key] for key in wanted)]


def member_name(member):
    return MEMBERS.get(member, member)


def member_order(member):
    return list(MEMBERS).index(member) if member in MEMBERS else len(MEMBERS), member


def list_order(name):
    return LISTS.index(name) if name in LISTS else len(LISTS), name


def shape_order(shape):
    rows, cols = map(int, shape.split("x"))
    return rows * cols, rows


def flags_order(flags):
    return list(FLAGS).index(flags) if flags in FLAGS else len(FLAGS), flags


def threads_name(threads):
    return f"{threads} thread" + ("s" if threads > 1 else "")


def shape_name(shape):
    return shape.replace("x", " x ")
