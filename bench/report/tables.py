# SPDX-License-Identifier: Apache-2.0
"""The sections of a report: Markdown tables of the figures, a function each. None where there are no figures for it."""
import re

from cases import (FLAGGED_MODEL, FLAGS, GROWTH, MATRIX, MODEL, PEER, cases, flags_order, list_order, member_name,
                   member_order, shape_name, shape_order, threads_name)
from figures import is_case, split_name
from gpu import gpu
from markdown import median, named, number, span, table

HEADERS = {"vector": "`<vector>`", "core": "`<apollo/core.hpp>`", "umbrella": "`<apollo/apollo.hpp>`",
           "umbrella_with_eigen": "`<apollo/apollo.hpp>` and `<apollo/eigen.hpp>`"}


def roofline(figures):
    rows = []
    found = cases(figures, MODEL, scope="matrices", member="roofline_adamw")
    for case, name in sorted(found, key=lambda one: (list_order(one[0]["list"]), one[0]["threads"])):
        axpy = name.replace("roofline_adamw", "roofline_axpy")
        rows.append([f"{case['list']}, {threads_name(case['threads'])}",
                     number(figures.value(f"{name}/ns_per_parameter")), number(figures.value(f"{name}/bandwidth")),
                     number(figures.value(f"{axpy}/bandwidth")), median(figures, f"{name}/of_axpy_bandwidth")])
    return table(["", "ns per parameter", "GB/s", "GB/s of an in-place axpy", "bandwidth over axpy's"], rows) or None


def model_table(figures, scope):
    found = [one for one in cases(figures, MODEL, scope=scope, type="float")
             if not one[0]["member"].startswith("roofline")]
    columns = sorted({(case["list"], case["threads"]) for case, _ in found}, key=lambda c: (list_order(c[0]), c[1]))
    rows = []
    for member in sorted({case["member"] for case, _ in found}, key=member_order):
        names = {(case["list"], case["threads"]): name for case, name in found if case["member"] == member}
        rows.append([member_name(member)] +
                    [median(figures, f"{names[column]}/roofline") if column in names else "" for column in columns] +
                    [span([figures.value(f"{name}/{what}") for name in names.values()])
                     for what in ("bytes_per_parameter", "state_bytes_per_parameter")])
    header = [""] + [f"{name}, {threads_name(threads)}" for name, threads in columns]
    return table(header + ["bytes moved a parameter", "state bytes a parameter"], rows)


def models(figures):
    titles = {"matrices": "The matrices of attention and MLP", "whole": "Whole models, whose other tensors take AdamW"}
    measure = "times the roofline of as many threads, median [quartiles]."
    return [line for scope, title in titles.items()
            for line in named(f"{title}: {measure}", model_table(figures, scope))] or None


def dense(figures):
    found = [one for one in cases(figures, MODEL, scope="matrices", type="float")
             if figures.value(f"{one[1]}/over_bare_product") is not None]
    threads = sorted({case["threads"] for case, _ in found})
    rows = {}
    for case, name in found:
        rows.setdefault((case["member"], case["list"]), {})[case["threads"]] = name
    lines = []
    for member, model in sorted(rows, key=lambda key: (member_order(key[0]), list_order(key[1]))):
        names = rows[member, model]
        lines.append([f"{member_name(member)}, {model}"] +
                     [median(figures, f"{names[t]}/over_bare_product") if t in names else "" for t in threads] +
                     [number(figures.value(f"{names[t]}/bare_product/rate")) if t in names else "" for t in threads])
    header = [""] + [f"times the bare product, {threads_name(t)}" for t in threads]
    return table(header + [f"GFLOP/s of that product, {threads_name(t)}" for t in threads], lines) or None


def matrix_cell(figures, name):
    """Ratio and half its spread, and nanoseconds; the roofline loops have gigabytes a second instead of a ratio."""
    nanoseconds = figures.value(f"{name}/ns_per_parameter")
    if nanoseconds is None:
        return ""
    rate, ratio = figures.value(f"{name}/bytes_per_second"), figures.value(f"{name}/roofline")
    if ratio is None:
        return f"{number(nanoseconds)} ns" + (f", {number(rate * 1e-9)} GB/s" if rate else "")
    spread = figures.value(f"{name}/roofline/spread")
    around = f" ± {ratio * spread / 200:.2f}" if spread is not None else ""
    return f"{ratio:.2f}{around} ({number(nanoseconds)} ns)"


def matrix_table(figures, kinds, threads):
    found = [one for one in cases(figures, MATRIX, threads=threads) if one[0]["kind"] in kinds]
    shapes = sorted({case["shape"] for case, _ in found}, key=shape_order)
    rows, refreshes = {}, {}
    for case, name in found:
        member = "roofline_" * (case["kind"] == "roofline") + case["member"]
        rows.setdefault(member, {})[case["shape"]] = matrix_cell(figures, name)
        refresh = figures.value(f"{name}/refresh_us")
        if refresh is not None:
            refreshes[case["shape"]] = f"{number(refresh * 1e-3)} ms"
    lines = [[member_name(member)] + [rows[member].get(shape, "") for shape in shapes]
             for member in sorted(rows, key=member_order)]
    lines.append(["a refresh of GaLore's basis"] + [refreshes.get(shape, "") for shape in shapes])
    return table([""] + [shape_name(shape) for shape in shapes], lines)


def matrices(figures):
    lines = []
    found = cases(figures, MATRIX)
    for threads in sorted({case["threads"] for case, _ in found}):
        ratios = any(figures.value(f"{name}/roofline") is not None for case, name in found if case["threads"] == threads)
        what = "times the roofline ± half the spread of repetitions (ns per parameter)" if ratios else "ns per parameter"
        lines += named(f"Eigen backend, {threads_name(threads)}: {what}.",
                       matrix_table(figures, ("roofline", "step"), threads))
    for threads in sorted({case["threads"] for case, _ in found if case["kind"] == "reference"}):
        lines += named(f"Reference backend, {threads_name(threads)}: the same.",
                       matrix_table(figures, ("reference",), threads))
    return lines or None


def peers(figures):
    found = cases(figures, PEER)
    mallocs = sorted({case["malloc"] for case, _ in found})
    lines = []
    groups = {(case["scope"], case["list"], case["threads"]) for case, _ in found}
    for scope, model, threads in sorted(groups, key=lambda key: (key[0], list_order(key[1]), key[2])):
        rows = {}
        for case, name in found:
            if (case["scope"], case["list"], case["threads"]) == (scope, model, threads):
                rows.setdefault((case["member"], case["peer"]), {})[case["malloc"]] = name
        cells = []
        for member, peer in sorted(rows, key=lambda key: (member_order(key[0]), key[1])):
            cells.append([f"{member_name(member)} against {peer}"])
            for malloc in mallocs:
                name = rows[member, peer].get(malloc, "")
                times = name.removesuffix("/over_ours")
                cells[-1] += [number(figures.value(f"{times}/ours")), number(figures.value(times)),
                              median(figures, name)]
        header = [""] + [f"{what}, {malloc} malloc" for malloc in mallocs
                         for what in ("ours, ms", "theirs, ms", "times faster")]
        what = "whole model" if scope == "whole" else scope
        lines += named(f"{model}, {what}, {threads_name(threads)}; times faster: median [quartiles].",
                       table(header, cells))
    version = figures.text("peers/torch/version")
    return lines + ([f"torch {version}.", ""] if version else []) if lines else None


def natural(name):
    """60m before 350m."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def generic(figures, prefix, leave_out=()):
    """Every figure with a prefix: a table of cases by figures, and a list of what is no figure of a case."""
    rows, columns, others = {}, [], []
    for name in sorted(figures.names(), key=natural):
        if not name.startswith(prefix) or name in leave_out or name.endswith(("/lower_quartile", "/upper_quartile")):
            continue
        case, what = split_name(name[len(prefix):])
        if not is_case(case):
            others.append([f"`{case}`", median(figures, name), figures.unit(name)])
            continue
        words = what.replace("_", " ").replace("/", ", ")
        column = ", ".join(part for part in (words, figures.unit(name)) if part not in ("", "x", "1"))
        if column not in columns:
            columns.append(column)
        rows.setdefault(case, {})[column] = median(figures, name)
    lines = table(["", *columns], [[f"`{case}`"] + [rows[case].get(column, "") for column in columns] for case in rows])
    return lines + table(["", "value", "unit"], others) or None


def refresh(figures):
    return generic(figures, "refresh/")


def checkpoint(figures):
    found = sorted((name for name in figures.names() if name.startswith("checkpoint/") and name.endswith("/file_bytes")),
                   key=natural)
    rows = []
    for case in (name.removesuffix("/file_bytes") for name in found):
        _, member, model, layout, _ = case.split("/")
        rows.append([f"{member_name(member)}, {model}, by {layout}", number(figures.value(f"{case}/file_bytes") * 1e-9)] +
                    [median(figures, f"{case}/{what}") for what in
                     ("save", "cp_and_fsync", "save_speed_of_cp", "load", "cat", "load_speed_of_cat")])
    return table(["", "GB", "save, s", "`cp` and fsync, s", "times as fast", "load, s", "`cat`, s", "times as fast"],
                 rows) or None


def types(figures):
    found = cases(figures, MODEL)
    by_case = {tuple(case.values()): name for case, name in found}
    rows = {}
    for case, name in found:
        plain = by_case.get(tuple({**case, "type": "float"}.values()))
        if case["type"] == "float" or not plain:
            continue
        ours, floats = figures.value(f"{name}/roofline"), figures.value(f"{plain}/roofline")
        if ours is None or not floats:
            continue
        cell = f"{number(ours / floats)} ({number(ours)} / {number(floats)})"
        rows.setdefault((case["scope"], case["list"], case["member"], case["type"]), {})[case["threads"]] = cell
    threads = sorted({count for row in rows.values() for count in row})
    keys = sorted(rows, key=lambda key: (key[0], list_order(key[1]), member_order(key[2]), key[3]))
    return table([""] + [threads_name(count) for count in threads],
                 [[f"{member_name(member)}, {model}, {scope}: {kind} over float"] +
                  [rows[scope, model, member, kind].get(count, "") for count in threads]
                  for scope, model, member, kind in keys]) or None


def flags(figures):
    found = [one for one in cases(figures, FLAGGED_MODEL, type="float") if not one[0]["member"].startswith("roofline")]
    columns = sorted({(case["threads"], case["flags"]) for case, _ in found}, key=lambda c: (c[0], flags_order(c[1])))
    rows = {}
    for case, name in found:
        row = rows.setdefault((case["list"], case["member"]), {})
        row[case["threads"], case["flags"]] = median(figures, f"{name}/roofline")
    lines = [[f"{member_name(member)}, {model}"] + [rows[model, member].get(column, "") for column in columns]
             for model, member in sorted(rows, key=lambda key: (list_order(key[0]), member_order(key[1])))]
    lines = table([""] + [f"`{FLAGS.get(name, name)}`, {threads_name(threads)}" for threads, name in columns], lines)
    # What is no step of a model is shown as it is.
    steps = {name for _, name in cases(figures, FLAGGED_MODEL)}
    others = generic(figures, "flags/", {name for name in figures.names() if split_name(name)[0] in steps})
    return named("Times the roofline, median [quartiles].", lines) + (others or []) or None


def growth(figures):
    found = cases(figures, GROWTH)
    columns = sorted({(case["shape"], case["threads"]) for case, _ in found}, key=lambda c: (c[1], shape_order(c[0])))
    rows = {}
    for case, name in found:
        nanoseconds, ratio = figures.value(f"{name}/ns_per_parameter"), figures.value(f"{name}/roofline")
        cell = number(nanoseconds) + (f" ({number(ratio)})" if ratio is not None else "")
        rows.setdefault(case["member"], {})[case["shape"], case["threads"]] = cell
    lines = table([""] + [f"{shape_name(shape)}, {threads_name(threads)}" for shape, threads in columns],
                  [[member_name(member)] + [rows[member].get(column, "") for column in columns]
                   for member in sorted(rows, key=member_order)])
    return named("ns per parameter (times the roofline).", lines) or None


def parse(figures):
    known = [name for name in HEADERS if figures.value(f"parse/{name}") is not None]
    return table(["", "CPU seconds", "times `<vector>`"],
                 [[HEADERS[name], number(figures.value(f"parse/{name}")), number(figures.value(f"parse/{name}/ratio"))]
                  for name in known]) or None


# Name in the markers, heading where the report is a file of its own, function.
SECTIONS = [
    ("roofline", "The roofline", roofline),
    ("models", "Models", models),
    ("dense", "Dense projections", dense),
    ("matrices", "Single matrices", matrices),
    ("growth", "Growing matrices", growth),
    ("refresh", "GaLore's refresh", refresh),
    ("checkpoint", "Checkpoints", checkpoint),
    ("types", "Value types", types),
    ("flags", "Compiler flags", flags),
    ("peers", "Other packages", peers),
    ("gpu", "On a GPU", gpu),
    ("parse", "Header parse times", parse),
]
