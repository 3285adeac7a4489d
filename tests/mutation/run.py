#!/usr/bin/env python3
"""Mutation testing of the Rust code: finds small wrong changes that no test notices.

    python3 tests/mutation/run.py                  # all mutants
    python3 tests/mutation/run.py 12 40-45         # some mutants, by number
    python3 tests/mutation/run.py --check          # only check that every mutant still applies
    python3 tests/mutation/run.py --table FILE     # all mutants; write the table of docs/mutants.md

`mutants.toml` beside this file lists the mutants: in `file`, the expression `before` becomes `after`, and the tests in `tests`
should notice. They are given as `binary::module`, or as `binary` for all tests of a binary. Rebuilding for each mutant would
take hours, so all of them go into one build: a copy of the tree in `target/mutation`, in which each `before` is replaced by
`if mutation::on(N) { after } else { before }`. The environment variable VCYCLE_MUTANT selects one. A mutant is noticed if a
test fails or the tests take longer than --timeout.

Needs Python 3.11 or later, and what `cargo test` needs. The build takes about as long as that of the tests, and a mutant takes
a few seconds; two test binaries run at a time.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutation"
TREE = WORK / "tree"

SWITCH = """
/// The active mutant. This module exists only in the instrumented copy.
#[doc(hidden)]
pub mod mutation {
    use std::sync::LazyLock;

    static CHOSEN: LazyLock<u32> = LazyLock::new(|| {
        let number = std::env::var("VCYCLE_MUTANT").ok();
        number.map_or(0, |number| number.parse().expect("VCYCLE_MUTANT is a number"))
    });

    pub fn on(number: u32) -> bool {
        *CHOSEN == number
    }
}
"""


def read_mutants():
    """Returns the list of mutants, numbered from 1."""
    mutants = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text())["mutant"]
    for number, mutant in enumerate(mutants, 1):
        mutant["number"] = number
        missing = {"file", "before", "after", "tests"} - mutant.keys()
        if missing:
            sys.exit(f"mutant {number} has no {', '.join(sorted(missing))}")
    return mutants


def place(mutant, text):
    """Returns begin and end of `before` in the text: its only occurrence or, with `within`, the first one after that."""
    start = 0
    if "within" in mutant:
        start = text.find(mutant["within"])
        if start < 0:
            sys.exit(f"mutant {mutant['number']}: {mutant['file']} no longer contains {mutant['within']!r}")
    at = text.find(mutant["before"], start)
    if at < 0:
        sys.exit(f"mutant {mutant['number']}: {mutant['file']} no longer contains {mutant['before']!r}")
    if "within" not in mutant and text.find(mutant["before"], at + 1) >= 0:
        sys.exit(f"mutant {mutant['number']}: {mutant['before']!r} occurs in {mutant['file']} more than once; add `within`")
    return at, at + len(mutant["before"])


def instrument(text, placed):
    """Returns the text with switches at the places, which must be equal, nested or disjoint."""

    def render(begin, end, inside):
        out, at = [], begin
        while inside:
            # The first place (the longest if several begin there), and all places within it.
            first, last = inside[0][0]
            same = [mutant for where, mutant in inside if where == (first, last)]
            within = [(where, m) for where, m in inside if where != (first, last) and where[0] < last]
            if any(where[1] > last for where, _ in within):
                sys.exit(f"mutants {[m['number'] for m in same]} overlap others in {same[0]['file']}")
            inside = [(where, m) for where, m in inside if where[0] >= last]
            switches = "".join(f"if crate::mutation::on({m['number']}) {{ {m['after']} }} else " for m in same)
            out += [text[at:first], "(", switches, "{ ", render(first, last, within), " })"]
            at = last
        return "".join(out) + text[at:end]

    ordered = sorted(((place, mutant) for place, mutant in placed), key=lambda p: (p[0][0], -p[0][1]))
    return render(0, len(text), ordered)


def make_tree(mutants):
    """Copies the working tree with all mutants in it. Unchanged files keep their times, so that rebuilds are short."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    files = [name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]
    by_file = {}
    for mutant in mutants:
        by_file.setdefault(mutant["file"], []).append(mutant)
    unknown = by_file.keys() - set(files)
    if unknown:
        sys.exit(f"mutants of missing files: {', '.join(sorted(unknown))}")
    for name in files:
        content = (ROOT / name).read_bytes()
        if name in by_file:
            text = content.decode()
            content = instrument(text, [(place(m, text), m) for m in by_file[name]]).encode()
        if name == "src/lib.rs":
            content += SWITCH.encode()
        to = TREE / name
        if not to.is_file() or to.read_bytes() != content:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(content)
            shutil.copymode(ROOT / name, to)
    kept = set(files)
    for path in TREE.rglob("*"):
        if path.is_file() and str(path.relative_to(TREE)) not in kept:
            path.unlink()


def build(tests):
    """Builds the test binaries and returns their paths by name. `lib` has the library's unit tests."""
    names = {name.split("::")[0] for name in tests}
    chosen = ["--lib"] if "lib" in names else []
    for name in sorted(names - {"lib"}):
        chosen += ["--test", name]
    command = ["cargo", "test", "--release", "--no-run", "--message-format=json-render-diagnostics", *chosen]
    env = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "target"), "RUSTFLAGS": "--cap-lints=allow"}
    done = subprocess.run(command, cwd=TREE, env=env, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit("the instrumented copy does not build; `before` and `after` of a mutant must be expressions of the same type")
    found = {}
    for line in done.stdout.decode().splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            target = message["target"]
            name = "lib" if "lib" in target["kind"] else target["name"]
            if "bin" not in target["kind"] and "example" not in target["kind"]:
                found[name] = message["executable"]
    lost = names - found.keys()
    if lost:
        sys.exit(f"test binaries not found: {', '.join(sorted(lost))}")
    return found


def run(binaries, name, number, timeout):
    """Runs tests with a mutant on. Returns whether they pass, the name of the first that fails, and the seconds they took."""
    binary, _, module = name.partition("::")
    env = {**os.environ, "VCYCLE_MUTANT": str(number), "RUST_TEST_THREADS": "1", "RUST_BACKTRACE": "0"}
    env["CARGO_MANIFEST_DIR"] = str(TREE)
    begin = time.monotonic()
    try:
        command = [binaries[binary], *([f"{module}::"] if module else [])]
        done = subprocess.run(command, cwd=TREE, env=env, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False, f"(longer than {timeout} s)", time.monotonic() - begin
    failed = [line.split()[1] for line in done.stdout.decode(errors="replace").splitlines()
              if line.startswith("test ") and line.endswith("FAILED")]
    return done.returncode == 0, (failed or [f"(exit {done.returncode})"])[0], time.monotonic() - begin


def try_mutant(mutant, binaries, timeout, everywhere):
    """Returns the test binary and the test that noticed the mutant, or None."""
    names = list(mutant["tests"]) + [name for name in everywhere if name not in mutant["tests"]]
    for name in names:
        passed, failed, _ = run(binaries, name, mutant["number"], timeout)
        if not passed:
            return f"{name.split('::')[0]}: {failed}"
    return None


def cell(text):
    return " ".join(text.split()).replace("|", "\\|")


def table(mutants, noticed):
    """Returns a Markdown table of the changes, each with the test that noticed it or the reason why it survives."""
    lines = ["| file | before | after | noticed by |", "|---|---|---|---|"]
    for mutant in mutants:
        by = noticed[mutant["number"]]
        reason = mutant.get("survives")
        by = f"`{by}`" if by else f"survives: {cell(reason)}" if reason else "**survives**"
        lines.append(f"| {mutant['file']} | `{cell(mutant['before'])}` | `{cell(mutant['after'])}` | {by} |")
    return "\n".join(lines) + "\n"


def numbers(words, count):
    chosen = set()
    for word in words:
        first, _, last = word.partition("-")
        chosen |= set(range(int(first), int(last or first) + 1))
    return chosen or set(range(1, count + 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="numbers of mutants or ranges such as 3-7 (default: all)")
    parser.add_argument("--check", action="store_true", help="only check that every mutant still applies")
    parser.add_argument("--everywhere", action="store_true", help="try all tests on mutants that the expected ones do not notice")
    parser.add_argument("--table", type=Path, help="write the table of mutants to this file, as Markdown")
    parser.add_argument("--timeout", type=float, default=300, help="time limit in seconds for each entry of `tests` (default: 300)")
    options = parser.parse_args()
    mutants = read_mutants()
    make_tree(mutants)
    if options.check:
        return print(f"{len(mutants)} mutants apply")
    chosen = [m for m in mutants if m["number"] in numbers(options.numbers, len(mutants))]
    binaries = build({name for mutant in mutants for name in mutant["tests"]})
    named = mutants if options.everywhere else chosen
    needed = sorted({name for mutant in named for name in mutant["tests"]})
    with ThreadPoolExecutor(2) as pool:
        for name, (passed, failed, seconds) in zip(needed, pool.map(lambda n: run(binaries, n, 0, options.timeout), needed)):
            print(f"without a mutant: {name} {'passes' if passed else 'FAILS: ' + failed} in {seconds:.1f} s", flush=True)
            if not passed:
                sys.exit("the tests must pass without a mutant")
        everywhere = needed if options.everywhere else []
        noticed = {}
        tried = pool.map(lambda m: try_mutant(m, binaries, options.timeout, everywhere), chosen)
        for mutant, by in zip(chosen, tried):
            noticed[mutant["number"]] = by
            change = f"{mutant['file']}: {cell(mutant['before'])} -> {cell(mutant['after'])}"
            print(f"{mutant['number']:>4} {'noticed by ' + by if by else 'SURVIVES'}\n     {change}", flush=True)
    survivors = [m for m in chosen if noticed[m["number"]] is None]
    explained = [m for m in survivors if "survives" in m]
    print(f"{len(chosen)} mutants, {len(chosen) - len(survivors)} noticed, {len(survivors)} survive, {len(explained)} of them explained")
    if options.table:
        options.table.write_text(table(chosen, noticed))
    if len(explained) < len(survivors):
        sys.exit(1)


if __name__ == "__main__":
    main()
