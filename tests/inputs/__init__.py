"""Inputs over all doors: what is wrong has to be refused in words, what is legitimate has to work.

Each module of this folder holds a list `CASES`. `python -m inputs` in `tests/` tries them all and prints one table;
`tests/test_inputs.py` holds the bars.
"""
from __future__ import annotations

import importlib
import pkgutil
import signal
import warnings
from dataclasses import dataclass, field
from typing import Callable

SECONDS = 30                                                         # longer is a hang
VERDICTS = ("refused in words", "works", "cryptic", "silent", "wrongly refused", "wrong result", "hangs")
REFUSALS = (ValueError, TypeError, OSError, ImportError, SystemExit)   # OSError: a file that is missing or stands in the way


@dataclass
class Case:
    """One input at one door: `call()` passes it.

    `says` are words that the refusal has to hold: what was passed or what it is called, and the remedy. Where the input is
    legitimate, `says` is empty and `right(result)` says whether the right thing came out.
    """
    door: str
    name: str
    call: Callable[[], object]
    says: tuple[str, ...] = ()
    right: Callable[[object], object] = field(default=lambda result: True)


class Hang(BaseException):
    pass


def verdict(case: Case) -> tuple[str, str]:
    """(one of VERDICTS, what happened)."""
    def stop(*_):
        raise Hang
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = case.call()
            if case.says:
                return "silent", f"returned {result!r:.200}"
            return ("works", "") if case.right(result) else ("wrong result", f"returned {result!r:.200}")
    except Hang:
        return "hangs", f"more than {SECONDS} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        said = f"{type(error).__name__}: {error}"
        if not case.says:
            return "wrongly refused", said
        in_words = isinstance(error, REFUSALS) and all(word.lower() in str(error).lower() for word in case.says)
        return "refused in words" if in_words else "cryptic", said
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def cases() -> list[Case]:
    modules = sorted(each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_"))
    return [case for name in modules for case in importlib.import_module(f"{__name__}.{name}").CASES]
