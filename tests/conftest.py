"""Settings for every test: no hub, no window."""
import os

import matplotlib

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
matplotlib.use("Agg")                    # not by MPLBACKEND: kernels started by tests would inherit that and draw nothing
