#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes one JSON file of the lines NAME VALUE UNIT that benchmarks printed, with the machine, the date and the command.

Other lines are passed over; of two with one name the later one counts. Neither the host's name nor any path is kept."""
import argparse
import datetime
import glob
import json
import os
import platform
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
UNKNOWN = "unknown"


def text_of(path):
    """A file's text; nothing where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def said_by(*command):
    """What a program prints; nothing where there is no such program, or it fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu():
    fields = dict(re.findall(r"^([^:\n]*?)\s*:[ \t]*(.*)$", text_of("/proc/cpuinfo").split("\n\n")[0], re.M))
    name = fields.get("model name", "") or platform.processor() or platform.machine()
    numbers = [f"{key} {fields[field]}" for key, field in (("family", "cpu family"), ("model", "model"))
               if field in fields]
    return name + (f" ({', '.join(numbers)})" if numbers else "")


def cache(level):
    """The cache of the first core, and how many cores share it: "1 MiB", "32 MiB for 8 cores"."""
    for folder in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        kind, size = text_of(folder + "/type"), re.fullmatch(r"(\d+)K", text_of(folder + "/size"))
        if text_of(folder + "/level") != str(level) or kind == "Instruction" or not size:
            continue
        ranges = [part.split("-") for part in text_of(folder + "/shared_cpu_list").split(",") if part]
        sharing = sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)
        amount = f"{int(size[1]) / 1024:g} MiB" if int(size[1]) >= 1024 else f"{size[1]} KiB"
        return amount + (f" for {sharing} cores" if sharing > 1 else "")
    return UNKNOWN


def memory_gib():
    total = re.search(r"^MemTotal:\s+(\d+) kB", text_of("/proc/meminfo"), re.M)
    return round(int(total[1]) / 2**20, 1) if total else UNKNOWN


def operating_system():
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', text_of("/etc/os-release"), re.M)
    return name[1] if name else platform.system()


def compiler(folder):
    """The one that CMake chose for the benchmarks of that build."""
    for file in sorted(glob.glob(f"{ROOT}/build/{folder}/CMakeFiles/*/CMakeCXXCompiler.cmake")):
        found = dict(re.findall(r'set\(CMAKE_CXX_COMPILER_(ID|VERSION) "([^"]+)"\)', text_of(file)))
        if len(found) == 2:
            return f"{ {'GNU': 'g++', 'Clang': 'clang++'}.get(found['ID'], found['ID']) } {found['VERSION']}"
    return UNKNOWN


def eigen():
    macros = text_of(f"{ROOT}/build/bench/_deps/eigen3-src/Eigen/src/Core/util/Macros.h")
    fetched = re.findall(r"#define EIGEN_(?:WORLD|MAJOR|MINOR)_VERSION (\d+)", macros)
    return ".".join(fetched) or said_by("pkg-config", "--modversion", "eigen3") or UNKNOWN


def machine(folder):
    return {"cpu": cpu(), "cores": len(os.sched_getaffinity(0)), "l2": cache(2), "l3": cache(3),
            "memory_gib": memory_gib(), "os": operating_system(), "compiler": compiler(folder), "eigen": eigen()}


def commit():
    return said_by("git", "describe", "--always", "--dirty", "--exclude", "*") or UNKNOWN


def figures_in(lines):
    figures = {}
    for line in lines:
        fields = line.split()
        if len(fields) != 3:
            continue
        name, text, unit = fields
        try:
            value = float(text)
            value = int(value) if value == int(value) and abs(value) < 1e15 else value
        except (ValueError, OverflowError):
            value = text  # the version of a peer
        figures[name] = {"name": name, "value": value, "unit": unit}
    return list(figures.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="?", default="-", help="file of the lines; standard input without it")
    parser.add_argument("--command", required=True, help="that printed them")
    parser.add_argument("--date", default=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
                        help="of the run, YYYY-MM-DD; today without it")
    parser.add_argument("--commit", help="that was measured; the one that is checked out without it")
    parser.add_argument("--build", default="bench", help="folder of build/ whose compiler made the programs")
    parser.add_argument("--output", help="file for the figures; standard output without it")
    arguments = parser.parse_args()
    if arguments.lines == "-":
        figures = figures_in(sys.stdin)
    else:
        with open(arguments.lines, encoding="utf-8") as file:
            figures = figures_in(file)
    head = {"machine": machine(arguments.build), "date": arguments.date, "command": arguments.command,
            "commit": arguments.commit or commit()}
    text = json.dumps(head, indent=1)[:-2]  # without its closing brace
    text += ',\n "figures": [\n' + ",\n".join("  " + json.dumps(figure) for figure in figures) + "\n ]\n}\n"
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
