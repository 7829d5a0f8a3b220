#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles every block of C++ in README.md and docs/, page by page.

    snippets.py FOLDER [--jobs N] [-- COMPILER FLAG...]

A block is what stands between ```cpp and ```, or is indented by four and looks like C++. What a reader need not see stands in a
comment before it, where the page shows nothing:

    <!-- hidden
    apollo::eigen::Apollo<> optimizer(W, {});
    -->

and a block that cannot be compiled here says why: <!-- not compiled: needs libtorch -->

Each page is one translation unit that begins with preamble.hpp. Each block has a namespace of its own: its declarations stand
there, specialisations at global scope, and its statements in a function. A block with a main is a program of its own, with
nothing before it, which is linked and must end with 0. Errors name the page's line. Sources are left in FOLDER.
"""
import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TITLES = ("cpp", "c++", "cxx")
TOKENS = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'(?<!\d\')|^[ \t]*#(?:[^\n\\]|\\.)*$|[(){};]', re.S | re.M)
DECLARES = re.compile(r"(template|struct|class|using|namespace|enum|inline|constexpr|extern|static_assert|#)(?!\w)")
FUNCTION = re.compile(r"(?!(?:if|for|while|switch|else|do|return|try|auto)\b)[\w:<>,&*\s]+?[\s&*]\w+\s*\([^;=]*\)[\w\s]*\{")


class Block:
    def __init__(self, page, line, text, hidden, hidden_line, excuse):
        self.page, self.line, self.text = page, line, text
        self.hidden, self.hidden_line, self.excuse = hidden, hidden_line, excuse

    def chunks(self):
        """(line, text) of each declaration, statement or directive, of the hidden part first."""
        found = []
        for first, text in ((self.hidden_line, self.hidden), (self.line, self.text)):
            begin = depth = 0
            for token in TOKENS.finditer(text):
                word = token[0]
                if word[0] in "({":
                    depth += 1
                elif word[0] in ")}":
                    depth -= 1
                if depth > 0 or word[0] in "\"'(" or word.startswith(("//", "/*")):
                    continue
                if word[0] == ")" or (word[0] == "}" and re.match(r"\s*([;,).]|else\b|while\b)", text[token.end():])):
                    continue
                if word[0] == "}" and not re.match(r"\s*(struct|class|namespace|enum|template|for|if|while|switch|else|do)\b|" + FUNCTION.pattern,
                                                   strip(text[begin:token.end()])):
                    continue  # braces of an initialiser
                found.append((first + text.count("\n", 0, begin), text[begin:token.end()]))
                begin = token.end()
            if strip(text[begin:]):
                found.append((first + text.count("\n", 0, begin), text[begin:]))
        return found

    def is_program(self):
        return re.search(r"^int main\(", self.text, re.M) is not None


def strip(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S).strip()


def blocks_of(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    page = str(path.relative_to(ROOT))
    hidden, hidden_line, excuse = "", 1, None
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.strip() == "<!-- hidden":
            end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == "-->"), None)
            if end is None:
                sys.exit(f"{page}:{i + 1}: <!-- hidden ends nowhere")
            hidden, hidden_line = "\n".join(lines[i + 1:end]) + "\n", i + 2
            i = end + 1
        elif match := re.fullmatch(r"<!-- not compiled: (.+) -->", line.strip()):
            excuse = match[1]
            i += 1
        elif match := re.match(r"( *)```\s*(\S*)", line):
            end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == "```"), None)
            if end is None:
                sys.exit(f"{page}:{i + 1}: a block ends nowhere")
            if match[2] in TITLES:
                yield Block(page, i + 2, "\n".join(lines[i + 1:end]) + "\n", hidden, hidden_line, excuse)
            hidden, excuse = "", None
            i = end + 1
        elif line.startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(lines[i:end]) + "\n"
            if re.search(r";\s*(//.*)?$", text, re.M):
                yield Block(page, i + 1, text, hidden, hidden_line, excuse)
            hidden, excuse = "", None
            i = end
        else:
            if line.strip() and (hidden or excuse):
                sys.exit(f"{page}:{i + 1}: a comment for a block, and no block after it")
            i += 1
    if hidden or excuse:
        sys.exit(f"{page}: a comment for a block at its end, and no block after it")


def unit_of(blocks):
    """The source of a page: includes, then each block."""
    includes, rest = [], []
    for block in blocks:
        outside, inside, body = [], [], []
        for line, text in block.chunks():
            code = strip(text)
            placed = f'#line {line} "{block.page}"\n{text.rstrip()}\n'
            if re.match(r"#\s*include", code):
                includes.append(placed)
            elif re.match(r"template\s*<\s*>", code) or re.match(r"namespace\b", code):
                outside.append(placed)
            elif DECLARES.match(code) or FUNCTION.match(code):
                inside.append(placed)
            else:
                body.append(placed)
        function = "void block() {\n" + "".join(body) + "}\n" if body else ""
        rest.append("".join(outside) + f"namespace block_{block.line} {{\n" + "".join(inside) + function + "}\n")
    return '#include "preamble.hpp"\n' + "".join(includes) + "\n" + "\n".join(rest)


def run(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    return done.returncode, done.stdout


def check(job):
    name, source, is_program, folder, compiler = job
    path = folder / f"{name}.cpp"
    path.write_text(source, encoding="utf-8")
    if not is_program:
        return name, *run([*compiler, "-I", str(HERE), "-fsyntax-only", str(path)])
    program = folder / name
    status, output = run([*compiler, str(path), "-o", str(program)])
    if status == 0:
        place = folder / f"{name}.run"
        place.mkdir(exist_ok=True)
        status, output = run([str(program)], cwd=place, timeout=120)
        output += f"{name} ended with {status}\n" if status else ""
    return name, status, output


def main():
    arguments = sys.argv[1:]
    flags = []
    if "--" in arguments:
        flags = arguments[arguments.index("--") + 1:]
        arguments = arguments[:arguments.index("--")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=1)
    wish = parser.parse_args(arguments)
    folder = wish.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    compiler = [*(flags or ["g++"]), "-std=c++20"]
    jobs, count = [], 0
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        name = str(path.relative_to(ROOT))[:-3].replace("/", "_")
        blocks = []
        for block in blocks_of(path):
            if block.excuse:
                print(f"not compiled: {block.page}:{block.line}: {block.excuse}")
                continue
            count += 1
            if block.is_program():
                source = f'{block.hidden}#line {block.line} "{block.page}"\n{block.text}'
                jobs.append((f"{name}_{block.line}", source, True, folder, compiler))
            else:
                blocks.append(block)
        if blocks:
            jobs.append((name, unit_of(blocks), False, folder, compiler))
    if not jobs:
        sys.exit("snippets.py: no block was found")
    failed = False
    with concurrent.futures.ThreadPoolExecutor(wish.jobs) as pool:
        for name, status, output in pool.map(check, jobs):
            if status != 0:
                failed = True
                print(f"{name}: failed\n{output}")
    print(f"{count} blocks of {len(jobs)} pages and programs: {'FAILED' if failed else 'all compile'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
