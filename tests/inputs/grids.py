"""Grids and targets of sweeps: what cannot be run is refused in one sentence before anything is."""
from inputs import Case
from rg_minimal import sweep

CASES = []
NOTEBOOK = "notebooks/05_guided_sampling.ipynb"


def refuse(name, *says):
    CASES.append(Case("read_grid", name, lambda: sweep.read_grid(name.split(" ")), says))


for text in ("seed", "=1", "a-b=1", "1a=1", "", "seed:0:8"):
    refuse(text, "name=values", "give")
for text in ("seed=0:0", "seed=8:0", "seed=0:8:-1", "seed=5:5:2"):
    refuse(text, "empty", "give")
for text in ("seed=0:", "seed=:8", "seed=0:8:0", "seed=0:1:2:3", "seed=::", "seed=0:-"):
    refuse(text, "start:stop", "give")
for text in ("seed=", "seed=,", "seed=1,,2", "seed=null", "seed=~"):
    refuse(text, "seed", "give")
for text in ("seed=1,1", "seed=0.5,0.50", "seed=a,b,a", "seed=true,true"):
    refuse(text, "twice", "give each value once")
for text in ("seed=[1", "seed={", "seed=.nan", "seed=.inf", "seed=a\tb:\t[", "seed=2020-01-01", "seed='a"):
    refuse(text, "cannot be read", "give")
refuse("seed=1 seed=2", "twice", "at once")
refuse("seed=0:10001", "10001", "more than", "fewer")
refuse("a=0:101 b=0:100", "10100 runs", "fewer")


def target(name, grid, *says):
    CASES.append(Case("sweep target", f"{name} {grid}", lambda: sweep.check_target(name, grid), says))


target("measure:nothing", {}, "no measurement", "choose from")
target("measure:pose", {"seed": [1]}, "no parameter seed", "choose from")
target("nothing.ipynb", {}, "not there", "give a notebook")
target("README.md", {}, "no notebook", ".ipynb")
target(NOTEBOOK, {"nothing": [1]}, "no parameter nothing", "choose from")
