"""Settings for every test: no hub, no window."""
import os

import matplotlib

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
matplotlib.use("Agg")                    # not by MPLBACKEND: kernels started by tests would inherit that and draw nothing

# What `make check` leaves out: notebooks, browsers, the virtual device, trainings, and whatever takes a file of tests minutes.
SLOW = {"test_notebooks", "test_studio", "test_heads", "test_basemodel", "test_editing", "test_exercises", "test_larger", "test_sheets",
        "test_custom_property", "test_fingerprints", "test_transformer", "test_table", "test_callback", "test_denoisers", "test_threads",
        "test_interrupts", "test_inputs", "test_readme",
        "test_random_state", "test_front", "test_collect", "test_cost", "test_sweep", "test_processes"}


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out by `make check`")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW or item.path.parent.name in ("browser", "device", "notebooks") or "train" in item.name or "no_network" in item.name:
            item.add_marker("slow")
