#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks every relative link: of the site's pages, and of the Markdown files of the repository. Python's standard library only.

    links.py HTML      the site's folder
    links.py --self-test
"""
import html.parser
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
sys.dont_write_bytecode = True
import pages  # noqa: E402


class Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if value is None:
                continue
            if key == "id" or (key == "name" and tag == "a"):
                self.anchors.add(value)
            elif key in ("href", "src") or (key == "data" and tag == "object"):
                self.links.append(value)


def elsewhere(target):
    return re.match(r"[a-z][a-z0-9+.-]*:", target) is not None


def check_site(folder):
    parsed = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    faults, count = [], 0
    for path, page in parsed.items():
        for target in page.links:
            if elsewhere(target) or not target:
                continue
            count += 1
            name, _, anchor = urllib.parse.unquote(target).partition("#")
            there = (path.parent / name.split("?")[0]).resolve() if name else path
            if not there.exists():
                faults.append(f"{path.relative_to(folder)}: {target}: there is no such file")
            elif anchor and there in parsed and anchor not in parsed[there].anchors:
                faults.append(f"{path.relative_to(folder)}: {target}: there is no such anchor")
    return faults, count


def text_lines(path):
    """Lines of a page without its blocks of code and its code in lines."""
    code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.startswith("    "):
            yield number, line


def anchors_of(path):
    found, used = set(), {}
    for _, line in text_lines(path):
        if match := pages.HEADING.fullmatch(line):
            name = pages.slug(match[2])
            count = used.get(name, 0)
            used[name] = count + 1
            found.add(name if count == 0 else f"{name}-{count}")
    return found


def check_markdown(root, files):
    faults, count = [], 0
    for path in files:
        for number, line in text_lines(path):
            for match in pages.LINK.finditer(re.sub(r"(?<!\[)`[^`]*`(?!\])", "", line)):
                target = match[3]
                if elsewhere(target):
                    continue
                count += 1
                name, _, anchor = urllib.parse.unquote(target).partition("#")
                there = (path.parent / name).resolve() if name else path
                where = f"{path.relative_to(root)}:{number}: {target}"
                if not there.exists():
                    faults.append(f"{where}: there is no such file")
                elif anchor and there.suffix == ".md" and anchor not in anchors_of(there):
                    faults.append(f"{where}: there is no such heading")
    return faults, count


def self_test():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "a.html").write_text('<p id="here"></p><a href="a.html#here"></a><a href="#there"></a><a href="b.html"></a><img src="c.png">')
        faults, count = check_site(folder)
        assert (len(faults), count) == (3, 4), (faults, count)
        (folder / "a.md").write_text("# A b\n[x](#a-b) [x](#c) [`y`](b.md) `[z](d.md)`\n```\n[z](d.md)\n```\n")
        faults, count = check_markdown(folder, [folder / "a.md"])
        assert (len(faults), count) == (2, 3), (faults, count)
    print("the check of links notices what it is for")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.split()
    files = [ROOT / name for name in listed if (ROOT / name).exists()]
    if not files:  # an archive, no clone
        files = [path for path in ROOT.rglob("*.md") if ROOT / "build" not in path.parents]
    faults, on_site = check_site(pathlib.Path(sys.argv[1]).resolve())
    more, in_files = check_markdown(ROOT, files)
    print("\n".join(faults + more), end="\n" if faults or more else "")
    print(f"{on_site} links of the site, {in_files} of {len(files)} Markdown files: {len(faults) + len(more)} broken")
    sys.exit(1 if faults or more or not on_site or not in_files else 0)


if __name__ == "__main__":
    main()
