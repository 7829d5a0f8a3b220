#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every message in docs/troubleshooting.md must be one that the headers give: what stands between its … occurs in their strings."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/troubleshooting.md"
TEXT = re.compile(r'"((?:\\.|[^"\\])*)"')


def strings():
    """All string literals, those that stand behind each other as one."""
    found = []
    for path in [*(ROOT / "include").rglob("*.hpp"), *(ROOT / "backends").rglob("*.hpp")]:
        code = re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.M)
        found += TEXT.findall(re.sub(r'"\s*\+?\s*"', "", code))
    # The single header's own, which its generator writes.
    found.append((ROOT / "cmake/single_header.py").read_text(encoding="utf-8").replace("{name}", "apollo_single.hpp"))
    return found


def main():
    known = strings()
    faults, count = [], 0
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("| `") or "std::" in line.split("|")[1]:
            continue
        for message in re.findall(r"`([^`]+)`", line.split("|")[1]):
            count += 1
            for part in message.split("…"):
                # Quotation marks around a value may come from quote().
                if part.strip(" '") and not any(part.strip(" '") in text for text in known):
                    faults.append(f"docs/troubleshooting.md:{number}: no header says: {part.strip()}")
    print("\n".join(faults), end="\n" if faults else "")
    print(f"{count} messages of docs/troubleshooting.md: {len(faults)} parts that no header says")
    sys.exit(1 if faults or not count else 0)


if __name__ == "__main__":
    main()
