#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Forward and backward of the model `nano` of examples/llama in torch.

  nano_torch.py check FILE                        compares loss and gradients with what `nano dump FILE` wrote
  nano_torch.py time FORM THREADS SECONDS FILE    median seconds of one forward and backward, on the same weights and tokens

FORM is `plain`, the model as one writes it in torch, or `tuned`, as fast as we could make it.
What made torch faster and stayed: q, k, v in one product, but gate and up in two; derivatives written out for RMSNorm, rotary
embeddings and attention; attention in blocks of queries that skip later keys (`time` first tries this against no blocks, and
takes the faster); memory that malloc keeps; kernels for AVX-512 where the processor has them (torch 1.13 does not see every
one); OpenBLAS on OpenMP, so that it shares threads with torch (see `run`). What did not help: torch.jit.trace and script,
F._scaled_dot_product_attention, products by oneDNN (mkldnn tensors, or as convolutions), flushing denormals.
"""
import ctypes
import json
import os
import struct
import sys
import time


def prepare(threads):
    """Settings that only hold if made before torch is loaded."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
            flags = next((line.split() for line in info if line.startswith("flags")), [])
    except OSError:
        flags = []
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags):
        os.environ["ATEN_CPU_CAPABILITY"] = "avx512"
    # Large tensors would be mapped afresh at every step: let malloc keep what is freed. The numbers are glibc's.
    trim_threshold, mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_threshold, 1 << 25)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


timed = len(sys.argv) == 6 and sys.argv[1] == "time" and sys.argv[2] in ("plain", "tuned")
prepare(int(sys.argv[3]) if timed else 1)

import torch  # noqa: E402
from torch.autograd import Function  # noqa: E402
from torch.nn import functional as F  # noqa: E402

SEQUENCES, LENGTH = 8, 128
HIDDEN, LAYERS, HEADS = 128, 4, 4
SIZE = HIDDEN // HEADS
HALF = SIZE // 2
EPS = 1e-6
BLOCKS = (LENGTH, LENGTH // 2)


class Norm(Function):
    """RMSNorm of every row."""

    @staticmethod
    def forward(ctx, x, gain):
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean.add_(EPS).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, gain)
        return unit * gain

    @staticmethod
    def backward(ctx, dy):
        unit, inverse, gain = ctx.saved_tensors
        product = dy * unit
        along = torch.mv(product, gain).div_(unit.shape[-1]).unsqueeze(-1)
        return (dy * gain).addcmul_(unit, along, value=-1).mul_(inverse), product.sum(0)


def rotary_tables():
    """Cosines and sines for q and k: 2 x 1 x 1 x length x half. Those of q carry the scale of attention's scores."""
    frequency = 1e4 ** (-torch.arange(HALF, dtype=torch.float64) / HALF)
    angle = torch.arange(LENGTH, dtype=torch.float64)[:, None] * frequency
    scale = torch.tensor([SIZE**-0.5, 1], dtype=torch.float64).view(2, 1, 1, 1, 1)
    return (scale * angle.cos()).float(), (scale * angle.sin()).float()


COSINE, SINE = rotary_tables()
MASK = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)


def turn(x, out, sine):
    """Turns the pairs (i, i + half) of q and k: 2 x sequences x heads x length x size."""
    for i, j, direction in ((0, HALF, -1), (HALF, 0, 1)):
        own, other, to = x[..., i : i + HALF], x[..., j : j + HALF], out[..., i : i + HALF]
        torch.mul(own, COSINE, out=to).addcmul_(other, sine, value=direction)


class Rotary(Function):
    """From tokens x (q, k, v) to q, k, v, each (sequences heads) x length x size, with q and k turned."""

    @staticmethod
    def forward(ctx, qkv):
        x = qkv.view(SEQUENCES, LENGTH, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        out = torch.empty(x.shape)
        turn(x[:2], out[:2], SINE)
        out[2] = x[2]
        return out.view(3, SEQUENCES * HEADS, LENGTH, SIZE)

    @staticmethod
    def backward(ctx, dout):
        dout = dout.view(3, SEQUENCES, HEADS, LENGTH, SIZE)
        dqkv = torch.empty(SEQUENCES, LENGTH, 3, HEADS, SIZE)
        dx = dqkv.permute(2, 0, 3, 1, 4)
        turn(dout[:2], dx[:2], -SINE)
        dx[2] = dout[2]
        return dqkv.view(SEQUENCES * LENGTH, 3 * HIDDEN)


class Attention(Function):
    """Causal attention, for `block` queries of every head at a time."""

    @staticmethod
    def forward(ctx, qkv, block):
        q, k, v = qkv
        out = torch.empty_like(q)
        probabilities = []
        for first in range(0, LENGTH, block):
            own, seen = slice(first, first + block), slice(0, first + block)
            p = torch.baddbmm(MASK[own, seen], q[:, own], k[:, seen].transpose(1, 2)).softmax(-1)
            torch.bmm(p, v[:, seen], out=out[:, own])
            probabilities.append(p)
        ctx.save_for_backward(qkv, *probabilities)
        return out

    @staticmethod
    def backward(ctx, dout):
        qkv, *probabilities = ctx.saved_tensors
        q, k, v = qkv
        dqkv = torch.empty_like(qkv)
        dq, dk, dv = dqkv
        block = LENGTH // len(probabilities)
        for i, p in reversed(list(enumerate(probabilities))):
            own, seen = slice(i * block, (i + 1) * block), slice(0, (i + 1) * block)
            dp = torch.bmm(dout[:, own], v[:, seen].transpose(1, 2))
            dscores = torch._softmax_backward_data(dp, p, -1, torch.float32)
            torch.bmm(dscores, k[:, seen], out=dq[:, own])
            # The last block, which sees every key, comes first: the others add to what it wrote.
            keep = 0 if seen.stop == LENGTH else 1
            dv[:, seen].baddbmm_(p.transpose(1, 2), dout[:, own], beta=keep)
            dk[:, seen].baddbmm_(dscores.transpose(1, 2), q[:, own], beta=keep)
        return dqkv, None


def parameter_groups():
    """Names of the weights, grouped as the products below want them."""
    groups = [["model.embed_tokens.weight"]]
    for layer in range(LAYERS):
        for names in ("input_layernorm", "self_attn.q_proj self_attn.k_proj self_attn.v_proj", "self_attn.o_proj",
                      "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            groups.append([f"model.layers.{layer}.{name}.weight" for name in names.split()])
    return groups + [["model.norm.weight"], ["lm_head.weight"]]


def loss_of(parameters, tokens, targets, block):
    embedding, *layers, norm, head = parameters
    x = F.embedding(tokens, embedding)
    while layers:
        (attention_norm, qkv, output, mlp_norm, gate, up, down), layers = layers[:7], layers[7:]
        y = Attention.apply(Rotary.apply(F.linear(Norm.apply(x, attention_norm), qkv)), block)
        y = y.view(SEQUENCES, HEADS, LENGTH, SIZE).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(y, output)
        y = Norm.apply(x, mlp_norm)
        x = x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
    return F.cross_entropy(F.linear(Norm.apply(x, norm), head), targets)


def plain_loss_of(parameters, tokens, targets):
    """The same loss with nothing but torch's own functions and derivatives."""

    def norm(x, gain):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * gain

    def turned(x):
        return x * cosine + torch.cat((-x[..., HALF:], x[..., :HALF]), dim=-1) * sine

    # Of keys: those of queries carry attention's scale.
    cosine, sine = (table[1, 0, 0].repeat(1, 2) for table in (COSINE, SINE))
    embedding, *layers, final_norm, head = parameters
    x = F.embedding(tokens, embedding).view(SEQUENCES, LENGTH, HIDDEN)
    while layers:
        (attention_norm, qkv, output, mlp_norm, gate, up, down), layers = layers[:7], layers[7:]
        y = norm(x, attention_norm)
        q, k, v = (F.linear(y, w).view(SEQUENCES, LENGTH, HEADS, SIZE).transpose(1, 2) for w in qkv.chunk(3))
        scores = turned(q) @ turned(k).transpose(2, 3) / SIZE**0.5 + MASK
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(SEQUENCES, LENGTH, HIDDEN)
        x = x + F.linear(y, output)
        y = norm(x, mlp_norm)
        x = x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
    return F.cross_entropy(F.linear(norm(x, final_norm), head).flatten(0, 1), targets)


def read(path):
    """All tensors of a safetensors file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    types = {"F32": (torch.float32, 4), "F64": (torch.float64, 8), "I32": (torch.int32, 4)}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype, size = types[entry["dtype"]]
        flat = torch.frombuffer(data, dtype=dtype, offset=begin, count=(end - begin) // size)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


class Model:
    def __init__(self, path):
        self.dump = read(path)
        self.groups = parameter_groups()
        self.parameters = [torch.cat([self.dump["weight:" + name] for name in group]) for group in self.groups]
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.tokens, self.targets = (self.dump[name].long().flatten() for name in ("tokens", "targets"))

    def step(self, block):
        """Forward and backward with attention in blocks of so many queries; None: in plain form."""
        for parameter in self.parameters:
            parameter.grad = None
        if block is None:
            loss = plain_loss_of(self.parameters, self.tokens, self.targets)
        else:
            loss = loss_of(self.parameters, self.tokens, self.targets, block)
        loss.backward()
        return loss.item()


def compare(model, block):
    """Relative errors of the loss and of every gradient."""
    expected = model.dump["loss"].item()
    loss_error = abs(model.step(block) - expected) / abs(expected)
    errors = {}
    for group, parameter in zip(model.groups, model.parameters):
        for name, ours in zip(group, parameter.grad.chunk(len(group))):
            theirs = model.dump["gradient:" + name].double()
            errors[name] = ((ours.double() - theirs).norm() / theirs.norm()).item()
    left = {name for name in model.dump if name.startswith("gradient:")} - {"gradient:" + name for name in errors}
    # Written so that a NaN fails too.
    if left or not loss_error <= 1e-5 or not all(error <= 1e-4 for error in errors.values()):
        worst = max(errors, key=errors.get)
        sys.exit(f"nano_torch.py: another result in torch, blocks {block}: loss {loss_error:.3g} off, "
                 f"gradient of {worst} {errors[worst]:.3g} off, not compared {sorted(left)}")
    return loss_error, max(errors.values())


def check(path):
    model = Model(path)
    loss_errors, gradient_errors = zip(*(compare(model, block) for block in (None, *BLOCKS)))
    print(f"llama_nano/check/loss_error {max(loss_errors):.3g} 1")
    print(f"llama_nano/check/largest_gradient_error {max(gradient_errors):.3g} 1")


def step_times(model, block, seconds):
    steps = []
    start = time.perf_counter()
    while time.perf_counter() < start + seconds or not steps:
        step = time.perf_counter()
        model.step(block)
        steps.append(time.perf_counter() - step)
    return sorted(steps)


def median(times):
    return times[len(times) // 2]


def median_seconds(form, threads, seconds, path):
    torch.set_num_threads(threads)
    model = Model(path)
    choices = (None,) if form == "plain" else BLOCKS
    step_times(model, choices[0], 0.2 * seconds)  # for caches, threads and the clock to settle
    best = min(choices, key=lambda block: median(step_times(model, block, 0.2 * seconds)))
    return median(step_times(model, best, seconds))


if timed:
    print(f"{median_seconds(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]):.9f}")
elif len(sys.argv) == 3 and sys.argv[1] == "check":
    check(sys.argv[2])
elif sys.argv[1:] == ["version"]:
    print(torch.__version__)
else:
    sys.exit("usage: nano_torch.py check FILE | time plain|tuned THREADS SECONDS FILE | version")
