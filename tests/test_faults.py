"""The table of `tests/faults.py` stays true: each fault's text stands once in its file, and each test that it names exists."""
import re
from pathlib import Path

import faults

HERE = Path(__file__).parent


def test_each_text_stands_exactly_once_and_is_changed():
    counts = {each.name: faults.count_of(each) for each in faults.FAULTS}
    assert [f"{name}: {count} times" for name, count in counts.items() if count != 1] == []
    assert [each.name for each in faults.FAULTS if each.old == each.new] == []
    assert len(counts) == len(faults.FAULTS) == len({(each.file, each.old, each.new) for each in faults.FAULTS})


def test_each_test_exists():
    tests = {test for each in faults.FAULTS for test in each.tests}
    named = {path.relative_to(HERE).as_posix(): set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
             for path in HERE.rglob("test_*.py")}
    assert [test for test in tests if test.split("::")[1].split("[")[0] not in named[test.split("::")[0]]] == []


def test_a_fault_is_code(tmp_path):
    """Planted, every file still compiles."""
    for each in faults.FAULTS:
        text = (faults.ROOT / "rg_minimal" / each.file).read_text(encoding="utf-8").replace(each.old, each.new)
        compile(text, each.file, "exec")
