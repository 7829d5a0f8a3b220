#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Turns figures of benchmarks into docs/benchmarks.md, its plots and docs/benchmarks/figures.json.

  bench/report/report.py FILE...                  takes the figures of runs (build/bench-results/figures.json) into docs
  bench/report/report.py --render                 writes docs from the figures that are there
  bench/report/report.py --into FOLDER FILE...    a report of its own: FOLDER/benchmarks.md, FOLDER/benchmarks/

Figures are merged by name, those of a later date over earlier ones. In docs/benchmarks.md only the lines between
`<!-- figures: NAME -->` and `<!-- end of figures -->` are written, and only where there are figures for them."""
import argparse
import os
import re
import sys
import textwrap

from figures import Figures
from tables import SECTIONS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCS = os.path.join(ROOT, "docs")
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(^<!-- end of figures -->$)", re.S | re.M)
PLOT_LIMIT, FOLDER_LIMIT = 60_000, 400_000  # bytes; whoever clones the repository pays for them


def origin(run):
    machine = run["machine"]
    text = (f"{machine['cpu']}, {machine['cores']} cores, L2 {machine['l2']}, L3 {machine['l3']}, "
            f"{machine['memory_gib']} GiB of memory, {machine['os']}, {machine['compiler']}, Eigen {machine['eigen']}; "
            f"{run['date']}, commit {run['commit']}: `{run['command']}`")
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False) + [""]


def sections(figures, plots):
    """The lines of every section that there are figures for, by name. Each begins with what made its figures."""
    made = {}
    for name, _, build in SECTIONS:
        figures.read.clear()
        lines = build(figures)
        if lines is None:
            continue
        runs = [line for run in sorted(figures.read) for line in origin(figures.runs[run])]
        for plot, _, text in (plot for plot in plots if plot[1] == name):
            lines += [f"![{text}](benchmarks/{plot}.svg)", ""]
        made[name] = runs + lines
    return made


def replace_sections(path, made):
    """Errors: markers of a section that does not exist, or without an end."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    names = [match[2] for match in MARKED.finditer(text)]
    unknown = set(names) - {name for name, _, _ in SECTIONS}
    if unknown or text.count("<!-- figures:") != len(names):
        raise ValueError(f"{path}: bad markers, or sections that do not exist: {' '.join(sorted(unknown))}")
    text = MARKED.sub(lambda match: "\n".join([match[1], *made[match[2]], match[4]]) if match[2] in made else match[0],
                      text)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_own_report(path, made):
    lines = ["# Benchmarks", ""]
    for name, title, _ in SECTIONS:
        if name in made:
            lines += [f"## {title}", "", *made[name]]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))


def check_sizes(folder):
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    large = [name for name, size in sizes.items() if name.endswith(".svg") and size > PLOT_LIMIT]
    if large or sum(sizes.values()) > FOLDER_LIMIT:
        raise ValueError(f"{folder} is too large: {sum(sizes.values())} bytes; too large alone: {large}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="figures.json of a run")
    parser.add_argument("--render", action="store_true", help="no new figures")
    parser.add_argument("--into", metavar="FOLDER", help="leave the documentation alone")
    arguments = parser.parse_args()
    if arguments.render == bool(arguments.files) or arguments.render and arguments.into:
        parser.error("takes either files or --render")
    # Only here, so that --help needs no matplotlib.
    try:
        import plots
    except ImportError as error:
        sys.exit(f"report.py: {error} (Debian: python3-matplotlib)")
    folder = os.path.join(arguments.into or DOCS, "benchmarks")
    stored = os.path.join(folder, "figures.json")
    try:
        figures = Figures()
        if not arguments.into and (arguments.render or os.path.exists(stored)):
            figures.add_file(stored)
        for path in arguments.files:
            figures.add_file(path)
        made = sections(figures, plots.write(figures, folder))
        if arguments.into:
            write_own_report(os.path.join(arguments.into, "benchmarks.md"), made)
        else:
            replace_sections(os.path.join(DOCS, "benchmarks.md"), made)
            figures.write(stored)
            check_sizes(folder)
    except (OSError, ValueError) as error:
        sys.exit(f"report.py: {error}")


if __name__ == "__main__":
    main()
