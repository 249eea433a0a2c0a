"""Kill whatever writes, at random moments, and look at what lies there: `python tests/kills.py [KILLS] [WRITER ...]`.

A forked child writes two valid contents by turns, over and over, and is killed with SIGKILL. After each kill the place must
read as one whole of the two, and the next call must leave nothing beside it. `tests/test_files.py` takes a small sample.
"""
import itertools
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from PIL import Image
from transformers.utils import logging

from rg_minimal import files
from rg_minimal.classroom import plots
from rg_minimal.classroom.recipe import START, Result, check_state, read_yaml, write_yaml
from rg_minimal.puppets import basemodel, judge, measure, training, world
from rg_minimal.readout import HeadConfig
from rg_minimal.saving import ReadoutHead, load_checkpoint, save_checkpoint

EACH = 25                       # kills of each writer, 14 of them
CLOTHES = ("red", "blue")


def once(make):
    """Made at the first call, in the parent, so that no child has to."""
    made = []
    return lambda: made[0] if made else made.append(make()) or made[0]


# ---- the writers: each is a function (folder) -> (write(which), read() -> which); `which` is 0 or 1 ---------------------

def heads(folder, widths=(32, 64)):
    """A head saved over another, with another config; both shapes are read as what they are."""
    made = [ReadoutHead(HeadConfig((8, 8), 16, width=width, num_groups=4, out_channels=2, hidden_channels=(8, 8), property=name))
            for width, name in zip(widths, CLOTHES)]
    for which, head in enumerate(made):
        torch.nn.init.constant_(head.mixing_weights, float(which))

    def read():
        head = ReadoutHead.from_pretrained(folder / "head")
        which = CLOTHES.index(head.config.property)
        assert head.config.width == widths[which] and head.mixing_weights.eq(which).all()
        return which
    return (lambda which: made[which].save_pretrained(folder / "head")), read


def same_shape(folder):
    return heads(folder, (32, 32))


def judges(folder):
    made = [judge.Judge(judge.JudgeNetwork((8, 8, 8)), [share] * 14, {"figure": which}) for which, share in enumerate((0.25, 0.75))]
    for which, each in enumerate(made):
        [torch.nn.init.constant_(weight, which) for weight in each.network.parameters()]

    def read():
        found = judge.Judge.from_pretrained(folder / "judge")
        which = found.figures["figure"]
        assert found.thresholds == made[which].thresholds
        assert all(weight.eq(which).all() for weight in found.network.parameters())
        return which
    return (lambda which: made[which].save_pretrained(folder / "judge")), read


def head_checkpoints(folder):
    head = ReadoutHead(HeadConfig((8,), 16, width=32, num_groups=4))
    optimizer, generator = torch.optim.AdamW(head.parameters()), torch.Generator()
    sum(weight.sum() for weight in head.parameters()).backward()
    optimizer.step()

    def write(which):
        for weight in head.parameters():
            torch.nn.init.constant_(weight, which), torch.nn.init.constant_(optimizer.state[weight]["exp_avg"], which)
        save_checkpoint(folder / "c.safetensors", head, optimizer, generator.manual_seed(which), which + 1)

    def read():
        which = load_checkpoint(folder / "c.safetensors", head, optimizer, generator, 9) - 1
        assert all(weight.eq(which).all() and optimizer.state[weight]["exp_avg"].eq(which).all() for weight in head.parameters())
        assert generator.initial_seed() == which
        return which
    return write, read


def training_states(folder):
    """The base model's, the transformer's and the judge's checkpoints are written by one function."""
    network, average = torch.nn.Linear(300, 300), {"weight": torch.zeros(300, 300)}
    optimizer, recipe = torch.optim.AdamW(network.parameters()), basemodel.Recipe(run=str(folder), save_every=1)
    network(torch.ones(300)).sum().backward()
    optimizer.step()

    def write(which):
        torch.nn.init.constant_(network.weight, which), average["weight"].fill_(which)
        training.save_every(folder / "diffusion.pt", recipe, which + 1, 2, model=network, average=average, optimizer=optimizer)

    def read():
        which = training.resume(folder / "diffusion.pt", recipe, model=network, average=average, optimizer=optimizer) - 1
        assert network.weight.eq(which).all() and average["weight"].eq(which).all()
        return which
    return write, read


def weights(folder):
    def read():
        tensors, metadata = files.read_tensors(folder / "0000000.safetensors")
        which = int(metadata["captions"])
        assert tensors["latents"].eq(which).all()
        return which
    return (lambda which: files.write_tensors(folder / "0000000.safetensors", {"latents": torch.full((300, 300), float(which))},
                                              {"captions": str(which)})), read


@once
def tiny_pipeline():
    torch.manual_seed(0)
    recipe = basemodel.Recipe(unet_channels=(16, 16, 16), vae_channels=(8, 8, 8), text_width=16)
    model = basemodel.TextAndUNet(recipe)
    return basemodel.StableDiffusionPipeline(
        vae=basemodel.build_autoencoder(recipe), text_encoder=model.text_encoder, tokenizer=basemodel.build_tokenizer(), unet=model.unet,
        scheduler=basemodel.build_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def exports(folder):
    """A pipeline's folder, with the card that stays in it. Its parts are read one by one: all must be of one export."""
    pipe, place = tiny_pipeline(), folder / "model"
    build, basemodel.build_pipeline = basemodel.build_pipeline, lambda recipe: pipe

    def write(which):
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            torch.nn.init.constant_(next(part.parameters()), which)
        basemodel.export_pipeline(basemodel.Recipe(seed=which), place)
        if not (place / "README.md").exists():
            files.write_file(place / "README.md", "the card")

    def read():
        which = files.read_json(place / "recipe.json")["seed"]
        for name, part in (("unet", pipe.unet), ("vae", pipe.vae), ("text_encoder", pipe.text_encoder)):
            first = next(iter(part.state_dict()))
            tensors, _ = files.read_tensors(next((place / name).glob("*.safetensors")))
            found = tensors[first] if first in tensors else tensors["text_model." + first]
            assert found.eq(which).all() and files.read_json(place / name / "config.json")
        assert (place / "README.md").read_text() == "the card"
        return which
    return write, read


def autoencoders(folder):
    """The folder of a part, as a training leaves it."""
    vae = tiny_pipeline().vae

    def write(which):
        torch.nn.init.constant_(next(vae.parameters()), which), vae.register_to_config(scaling_factor=float(which + 1))
        basemodel.save_model(vae, folder / "vae")

    def read():
        which = int(files.read_json(folder / "vae" / "config.json")["scaling_factor"]) - 1
        assert next(iter(files.read_tensors(folder / "vae" / "diffusion_pytorch_model.safetensors")[0].values())) is not None
        assert files.read_tensors(folder / "vae" / "diffusion_pytorch_model.safetensors")[0][
            next(iter(vae.state_dict()))].eq(which).all()
        return which
    return write, read


def results(folder):
    def read():
        found = files.read_json(folder / "pose.json")
        assert len(found["scores"]) == 2000 and set(found["scores"]) == {found["which"]}
        return found["which"]
    return (lambda which: measure.write_result("pose", {"which": which, "scores": [which] * 2000}, folder)), read


def state(which):
    return check_state(START | {"prompt": CLOTHES[which] * 2000, "seed": which})


def recipes(folder):
    def read():
        found = read_yaml(folder / "studio.yaml")
        assert found == state(found["seed"])
        return found["seed"]
    return (lambda which: write_yaml(state(which), folder / "studio.yaml", CLOTHES[which])), read


def studios(folder):
    """The studio's export, of the picture that is shown."""
    from rg_minimal.classroom.studio import Studio
    studio, blank = Studio(KIT(), START), torch.zeros(3, world.SIZE, world.SIZE)

    def write(which):
        studio.result = Result(state(which), blank, blank + which)
        studio.export(folder / "studio.yaml")
    read = recipes(folder)[1]
    return write, read


@once
def KIT():
    from rg_minimal.classroom.recipe import Kit
    return Kit(None, {}, {name: "not loaded" for name in ("pose", "drag", "depth", "edges", "appearance")})


def texts(folder):
    """The clock of a training, a card: short texts."""
    def read():
        found = (folder / "README.md").read_text()
        assert found in [word * 5000 for word in CLOTHES]
        return CLOTHES.index(found[:len(found) // 5000])
    return (lambda which: files.write_file(folder / "README.md", CLOTHES[which] * 5000)), read


def grids(folder):
    def read():
        with Image.open(folder / "sheet.png") as picture:
            return int(picture.convert("L").getextrema()[1] > 128)
    return (lambda which: plots.save_grid(torch.full((8, 3, 64, 64), float(which)), folder / "sheet.png")), read


def figures(folder):
    drawn = [plots.picture_grid([torch.full((3, 16, 16), 0.5)] * (which + 1), size=1) for which in (0, 1)]

    def read():
        with Image.open(folder / "figure.png") as picture:
            picture.load()
            return int(picture.width > 1.5 * picture.height)
    return (lambda which: plots.save_figure(drawn[which], folder / "figure.png", dpi=40)), read


WRITERS = {"head over another": heads, "head over one of its shape": same_shape, "judge": judges, "checkpoint of a head": head_checkpoints,
           "state of a training": training_states, "shard of latents": weights, "export of a pipeline": exports,
           "autoencoder of a run": autoencoders, "result of a measurement": results, "recipe of the studio": recipes,
           "export of the studio": studios, "card": texts, "sheet of pictures": grids, "figure": figures}


# ---- the killing -------------------------------------------------------------------------------------------------------

def child(write) -> int:
    number = os.fork()
    if number:
        return number
    try:
        for which in itertools.cycle((1, 0)):
            write(which)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def names(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))


def kill(writer, kills: int, rng: random.Random) -> dict:
    """Kill a writer `kills` times; how often what lay there was old, new, wrong, and what the next call left beside it."""
    found = {"old": 0, "new": 0, "wrong": 0, "left by kills": 0, "left by the next call": 0}
    with tempfile.TemporaryDirectory() as folder:
        write, read = writer(Path(folder))
        write(0), write(1)
        start = time.perf_counter()
        write(0)
        clean, once = names(folder), time.perf_counter() - start
        for _ in range(kills):
            number = child(write)
            time.sleep(rng.uniform(0, 4 * once + 0.005))
            os.kill(number, signal.SIGKILL)
            assert os.WIFSIGNALED(os.waitpid(number, 0)[1]), "it ended by itself"
            found["left by kills"] += names(folder) != clean
            try:
                found["new" if read() else "old"] += 1
            except Exception:
                traceback.print_exc()
                found["wrong"] += 1
            write(0)
            found["left by the next call"] += names(folder) != clean
            assert read() == 0
    return found


def table(kills: int = EACH, writers=WRITERS, seed: int = 0) -> dict[str, dict]:
    """Kills over all writers: name -> what was found."""
    rng, build, rows = random.Random(seed), basemodel.build_pipeline, {}
    logging.disable_progress_bar()
    torch.set_num_threads(1)                                    # threads of a pool do not live on in forked children
    try:
        for name in writers:
            rows[name] = kill(WRITERS[name], kills, rng)
    finally:
        basemodel.build_pipeline = build
        logging.enable_progress_bar()
    return rows


if __name__ == "__main__":
    rows = table(int(sys.argv[1]) if sys.argv[1:] else EACH, sys.argv[2:] or WRITERS)
    print("| writer | kills | old | new | wrong | left by kills | left by the next call |\n|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['old'] + row['new'] + row['wrong']} | " + " | ".join(map(str, row.values())) + " |")
    total = {key: sum(row[key] for row in rows.values()) for key in ("old", "new", "wrong")}
    print(f"\n{sum(total.values())} kills, {total['wrong']} wrong, {sum(row['left by the next call'] for row in rows.values())} left")
