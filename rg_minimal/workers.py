"""Processes that take jobs, on this machine or on many, by Dask: for `sweep`, and for the trainings of `evidence`.

    with joined(None, workers=2, retries=3) as client:
        futures = [client.submit(job, each) for each in todo]

Whoever only joins workers loads no notebook, for which `sweep` needs two seconds.
"""
from __future__ import annotations

import importlib.util
import multiprocessing
import os
from contextlib import ExitStack, contextmanager

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@contextmanager
def joined(scheduler: str | None, workers: int, retries: int):
    """A client of the scheduler at this address, or of one that is started here with so many workers, and ended afterwards."""
    try:
        import dask
        from distributed import Client, LocalCluster
        from distributed.utils import get_mp_context
    except ImportError:
        raise ValueError("a sweep needs Dask: pip install -e '.[sweep]'") from None
    os.environ.update({name: os.environ.get(name, value) for name, value in ONE_THREAD.items()})
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    settings = {"distributed.scheduler.allowed-failures": retries, "distributed.worker.multiprocessing-method": method,
                # Dask adds MALLOC_TRIM_THRESHOLD_, by which every tensor is fetched from the system anew: a training step takes 1.8 times as long
                "distributed.nanny.pre-spawn-environ": ONE_THREAD}
    with dask.config.set(settings):
        get_mp_context().set_forkserver_preload(["distributed", "papermill", "rg_minimal"])         # torch is loaded once for all workers
        with ExitStack() as ends:
            try:
                cluster = scheduler or ends.enter_context(LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0" if draws_dashboard() else None))
                client = ends.enter_context(Client(cluster, timeout="20s"))
            except (OSError, ValueError) as error:
                raise ValueError(f"--scheduler {scheduler} cannot be reached ({error}): start it by `dask scheduler`, or leave it out") from None
            yield client


def draws_dashboard() -> bool:
    """Whether bokeh is there, with which Dask shows in a browser what is running."""
    return importlib.util.find_spec("bokeh") is not None
