"""Mutants of the core: small faults, one at a time, each of which has to make a test fail. Run by hand, in ten minutes:

    OMP_NUM_THREADS=1 python tests/mutants.py                       # prints what survives and the share that was killed
    OMP_NUM_THREADS=1 python tests/mutants.py --every 4 --first 1   # of the numbered mutants 1, 5, 9, ...
    OMP_NUM_THREADS=1 python tests/mutants.py --only 17 23 --tests tests/test_core.py tests/test_parity.py

The faults are those of mutmut: a number one larger, another text, True for False, None for a value or an argument, an
argument left out, another operator (+ -, * /, ** *, < <=, == !=, and or, is, in), `not` left out, a condition turned
round, one branch of two. Left alone are docstrings, annotations, imports, and what only words an error (`raise`,
f-strings, the name given to `finite`). Each mutant takes the module's place in a process of its own, where the tests
run until one fails. What survives today does the same as the module: `[+2:]` for `[-2:]` of four axes, None for False.
"""
import argparse
import ast
import importlib.machinery
import importlib.util
import inspect
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "rg_minimal" / "readout.py"
SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
         ast.Mod: ast.Div, ast.Pow: ast.Mult, ast.USub: ast.UAdd, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
         ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot,
         ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}


def places(node, line=1, body=False):
    """(line of its statement, whether in a function's body, parent, field, index or None, child) of what may change."""
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
        yield ast.Constant(not value if isinstance(value, bool) else f"XX{value}XX" if isinstance(value, str) else value
                           + 1)
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
        counted = node.args[:1] if ast.unparse(node.func) == "finite" else node.args
        for old in [*counted, *node.keywords]:
            starred = isinstance(old, ast.Starred) or isinstance(old, ast.keyword) and old.arg is None
            empty = ast.keyword(old.arg, none) if isinstance(old, ast.keyword) else none
            for new in [[empty]] * (not starred) + [[]] * (len(node.args + node.keywords) > 1):
                parts = [[each for given in part for each in (new if given is old else [given])]
                         for part in (node.args, node.keywords)]
                yield ast.Call(node.func, *parts)


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
            same = len(os.path.commonprefix([before, ast.unparse(parent)]))
            what = [text[max(0, same - 50):same + 50].replace("\n", " ") for text in (before, ast.unparse(parent))]
            if what[0] != what[1]:
                yield line, body, "  ->  ".join(what), compile(ast.fix_missing_locations(tree), str(FILE), "exec")
            put(node)


def apart(fails) -> bool:
    """Whether `fails()` in a process of its own, or takes more than two minutes."""
    child = os.fork()
    if not child:
        failed = True
        try:
            signal.alarm(120)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            failed = fails()
        finally:
            os._exit(int(failed))
    return os.waitpid(child, 0)[1] != 0


def anew(code, files) -> bool:
    """Whether tests fail once the module is imported as `code`: for what runs at import."""
    class Loader(importlib.machinery.SourceFileLoader):
        get_code = staticmethod(lambda name: code)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "rg_minimal.readout":
                return importlib.util.spec_from_file_location(name, FILE, loader=Loader(name, str(FILE)))
    for name, module in list(sys.modules.items()):
        ours = str(getattr(module, "__file__", None)).startswith((f"{ROOT}/rg_minimal", f"{ROOT}/tests"))
        if ours and name != "__main__":
            del sys.modules[name]
    sys.meta_path.insert(0, Finder)
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files]) != 0


def swapped(code, items) -> bool:
    """Whether tests fail once the module's functions have the bodies in `code`: much quicker, since all is imported."""
    def inner(code):
        parts = [part for part in code.co_consts if inspect.iscode(part)]
        return {code.co_qualname: code} | {name: each for part in parts for name, each in inner(part).items()}
    codes, module = inner(code), vars(sys.modules["rg_minimal.readout"])
    owners = [module, *(vars(each) for each in module.values() if inspect.isclass(each))]
    for value in [value for owner in owners for value in owner.values()]:
        function = inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(function) and function.__code__.co_filename == str(FILE):
            function.__code__ = codes[function.__code__.co_qualname]
    for item, after in zip(items, [*items[1:], None]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if item.session.testsfailed:
            return True
    return False


class Loop:
    """A plugin that tries mutants in place of the tests that pytest found."""

    def __init__(self, options):
        self.options = options

    def pytest_runtestloop(self, session):
        options, made, original = self.options, list(mutants()), compile(FILE.read_text(), str(FILE), "exec")
        if apart(lambda: swapped(original, session.items)) or apart(lambda: anew(original, options.tests)):
            sys.exit("the tests fail without a mutant")
        chosen, survivors = options.only or range(options.first, len(made), options.every), 0
        for number in chosen:
            line, body, what, code = made[number]
            if not apart(lambda: swapped(code, session.items) if body else anew(code, options.tests)):
                survivors += 1
                print(f"{number:5d}  line {line} survives: {what}", flush=True)
        share = 100 * (1 - survivors / len(chosen))
        print(f"{len(made)} mutants; of {len(chosen)} tried, {share:.1f} % are killed, {survivors} survive")
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="each so many-th mutant")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutants")
    parser.add_argument("--tests", nargs="+", default=["tests/test_core.py"], help="files of tests")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    pytest.main(["-q", "-s", "-p", "no:cacheprovider", *options.tests], plugins=[Loop(options)])


if __name__ == "__main__":
    main()
