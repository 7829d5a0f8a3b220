# SPDX-License-Identifier: Apache-2.0
"""Numbers and tables as a report writes them."""
import math


def number(value):
    """Three digits and more; all of what is whole."""
    if value is None:
        return ""
    if isinstance(value, int) or value == 0:
        return str(value)
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def median(figures, name):
    """1.11 [1.09..1.15]: between the quartiles, where they were measured."""
    lower, middle, upper = figures.quartiles(name)
    if None in (lower, middle, upper):
        return number(middle)
    digits = 2 if abs(middle) < 10 else 1 if abs(middle) < 100 else 0
    return f"{middle:.{digits}f} [{lower:.{digits}f}..{upper:.{digits}f}]"


def span(values):
    """The least and the most of what differs from case to case; one of them where they look the same."""
    values = [value for value in values if value is not None]
    if not values:
        return ""
    least, most = number(min(values)), number(max(values))
    return least if least == most else f"{least} to {most}"


def table(header, rows):
    """Rows and columns without any figure are left out, headers do not count. May leave no line at all."""
    rows = [row for row in rows if any(row[1:])]
    columns = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    if not rows:
        return []
    lines = [[header[i] for i in columns], ["---" if i == 0 else "---:" for i in columns]]
    lines += [[row[i] for i in columns] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def named(title, lines):
    return [title, "", *lines] if lines else []
