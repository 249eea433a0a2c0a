"""Mutants of the core: small faults, one at a time, each of which has to make a test fail. Run by hand, it takes an hour or two:

    OMP_NUM_THREADS=1 python tests/mutants.py                           # all; prints the survivors and the share that was killed
    OMP_NUM_THREADS=1 python tests/mutants.py --every 4 --first 1       # of the numbered mutants 1, 5, 9, ...
    OMP_NUM_THREADS=1 python tests/mutants.py --only 17 23 --again      # these, once more

The faults are those of mutmut: a number one larger, another text, True for False, None for a value or an argument, an argument
left out, another operator (+ -, * /, < <=, == !=, and or, is, in), `not` left out, a condition turned round, one branch of two.
Left alone are docstrings, annotations, imports, and what only words an error (`raise`, f-strings, the name given to `finite`).
First all tests run on a module that notes which test runs which line. Then each mutant gets a process of its own, in which it
takes the module's place, and the tests that run its line, short ones first, until one fails. What was found is kept in the
folder `out/mutants`, where the next call goes on; delete it when the module has changed.
"""
import argparse
import ast
import importlib.machinery
import importlib.util
import inspect
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE, OUT = ROOT / "rg_minimal" / "readout.py", ROOT / "out" / "mutants"
TESTS = [f"tests/test_{name}.py" for name in (
    "core", "readout", "parity", "formats", "guider", "denoisers", "callback", "threads", "interrupts")]
ALONE = "test_a_killed_training"                # starts a process of its own, which knows no mutant
SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Div,
         ast.Pow: ast.Mult, ast.USub: ast.UAdd, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
         ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}


def places(node, line=1, body=False):
    """(line of its statement, whether in a function's body, parent, field, index or None, child) of all that may be changed."""
    for field, value in ast.iter_fields(node):
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            words = isinstance(child, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)) or (
                isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)) or (
                isinstance(node, ast.Call) and ast.unparse(node.func) == "finite" and field == "args" and index == 1)
            if isinstance(child, ast.AST) and field not in ("annotation", "returns") and not words:
                inside = child.lineno if isinstance(child, ast.stmt) else line
                deep = body or isinstance(node, ast.FunctionDef) and field == "body"
                yield inside, deep, node, field, index, child
                yield from places(child, inside, deep)


def faults(node):
    """What may stand in a node's place."""
    none = ast.Constant(None)
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
        value = node.value
        yield ast.Constant(not value if isinstance(value, bool) else f"XX{value}XX" if isinstance(value, str) else value + 1)
    elif type(node) in SWAPS:
        yield SWAPS[type(node)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
        yield node.operand
    elif isinstance(node, ast.Lambda):
        yield ast.Lambda(node.args, none)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.If) and not isinstance(node.test, (ast.Compare, ast.BoolOp)):
        yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
        value = ast.Constant("") if ast.unparse(node.value) == "None" else none
        yield ast.Assign(node.targets, value) if isinstance(node, ast.Assign) else \
            ast.AnnAssign(node.target, node.annotation, value, node.simple)
    elif isinstance(node, ast.AugAssign):
        yield ast.Assign([node.target], node.value)
    elif isinstance(node, ast.Call):
        count = 1 if ast.unparse(node.func) == "finite" else len(node.args)
        for arguments, index in [(node.args, i) for i in range(count)] + [(node.keywords, i) for i in range(len(node.keywords))]:
            positional, old = arguments is node.args, arguments[index]
            several = len(node.args) + len(node.keywords) > 1
            starred = isinstance(old, ast.Starred) or not positional and old.arg is None
            for new in ([] if starred else [[none if positional else ast.keyword(old.arg, none)]]) + ([[]] if several else []):
                changed = [*arguments[:index], *new, *arguments[index + 1:]]
                yield ast.Call(node.func, *((changed, node.keywords) if positional else (node.args, changed)))


def mutants():
    """(line of the statement, whether in a function's body, what was changed, code) of each."""
    def put(node):
        if index is None:
            setattr(parent, field, node)
        else:
            getattr(parent, field)[index] = node
    tree = ast.parse(FILE.read_text())
    for line, body, parent, field, index, node in list(places(tree)):
        for fault in faults(node):
            before = ast.unparse(parent)
            put(ast.copy_location(fault, node if hasattr(node, "lineno") else parent))
            after, same = ast.unparse(parent), len(os.path.commonprefix([before, ast.unparse(parent)]))
            what = "  ->  ".join(text[max(0, same - 50):same + 50].replace("\n", " ") for text in (before, after))
            if after != before:
                yield line, body, what, compile(ast.fix_missing_locations(tree), str(FILE), "exec")
            put(node)


def noting():
    """The module's code, with a note before each statement that it ran."""
    tree = ast.parse(FILE.read_text())
    for node in list(ast.walk(tree)):
        for field in ("body", "orelse", "finalbody"):
            if isinstance(body := getattr(node, field, None), list):
                notes = [ast.parse(f"__import__('sys').lines_run.add({each.lineno})").body[0] for each in body]
                setattr(node, field, [each for pair in zip(notes, body) for each in pair])
    return compile(ast.fix_missing_locations(tree), str(FILE), "exec")


class Tests:
    """A plugin: runs `loop` in place of the tests, or notes what each test took, and which lines it ran."""

    def __init__(self, loop=None, only=None):
        self.loop, self.only, self.found = loop, only, {}

    def pytest_collection_modifyitems(self, items):
        chosen = {item.nodeid: item for item in items if ALONE not in item.nodeid}
        items[:] = chosen.values() if self.only is None else [chosen[name] for name in self.only if name in chosen]

    def pytest_runtestloop(self, session):
        return self.loop and (self.loop({item.nodeid: item for item in session.items}) or True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        sys.lines_run, start = set(), time.time()
        result = yield
        self.found[item.nodeid] = {"seconds": time.time() - start, "lines": sorted(sys.lines_run)}
        return result


def apart(work, limit=300.0) -> str:
    """What `work()`, whether tests failed, says in a process of its own: 'killed', 'survived' or, beyond so many seconds, 'too long'."""
    child = os.fork()
    if not child:
        failed = True
        try:
            for stream in (1, 2):
                os.dup2(os.open(OUT / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            failed = work()
        finally:
            os._exit(int(failed))
    end = time.time() + limit
    while time.time() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "killed" if status else "survived"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too long"


def anew(code, plugin, files) -> bool:
    """Whether tests fail once the module is imported as `code`."""
    class Loader(importlib.machinery.SourceFileLoader):
        get_code = staticmethod(lambda name: code)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "rg_minimal.readout":
                return importlib.util.spec_from_file_location(name, FILE, loader=Loader(name, str(FILE)))
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith((str(ROOT / "rg_minimal"), str(ROOT / "tests"))) and name != "__main__":
            del sys.modules[name]
    sys.meta_path.insert(0, Finder)
    sys.lines_run = set()
    return pytest.main(["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *files], plugins=[plugin]) not in (0, 5)


def swapped(code, items) -> bool:
    """Whether these tests fail once the module's functions have the bodies of `code`: much quicker, since all is imported."""
    def inner(code):
        return {code.co_qualname: code} | {name: each for part in code.co_consts if inspect.iscode(part) for name, each in inner(part).items()}
    codes, module = inner(code), vars(sys.modules["rg_minimal.readout"])
    for value in [each for owner in [module, *(vars(each) for each in module.values() if inspect.isclass(each))] for each in owner.values()]:
        function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) or hasattr(value, "__func__") else None
        if inspect.isfunction(function) and function.__code__.co_filename == str(FILE):
            function.__code__ = codes[function.__code__.co_qualname]
    for item, after in zip(items, [*items[1:], None]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if item.session.testsfailed:
            return True
    return False


def tests_of(line, found, budget) -> list[str]:
    """The tests that run a line, all where none does (it runs at import), quick ones first, within so many seconds."""
    chosen, total = [], 0.0
    for name in sorted([name for name in found if line in found[name]["lines"]] or found, key=lambda name: found[name]["seconds"]):
        total += found[name]["seconds"]
        if total <= budget or len(chosen) < 3:
            chosen.append(name)
    rank = lambda name: (TESTS[0] not in name, sum(found[name]["seconds"] > limit for limit in (0.3, 1.2)), TESTS.index(name.split("::")[0]))
    return sorted(chosen, key=rank)             # those of the core first; file by file, so that what a file's tests share is made once


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="each so many-th mutant")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants")
    parser.add_argument("--quick", action="store_true", help="only with the tests of test_core.py; survivors are not kept")
    parser.add_argument("--again", action="store_true", help="also those that are known already")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for one mutant; a survivor costs that much")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    OUT.mkdir(parents=True, exist_ok=True)
    results, found = OUT / "results.json", {}
    for file in TESTS:
        notes = OUT / f"{Path(file).stem}.json"
        if not notes.exists() or notes.stat().st_mtime < Path(file).stat().st_mtime:
            plugin = Tests()
            if apart(lambda: anew(noting(), plugin, [file]) or notes.write_text(json.dumps(plugin.found)) < 0, 1200) != "survived":
                sys.exit(f"{file} fails without a mutant, see {OUT / 'log'}")
        found |= json.loads(notes.read_text())
    found = {name: each for name, each in found.items() if not options.quick or TESTS[0] in name}
    made = list(mutants())
    chosen = options.only if options.only is not None else range(options.first, len(made), options.every)
    known = json.loads(results.read_text()) if results.exists() else {}

    def loop(items):
        for number in chosen:
            line, body, what, code = made[number]
            if options.again or str(number) not in known:
                names = tests_of(line, found, options.seconds)
                files = dict.fromkeys(name.split("::")[0] for name in names)
                known[str(number)] = apart(lambda: swapped(code, [items[name] for name in names]) if body else anew(code, Tests(only=names), files))
                results.write_text(json.dumps({key: each for key, each in known.items() if not options.quick or each == "killed"}))
            if known[str(number)] != "killed":
                print(f"{number:5d}  line {line}: {known[str(number)]}: {what}", flush=True)
        killed = sum(known[str(number)] != "survived" for number in chosen)
        print(f"{len(made)} mutants; of {len(chosen)} tried, {killed} killed: {100 * killed / max(1, len(chosen)):.1f} %", flush=True)
    pytest.main(["-q", "-s", "-p", "no:cacheprovider", *(TESTS[:1] if options.quick else TESTS)], plugins=[Tests(loop)])


if __name__ == "__main__":
    main()
