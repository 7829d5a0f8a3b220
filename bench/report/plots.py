# SPDX-License-Identifier: Apache-2.0
"""The plots of a report, as SVG files that are the same for the same figures."""
import os
import textwrap

import matplotlib
from cases import (GROWTH, MODEL, PEER, cases, list_order, member_name, member_order, shape_name, shape_order,
                   threads_name)

matplotlib.use("svg")
from matplotlib import pyplot, ticker  # noqa: E402 (after the choice of what draws)

# Texts stay texts, in a font that browsers replace by their own. Ids come from the salt alone.
matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "apollo", "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.axisbelow": True, "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": .6, "legend.frameon": False,
    "xtick.color": "#444444", "ytick.color": "#444444", "axes.labelcolor": "#222222", "text.color": "#222222",
})
# Okabe and Ito's, told apart without colour vision; the fourth is darkened for a white ground.
COLOURS = ["#0072b2", "#e69f00", "#009e73", "#b8468f", "#56b4e9", "#d55e00", "#000000", "#999999",
           "#8c6d31"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]


def plain(axis):
    """Numbers as they are read, on an axis of ratios: 0.5, 1, 2, 5."""
    axis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def room(axes, values, which):
    """From a little below the least to a little above the most, 1 among them."""
    limits = min(*values, 1) / 1.25, max(*values, 1) * 1.35
    (axes.set_xlim if which == "x" else axes.set_ylim)(limits)


def error(figures, name):
    lower, middle, upper = figures.quartiles(name)
    return (0, 0) if None in (lower, middle, upper) else (middle - lower, upper - middle)


def steps_of_models(figures):
    """Cases of the matrices on the most threads, and how many that is."""
    found = [one for one in cases(figures, MODEL, scope="matrices", type="float")
             if not one[0]["member"].startswith("roofline") and figures.value(f"{one[1]}/roofline")]
    threads = max((case["threads"] for case, _ in found), default=0)
    return [one for one in found if one[0]["threads"] == threads], threads


def roofline(figures):
    found, threads = steps_of_models(figures)
    if not found:
        return None
    members = sorted({case["member"] for case, _ in found}, key=member_order)
    lists = sorted({case["list"] for case, _ in found}, key=list_order)
    figure, axes = pyplot.subplots(figsize=(max(8, 1.35 * len(members)), 4))
    width = .8 / len(lists)
    for number, model in enumerate(lists):
        names = {case["member"]: name for case, name in found if case["list"] == model}
        at = [i for i, member in enumerate(members) if member in names]
        values = [figures.value(f"{names[members[i]]}/roofline") for i in at]
        errors = [error(figures, f"{names[members[i]]}/roofline") for i in at]
        axes.bar([i + (number - (len(lists) - 1) / 2) * width for i in at], [value - 1 for value in values],
                 width * .92, bottom=1, yerr=list(zip(*errors)), color=COLOURS[number % len(COLOURS)], label=model,
                 error_kw={"elinewidth": .8, "ecolor": "#444444"})
    axes.set_yscale("log")
    room(axes, [figures.value(f"{name}/roofline") for _, name in found], "y")
    plain(axes.yaxis)
    axes.axhline(1, color="#222222", linewidth=1)
    axes.grid(False, axis="x")
    labels = [textwrap.fill(member_name(member), 12, break_long_words=False) for member in members]
    axes.set_xticks(range(len(members)), labels)
    axes.set_ylabel("step over roofline (less is faster)")
    axes.set_title(f"Steps of the low-rank matrices, {threads_name(threads)}", loc="left", fontsize=10)
    axes.legend(ncols=len(lists), loc="upper left")
    return figure


def floor(figures):
    found, threads = steps_of_models(figures)
    found = [one for one in found if figures.value(f"{one[1]}/bytes_per_parameter")]
    loops = [name for case, name in cases(figures, MODEL, scope="matrices", member="roofline_adamw")
             if figures.value(f"{name}/bandwidth") and figures.value(f"{name}/ns_per_parameter")]
    if not found or not loops:
        return None
    loop_bytes = round(figures.value(f"{loops[0]}/bandwidth") * figures.value(f"{loops[0]}/ns_per_parameter"))
    members = sorted({case["member"] for case, _ in found}, key=member_order)
    lists = sorted({case["list"] for case, _ in found}, key=list_order)
    figure, axes = pyplot.subplots(figsize=(8, 4))
    floors, ratios = [], []
    for case, name in found:
        floors.append(figures.value(f"{name}/bytes_per_parameter") / loop_bytes)
        ratios.append(figures.value(f"{name}/roofline"))
        axes.plot(floors[-1], ratios[-1], MARKERS[lists.index(case["list"]) % len(MARKERS)], markersize=6, alpha=.85,
                  color=COLOURS[members.index(case["member"]) % len(COLOURS)])
    ends = min(floors) * .92, max(floors) * 1.08
    line = [ends[0] + (ends[1] - ends[0]) * i / 40 for i in range(41)]
    axes.plot(line, line, color="#222222", linewidth=1)
    # Named where most room is between two members.
    stops = sorted({ends[0], *floors, ends[1]})
    left, right = max(zip(stops, stops[1:]), key=lambda gap: gap[1] - gap[0])
    axes.annotate("as fast as the roofline moves bytes", ((left + right) / 2, (left + right) / 2), xytext=(0, -12),
                  textcoords="offset points", ha="center", va="top", fontsize=8)
    axes.set_xlim(ends)
    axes.set_yscale("log")
    room(axes, ratios + floors, "y")
    plain(axes.yaxis)
    axes.set_xlabel(f"bytes that a step moves, over the {loop_bytes} of the roofline")
    axes.set_ylabel("step over roofline")
    axes.set_title(f"Measured against the bytes moved, {threads_name(threads)}", loc="left", fontsize=10)
    keys = [axes.plot([], [], "o", color=COLOURS[i % len(COLOURS)], label=member_name(member))[0]
            for i, member in enumerate(members)]
    keys += [axes.plot([], [], MARKERS[i % len(MARKERS)], color="#888888", label=model)[0]
             for i, model in enumerate(lists)]
    axes.legend(handles=keys, loc="center left", bbox_to_anchor=(1, .5), fontsize=8)
    return figure


def peers(figures):
    found = cases(figures, PEER)
    threads = max((case["threads"] for case, _ in found), default=0)
    found = [one for one in found if one[0]["threads"] == threads]
    if not found:
        return None
    mallocs = sorted({case["malloc"] for case, _ in found})
    groups = sorted({(case["scope"], case["list"]) for case, _ in found}, key=lambda key: (key[0], list_order(key[1])))
    rows = sorted({(case["member"], case["peer"]) for case, _ in found},
                  key=lambda key: (member_order(key[0]), key[1]))
    figure, panels = pyplot.subplots(1, len(mallocs), figsize=(8, 1 + .4 * len(rows)), sharey=True, squeeze=False)
    height = .8 / len(groups)
    for axes, malloc in zip(panels[0], mallocs):
        for number, group in enumerate(groups):
            names = {(case["member"], case["peer"]): name for case, name in found
                     if (case["scope"], case["list"]) == group and case["malloc"] == malloc}
            at = [i for i, row in enumerate(rows) if row in names]
            values = [figures.value(names[rows[i]]) for i in at]
            errors = [error(figures, names[rows[i]]) for i in at]
            axes.barh([i + (number - (len(groups) - 1) / 2) * height for i in at], [value - 1 for value in values],
                      height * .92, left=1, xerr=list(zip(*errors)) or None, color=COLOURS[number % len(COLOURS)],
                      label=group[1] + (f", {group[0]}" if group[0] != "whole" else ""),
                      error_kw={"elinewidth": .8, "ecolor": "#444444"})
        axes.set_xscale("log")
        room(axes, [figures.value(name) for _, name in found], "x")
        plain(axes.xaxis)
        axes.tick_params(axis="x", labelsize=8)
        axes.axvline(1, color="#222222", linewidth=1)
        axes.grid(False, axis="y")
        axes.set_title(f"{malloc} malloc", loc="left", fontsize=10)
        axes.set_xlabel(f"times faster, {threads_name(threads)}")
    labels = [f"{member_name(member)}\nagainst {peer}" for member, peer in rows]
    panels[0][0].set_yticks(range(len(rows)), labels, fontsize=7.5)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(groups), fontsize=8)
    return figure


def growth(figures):
    found = [one for one in cases(figures, GROWTH) if figures.value(f"{one[1]}/ns_per_parameter")]
    threads = max((case["threads"] for case, _ in found), default=0)
    found = [one for one in found if one[0]["threads"] == threads]
    shapes = sorted({case["shape"] for case, _ in found}, key=shape_order)
    if len(shapes) < 2:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 4))
    steps = 0
    for member in sorted({case["member"] for case, _ in found}, key=member_order):
        names = {case["shape"]: name for case, name in found if case["member"] == member}
        at = [shape for shape in shapes if shape in names]
        style = {"color": "#888888", "linestyle": ":" if member.endswith("axpy") else "--"}
        if not member.startswith("roofline"):
            style = {"color": COLOURS[steps % len(COLOURS)], "marker": MARKERS[steps % len(MARKERS)]}
            steps += 1
        axes.plot([shape_order(shape)[0] for shape in at],
                  [figures.value(f"{names[shape]}/ns_per_parameter") for shape in at],
                  label=member_name(member), linewidth=1.5, markersize=5, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain(axes.yaxis)
    axes.set_xticks([shape_order(shape)[0] for shape in shapes], [shape_name(shape) for shape in shapes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylabel("ns per parameter")
    axes.set_title(f"A step of one matrix, {threads_name(threads)}", loc="left", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1, .5), fontsize=8)
    return figure


# Name of the file, the section it belongs to, what it says to those who do not see it, function.
PLOTS = [
    ("roofline", "models", "Step over roofline of each member and list", roofline),
    ("floor", "models", "Step over roofline against the bytes that it moves", floor),
    ("growth", "growth", "ns per parameter against the size of the matrix", growth),
    ("peers", "peers", "Times faster than each peer", peers),
]


def write(figures, folder):
    """Writes the plots that there are figures for and removes the others. Returns (name, section, text) of those."""
    os.makedirs(folder, exist_ok=True)
    written = []
    for name, section, text, draw in PLOTS:
        path = os.path.join(folder, name + ".svg")
        drawn = draw(figures)
        if drawn is None:
            if os.path.exists(path):
                os.remove(path)
            continue
        drawn.savefig(path, format="svg", bbox_inches="tight", facecolor="white",
                      metadata={"Date": None, "Creator": None})
        pyplot.close(drawn)
        written.append((name, section, text))
    return written
