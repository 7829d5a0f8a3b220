# SPDX-License-Identifier: Apache-2.0
"""Figures of one or more runs, each with the run it comes from: read, merged by name, written."""
import json
import re

# A case ends with its number of threads, or with how a GPU is given its steps; what follows is one of its figures.
CASE = re.compile(r"(.*?/(?:t\d+|graph|eager))(?:/(.*))?")


def is_case(name):
    return CASE.fullmatch(name) is not None


def split_name(name):
    """The case, and which of its figures: ("step/adamw/512x512/float/t2", "roofline")."""
    match = CASE.fullmatch(name)
    return (match[1], match[2] or "") if match else (name, "")


class Figures:
    """Values by name. A run is {"machine", "date", "command", "commit"}."""

    def __init__(self):
        self.runs = []
        self.entries = {}  # name: (value, unit, index of the run)
        self.read = set()  # indices of the runs whose figures value() was asked for

    def add(self, name, value, unit, run):
        """Unless a later run has measured it already."""
        if name in self.entries and self.runs[self.entries[name][2]]["date"] > run["date"]:
            return
        if run not in self.runs:
            self.runs.append(run)
        self.entries[name] = (value, unit, self.runs.index(run))

    def add_file(self, path):
        """Figures of one run, as collect.py writes them, or of many, as write() does. Errors: what is neither."""
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        try:
            if "runs" in content:
                for case, figures in content["figures"].items():
                    for rest, (value, unit, run) in figures.items():
                        self.add(f"{case}/{rest}" if rest else case, value, unit, content["runs"][run])
            else:
                run = {key: content[key] for key in ("machine", "date", "command", "commit")}
                for figure in content["figures"]:
                    self.add(figure["name"], figure["value"], figure["unit"], run)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} holds no figures of benchmarks: {error!r}") from error

    def write(self, path):
        """One case a line, and only runs of which figures are left."""
        used = sorted({run for _, _, run in self.entries.values()})
        cases = {}
        for name in sorted(self.entries):
            value, unit, run = self.entries[name]
            case, rest = split_name(name)
            cases.setdefault(case, {})[rest] = [value, unit, used.index(run)]
        compact = {"separators": (",", ":")}
        runs = ",\n".join(json.dumps(self.runs[run], **compact) for run in used)
        lines = ",\n".join(f"{json.dumps(case)}:{json.dumps(figures, **compact)}" for case, figures in cases.items())
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'{{"runs":[\n{runs}\n],\n"figures":{{\n{lines}\n}}}}\n')

    def names(self):
        return list(self.entries)

    def value(self, name):
        """None where it was not measured, or is no number."""
        value, _, run = self.entries.get(name, (None, "", 0))
        if not isinstance(value, (int, float)):
            return None
        self.read.add(run)
        return value

    def text(self, name):
        """What it is as it stands; nothing where there is none."""
        return str(self.entries[name][0]) if name in self.entries else ""

    def unit(self, name):
        return self.entries[name][1]

    def quartiles(self, name):
        """Lower, median and upper; the outer two are None where they were not measured."""
        return tuple(self.value(each) for each in (f"{name}/lower_quartile", name, f"{name}/upper_quartile"))
