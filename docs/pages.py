#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Doxygen does not know of GitHub's Markdown. Python's standard library only.

    pages.py FILE          the page as Doxygen's filter: headings get GitHub's anchors, links lead to pages and to files beside them
    pages.py --order       the pages in the order of the menu
    pages.py --files HTML  copies the files that pages link to (sources, tests) below the folder HTML, as text
"""
import html
import pathlib
import re
import shutil
import sys

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
FIRST = ("start", "concepts", "adapters", "compose", "members/README")
LAST = ("cuda", "memory", "benchmarks", "training", "checkpoints", "migration", "troubleshooting", "packaging/README", "algorithms", "design")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
HEADING = re.compile(r"(#{1,6}) +(.*?) *#*$")


def pages():
    """README.md, then every page below docs/: the known ones in their places, others between them."""
    found = {str(path.relative_to(DOCS))[:-3]: path for path in sorted(DOCS.rglob("*.md"))}
    order = [name for name in FIRST if name in found]
    order += [name for name in found if name.startswith("members/") and name not in order]
    order += [name for name in found if name not in order and name not in LAST]
    order += [name for name in LAST if name in found]
    return [ROOT / "README.md", *(found[name] for name in order)]


def page_id(path):
    return "page_" + re.sub(r"\W", "_", str(path.relative_to(ROOT))[:-3])


def slug(title):
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title.replace("`", ""))
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def outside(line, change):
    """The line with change() applied to what is no code."""
    return "".join(part if part.startswith("`") else change(part) for part in re.split(r"(`+[^`]*`+)", line))


def linked_file(path, target):
    """The file in the repository that a link of a page names, or None for a link that leads elsewhere."""
    if re.match(r"\w+:", target) or target.startswith("#"):
        return None
    return (path.parent / target.split("#")[0]).resolve()


def link(path, known, match):
    picture, text, target = match[1], match[2], match[3]
    name, _, anchor = target.partition("#")
    if re.match(r"\w+:", target):
        return match[0]
    file = linked_file(path, target) or path
    if picture:
        return f"![{text}]({file.name})"
    if file in known:
        there = page_id(file) + (f"__{anchor}" if anchor else "")
        # What the list of a folder names stands below it in the menu.
        below = path != ROOT / "README.md" and path.name == "README.md" and path.parent == file.parent and not anchor
        return f'@{"subpage" if below else "ref"} {there} "{text.replace("`", "")}"'
    if file.is_dir():
        return text
    return f'<a href="files/{file.relative_to(ROOT)}.txt">{text}</a>'


def joined(lines):
    """Doxygen wants a piece of code within a line, and knows none that is broken over three."""
    block = False
    pending = ""
    for line in lines:
        line = f"{pending} {line.strip()}" if pending else line
        pending = ""
        if line.startswith("```"):
            block = not block
        elif not block and not line.startswith(("    ", "<!--")) and line.count("`") % 2 == 1:
            pending = line
            continue
        yield line
    if pending:
        yield pending


def filtered(path):
    known = set(pages())
    code = hidden = False
    titled = path == ROOT / "README.md"
    out = []
    used = {}
    for line in joined(path.read_text(encoding="utf-8").splitlines()):
        if line.startswith("```"):
            code = not code
        if not code and line.startswith("<!--"):
            hidden = True
        if hidden:
            hidden = not line.rstrip().endswith("-->")
            out.append("")
            continue
        if code or line.startswith(("```", "    ")):
            out.append(line)
            continue
        match = HEADING.fullmatch(line)
        if match and match[1] == "#":
            out.append(f"# {match[2]} {{#{page_id(path)}}}" if not titled else f"# {match[2]} {{#mainpage}}")
            continue
        line = outside_links(line, path, known)
        if match:
            name = slug(match[2])
            count = used.get(name, 0)
            used[name] = count + 1
            anchor = name if count == 0 else f"{name}-{count}"
            line += f" {{#{page_id(path)}__{anchor}}}"
        out.append(line)
    return "\n".join(out) + "\n"


def outside_links(line, path, known):
    """Links whose text holds code are links all the same, so they are changed before code is left alone."""
    line = LINK.sub(lambda match: link(path, known, match), line)
    line = outside(line, lambda part: re.sub(r"@(?!(ref|subpage) page_)", r"\\@", part))
    return re.sub(r"`([^`]*)`", code_in_line, line)


def code_in_line(match):
    """Code that Doxygen reads otherwise than GitHub becomes HTML: a quotation mark would end it, and in a table a bar behind a
    backslash is a bar."""
    if not re.search(r"'|\\\|", match[1]):
        return match[0]
    code = re.sub(r"\\(?!\|)|[@%]|--", r"\\\g<0>", html.escape(match[1], quote=False))
    return f"<code>{code}</code>"


def files(site):
    known = set(pages())
    for path in known:
        code = False
        for line in path.read_text(encoding="utf-8").splitlines():
            code ^= line.startswith("```")
            for match in LINK.finditer("" if code else line):
                file = linked_file(path, match[3])
                if match[1] or file is None or file in known or not file.is_file():
                    continue
                place = site / "files" / (str(file.relative_to(ROOT)) + ".txt")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)


def main():
    if sys.argv[1:] == ["--order"]:
        print("\n".join(str(path.relative_to(ROOT)) for path in pages()))
    elif len(sys.argv) == 3 and sys.argv[1] == "--files":
        files(pathlib.Path(sys.argv[2]))
    elif len(sys.argv) == 2:
        sys.stdout.write(filtered(pathlib.Path(sys.argv[1]).resolve()))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
