"""An interrupt (Ctrl-C) at any line of ours leaves everything as it was: `python tests/test_interrupts.py` tries every line.

The suite takes a sample of the lines, and every third of what lays hooks and freezes weights.
"""
import argparse
import copy
import importlib
import linecache
import sys
import weakref
from pathlib import Path

import pytest
import torch

import rg_minimal
import test_guider
from rg_minimal import pipelines, readout as rg
from rg_minimal.callback import GuidanceCallback
from rg_minimal.guider import ReadoutGuidance
from rg_minimal.saving import train_head
from rg_minimal.sources import Source
from tiny import make_head, seed, spatial, tiny_pipe, tiny_sd3_pipe

PACKAGE, PROMPT = str(Path(rg_minimal.__file__).parent), "a puppet is waving"
ALWAYS = ("undo.py", "callback.py", "guider.py")        # of these, and of `collect_features`, the suite tries more lines


class Interrupts:
    """Runs work and raises KeyboardInterrupt before line number `at` of ours is executed; notes all lines.

    But not at the line that takes and releases a lock: Python looks for signals after calls and at jumps, so none can come between
    the end of a block and the release, as an exception of a tracer could. Nor at torch's own `no_grad`.
    """

    def __init__(self, at=None):
        self.at, self.lines = at, []

    def run(self, work):
        before = sys.gettrace()
        sys.settrace(self.enter)
        try:
            return work()
        finally:
            sys.settrace(before)

    def enter(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE) or inside(frame, weakref.__file__):
            return None                     # Python itself catches what a finalizer raises, so nothing would be interrupted
        return self.step

    def step(self, frame, event, argument):
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if event == "line" and not line.startswith(("with _LOCK", "with torch.no_grad")):
            self.lines.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            if len(self.lines) - 1 == self.at:
                raise KeyboardInterrupt
        return self.step


def inside(frame, file: str) -> bool:
    """Whether a function of that file has called this one."""
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return frame is not None


def noise(number=0):
    return torch.randn(1, 4, 8, 8, generator=seed(number))


# ---- scenes: each gives the work, without what need not be made anew ----------------------------------------------------

def guided(pipe, **settings):
    source = Source.from_picture(pipe, latents=noise(1), generator=seed(1))
    objectives, told = [spatial(pipe), rg.AppearanceObjective(head=make_head(pipe, 0), source=source, stop=1.0)], pipelines.encode_prompts(pipe, PROMPT)
    return lambda: list(pipelines.guided_sample(pipe, told, objectives, num_inference_steps=2, latents=noise(), **settings))[-1].latents


def inverted(pipe):
    return lambda: list(pipelines.invert(pipe, latents=noise(), prompt=PROMPT, num_inference_steps=2, guidance_scale=2.0))[-1].latents


def trained(pipe):
    head = pipe.of_this_test
    fresh = copy.deepcopy(head.state_dict())

    def work():
        head.load_state_dict(fresh)
        states = train_head(head, pipe, [(noise(2), torch.zeros(1, 2, 4, 4))] * 3, 3, latents=True)
        next(states), next(states)
        states.close()                                          # midway
        return torch.stack([weight.sum() for weight in head.parameters()]).detach()
    return work


def called_back(pipe):
    callback = GuidanceCallback([spatial(pipe)])
    return lambda: pipe(PROMPT, num_inference_steps=2, latents=noise(), height=16, width=16, output_type="latent",
                        callback_on_step_end=callback).images


def with_a_guider(pipe):
    objective = spatial(pipe)
    return lambda: test_guider.loop("SD3", pipe, ReadoutGuidance([objective], guidance_scale=7.0), steps=1)


def decoded(pipe):
    return lambda: pipelines.decode(pipe, noise())


def read(pipe):
    return lambda: pipelines.read_picture(pipe, timestep=300, latents=noise(), generator=seed())(pipe.of_this_test).detach()


def half_autoencoder():
    pipe = tiny_pipe()
    pipe.vae.to(torch.bfloat16)
    pipe.vae.register_to_config(force_upcast=True)
    return pipe


SCENES = {"guided_sample": (tiny_pipe, guided), "guided_sample, prediction": (tiny_pipe, lambda pipe: guided(pipe, moves="prediction")),
          "invert": (tiny_pipe, inverted), "training, closed midway": (tiny_pipe, trained), "callback": (tiny_pipe, called_back),
          "guider": (tiny_sd3_pipe, with_a_guider), "decode in float32": (half_autoencoder, decoded), "read_picture": (tiny_pipe, read)}


def modules_of(pipe):
    parts = {**pipe.components, "head": pipe.of_this_test}
    return {f"{part}.{name}": module for part, network in parts.items() if isinstance(network, torch.nn.Module)
            for name, module in network.named_modules()}


def state_of(pipe) -> dict:
    """Whatever a run could leave changed."""
    state = {"grad": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled(), "config": dict(pipe.scheduler.config),
             "scheduler": type(pipe.scheduler)}
    for name, module in modules_of(pipe).items():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values()]
        state[name] = (module.training, [str(hook) for hook in hooks], module.__dict__.get("forward") is not None)
        for key, weight in module.named_parameters(recurse=False):
            state[f"{name}.{key}"] = (weight.requires_grad, weight.dtype, weight.grad is None or name.startswith("head"))
    return state


def interrupted(work, at) -> bool:
    """Whether the work was interrupted; what it raised is gone."""
    try:
        Interrupts(at).run(work)
    except KeyboardInterrupt:
        return True
    return False


def chosen(lines, every: int) -> list[int]:
    """Numbers of events: the first and the last time that each line is executed; of most files each `every`-th line."""
    first, last = {}, {}
    for number, line in enumerate(lines):
        first.setdefault(line, number), last.__setitem__(line, number)
    ours = [line for line in first if line[0].endswith(ALWAYS) or line[2] == "collect_features"]
    others = [line for line in first if line not in ours][::every]
    return sorted({times[line] for line in [*ours[::min(every, 3)], *others] for times in (first, last)})


def scene(name):
    build, work = SCENES[name]
    pipe = build()
    pipe.of_this_test = make_head(pipe)
    work = work(pipe)
    expected = work()                       # first of all, since transformers lays hooks of its own with the first pass
    return pipe, work, state_of(pipe), expected


def faults(name, every: int) -> list[str]:
    """Lines of a scene after which something was left, or another run came out otherwise."""
    pipe, work, before, expected = scene(name)
    watch = Interrupts()
    watch.run(work)
    found = []
    for at in chosen(watch.lines, every):
        file, line, function = watch.lines[at]
        where = f"{Path(file).name}:{line} ({function}, event {at})"
        if not interrupted(work, at):
            found.append(f"{where}: the run went on")
        after = state_of(pipe)
        found += [f"{where}: {key} is {after[key]}, was {value}" for key, value in before.items() if after[key] != value][:2]
        if every == 1 and not torch.equal(work(), expected):
            found.append(f"{where}: the next run differs")
        if len(found) > 20:
            break
    if not torch.equal(work(), expected):
        found.append("the next run differs")
    return found


@pytest.mark.parametrize("name", SCENES)
def test_an_interrupt_at_any_line_leaves_nothing(name):
    assert not (found := faults(name, every=150)), "\n".join(found)


COMMANDS = sorted(path for path in Path(rg_minimal.__file__).parent.rglob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_that_is_stopped_says_so_in_a_sentence(path, monkeypatch, capsys):
    """Whatever it was at: here it reads its options."""
    def stopped(*arguments):
        raise KeyboardInterrupt
    name = ".".join(path.relative_to(Path(rg_minimal.__file__).parents[1]).with_suffix("").parts)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stopped)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended:
        importlib.import_module(name).main([])
    assert isinstance(ended.value, SystemExit) and ended.value.code == 130 and capsys.readouterr() == ("", "stopped; what had been finished is kept\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or SCENES:
        found = faults(name, every=1)
        print(f"{name}: {len(found)} faults", *found, sep="\n    ", flush=True)
