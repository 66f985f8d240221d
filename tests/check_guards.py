"""`make check-guards`: every guard, removed in turn, makes a test fail.

Guards are what keeps two consumers from undoing each other, and nothing shows that one is missing until two of them
meet. So each is removed in a copy of the tree, and the fast tests of its file must notice:

* in the commit script: the ownership check and every kind of guard (`consumers/lua/commit.lua`);
* in the steps: every guard that a commit of a stage is given, found in the syntax tree, so that new ones count too.

A removed guard of a step is `KeysExist(())`, which always holds. The working tree is never touched. Prints one line
per guard and exits 1 when one survived. Words on the command line choose the guards whose line contains one of them.
"""

from __future__ import annotations

import ast
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("contracts", "consumers", "stages", "ops", "tests", "pyproject.toml")
JOBS = 2
LIMIT_S = 120.0  # for the tests of one guard, who may wait for ever without it; more on a machine that is busy
SLOWER = 3.0  # than all of them together with every guard in place: on no machine are they that slow by themselves

SCRIPT = "consumers/lua/commit.lua"
ALWAYS = '__import__("contracts.commit").commit.KeysExist(())'
BY_ID = "for i = 1, #rows do owned[rows[i][1]] = true end"
BY_COUNT = "if #rows >= #ids then for i = 1, #ids do owned[ids[i]] = true end end"
GUARDS = frozenset({"FieldIs", "FieldBelow", "ValueIs", "KeysExist", "StartsWith"})

SCRIPT_TESTS = ("tests/consumers/test_commit_server.py", "tests/consumers/test_commit.py")
REFUSALS = "tests/stages/test_refusals.py"
STEP_TESTS: dict[str, tuple[str, ...]] = {
    "massive": ("tests/stages/massive/test_fetch.py",),
    "staging": (REFUSALS, "tests/stages/staging"),
    "calculate": (REFUSALS,),
    "models": (REFUSALS,),
}
LEFT_OUT = "tests/stages/staging/test_state_machine.py"  # it would notice too, but takes half a minute


@dataclass(frozen=True)
class Mutant:
    """A guard, the text of its file without it, and the tests that should notice."""

    path: str
    guard: str
    text: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What became of a mutant; `killed_by` is empty when every test passed."""

    mutant: Mutant
    killed_by: str
    seconds: float


# --- the commit script


def script_mutants() -> Iterator[Mutant]:
    """The ownership check and every kind of guard of the commit script, each made to hold always."""
    source = (ROOT / SCRIPT).read_text()
    for name, before, after in (
        ("ownership of the entries", "if lost then return reply end", ""),
        ("ownership among very many pending entries", "if #rows == room then", "if false then"),
        ("ownership is of ids, not of their count", BY_ID, BY_COUNT),
    ):
        yield Mutant(SCRIPT, name, _replaced(source, before, after), SCRIPT_TESTS)
    section = source[source.index("local holds = {") : source.index("for i = 1, #guards do")]
    for kind in re.findall(r"^  (\w+) = function\(g\)", section, re.MULTILINE):
        opening = f"  {kind} = function(g)"
        text = _replaced(source, opening, f"{opening} if true then return true end")
        yield Mutant(SCRIPT, f"guard kind {kind}", text, SCRIPT_TESTS)


def _replaced(source: str, before: str, after: str) -> str:
    if source.count(before) != 1:
        raise SystemExit(f"check-guards: {SCRIPT} has {source.count(before)} times {before!r}, not once: adapt me")
    return source.replace(before, after)


# --- the steps


def step_mutants() -> Iterator[Mutant]:
    """Every guard of every commit of the stages, each replaced by one that always holds."""
    paths = sorted(path for path in (ROOT / "stages").rglob("*.py") if path.name != "__init__.py")
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}
    makers = {name for tree in trees.values() for name in _guard_makers(tree)}
    for path, tree in trees.items():
        source = (ROOT / path).read_text()
        for function, site in _sites(tree, makers):
            tests = STEP_TESTS[Path(path).parts[1]]
            told = " ".join((ast.get_source_segment(source, site) or "").split())
            yield Mutant(path, f"line {site.lineno} {function}: {told}", _without(source, site), tests)


def _guard_makers(tree: ast.AST) -> Iterator[str]:
    """Functions that return one guard: what counts is where they are called."""
    for node in ast.walk(tree):
        returned = node.returns if isinstance(node, ast.FunctionDef) else None
        if isinstance(node, ast.FunctionDef) and isinstance(returned, ast.Name) and returned.id in {*GUARDS, "Guard"}:
            yield node.name


def _sites(tree: ast.AST, makers: set[str]) -> Iterator[tuple[str, ast.expr]]:
    """(function, expression) of every guard that goes into a commit; of a named one, every use of the name."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.name in makers:
            continue
        named: dict[str, ast.expr] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_guard(node.value, makers):
                named[node.targets[0].id] = node.value
        for node in ast.walk(function):
            by_name = isinstance(node, ast.Name) and node.id in named and isinstance(node.ctx, ast.Load)
            made_here = isinstance(node, ast.Call) and _is_guard(node, makers) and node not in named.values()
            if isinstance(node, ast.Name | ast.Call) and (by_name or made_here):
                yield function.name, node


def _is_guard(node: ast.expr, makers: set[str]) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in GUARDS or node.func.id in makers
    return isinstance(node.func, ast.Attribute) and node.func.attr in makers


def _without(source: str, site: ast.expr) -> str:
    lines = [line.encode() for line in source.splitlines(keepends=True)]  # the syntax tree counts bytes
    assert site.end_lineno is not None and site.end_col_offset is not None
    head = b"".join(lines[: site.lineno - 1]) + lines[site.lineno - 1][: site.col_offset]
    tail = lines[site.end_lineno - 1][site.end_col_offset :] + b"".join(lines[site.end_lineno :])
    return (head + ALWAYS.encode() + tail).decode()


# --- running


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """Copies of the tree."""
    with tempfile.TemporaryDirectory(prefix="check-guards-") as folder:
        trees = [Path(folder) / str(number) for number in range(count)]
        for tree in trees:
            tree.mkdir()
            for name in COPIED:
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, tree / name)
        yield trees


def run_tests(tree: Path, tests: Sequence[str], limit_s: float) -> str:
    """Run tests in a copy until one fails or the time is over; the one that failed, or nothing."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    command += ["--hypothesis-profile=quick", f"--ignore={LEFT_OUT}", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, check=False, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return f"no end within {limit_s:.0f} s"
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        raise SystemExit(f"check-guards: pytest did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1]


def check(mutant: Mutant, trees: queue.Queue[Path], limit_s: float) -> Result:
    """Put a mutant into a copy, run its tests, put the file back."""
    tree = trees.get()
    started = time.monotonic()
    path = tree / mutant.path
    whole = path.read_text()
    try:
        path.write_text(mutant.text)
        return Result(mutant, run_tests(tree, mutant.tests, limit_s), time.monotonic() - started)
    finally:
        path.write_text(whole)
        trees.put(tree)


def main(words: Sequence[str]) -> int:
    """Check every guard, or those chosen; the exit code."""
    found = [*script_mutants(), *step_mutants()]
    mutants = [one for one in found if not words or any(word in f"{one.path} {one.guard}" for word in words)]
    started = time.monotonic()
    survivors = 0
    with copies(JOBS) as folders, ThreadPoolExecutor(JOBS) as pool:
        everything = sorted({test for mutant in mutants for test in mutant.tests})
        failed = run_tests(folders[0], everything, 10 * LIMIT_S)
        if failed:
            print(f"check-guards: {failed} fails with every guard in place")
            return 1
        limit_s = max(LIMIT_S, SLOWER * (time.monotonic() - started))
        trees: queue.Queue[Path] = queue.Queue()
        for folder in folders:
            trees.put(folder)
        for result in pool.map(lambda mutant: check(mutant, trees, limit_s), mutants):
            survivors += not result.killed_by
            verdict = result.killed_by or "SURVIVED"
            print(f"{result.mutant.path}  {result.mutant.guard}\n    {verdict}  ({result.seconds:.1f} s)", flush=True)
    print(f"{len(mutants)} guards, {survivors} survived, {time.monotonic() - started:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
