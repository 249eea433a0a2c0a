"""The evidence: who may see what, that trainings go on, that all contestants are asked the same, and the statistics."""
import contextlib
import itertools
import json
from dataclasses import replace
from statistics import median

import pytest
import torch

from rg_minimal.classroom import plots
from rg_minimal.conditioning import Conditioning
from rg_minimal.evidence import ablations as A, baselines as B, contest as C, ideas as I, many as M, recipes, report, rivals as R, seeds as S, statistics as T
from rg_minimal.evidence import __main__ as evidence, learn as L
from rg_minimal.evidence.__main__ import main
from rg_minimal.evidence.learn import Pace, finished, learn
from rg_minimal.files import read_json, read_weights, rows_so_far, write_json, write_rows
from rg_minimal.pipelines import encode_prompts, load_head, load_pipeline, read_picture, sample
from rg_minimal.puppets import world
from rg_minimal.puppets.heads import new_head, pose_objective
from rg_minimal.puppets.judge import load_judge
from rg_minimal.puppets.measure import checksum_of
from rg_minimal.undo import undone

from tiny import tiny_pipe


def ranges():
    return [(name, scenes.first, scenes.end) for name, scenes in {**S.OURS, **S.OTHERS}.items()]


def test_scenes_of_trainings_choices_and_tests_are_disjoint():
    named = ranges()
    assert len(named) == len(S.OURS) + len(S.OTHERS)
    met = [(a[0], b[0]) for a, b in itertools.combinations(named, 2) if a[1] < b[2] and b[1] < a[2]]
    assert not met
    assert all(first >= world.HELD_OUT for name, first, _ in named if name in ("tune", "test", "real"))
    assert all(end <= world.HELD_OUT for name, _, end in named if name in ("train", "check"))


def test_trainings_of_two_seeds_share_no_scene_and_fewer_labels_are_a_part_of_more():
    firsts = [S.training_scenes(seed, S.MOST_LABELS) for seed in range(S.MOST_SEEDS)]
    assert min(b - a for a, b in itertools.pairwise(firsts)) >= S.MOST_LABELS
    assert S.training_scenes(3, 10) == firsts[3] and firsts[-1] + S.MOST_LABELS <= S.TRAIN.end
    for seed, labels in ((S.MOST_SEEDS, 10), (0, S.MOST_LABELS + 1), (-1, 10), (0, 0)):
        with pytest.raises(ValueError):
            S.training_scenes(seed, labels)


def test_a_skeleton_is_drawn_where_the_joints_are():
    frames = world.render(world.sample_scenes(2, 5))
    drawn = B.draw_skeleton(frames.joints)
    assert drawn.shape == (2, 3, 128, 128) and drawn.min() == 0 and drawn.max() <= 1
    x, y = frames.joints[0].long().unbind(-1)
    assert (drawn[0].amax(0)[y, x] > 0.5).all() and (drawn.amax(1) > 0.5).float().mean() < 0.1
    mirrored = frames.joints[:, [0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12]]
    assert (B.draw_skeleton(mirrored) - drawn).abs().max() > 0.3                # left and right differ
    with pytest.raises(ValueError, match="choose one of"):
        B.control_picture("colour", frames.depth)


@pytest.fixture
def tiny(monkeypatch):
    """A tiny pipeline, and labelled pictures of its size without any rendering."""
    pipe = tiny_pipe()

    def label(pipe, first, count, chunk=8):
        rng = torch.Generator().manual_seed(first)
        maps = (torch.rand(count, 1, 32, 32, generator=rng) * 255).to(torch.uint8)
        return {"latents": torch.randn(count, 4, 16, 16, generator=rng),
                "joints": torch.rand(count, 14, 2, generator=rng) * 128,
                "visible": torch.ones(count, 14, dtype=torch.bool), "depth": maps, "edges": maps.clone()}
    monkeypatch.setattr(B, "_label", label)
    monkeypatch.setattr(B, "new_network", lambda kind, unet, seed=0: small(kind, unet))
    monkeypatch.setattr(B, "CHECKED", 16)
    return pipe


def small(kind, unet):
    torch.manual_seed(0)
    if kind == "controlnet":
        return B.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    return B.T2IAdapter(3, (16, 32, 32, 32), 1, 4, "full_adapter_xl")


def recipe(tmp_path, kind="controlnet", **changes):
    return B.BaselineRecipe(kind, "depth", **{"labels": 4, "steps": 6, "every": 2, "batch": 4, "warmup": 0,
                                              "runs": str(tmp_path), **changes})


@pytest.mark.parametrize("kind", B.KINDS)
def test_a_killed_training_goes_on_with_the_same_bits(tiny, tmp_path, kind):
    for _ in B.train_baseline(recipe(tmp_path / "whole", kind), tiny):
        pass
    run = B.train_baseline(recipe(tmp_path / "killed", kind), tiny)
    assert [next(run).step for _ in range(3)] == [1, 2, 3]
    run.close()
    assert [state.step for state in B.train_baseline(recipe(tmp_path / "killed", kind), tiny)] == [3, 4, 5, 6]
    whole, killed = (B.load_baseline(recipe(tmp_path / name, kind).folder).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not list(B.train_baseline(recipe(tmp_path / "killed", kind), tiny))
    with pytest.raises(ValueError, match="another recipe"):
        list(B.train_baseline(recipe(tmp_path / "killed", kind, steps=7), tiny))


@pytest.mark.filterwarnings("ignore:the model does not know")
@pytest.mark.parametrize("train, checkpoint", [
    (lambda runs, pipe, **other: B.train_baseline(recipe(runs, **{"lr": 2e-3, **other}), pipe), 2),
    (lambda runs, pipe, **other: B.train_readout("depth", 4, 0, runs, pipe, **{"steps": 60, **other}), 50),
    (lambda runs, pipe, **other: R.train_detector("depth", 4, 0, runs, pipe, **{"steps": 6, "every": 2, "batch": 2, **other}), 2),
    (lambda runs, pipe, **other: I.train_predictor("depth", 4, 0, runs, pipe, **{"steps": 60, "batch": 1, **other}), 50)],
    ids=["baseline", "head", "detector", "predictor"])
@pytest.mark.parametrize("other", [{"steps": 70}, {"batch": 3}], ids=str)
def test_a_killed_training_is_not_finished_by_another_recipe(tiny, tmp_path, monkeypatch, train, checkpoint, other):
    monkeypatch.setattr(R, "degrade", lambda images, rng: images)                                     # of full-size pictures
    list(B.train_readout("depth", 4, 0, tmp_path, tiny, steps=1)) if checkpoint == 50 else None      # which a predictor learns from
    runs = tmp_path / "own" if "train_readout" in train.__code__.co_names else tmp_path
    run = train(runs, tiny)
    assert [next(run).step for _ in range(checkpoint + 1)][-1] == checkpoint + 1
    run.close()
    (name, value), = other.items()
    with pytest.raises(ValueError, match=rf"was trained with another recipe \({name} .*, not {value}\); delete it"):
        list(train(runs, tiny, **other))
    assert [state.step for state in train(runs, tiny)][0] == checkpoint + 1, "the recipe that it was begun with goes on"


@pytest.mark.filterwarnings("ignore:the model does not know")
@pytest.mark.parametrize("name, train, last", [("head", B.train_readout, (L, "write_json")), ("linear", R.train_linear, (R, "best_layer"))],
                         ids=["head", "linear"])
def test_a_training_that_was_killed_before_all_was_left_is_not_finished_and_goes_on(tiny, tmp_path, monkeypatch, name, train, last):
    def kill(*_):
        raise KeyboardInterrupt
    steps = lambda place: [state.step for state in train("depth", 4, 0, tmp_path / place, tiny, steps=3, batch=2)]
    with monkeypatch.context() as patched:
        patched.setattr(*last, kill)
        with pytest.raises(KeyboardInterrupt):
            steps("killed")
    assert list(C.lacking(name, "depth", 4, 0, tmp_path / "killed")) == [name] and C.trainings(tmp_path / "killed") == []
    assert steps("killed") == [] and steps("whole") == [1, 2, 3] and not C.lacking(name, "depth", 4, 0, tmp_path / "killed")
    killed, whole = (B.folder_of(name, "depth", 4, 0, tmp_path / place) for place in ("killed", "whole"))
    (ours, config), (theirs, same) = (read_weights(each / "head.safetensors") for each in (killed, whole))
    assert config == same and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    told = [read_json(each / "training.json") | {"training_seconds": 0} for each in (killed, whole)]
    assert told[0] == told[1] and ("layer" in told[0]) is (name == "linear") and {each.name for each in killed.iterdir()} == {each.name for each in whole.iterdir()}


@pytest.mark.parametrize("command", [
    "tune pose --strengths 2", "tune pose --labels 10", "report pose", "report --workers 2", "all pose --check", "ablate --contestants head",
    "train pose --rates 1e-3", "train pose --pictures 3", "train --strengths 2", "contest --kinds head", "contest --tuned-on 8"])
def test_an_option_that_a_command_does_not_use_is_refused(command, capsys):
    with pytest.raises(SystemExit):
        main(command.split())
    said = capsys.readouterr().err
    assert "unrecognized arguments" in said and next((each for each in command.split() if "--" in each), "pose") in said


@pytest.mark.parametrize("option", ["--labels 10", "--seeds 1", "--contestants head", "--strengths 2", "--pictures 3"])
def test_a_check_refuses_what_it_would_not_use(option, capsys):
    with pytest.raises(SystemExit):
        main(["contest", "pose", "--check", "3", *option.split()])
    assert f"leave out {option.split()[0]}" in capsys.readouterr().err


@pytest.fixture
def commanded(monkeypatch, tmp_path):
    """`all` and its kin with trainings and measurements that only note themselves; a training fills its folder."""
    done = []
    monkeypatch.setattr(M, "loaded", lambda: (None, None)), monkeypatch.setattr(C, "checksum_of", lambda *parts: "a")

    def train(options):
        done.append("train")
        for place in evidence.folders(options, evidence.jobs_of(options)):
            place.mkdir(parents=True, exist_ok=True)
        for *job, changes in evidence.jobs_of(options):
            write_json(B.folder_of(*job, options.runs) / "training.json", {"recipe": M.recipe_of(*job, **changes)})
    monkeypatch.setattr(evidence, "train", train)
    monkeypatch.setattr(C, "write_real", lambda *_: None)
    monkeypatch.setattr(evidence, "follow", lambda states: None), monkeypatch.setattr(A, "score_ablations", lambda *_: [])

    def measure(options, todo, name, scenes, pictures, settings):
        done.append(name)
        work = C.missing(C.read_table(evidence.table(options, name)), todo, scenes, pictures, settings)
        for key, _ in work:
            key[0].startswith("head:") or C.require(*key[:4], options.runs)
        numbers = {"control": 1.0, "whole": 1.0, "attributes": 1.0, "passes": 1.0, "seconds": 1.0, "look": "", "version": "a", "network": ""}
        made = [{**dict(zip(C.SETTING, key)), "picture": start + i, **numbers} for key, start in work for i in range(C.BATCH)]
        C.add_to(evidence.table(options, name), made)
    monkeypatch.setattr(evidence, "measure", measure)

    def command(line):
        done.clear()
        options = evidence.commands().parse_args([*line.split(), "--runs", str(tmp_path / "runs"), "--folder", str(tmp_path / "tables")])
        options.run(options)
        return done
    return command, done


@pytest.mark.parametrize("words, says", [
    ("--labels 100", "head is to be tuned with .*head-pose-1000-0.*--tuned-with 1000 has to be among --labels"),
    ("--labels 100 --tuned-with 100 --seeds 1", "to be tuned with .*head-pose-100-0.*0 among --seeds"),
    ("--labels 100 --tuned-with 100 --kinds head", "linear is to be tuned with .*linear-pose-100-0.*linear among --kinds"),
    ("--labels 1000 --kinds controlnet adapter predictor", "predictor learns from .*head-pose-1000-0, which holds no finished training: add head to --kinds"),
    ("--labels 1000 --seeds 10 0", "seeds below 10"), ("--labels 100 --tuned-with 20000", "at most 10000 labels"),
    ("--labels 100 --tuned-with 100 --kinds head --contestants unguided head controlnet+head", r"controlnet\+head is to be measured with .*controlnet-pose-100-0.*add controlnet")])
def test_all_refuses_before_it_trains_what_it_would_refuse_after(words, says, commanded, tmp_path):
    command, done = commanded
    with pytest.raises(ValueError, match=says):
        command(f"all pose {words}")
    assert done == [] and not (tmp_path / "runs").exists()


def test_all_goes_on_where_nothing_is_lacking(commanded):
    command, done = commanded
    course = ["train", "tune", "contest", "contest"]
    few = "all pose --tuned-with 100 --tuned-on 8 --pictures 8 --ablations mirrored"
    assert command(f"{few} --labels 100 300 --seeds 0 1") == course and command(f"{few} --labels 10 --kinds head --contestants head") == course
    assert command(f"{few} --labels 100 --kinds head") == course, "the others were trained before"
    assert command("all pose --tuned-with 300 --tuned-on 8 --pictures 8 --labels 300 --contestants head --ablations mirrored") == course
    assert command(f"{few} --labels 100") == course
    few = "all depth edges --tuned-with 100 --tuned-on 8 --pictures 8 --labels 100"
    assert command(f"{few} --ablations plain_loss") == course, "there is no such ablation of depth, whose head is then not asked for"
    assert command(f"{few} --contestants unguided --ablations plain_loss") == ["train", "contest", "contest"], "nothing is to be tuned"


def test_again_gives_every_command_behind_the_tables_into_another_folder(tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(evidence, "COMMANDS", {name: (run if name == "again" else lambda options, name=name: given.append((name, options)), *rest)
                                               for name, (run, *rest) in evidence.COMMANDS.items()})
    for name in ("try_recipes", "try_metrics", "ghosting"):
        monkeypatch.setattr(evidence, name, lambda options, name=name: given.append((name, options)))
    main(["again", "--folder", str(tmp_path / "tables"), "--runs", str(tmp_path / "runs"), "--workers", "2"])
    lines = report.everything(report.read_tables())
    assert [options.command for _, options in given] == [line.split()[3] for line in lines] and len(lines) > 20
    assert {name for name, _ in given} == {"train", "tune", "try_recipes", "contest", "ablate", "try_metrics", "ghosting"}
    for name, options in given:
        assert options.folder == str(tmp_path / "tables") and getattr(options, "runs", str(tmp_path / "runs")) == str(tmp_path / "runs")
        assert getattr(options, "workers", 2) == 2
    said = capsys.readouterr().out
    assert all(f"{number} of {len(lines)}: {line}" in said for number, line in enumerate(lines, 1))
    for folder in (C.FOLDER, str(tmp_path / "taken")):
        (tmp_path / "taken").write_text("")
        with pytest.raises(SystemExit):
            main(["again", "--folder", folder])
    assert len(given) == len(lines) and "where the tables themselves lie" in capsys.readouterr().err
    options = evidence.commands().parse_args(["again"])
    assert (options.folder, options.runs) == ("out/evidence", "out/runs"), "which git ignores"


def test_ablate_notes_what_its_trainings_cost(commanded, tmp_path, monkeypatch):
    command, done = commanded
    cost = {"contestant": "mirrored", "task": "pose", "labels": 100, "seed": 0, "parameters": 9, "training_seconds": 1.0, "device": "cpu", "steps": 2, "network": "b"}
    monkeypatch.setattr(C, "trainings", lambda runs: [cost])
    command("ablate pose --labels 100 --ablations mirrored --scores-only")
    assert rows_so_far(tmp_path / "tables" / "training.csv", report.COSTS, "training") == [cost]


def test_what_is_tuned_and_measured_needs_no_network_again(commanded, tmp_path):
    command, done = commanded
    line = "all pose --labels 100 --tuned-with 100 --tuned-on 8 --pictures 8 --ablations mirrored"
    command(line), (tmp_path / "runs").rename(tmp_path / "away")
    assert command(f"{line} --kinds head") == ["train", "tune", "contest", "contest"]
    with pytest.raises(ValueError, match="linear is to be tuned with"):
        command(f"{line} --kinds head --tuned-on 16")
    with pytest.raises(ValueError, match="linear is to be measured with"):
        command(f"{line} --kinds head --pictures 16")


@pytest.mark.parametrize("line, says", [
    ("train pose --kinds controlnet predictor --labels 10", "add head to --kinds"),
    ("ablate pose --scores-only --pictures 8", "--scores-only guides with nothing: leave out --pictures"),
    ("ablate pose --scores-only --strengths 2 --pictures 8", "leave out --strengths, --pictures"),
    ("tune pose --contestants controlnet+head", "controlnet+head: of these nothing is tuned"), ("tune pose --contestants head unguided", "unguided: of these nothing is tuned"),
    ("ablate depth --ablations plain_loss", "plain_loss says nothing about depth, but about pose, edges"),
    ("ablate depth --ablations mirrored plain_loss --scores-only", "plain_loss says nothing about depth"),
    ("all depth --ablations mirrored plain_loss --labels 1000", "plain_loss says nothing about depth")])
def test_options_that_would_have_no_effect_are_refused_before_anything_is_trained(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(M, "loaded", None)
    with pytest.raises(SystemExit):
        main([*line.split(), "--runs", str(tmp_path / "runs"), "--folder", str(tmp_path)])
    assert says in capsys.readouterr().err and not (tmp_path / "runs").exists()


OTHER = {"recipe": {"steps": 5}}


def leave_begun(folder, name):
    """A checkpoint, as `learn` writes it, or what lies beside that of a head."""
    folder.mkdir(parents=True)
    torch.save({"step": 50, "best": OTHER}, folder / name) if name.endswith(".pt") else write_json(folder / name, OTHER | {"seconds": 1.0})


@pytest.mark.parametrize("line, folder, name, says", [
    *((f"train edges --kinds adapter {kind} --labels 10 300", f"{kind}-edges-300-0", "training.json", "with another recipe .*steps 5, not") for kind in evidence.TRAINED if kind != "predictor"),
    ("train edges --kinds head predictor --labels 10", "predictor-edges-10-0", "training.json", "steps 5, not 400"),
    ("train edges --kinds adapter head --labels 10", "head-edges-10-0", "clock.json", "with another recipe .*steps 5, not 400"),
    ("train edges --kinds head detector --labels 10", "detector-edges-10-0", "training.pt", "with another recipe .*steps 5, not 1000"),
    ("train edges --kinds head controlnet --labels 10", "controlnet-edges-10-0", "notes.json", "holds notes.json, which would be lost"),
    ("recipes edges --kinds controlnet adapter --labels 10 --lengths 200", "recipes/200-0.002/adapter-edges-10-0", "training.json", "with another recipe .*steps 5, not 200"),
    ("recipes edges --kinds controlnet adapter --labels 10 --lengths 200", "recipes/200-0.002/adapter-edges-10-0", "notes.json", "holds notes.json"),
    ("ablate edges --ablations mirrored below250 --labels 10 100 --scores-only", "below250-edges-100-0", "training.json", "with another recipe .*steps 5, not 400"),
    ("ablate edges --ablations mirrored several --labels 10 --scores-only", "several-several-10-0", "clock.json", "with another recipe .*steps 5, not 400"),
    ("all edges --tuned-with 100 --labels 100 300 --ablations below250 --scores-only", "below250-edges-100-0", "training.json", "steps 5, not 400")])
def test_what_lies_in_the_way_of_the_last_training_is_found_before_the_first(line, folder, name, says, tmp_path, monkeypatch):
    monkeypatch.setattr(M, "training", None), monkeypatch.setattr(M, "loaded", lambda: (None, None)), monkeypatch.setattr(B, "train_baseline", None)
    leave_begun(tmp_path / "runs" / folder, name)
    options = evidence.commands().parse_args([*line.split(), "--runs", str(tmp_path / "runs"), "--folder", str(tmp_path / "tables")])
    with pytest.raises(ValueError, match=says):
        options.run(options)


def test_recipes_that_are_asked_for_are_those_that_trainings_leave(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(R, "degrade", lambda images, rng: images)                                     # of full-size pictures
    for kind in evidence.TRAINED:
        list(M.training(kind, "depth", 4, 0, tmp_path, tiny, steps=1))
        assert finished(B.folder_of(kind, "depth", 4, 0, tmp_path), M.recipe_of(kind, "depth", 4, 0, steps=1)), kind
        M.refuse_taken(kind, "depth", 4, 0, tmp_path, steps=1)


@pytest.mark.parametrize("line", ["contest pose --contestants head --labels 10", "ablate pose --ablations mirrored", "all pose --labels 1000"])
@pytest.mark.parametrize("name, kinds", [("real", C.REAL_KINDS), ("contest", C.KINDS_OF)])
def test_tables_of_another_model_are_refused_before_anything_is_trained_or_measured(line, name, kinds, commanded, tmp_path):
    command, done = commanded
    write_rows(tmp_path / "tables" / f"{name}.csv", [{column: kind() for column, kind in kinds.items()} | {"version": "other"}], kinds)
    with pytest.raises(ValueError, match=f"{name}.csv has rows of another model or judge \\(other\\)"):
        command(line)
    assert done == [] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("line, name", [("train pose --labels 10", "training"), ("ablate pose --labels 10 --scores-only", "ablations")])
def test_what_is_no_table_is_found_before_anything_is_trained(line, name, tmp_path, monkeypatch):
    monkeypatch.setattr(M, "loaded", None)
    (tmp_path / f"{name}.csv").write_text("my notes\n")
    options = evidence.commands().parse_args([*line.split(), "--runs", str(tmp_path / "runs"), "--folder", str(tmp_path)])
    with pytest.raises(ValueError, match=f"{name}.csv is no table of {name}"):
        options.run(options)


def test_recipes_are_not_tried_where_a_later_kind_was_not_tuned_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(B, "train_baseline", None)
    begun, jobs = tuned("adapter", 2)[:5], [B.BaselineRecipe(kind, "pose", 10, steps=1) for kind in B.KINDS]
    with pytest.raises(ValueError, match="settings of adapter in pose"):
        next(recipes.tried(None, None, jobs, tmp_path / "recipes.csv", begun, tmp_path, 8))


def test_a_stray_file_in_a_baselines_folder_is_found_before_its_first_step(tiny, tmp_path):
    told = recipe(tmp_path)
    told.folder.mkdir(), (told.folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds notes.txt, which would be lost"):
        next(B.train_baseline(told, tiny))
    assert not (tmp_path / "pictures").exists()


def test_who_learns_from_another_may_be_named_first(tmp_path):
    line = "train pose --kinds predictor controlnet head --labels 10 --runs".split()
    options = evidence.commands().parse_args([*line, str(tmp_path)])
    assert [job[0] for job in evidence.jobs_of(options)] == ["controlnet", "head", "predictor"]


def test_ablations_are_not_trained_where_they_could_not_be_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(M, "loaded", None)
    C.add_to(tmp_path / "tune.csv", [{**row, "look": "", "passes": 1.0, "seconds": 1.0, "version": "a", "network": ""} for row in tuned("head", 2)[:5]])
    options = evidence.commands().parse_args(["ablate", "pose", "--folder", str(tmp_path), "--runs", str(tmp_path / "runs")])
    with pytest.raises(ValueError, match="not all 8 settings of head in pose"):
        options.run(options)


def test_what_is_kept_of_a_baseline_is_its_last_state(tiny, tmp_path, monkeypatch):
    """The loss on other pictures chooses nothing: what has the least of it steers far worse."""
    told, losses = recipe(tmp_path, steps=6, every=2), iter((0.1, 0.3, 0.2))
    monkeypatch.setattr(B, "_checker", lambda *given: lambda network: next(losses))
    for _ in B.train_baseline(told, tiny):
        pass
    kept, last = B.load_baseline(told.folder), B.load_baseline(told.folder)
    story = read_json(told.folder / "training.json")
    assert story["best_step"] == 6 and story["losses"] == [[2, 0.1], [4, 0.3], [6, 0.2]] and story["check_loss"] == 0.2
    short = recipe(tmp_path / "short", steps=6, every=6)
    monkeypatch.setattr(B, "_checker", lambda *given: lambda network: 1.0)
    for _ in B.train_baseline(short, tiny):
        pass
    assert all(torch.equal(value, B.load_baseline(short.folder).state_dict()[name]) for name, value in kept.state_dict().items()) and last is not kept


def test_recipes_are_tried_on_tuning_scenes_and_written_down(tiny, tmp_path, monkeypatch, capsys):
    asked = []

    def measured(pipe, judge, name, network, cases, strength, settings):
        asked.append((name, cases, strength, settings))
        return [{"control": 0.25, "whole": 1.0, "attributes": 0.5}] * cases[1]             # as `measure`, which tells no task
    monkeypatch.setattr(M, "loaded", lambda: (tiny, None))
    monkeypatch.setattr(C, "measure", measured), monkeypatch.setattr(C, "make_cases", lambda pipe, task, first, count: (first, count))
    line = ["recipes", "depth", "--kinds", "controlnet", "--labels", "4", "--pictures", "10", "--runs", str(tmp_path / "runs"), "--folder", str(tmp_path)]
    main([*line, "--lengths", "2", "3"])
    assert f"settings are those that were chosen in {C.FOLDER}" in capsys.readouterr().out
    best = C.chosen(C.read_table(f"{C.FOLDER}/tune.csv"), "controlnet", "depth", 4)
    assert asked == [("controlnet", (S.TUNE.first + start, count), 1.0, best) for _ in range(2) for start, count in ((0, 8), (8, 2))]
    main([*line, "--lengths", "3", "4"]), main([*line, "--lengths", "3", "--rates", "0.001", "0.002"])
    rows = recipes.read_table(tmp_path / "recipes.csv")
    assert [(row["steps"], row["lr"]) for row in rows] == [(2, 2e-3), (3, 1e-3), (3, 2e-3), (4, 2e-3)] and len(asked) == 8, "what is there is not tried again"
    assert {(row["pictures"], row["merit"]) for row in rows} == {(10, 0.375)} and len({row["loss"] for row in rows}) == 4
    assert sorted(path.name for path in (tmp_path / "runs" / "recipes").iterdir()) == ["2-0.002", "3-0.001", "3-0.002", "4-0.002"]
    tables = report.read_tables(str(tmp_path))
    assert "ControlNet, 4 labels: 3, 0.001" in report.recipe_table(tables, "depth") and report.tried_by(tables.recipes) == [
        "python -m rg_minimal.evidence recipes depth --kinds controlnet --labels 4 --seeds 0 --lengths 2 3 4 --rates 0.002 --pictures 10",
        "python -m rg_minimal.evidence recipes depth --kinds controlnet --labels 4 --seeds 0 --lengths 3 --rates 0.001 --pictures 10"]
    assert B.BaselineRecipe("controlnet", "depth", 4, runs=str(tmp_path / "runs")).folder not in {path.parent for path in (tmp_path / "runs").rglob("training.json")}
    for wrong in ("--lengths 0", "--rates 0", "--rates nan"):
        with pytest.raises(SystemExit):
            main([*line, *wrong.split()])
    capsys.readouterr()
    alien = (tmp_path / "recipes.csv").read_text().replace(rows[0]["version"], "other")
    (tmp_path / "recipes.csv").write_text(alien), monkeypatch.setattr(B, "train_baseline", None)
    with pytest.raises(SystemExit):
        main([*line, "--lengths", "2", "5"])
    assert "recipes.csv has rows of another model or judge (other); keep it elsewhere" in capsys.readouterr().err
    assert (tmp_path / "recipes.csv").read_text() == alien


def test_rows_that_are_there_are_said_to_be_there(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(M, "loaded", lambda: (tiny, None))
    monkeypatch.setattr(C, "rows_of", lambda *given: []), monkeypatch.setattr(C, "missing", lambda *given: []), monkeypatch.setattr(C, "write_real", lambda *given: None)
    main(["contest", "pose", "--contestants", "unguided", "--folder", str(tmp_path)])
    assert "contest.csv has all of these rows: to measure them again, add --folder with another folder" in capsys.readouterr().out


def test_a_controlnet_lowers_its_loss_on_what_it_learns_and_leaves_the_model_alone(tiny, tmp_path):
    before = {name: value.clone() for name, value in tiny.unet.state_dict().items()}
    processors = tiny.unet.attn_processors
    losses = [state.loss for state in B.train_baseline(recipe(tmp_path, steps=40, every=40, lr=5e-3, dropout=0.0,
                                                              decay=0.0), tiny)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(torch.equal(value, before[name]) for name, value in tiny.unet.state_dict().items())
    assert tiny.unet.attn_processors == processors


@pytest.mark.parametrize("kind", B.KINDS)
def test_guidance_asks_a_network_as_diffusers_own_pipeline_does(tiny, kind):
    """`steered` without objectives makes the very pictures of the pipeline, so that only guidance is added to it."""
    torch.manual_seed(3)
    network, shown = B.new_network(kind, tiny.unet).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    noise, prompts, settings = torch.randn(2, 4, 16, 16), ["a puppet", "red shirt"], {"guidance_scale": 3.0}
    theirs = B.sample_baseline(tiny, network, prompts, shown, scale=0.7, steps=3, latents=noise, **settings)
    ours = sample(tiny, B.steered(encode_prompts(tiny, prompts), network, shown, 0.7), latents=noise, num_inference_steps=3,
                  **settings)[0]
    plain = sample(tiny, prompts, latents=noise, num_inference_steps=3, **settings)[0]
    assert torch.allclose(ours, theirs, atol=1e-5) and (ours - plain).abs().max() > 1e-3


def test_bad_recipes_are_refused(tmp_path):
    for changes in ({"kind": "lora"}, {"labels": 0}, {"lr": -1.0}, {"seed": -1}):
        with pytest.raises(ValueError):
            recipe(tmp_path, **changes)
    with pytest.raises(ValueError, match="no finished baseline"):
        B.load_baseline(tmp_path)


# ---- the contest -----------------------------------------------------------------------------------------------------

def rows_of(name, values, seed=0, labels=100, strength=1.0, task="pose"):
    return [{"contestant": name, "task": task, "labels": labels, "seed": seed, "picture": i, "strength": strength,
             "control": value,
             "whole": 1.0, "attributes": 1.0, "settings": "{}"} for i, value in enumerate(values)]


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline()


def test_noise_and_captions_depend_on_the_picture_alone(pipe):
    both, second = C.make_cases(pipe, "pose", S.TEST.first, 2), C.make_cases(pipe, "depth", S.TEST.first + 1, 1)
    assert torch.equal(both.latents[1:], second.latents) and both.captions[1:] == second.captions
    assert torch.equal(both.frames.joints[1:], second.frames.joints) and not torch.equal(both.latents[0],
                                                                                         both.latents[1])


def test_all_contestants_are_given_the_same(pipe, monkeypatch, tmp_path):
    """Every door to pictures is watched: prompts and noise that come through are those of the cases, whoever asks."""
    seen = []
    pictures = torch.zeros(1, 3, 128, 128)

    def guided(pipe, prompt, aims, latents, **settings):
        embeds = prompt.prompt_embeds if isinstance(prompt, Conditioning) else encode_prompts(pipe, prompt).prompt_embeds
        seen.append((embeds, latents, settings["num_inference_steps"]))
        return pictures, latents

    def baseline(pipe, network, prompts, shown, latents, steps, **settings):
        seen.append((encode_prompts(pipe, prompts).prompt_embeds, latents, steps))
        return pictures
    monkeypatch.setattr(C, "sample", guided), monkeypatch.setattr(C, "sample_baseline", baseline)
    monkeypatch.setattr(C.Cases, "objective", lambda *arguments, **settings: None)
    cases = C.make_cases(pipe, "pose", S.TEST.first, 1)
    for name, contestant in C.CONTESTANTS.items():                          # those that look into what was trained: without it
        contestant.make(pipe, cases, (None, None), 0.0 if name in ("loop", "predictor") else 1.0)
    assert len(seen) == len(C.CONTESTANTS) == 10
    assert all(torch.equal(a, seen[0][0]) and torch.equal(b, cases.latents) and steps == C.STEPS for a, b,
               steps in seen)


def tuned(name, best, others=0.3, labels=1000, pictures=2, task="pose"):
    """A tuning that was made to its end, of which one setting is the best."""
    return [{**row, "settings": json.dumps(each)} for number, each in enumerate(C.budget(name, task))
            for row in rows_of(name, [0.9 if number == best else others] * pictures, labels=labels, task=task)]


def test_settings_are_chosen_from_as_many_for_all_and_a_few_more_for_the_networks():
    alone = [name for name in C.CONTESTANTS if name != "unguided" and "+" not in name]
    many = {(name, task): len({json.dumps(each) for each in C.budget(name, task)}) for name in alone for task in ("pose", "depth", "edges")}
    assert {many["head", task] for task in ("pose", "depth", "edges")} == {8} == {count for (name, _), count in many.items() if name not in B.KINDS}
    assert {many[name, task] for name in B.KINDS for task in ("pose", "depth", "edges")} == {8, 10}, "at least as many for the rivals"
    assert C.budget("head:mirrored", "edges") == C.budget("head", "edges") != C.budget("head", "depth"), "an ablation has what the head has"
    rows, (first, *_, last) = tuned("head", 7), C.budget("head", "pose")
    assert C.chosen(rows, "head", "pose", 1000) == C.chosen(rows, "head:mirrored", "pose", 1000) == last
    assert C.chosen(rows, "adapter", "pose", 1000) == C.chosen(rows, "head", "depth", 1000) == {} and not C.was_tuned(rows, "adapter+head", "pose")
    rows[-1]["whole"] = rows[-2]["whole"] = 0.1
    assert C.chosen(rows, "head", "pose", 1000) == C.chosen(rows[::-1], "head", "pose", 1000) == first, "of equals the first of the budget, not of the table"
    assert C.merit(rows_of("head", [0.1], task="depth")[0]) == pytest.approx(0.9)


def test_a_tuning_that_was_killed_chooses_nothing():
    ended, grid = tuned("head", 3), C.budget("head", "pose")
    for killed in (ended[:2], ended[:-1], ended[:-2], [*ended[:-1], {**ended[-1], "picture": 9}]):
        assert not C.was_tuned(killed, "head", "pose") and C.tunings(killed, "head", "pose") == {}
        with pytest.raises(ValueError, match=r"not all 8 settings of head .* tune pose --contestants head --tuned-with 1000 --tuned-on 16"):
            C.chosen(killed, "head:mirrored", "pose", 1000)
        for labels in (100, 10_000):                                            # one that was made to its end counts instead
            other = [{**row, "labels": labels} for row in killed]
            assert C.chosen(ended + other, "head", "pose", 1000) == C.chosen(other + ended, "head", "pose", 1000) == grid[3]
    with pytest.raises(ValueError, match="--tuned-on 20"):
        C.chosen([{**ended[0], "picture": 19}], "head", "pose", 1000)


def test_of_several_tunings_the_one_with_the_nearest_number_of_labels_counts():
    """Whatever was measured last: when it is asked for again, nothing is left to measure that could come last."""
    few, many = tuned("head", 5, labels=10), tuned("head", 2, labels=1000)
    todo, best = C.entries(["pose"], ["head"], [1000], [0], [1.0]), C.budget("head", "pose")
    for rows in (few + many, many + few):
        assert C.missing(rows, todo, S.TUNE, 2, C.budget) == []
        assert [C.chosen(rows, "head", "pose", labels) for labels in (10, 30, 100, 300, 10_000)] == [best[5], best[5], best[2], best[2], best[2]]
    assert C.chosen(few, "head", "pose", 10_000) == best[5], "where there is one, it is the nearest"


def test_what_was_chosen_from_the_stored_table():
    rows, guided = C.read_table(f"{C.FOLDER}/tune.csv"), lambda size, moves: {"step_size": size, "inner_steps": moves}
    network = lambda scale, guidance: {"scale": scale, "guidance_scale": guidance}
    found = {task: {name: C.chosen(rows, name, task, 1000) for name in C.CONTESTANTS if name != "unguided" and "+" not in name} for task in B.TASKS}
    assert found["pose"] == {"head": guided(0.05, 1), "linear": guided(0.08, 1), "detector": {"step_size": 0.1, "stop": 0.5},
                             "controlnet": network(1.0, 1.5), "adapter": network(1.5, 1.5), "loop": {"step_size": 0.08, "goal": 0.2},
                             "predictor": {"step_size": 0.1, "stop": 0.8}}
    untuned = {"linear": {}, "detector": {}, "loop": {}, "predictor": {}}
    assert found["depth"] == untuned | {"head": guided(0.05, 2), "controlnet": network(2.0, 1.5), "adapter": network(1.5, 1.5)}
    assert found["edges"] == untuned | {"head": guided(0.03, 2), "controlnet": network(2.0, 3.0), "adapter": network(1.5, 3.0)}
    few = {task: [C.chosen(rows, name, task, 30) for name in B.KINDS] for task in ("pose", "depth")}
    assert few == {"pose": [network(0.75, 1.5), network(1.0, 3.0)], "depth": [network(1.0, 1.5), network(1.5, 1.5)]}, "with few labels, gentler"


def test_a_pair_takes_what_was_chosen_for_each_alone(pipe, monkeypatch):
    rows = tuned("head", 6) + tuned("adapter", 4)
    settings = C.chosen(rows, "adapter+head", "pose", 1000)
    assert settings == {"scale": 1.5, "guidance_scale": 1.5, "step_size": 0.12, "inner_steps": 1} and C.was_tuned(rows, "adapter+head", "pose")
    seen = {}
    monkeypatch.setattr(C, "steered", lambda conditioning, network, shown, scale: seen.update(scale=scale))
    monkeypatch.setattr(C, "sample", lambda pipe, prompt, aims, **told: seen.update(told) or [None])
    cases = C.make_cases(pipe, "pose", S.TUNE.first, 1)
    monkeypatch.setattr(C.Cases, "objective", lambda self, head, **told: None)
    C.CONTESTANTS["adapter+head"].make(pipe, cases, (None, None), 1.0, **settings)
    assert (seen["scale"], seen["guidance_scale"], seen["step_size"]) == (1.5, 1.5, 0.12)


def test_a_batch_is_done_when_all_its_pictures_are():
    key = ("head", "pose", 100, 0, 1.0, "{}")
    rows = [{**dict(zip(C.SETTING, key)), "picture": picture} for picture in range(12)]
    assert C.missing(rows, [key[:5]], S.TEST, 12) == [] and C.missing(rows, [key[:5]], S.TEST, 16) == [(key, 8)]


def test_who_was_not_trained_is_named_before_anything_is_made(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(C, "real_looks", None), monkeypatch.setattr(C, "make_cases", None)
    with pytest.raises(ValueError, match="head-pose-10-0 holds no finished training; train it"):
        next(C.run(pipe, None, C.entries(["pose"], ["unguided", "head"], [10], [0], [1.0]), tmp_path / "contest.csv", S.TEST, 8, runs=tmp_path))
    with pytest.raises(ValueError, match="at most 10000 labels"):
        commands_of_train = ["train", "pose", "--labels", "10", "20000", "--runs", str(tmp_path / "runs")]
        options = evidence.commands().parse_args(commands_of_train)
        options.run(options)
    assert not (tmp_path / "runs").exists()


def test_rows_of_two_commands_on_one_table_are_all_kept(tmp_path):
    table, rows = tmp_path / "contest.csv", [{**row, "look": "", "passes": 1.0, "seconds": 1.0, "version": "a", "network": ""} for row in rows_of("head", [0.5] * 4)]
    C.add_to(table, rows[:2]), C.add_to(table, rows[2:]), C.add_to(table, [{**rows[0], "control": 0.75}])
    assert [row["control"] for row in C.read_table(table)] == [0.75, 0.5, 0.5, 0.5]
    assert evidence.commands().parse_args(["contest", "--strengths", "0.33333"]).strengths == [0.3333], "what a table can hold"


def test_a_training_of_another_recipe_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "head-pose-10-0").mkdir()
    (tmp_path / "head-pose-10-0" / "training.json").write_text('{"recipe": {"task": "pose", "labels": 10, "seed": 0, "steps": 1}}')
    with pytest.raises(ValueError, match="trained with another recipe .steps 1, not 400.; delete it"):
        next(B.train_readout("pose", 10, 0, tmp_path))
    (tmp_path / "head-pose-10-0" / "training.json").write_text('{"recipe": {"steps": 1, "timesteps": [0, 250]}}')
    for less in ({"steps": 1}, {"steps": 1, "timesteps": (0, 250), "batch": 8}):
        with pytest.raises(ValueError, match="trained with another recipe"):
            finished(tmp_path / "head-pose-10-0", less)
    assert finished(tmp_path / "head-pose-10-0", {"steps": 1, "timesteps": (0, 250)}) and not finished(tmp_path, {})


def test_a_training_makes_all_its_steps_and_keeps_the_best_of_its_checks(tmp_path):
    """Its rate falls at the end, and so does the loss: a ControlNet that ended after four checks that were no better was starved."""
    network, scores = torch.nn.Linear(1, 1), iter([3.0, 2.0, *[4.0] * 15, 1.0, 5.0, 5.0])
    states = learn("x", tmp_path, Pace(0, 20, 1e-2, 0, 0.4, 1, "cpu"), network, lambda rng: network(torch.ones(1, 1)).square().sum(), lambda _: next(scores))
    steps = []
    try:
        while True:
            steps.append(next(states).step)
    except StopIteration as end:
        best = end.value
    assert steps == list(range(1, 21)) and (best["step"], best["loss"]) == (18, 1.0) and len(best["losses"]) == 20


def test_a_loss_that_is_no_number_ends_a_training(tmp_path):
    network = torch.nn.Linear(1, 1)
    states = learn("x", tmp_path, Pace(0, 4, 1e3, 0, 0.5, 1, "cpu"), network, lambda rng: network(torch.full((1, 1), float("nan"))).sum())
    with pytest.raises(ValueError, match="the loss is nan at step 1; with a learning rate below 1000"):
        next(states)


@pytest.mark.parametrize("since", [0, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_check_that_is_no_number_ends_a_training(tmp_path, value, since):
    network = torch.nn.Linear(1, 1)
    states = learn("x", tmp_path, Pace(0, 4, 1e-3, 0, 0.5, 2, "cpu"), network, lambda rng: network(torch.ones(1, 1)).square().sum(), lambda _: value, since)
    assert next(states).step == 1
    with pytest.raises(ValueError, match=f"the loss on other pictures is {value} at step 2; with a learning rate below 0.001"):
        next(states)
    assert not list(tmp_path.iterdir()), "no checkpoint of what cannot go on"


def test_what_is_loaded_as_what_it_is_not_is_refused_in_a_sentence(pipe, tmp_path):
    new_head(pipe, "pose").save_pretrained(tmp_path), write_json(tmp_path / "training.json", {"recipe": B.recipe_of("pose", 4, 0)})
    for load, says in ((R.load_rival, "holds none of LinearHead, Detector, Predictor: pass the folder of such"), (B.load_baseline, "holds no baseline, but what something else")):
        with pytest.raises(ValueError, match=says):
            load(tmp_path)


def test_costs_are_told_of_our_own_trainings_alone(tmp_path):
    ours = {"recipe": B.recipe_of("pose", 4, 0), "parameters": 7, "training_seconds": 1.5}
    for name, told in (("head-pose-4-0", ours), ("x-y-1-2", {"epochs": 3}), ("x-pose-1-2", {"epochs": 3}), ("several-several-4-0", ours), ("notes", {})):
        write_json(tmp_path / name / "training.json", told)
    (tmp_path / "x-y-1-2" / "training.json").write_text("[]")
    assert [(row["contestant"], row["task"], row["parameters"]) for row in C.trainings(tmp_path)] == [("head", "pose", 7), ("several", "several", 7)]


def test_a_stopped_contest_goes_on_and_a_row_comes_back(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(C, "STEPS", 2), monkeypatch.setattr(C, "REAL", 32), monkeypatch.setattr(C, "BATCH", 1)
    judge, table, todo = load_judge(), tmp_path / "contest.csv", C.entries(["pose"], ["unguided"], [100, 300], [0, 1],
                                                                           [1.0, 0.5])
    assert todo == [("unguided", "pose", 0, 0, 1.0)]                        # nobody trained it, so it is asked once
    run = C.run(pipe, judge, todo, table, S.TEST, 2, runs=tmp_path)
    assert next(run) == (1, 2)
    run.close()
    first = table.read_text()
    assert list(C.run(pipe, judge, todo, table, S.TEST, 2, runs=tmp_path)) == [(1, 1)]
    assert table.read_text().startswith(first) and not list(C.run(pipe, judge, todo, table, S.TEST, 2, runs=tmp_path))
    rows = C.read_table(table)
    assert [row["picture"]
            for row in rows] == [0, 1] and C.looks_of(rows).shape == (2, C.LOOKS) and rows[0]["passes"] == 4
    monkeypatch.setattr(C, "BATCH", 2)
    old, new = C.recompute(pipe, judge, table, ["pose", "depth"], S.TEST, runs=tmp_path)
    assert [row["picture"] for row in old] == [row["picture"] for row in new] == [0, 1] and all(map(lambda *two: C.look_apart(*two) < 0.002, old, new))
    assert C.agree(old, new) and not C.agree(old, [{**row, "control": row["control"] + 0.2} for row in new])
    table.write_text(table.read_text().replace(rows[0]["version"], "other"))
    with pytest.raises(ValueError, match="another model"):
        next(C.run(pipe, judge, todo, table, S.TEST, 2, runs=tmp_path))


def test_rows_know_their_model_and_their_judge_by_all_weights(pipe):
    """A fine-tuned model may have its first and its last weights as they were."""
    judge = load_judge()
    stored = {name: {row["version"] for row in rows_so_far(f"{C.FOLDER}/{name}.csv", kinds, name)} for name, kinds in (
        ("contest", C.KINDS_OF), ("tune", C.KINDS_OF), ("recipes", recipes.KINDS_OF), ("real", C.REAL_KINDS))}
    assert set(map(frozenset, stored.values())) == {frozenset([checksum_of(pipe, judge)])}, "the stored tables are of what is shipped"
    table = f"{C.FOLDER}/contest.csv"
    assert C.rows_of(table, pipe, judge)
    for part in (pipe.unet.mid_block, pipe.text_encoder, pipe.vae.decoder, judge.network):
        weight = list(part.parameters())[1]
        before = weight.detach().clone()
        with torch.no_grad(), undone(lambda: weight.copy_(before)):
            weight += 1e-3
            with pytest.raises(ValueError, match="rows of another model or judge"):
                C.rows_of(table, pipe, judge)


def test_what_was_trained_anew_is_measured_anew(tmp_path):
    key = ("controlnet", "pose", 4, 0)
    folder = tmp_path / "controlnet-pose-4-0"
    rows = [{**dict(zip(C.SETTING, (*key, 1.0, "{}"))), "picture": 0, "network": network} for network in ("", "0a1b2c3d")]
    assert C.network_of(*key, tmp_path) == "" and C.of_these(rows, tmp_path) == rows, "on another machine all stay"
    folder.mkdir(), (folder / "training.json").write_text("{}"), (folder / "weights.safetensors").write_bytes(b"one")
    first = C.network_of(*key, tmp_path)
    made = [{**rows[0], "network": first}]
    assert len(first) == 8 and C.of_these(rows + made, tmp_path) == rows[:1] + made, "what does not say its network stays"
    (folder / L.CHECKPOINT).write_bytes(b"killed before it was put away")
    assert C.network_of(*key, tmp_path) == first
    (folder / "weights.safetensors").write_bytes(b"two")
    assert C.network_of(*key, tmp_path) != first and C.of_these(made, tmp_path) == []
    assert C.missing(C.of_these(made, tmp_path), [(*key, 1.0)], S.TEST, 1) == [((*key, 1.0, "{}"), 0)]
    assert C.network_of("unguided", "pose", 0, 0, tmp_path) == "" and C.network_of("controlnet+head", *key[1:], tmp_path) == ""


def test_a_batch_agrees_with_what_another_processor_rounds_otherwise_and_with_nothing_else():
    """By its median picture: single ones may be as far off as another training's."""
    row = {"task": "pose", "passes": 50.0, "whole": 1.0, "attributes": 0.8333, "control": 0.9286, "look": "0.100 -1.200"}
    pose, depth, edges = row, {**row, "task": "depth", "control": 0.08}, {**row, "task": "edges", "control": 0.91}
    batch = lambda row, changes, of=8: ([row] * 8, [{**row, **changes}] * of + [row] * (8 - of))
    same = [(pose, {"control": 13 / 14 - 1 / 14}), (pose, {"attributes": 5 / 6, "look": "0.123 -1.200"}), (depth, {"control": 0.0817, "look": "0.200 -1.200"}),
            (edges, {"control": 0.895, "look": "0.140 -1.200"})]
    for one, changes in same:
        assert C.agree(*batch(one, changes)), changes
    for one, changes in ((pose, {"control": 13 / 14 - 2 / 14}), (pose, {"whole": 0.0}), (pose, {"attributes": 4 / 6}), (pose, {"look": "0.100 -1.150"}),
                         (pose, {"look": ""}), (depth, {"control": 0.083}), (depth, {"look": "0.300 -1.200"}), (edges, {"control": 0.88}),
                         (edges, {"look": "0.160 -1.200"})):
        assert not C.agree(*batch(one, changes)) and not C.agree(*batch(one, changes, 5)) and C.agree(*batch(one, changes, 3)), changes
    assert not C.agree(*batch(pose, {"passes": 51.0}, 1)), "how many passes are made is no matter of rounding"


@pytest.mark.parametrize("task, least", [("pose", 0.062), ("depth", 0.164), ("edges", 0.105)])
def test_no_batch_of_another_training_agrees(task, least):
    """What `--check` is for, asked of all pairs of trainings of one kind in the stored table; the comment at `contest.SAME` names the nearest."""
    batches = {}
    for row in C.read_table(f"{C.FOLDER}/contest.csv"):
        if row["task"] == task:
            here = batches.setdefault((row["contestant"], row["strength"], row["picture"] // C.BATCH), {})
            here.setdefault((row["labels"], row["seed"]), []).append(row)
    pairs = [pair for here in batches.values() for pair in itertools.combinations(here.values(), 2)]
    assert len(pairs) > 50 and all(C.agree(rows, rows) for here in batches.values() for rows in here.values())
    assert not any(C.agree(*pair) for pair in pairs)
    assert min(median(map(C.look_apart, *pair)) for pair in pairs) == pytest.approx(least, abs=0.001)


@pytest.mark.parametrize("off, refused", [(0.02, False), (0.07, True)])
def test_the_check_says_how_far_looks_are_off_and_what_to_do(off, refused, monkeypatch, capsys):
    row = {**dict(zip(C.SETTING, ("head", "pose", 10, 0, 1.0, "{}"))), "picture": 3, "control": 1.0, "whole": 1.0, "attributes": 1.0, "passes": 74.0, "look": "0.100 1.000"}
    monkeypatch.setattr(M, "loaded", lambda: (None, None))
    monkeypatch.setattr(C, "recompute", lambda *_: ([row], [{**row, "look": f"0.100 {1 + off:.3f}"}]))
    with pytest.raises(SystemExit) if refused else contextlib.nullcontext():
        main(["contest", "pose", "--check", "4"])
    said = capsys.readouterr()
    assert "contestant head, task pose, labels 10" in said.out and "picture 3: control 1, again 1; whole 1, again 1;" in said.out
    assert f"look off by at most {off:.3f}" in said.out and ("draw others (--check 5); where those do as well" in said.err) is refused


def test_unknown_contestants_and_untrained_ones_are_refused(pipe, tmp_path):
    with pytest.raises(ValueError, match="choose from unguided, head"):
        C.load_parts("nobody", "pose", 100, 0, pipe, tmp_path)
    for name in ("head", "linear", "detector", "controlnet", "adapter+head", "head:mirrored"):
        with pytest.raises(ValueError, match="evidence train"):
            C.load_parts(name, "pose", 100, 0, pipe, tmp_path)


def test_rivals_read_what_a_head_reads_and_come_back_from_disk(pipe, tmp_path):
    config = new_head(pipe, "pose").config
    joints = world.render(world.sample_scene(3)).joints
    for make, extra in ((R.Detector, {}), (R.LinearHead, {"layer": 4})):
        torch.manual_seed(0)
        made = make(replace(config, extra=extra)).eval()
        made.save_pretrained(tmp_path / make.__name__)
        again = R.load_rival(tmp_path / make.__name__)
        pictures = [sample(pipe, "a puppet", [pose_objective(head, joints)] if head else [], num_inference_steps=2,
                           step_size=0.2,
                           generator=torch.Generator().manual_seed(0))[0] for head in (None, made, again)]
        assert torch.equal(pictures[1], pictures[2]) and (pictures[1] - pictures[0]).abs().max() > 1e-3, make
    R.LinearHead(config).save_pretrained(tmp_path / "all layers")
    with pytest.raises(ValueError, match="all layers holds raw layers of which none was chosen: delete it"):
        R.load_rival(tmp_path / "all layers")


@pytest.mark.slow
def test_two_processes_train_and_measure_what_one_does(tmp_path, monkeypatch, capsys):
    """By the commands: the same weights and the same rows, whoever made them; what is there is not made again."""
    monkeypatch.setattr(C, "REAL", 32)
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        shared = ["--folder", str(tmp_path / name), "--runs", str(tmp_path / name / "runs"), *more]
        main(["train", "pose", "depth", "--kinds", "head", "--labels", "2", "--steps", "1", *shared])
        main(["contest", "pose", "depth", "--contestants", "unguided", "head", "--labels", "2", "--pictures", "1", *shared])
    ours, theirs = (sorted(C.read_table(tmp_path / name / "contest.csv"), key=lambda row: (row["task"], row["contestant"])) for name in ("one", "two"))
    assert len(ours) == 4 and [{**row, "seconds": 0} for row in ours] == [{**row, "seconds": 0} for row in theirs]
    for task in ("pose", "depth"):
        heads = [C.load_head(str(B.folder_of("head", task, 2, 0, tmp_path / name / "runs"))).state_dict() for name in ("one", "two")]
        assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])
    before = (tmp_path / "two" / "contest.csv").read_text()
    monkeypatch.setattr(M, "joined", None)
    tuned = C.read_table(f"{C.FOLDER}/tune.csv")                     # which counts where a folder has none of its own
    assert not list(M.measure_all(C.entries(["pose"], ["head"], [2], [0], [1.0]), tmp_path / "two" / "contest.csv", S.TEST, 1, lambda *what: [C.chosen(tuned, *what)],
                                  tmp_path / "two" / "runs"))
    assert (tmp_path / "two" / "contest.csv").read_text() == before


def test_what_learns_from_another_is_trained_after_it(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(M, "joined", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(M, "_results", lambda client, job, jobs: asked.extend(each[0] for each in jobs) or iter(jobs))
    jobs = [(kind, "pose", 2, 0, {}) for kind in ("predictor", "head", "adapter")]
    assert list(M.train_all(jobs, tmp_path)) == [(1, 3), (2, 3), (3, 3)] and asked == ["head", "adapter", "predictor"]


@pytest.mark.parametrize("labels, changes, steps", [(10, {}, (400, 100)), (30, {}, (400, 200)), (31, {}, (1000, 400)), (101, {}, (1000, 1000)),
                                                    (5333, {}, (1000, 1000)), (10_000, {}, (1875, 1875)), (10_000, {"steps": 7}, (7, 7))])
def test_a_baseline_is_trained_as_long_as_it_needs(monkeypatch, labels, changes, steps):
    monkeypatch.setattr(B, "train_baseline", lambda recipe, pipe: recipe)
    assert tuple(M.training(kind, "pose", labels, 0, "runs", None, **changes).steps for kind in B.KINDS) == steps


# ---- ideas beyond the paper ------------------------------------------------------------------------------------------

def test_a_closed_loop_moves_a_picture_by_its_own_error_and_ends(pipe):
    head, errors = new_head(pipe, "pose"), [[4.0, 1.0], [1.0, 1.0], [0.04, 4.0], [0.16, 0.04]]
    asked = iter(errors)
    loop = I.ClosedLoop(head=head, inner=lambda reading: torch.tensor(next(asked)), goal=0.2, stop=1.0)
    gradient, found = torch.ones(2, 4, 2, 2), []
    for step in range(4):
        assert loop.strength(step, 5) == 1.0
        loop(None)
        found.append(loop.rule([gradient])[:, 0, 0, 0].tolist())
    half = (0.5 - 0.2) / 0.8
    assert found[0] == [1, 1] and found[1] == pytest.approx([half, 1])              # the root of a quarter of the first error
    assert found[2] == pytest.approx([0, 1])                                        # a larger error than before is the new measure
    assert found[3] == pytest.approx([0, 0], abs=1e-6) and loop.strength(4, 5) == 0.0
    for changes in ({"goal": 1.0}, {"goal": -0.1}, {"inner": None}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            I.ClosedLoop(head=head, inner=changes.pop("inner", len), **changes)


def test_a_closed_loop_of_a_whole_contest_guides_and_saves_passes(pipe, monkeypatch):
    monkeypatch.setattr(C, "STEPS", 5)
    cases, head = C.make_cases(pipe, "pose", S.TUNE.first, 1), new_head(pipe, "pose")
    plain, loop, open_end = (C.CONTESTANTS[name].make(pipe, cases, head, 1.0, **settings) for name, settings in (
        ("unguided", {}), ("loop", {"goal": 0.0}), ("loop", {"goal": 0.999})))
    passes = []
    for goal in (0.0, 0.999):
        with C.counted(pipe) as count:
            C.CONTESTANTS["loop"].make(pipe, cases, head, 1.0, goal=goal)
        passes.append(count.count)
    assert not torch.equal(plain, loop) and not torch.equal(loop, open_end) and passes[1] < passes[0]


def test_a_predicted_direction_is_the_gradient_and_a_pass_is_spared(pipe):
    predictor, head = I.Predictor(new_head(pipe, "pose").config).eval(), new_head(pipe, "pose")
    joints = world.render(world.sample_scene(3)).joints
    reading, gradient, target = I._true_gradient(pipe, head, "pose", torch.zeros(1, 4, 32, 32), torch.ones(1, 4, 32, 32), 600, joints,
                                                 ["a puppet"])
    assert gradient.abs().max() > 0 and not any(each.requires_grad for each in (*reading.features, reading.output, reading.latents))
    aim = I.PredictedDirection(head=head, predictor=predictor, target=target)
    away = I.direction(predictor, reading, head, target)
    latents = reading.latents.clone().requires_grad_()
    found, = torch.autograd.grad(aim(replace(reading, latents=latents, _readouts={})).sum(), latents)
    torch.testing.assert_close(found, away.detach())
    cases, counts = C.make_cases(pipe, "pose", S.TUNE.first, 1), []
    for strength in (0.0, 1.0):
        with torch.no_grad(), C.counted(pipe) as count:
            picture = C.CONTESTANTS["predictor"].make(pipe, cases, (predictor, head), strength)
        counts.append((count.count, picture))
    guided = C.STEPS // 2                       # of them each has one pass that counts twice, since it may have a way back
    assert counts[1][0] == counts[0][0] + guided and not torch.equal(counts[0][1], counts[1][1])


@pytest.mark.filterwarnings("ignore:the model does not know")
def test_a_killed_training_of_a_predictor_goes_on_with_the_same_bits(tiny, tmp_path):
    for name in ("whole", "killed"):
        list(B.train_readout("depth", 4, 0, tmp_path / name, tiny, steps=1))
    train = lambda name: I.train_predictor("depth", 4, 0, tmp_path / name, tiny, steps=60, batch=2)
    list(train("whole"))
    run = train("killed")
    assert [next(run).step for _ in range(53)][-1] == 53
    run.close()
    assert [state.step for state in train("killed")] == list(range(51, 61)) and not list(train("killed"))
    whole, killed = (R.load_rival(tmp_path / name / "predictor-depth-4-0").state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.filterwarnings("ignore:the model does not know")
def test_a_predictor_learns_the_direction_of_gradients(tiny, tmp_path):
    list(B.train_readout("depth", 4, 0, tmp_path, tiny, steps=1))
    losses = [state.loss for state in I.train_predictor("depth", 4, 0, tmp_path, tiny, steps=60, batch=4)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 0.5


def test_a_predictor_needs_a_head_to_learn_from(tiny, tmp_path):
    with pytest.raises(ValueError, match="no finished head to learn from; train it first: .* train pose --kinds head --labels 4 --seeds 1"):
        next(I.train_predictor("pose", 4, 1, tmp_path, tiny))
    with pytest.raises(ValueError, match="task"):
        I.train_predictor("colour", 4)


def test_a_share_of_a_head_of_several_tasks_reads_what_the_head_says_of_it(pipe):
    head = new_head(pipe, A.SEVERAL)
    reading = read_picture(pipe, None, 300, latents=torch.ones(1, 4, 32, 32))
    whole, first = reading(head), 0
    for task in B.TASKS:
        part = A.part_of(head, task)
        own = new_head(pipe, task).config
        assert (part.config.out_channels, part.config.activation, part.config.extra) == (own.out_channels, own.activation, own.extra)
        said = whole[:, first:first + own.out_channels]
        torch.testing.assert_close(reading(part), said.tanh() if own.activation == "tanh" else said)
        first += own.out_channels
    assert first == whole.shape[1]


@pytest.mark.parametrize("name", ["short3", "several"])
def test_a_cheaper_head_is_trained_scored_and_guides(pipe, tmp_path, monkeypatch, name):
    monkeypatch.setattr(A, "CHECKED", 2), monkeypatch.setattr(C, "STEPS", 2)
    states = list(A.train_ablation(name, "pose", 2, 0, tmp_path, pipe, steps=2, batch=2))
    assert [state.step for state in states] == [1, 2] and not list(A.train_ablation(name, "pose", 2, 0, tmp_path, pipe, steps=2, batch=2))
    head = C.load_parts(f"head:{name}", "pose", 2, 0, pipe, tmp_path)
    assert len(head.config.layer_channels) == (3 if name == "short3" else 6) and head.config.out_channels == 14
    assert list(A.score_ablations(pipe, load_judge(), [name], ["pose"], [2], [0], tmp_path / "scores.csv", tmp_path, (300,))) == [(1, 1)]
    scored, = rows_so_far(tmp_path / "scores.csv", A.KINDS_OF, "ablations")
    assert scored["network"] == C.network_of(f"head:{name}", "pose", 2, 0, tmp_path) != "" and scored["version"] == C.checksum_of(pipe, load_judge())
    score = lambda: list(A.score_ablations(pipe, load_judge(), [name], ["pose"], [2], [0], tmp_path / "scores.csv", tmp_path, (300,)))
    assert score() == [], "what is there is not scored again"
    write_rows(tmp_path / "scores.csv", [scored | {"network": "other"}], A.KINDS_OF)
    assert score() == [(1, 1)] and rows_so_far(tmp_path / "scores.csv", A.KINDS_OF, "ablations") == [scored], "but what was trained anew is"
    write_rows(tmp_path / "alien.csv", [scored | {"version": "other"}], A.KINDS_OF)
    with pytest.raises(ValueError, match="rows of another model or judge"):
        list(A.score_ablations(pipe, load_judge(), [name], ["pose"], [2], [0], tmp_path / "alien.csv", tmp_path, (300,)))
    each = [float(score) for score in scored["scores"].split()]
    assert len(each) == 2 and sum(each) / len(each) == pytest.approx(scored["score"], abs=1e-4), "of each picture by itself"
    cases, later = C.make_cases(pipe, "pose", S.TUNE.first, 1), []
    hook = pipe.unet.up_blocks[-1].resnets[-1].register_forward_hook(lambda *_: later.append(torch.is_grad_enabled()))
    made = [C.measure(pipe, load_judge(), f"head:{name}", head, cases, strength, {})[0] for strength in (0.0, 1.0)]
    hook.remove()
    assert any(later) is (name == "several") and made[0]["look"] == made[1]["look"] == ""
    assert getattr(pipe, "read_layers", None) is None and not pipe.stop_early
    if name == "several":                       # trained once for all three
        assert not list(A.train_ablation(name, "depth", 2, 0, tmp_path, pipe, steps=2, batch=2))
        assert C.load_parts("head:several", "depth", 2, 0, pipe, tmp_path).config.out_channels == 1


def test_heads_that_learn_together_learn_what_each_learns_alone(pipe, tmp_path):
    names, few = ["layer1", "equal_mixing", "plain_loss", "mirrored", "without_timestep", "short2", "below250"], {"steps": 3, "batch": 2}
    passes = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: passes.append(1))
    states = list(A.train_ablations(names, "pose", 4, 0, tmp_path / "both", pipe, **few))
    hook.remove()
    stages, seconds = [state.stage for state in states], [read_json(tmp_path / "both" / f"{name}-pose-4-0" / "training.json")["training_seconds"] for name in names]
    together, = {stage for stage in stages if stage.startswith("together")}
    assert sum(seconds[:6]) == pytest.approx(states[2].seconds, abs=0.4), "each has its share of them"
    assert stages == [together] * 3 + ["below250 pose 4"] * 3 and len(passes) == 6, "one pass a step for six heads, and of other timesteps one more"
    for name in names:
        list(A.train_ablation(name, "pose", 4, 0, tmp_path / "alone", pipe, **few))
        one, other = (load_head(str(B.folder_of(name, "pose", 4, 0, tmp_path / each))) for each in ("both", "alone"))
        assert one.config == other.config
        for key, weight in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[key], weight, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
        told, alone = (read_json(B.folder_of(name, "pose", 4, 0, tmp_path / each) / "training.json") for each in ("both", "alone"))
        assert {**told, "training_seconds": 0} == {**alone, "training_seconds": 0}
    assert {each.name for each in (tmp_path / "both").iterdir()} == {each.name for each in (tmp_path / "alone").iterdir()}, "and nothing else is left"
    assert not list(A.train_ablations(names, "pose", 4, 0, tmp_path / "both", pipe, **few)), "all are there"
    with pytest.raises(ValueError, match="trained with another recipe"):
        list(A.train_ablations(names, "pose", 4, 0, tmp_path / "both", pipe, steps=4, batch=2))
    with pytest.raises(ValueError, match="no ablation 'plain_loss' of depth"):
        list(A.train_ablations(["layer0", "plain_loss"], "depth", 4, 0, tmp_path / "none", pipe))
    assert not (tmp_path / "none").exists()


def test_heads_that_learn_together_go_on_after_a_kill(pipe, tmp_path, monkeypatch):
    train_task, names, weights = B.train_task, ["layer1", "plain_loss", "short2"], []
    monkeypatch.setattr(B, "train_task", lambda *given, **told: train_task(*given, **told | {"checkpoint_every": 1}))
    for folder, stops in (("whole", (9,)), ("killed", (2, 9))):
        for stop in stops:
            states = A.train_ablations(names, "pose", 4, 0, tmp_path / folder, pipe, steps=4, batch=2)
            steps = [state.step for state in itertools.islice(states, stop)]
            states.close()
        weights.append([load_head(str(B.folder_of(name, "pose", 4, 0, tmp_path / folder))).state_dict() for name in names])
    assert steps == [3, 4]
    for one, other in zip(*weights):
        assert all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.filterwarnings("ignore:the model does not know")
@pytest.mark.parametrize("stop", range(5))
def test_heads_that_learned_together_are_all_left_after_a_kill(tiny, tmp_path, monkeypatch, stop):
    """Before the first of them is left, between two, and before their checkpoint is deleted (3) or its folder (4)."""
    names, left, unlink = ["layer1", "equal_mixing", "mirrored"], [], B.Path.unlink

    def kill(*given, **told):
        raise KeyboardInterrupt

    def leave(*given):
        left.append(given) if len(left) < stop else kill()
        L.leave(*given)

    def delete(path, **told):
        kill() if path.name == "training.safetensors" else unlink(path, **told)
    train = lambda place, some=names: [(state.stage, state.step) for state in A.train_ablations(some, "depth", 4, 0, tmp_path / place, tiny, steps=2, batch=2)]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(*((A, "leave", leave), (B.Path, "unlink", delete), (A, "remove_known", kill))[max(stop - 2, 0)])
        train("killed")
    with pytest.raises(ValueError, match="trained with another recipe .steps 2, not 3"):
        A.refuse_taken(names, "depth", 4, 0, tmp_path / "killed", steps=3, batch=2)
    assert train("killed", [*names, "layer0"]) == [("layer0 depth 4", 1), ("layer0 depth 4", 2)], "the others have learned"
    assert len(train("whole")) == 2
    for name in names:
        one, other = (load_head(str(B.folder_of(name, "depth", 4, 0, tmp_path / place))).state_dict() for place in ("killed", "whole"))
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert {each.name for each in (tmp_path / "killed").iterdir()} == {each.name for each in (tmp_path / "whole").iterdir()} | {"layer0-depth-4-0"}


# ---- statistics ------------------------------------------------------------------------------------------------------

def test_intervals_against_known_answers():
    rng = torch.Generator().manual_seed(0)
    shared, noise = torch.randn(1, 400, generator=rng), torch.randn(1, 400, generator=rng)
    found = T.paired(shared + 0.5 + 0.1 * noise, shared)
    assert found["value"] == pytest.approx(0.5, abs=0.02) and (found["n"], found["seeds"]) == (400, 1)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.1 / 20,
                                                         rel=0.15)     # the spread of pairs, not of pictures
    shares = torch.tensor([[float(i % 10 < count) for i in range(1000)] for count in (4, 5, 6)])
    wide = T.resampled([shares], lambda mean: mean, draws=20_000)
    assert (wide["high"] - wide["low"]) / 2 == pytest.approx(4.303 * 0.1 / 3 ** 0.5, rel=0.1), "three trainings spread by 0.1"
    spread = T.resampled([torch.tensor([[0.0] * 50, [1.0] * 50])], lambda a: a)
    assert (spread["low"], spread["value"], spread["high"]) == (0.0, 0.5,
                                                                1.0)              # trainings differ, pictures do not


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_over_few_trainings_holds_the_truth_in_19_of_20_cases(count):
    rng, hits = torch.Generator().manual_seed(count), 0
    for _ in range(1000):
        trainings = 0.5 + 0.02 * torch.randn(count, 1, generator=rng)
        found = T.resampled([trainings + 0.001 * torch.randn(count, 8, generator=rng)], lambda mean: mean, draws=500)
        hits += found["low"] <= 0.5 <= found["high"]
    assert 0.925 <= hits / 1000 <= 0.97


@pytest.mark.parametrize("pictures, rest", [(0.0, 0.04), (0.04, 0.04), (0.04, 0.004)])
def test_what_pictures_do_otherwise_in_each_training_is_counted_once(pictures, rest):
    """It moves the means of trainings and the means of pictures alike: counted twice, an interval would hold the truth in all cases."""
    rng, hits = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        grid = 0.5 + pictures * torch.randn(1, 64, generator=rng) + rest * torch.randn(3, 64, generator=rng)
        found = T.resampled([grid], lambda mean: mean, draws=300)
        hits += found["low"] <= 0.5 <= found["high"]
    assert 0.92 <= hits / 400 <= 0.985


def test_what_shares_its_trainings_is_compared_within_them():
    base = torch.tensor([[0.2], [0.5], [0.8]]).expand(3, 20)
    found = T.paired(base + 0.05, base)
    assert (found["low"], found["value"], found["high"]) == pytest.approx((0.05, 0.05, 0.05), abs=0.1) and found["high"] - found["low"] < 0.4
    noise = 0.001 * torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    found = T.paired(base + 0.05 + noise, base)
    assert 0.04 < found["low"] < 0.05 < found["high"] < 0.06
    alone = T.resampled([base + 0.05 + noise, base], lambda a, b: a - b)
    assert alone["high"] - alone["low"] > 1                                 # trainings that have nothing in common


def test_pairs_that_are_all_alike_may_still_differ():
    found = T.paired(torch.ones(1, 64), torch.ones(1, 64))
    assert (found["low"], found["value"], found["high"]) == pytest.approx((0.025 ** (1 / 64) - 1, 0, 1 - 0.025 ** (1 / 64)))
    assert T.paired(torch.full((1, 64), 5.0), torch.full((1, 64), 5.0))["high"] == 0          # pixels: of these nothing is known
    few = T.few_pairs(torch.ones(1, 16), torch.ones(1, 16))
    assert (few["low"], few["value"], few["high"], few["n"]) == pytest.approx((0.025 ** (1 / 16) - 1, 0, 1 - 0.025 ** (1 / 16), 16))


def zeros_and_ones(right, of):
    return torch.tensor([[1.0] * right + [0.0] * (of - right)])


def test_a_share_has_wilsons_interval_which_never_turns_back():
    from scipy.stats import binomtest                       # of the tests' packages
    for n in (3, 16, 64):
        found = [T.shared_by(zeros_and_ones(right, n)) for right in range(n + 1)]
        for right, each in enumerate(found):
            ends = binomtest(right, n).proportion_ci(method="wilson")
            assert (each["low"], each["high"], each["n"]) == (pytest.approx(ends.low, abs=1e-3), pytest.approx(ends.high, abs=1e-3), n)
        for end in ("low", "high"):
            assert [each[end] for each in found] == sorted(each[end] for each in found), "one right more moves no end back"


def test_a_share_of_parts_knows_how_many_and_that_they_go_wrong_together():
    alone, six = (T.shared_by(torch.ones(1, 64), parts) for parts in (1, 6))
    assert alone["low"] == pytest.approx(0.9434, abs=1e-4) and six["low"] == pytest.approx(0.9901, abs=1e-4) and six["high"] == 1
    torn = torch.tensor([[1.0] * 60 + [0.0] * 4])           # four pictures of which everything is wrong
    found, drawn = T.shared_by(torn, 6), T.resampled([torn], lambda mean: mean)
    assert (found["low"], found["high"]) == (drawn["low"], drawn["high"]), "not as if 384 had been asked"
    several = T.shared_by(torch.ones(3, 64))
    assert (several["low"], several["seeds"]) == (alone["low"], 3)


def test_the_mean_of_few_pictures_is_moved_by_students_t():
    from scipy.stats import t
    rng = torch.Generator().manual_seed(0)
    for n in (2, 3, 8, 16):
        pixels = 20 + 5 * torch.randn(1, n, generator=rng)
        found, error = T.mean_of(pixels, False, 20_000), float(pixels.std()) / n ** 0.5
        assert found["n"] == n and found["seeds"] == 1
        assert found["high"] - found["value"] == pytest.approx(t.ppf(0.975, n - 1) * error, rel=0.1)
        assert found["value"] - found["low"] == pytest.approx(min(t.ppf(0.975, n - 1) * error, found["value"]), rel=0.1)
        apart = T.paired(pixels, pixels.flip(1) + 1, 20_000)
        assert (apart["n"], apart["seeds"]) == (n, 1) and (apart["high"] - apart["low"]) / 2 == pytest.approx(
            t.ppf(0.975, n - 1) * float((pixels - pixels.flip(1)).std()) / n ** 0.5, rel=0.1)
    many = 20 + 5 * torch.randn(1, 64, generator=rng)
    assert T.mean_of(many, False) == T.resampled([many], lambda mean: mean)
    near, one = T.mean_of(torch.tensor([[0.2, 0.9]]), False), T.mean_of(torch.tensor([[3.0]]), False)
    assert near["low"] == 0 and near["high"] > 2, "a distance below 1 is no share"
    assert (one["low"], one["value"], one["high"]) == (0.0, 3.0, float("inf")) and T.mean_of(torch.zeros(1, 8), False)["high"] == 0
    assert T.paired(torch.ones(1, 1), torch.zeros(1, 1))["low"] == -float("inf"), "of one pair nothing is known"
    assert (T.mean_of(torch.tensor([[0.5]]))["low"], T.mean_of(torch.tensor([[0.5]]))["high"]) == (0.0, 1.0)
    assert T.mean_of(torch.ones(1, 3)) == T.shared_by(torch.ones(1, 3)) and T.mean_of(torch.ones(1, 3))["low"] < 0.5
    assert T.mean_of(torch.tensor([[0.9, 1.0, 1.0]]))["high"] == 1, "of what lies between 0 and 1"


def test_a_rising_curve_is_the_mean_of_what_pulls_against_each_other():
    rising = lambda values, larger=True: T.rising(torch.tensor(values, dtype=torch.float64), larger).tolist()
    assert rising([0.2, 0.8, 0.6, 0.9]) == pytest.approx([0.2, 0.7, 0.7, 0.9]) and rising([3.0, 2.0, 1.0]) == pytest.approx([2.0] * 3)
    assert rising([0.3, 0.1, 0.2], larger=False) == pytest.approx([0.3, 0.15, 0.15]) and rising([0.1, 0.2]) == pytest.approx([0.1, 0.2])
    from scipy.optimize import isotonic_regression          # of the tests' packages
    several = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)).tolist()
    assert rising(several) == [pytest.approx(isotonic_regression(values).x.tolist()) for values in several], "each by itself"


def test_labels_needed():
    rows = rows_of("head", [0.75] * 9) + [row for labels, value in ((10, 0.2), (100, 0.5), (1000, 1.0))
                                          for row in rows_of("controlnet", [value] * 9, labels=labels)]
    found = T.labels_needed(rows, "pose")
    assert found["value"] == found["low"] == found["high"] == pytest.approx(10 ** 2.5)
    more = T.labels_needed(rows + rows_of("head", [0.75] * 9, seed=1) + [row for labels, value in ((10, 0.2), (100, 0.5), (1000, 1.0))
                                                                          for row in rows_of("controlnet", [value] * 9, labels=labels, seed=1)]
                           + rows_of("controlnet", [0.1] * 9, labels=10_000), "pose")
    assert more["seeds"] == 2 and more["high"] == pytest.approx(10 ** 2.5)
    assert more["measured"] == [10, 100, 1000], "the one training with 10,000 labels, which failed, has no part in it"
    three = [row for seed in range(3) for row in rows_of("controlnet", [0.8] * 9, labels=100, seed=seed) + rows_of("head", [0.75] * 9, seed=seed)]
    assert T.labels_needed(rows_of("controlnet", [0.2] * 9, labels=10) + three, "pose")["measured"] == [10, 100], "fewer labels, one training: it has its part"
    fallen = three + [row for seed in range(3) for labels, value in ((10, 0.2), (1000, 0.72)) for row in rows_of("controlnet", [value] * 9, labels=labels, seed=seed)]
    assert 10 < T.labels_needed(fallen, "pose")["value"] < 100, "what falls back by chance has been there all the same"
    assert T.crossing([10, 100], [0.1, 0.2], 0.5) == float("inf") and T.crossing([10, 100], [0.6, 0.7], 0.5) == 0
    assert T.crossing([10, 100, 1000],
                      [0.6, 0.2, 0.6], 0.4) == pytest.approx(10 ** 2.5)    # falls back: from the last way up
    assert T.crossing([10, 1000], [0.3, 0.1], 0.2, larger=False) == pytest.approx(100)
    with pytest.raises(ValueError, match="no rows of adapter"):
        T.labels_needed(rows, "pose", of="adapter")
    with pytest.raises(ValueError, match="different seeds and pictures"):
        T.grid(rows + rows, task="pose", contestant="head")


def test_curves_hold_means_and_intervals_by_labels():
    def row(contestant, labels, seed, picture, control):
        return {"contestant": contestant, "task": "pose", "labels": labels, "seed": seed, "picture": picture, "strength": 1.0, "control": control}
    rows = [row("head", labels, seed, picture, labels / 1000 + 0.1 * seed + 0.01 * picture) for labels in (100, 10) for seed in (0, 1)
            for picture in range(4)] + [row("unguided", 0, 0, picture, 0.25) for picture in range(4)]
    found = T.curves([*rows, {**rows[0], "strength": 2.0, "control": 9.0}, {**rows[0], "task": "depth", "control": 9.0}], "pose")
    assert list(found) == ["head", "unguided"] and [each["labels"] for each in found["head"]] == [10, 100]
    assert found["head"][1]["value"] == pytest.approx(0.1 + 0.05 + 0.015) and found["head"][1]["seeds"] == 2 and found["head"][1]["n"] == 4
    assert found["head"][1]["low"] < found["head"][1]["value"] < found["head"][1]["high"]
    assert found["unguided"] == [{"labels": 0, "value": 0.25, "low": 0.25, "high": 0.25, "n": 4, "seeds": 1}]
    axes, = plots.efficiency(found, "what is missing", 1.0).axes
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"head", "unguided"} and axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.containers[0][0].get_ydata()[1] == pytest.approx(1 - found["head"][1]["value"])
    assert plots.efficiency(found, "error").axes[0].containers[0][0].get_ydata()[1] == pytest.approx(found["head"][1]["value"])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "100"]
    with pytest.raises(ValueError, match="no curves"):
        plots.efficiency({}, "PCK")


def test_a_figure_says_what_its_whiskers_are_and_which_points_are_of_one_training():
    point = lambda labels, seeds, n=64: {"labels": labels, "value": 0.5, "low": 0.4, "high": 0.6, "n": n, "seeds": seeds}
    of = lambda **curves: plots.efficiency(curves, "error").axes[0]
    hollow = lambda axes: sorted(round(float(x) / 10) * 10 for line in axes.lines if line.get_markerfacecolor() == "white" and line.get_marker() != "None"
                                 for x in line.get_xdata())
    mixed = of(unguided=[point(0, 1)], head=[point(10, 3), point(100, 1)])
    assert hollow(mixed) == [100] and mixed.get_title("left") == "whiskers: 95 % intervals of n = 64 pictures and of trainings; hollow: one training"
    low = plots.efficiency({"head": [{**point(10, 3), "high": 1.0}]}, "error", 1.0).axes[0]
    assert low.get_title("left").endswith("and of trainings\nwhiskers that end at 0.001 reach 0")
    single, several = of(head=[point(10, 1)]), of(unguided=[point(0, 1)], head=[point(10, 2)], adapter=[point(10, 3, 32)])
    assert set(hollow(single)) == {10} and single.get_title("left") == "whiskers: 95 % intervals of n = 64 pictures; hollow: one training"
    assert hollow(several) == [] and several.get_title("left") == "whiskers: 95 % intervals of n = 32 to 64 pictures and of trainings"


def test_frechet_distance_against_known_answers():
    rng = torch.Generator().manual_seed(0)
    one = torch.randn(20_000, 3, generator=rng)
    assert T.frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert T.frechet(one, one + torch.tensor([3.0, 0, 4.0])) == pytest.approx(25, rel=1e-3)
    assert T.frechet(one, 3 * one) == pytest.approx(3 * (3 - 1) ** 2,
                                                    rel=0.05)             # of Gaussians: sum of (s - 1)^2
    mean, axes = T.axes_of(one * torch.tensor([5.0, 1.0, 0.1]), 2)
    assert torch.allclose(((one * torch.tensor([5.0, 1.0, 0.1]) - mean) @ axes).std(0), torch.ones(2), atol=1e-3)
    with pytest.raises(ValueError, match="at least 32 rows"):
        T.frechet(one[:5], one)


def test_frechet_distances_are_compared_in_pairs():
    """What is the same in both, however far from renderings, drops out."""
    rng = torch.Generator().manual_seed(0)
    real, one = (torch.randn(count, 4, generator=rng) for count in (400, 64))
    same = T.frechet_paired(one, one, real)
    assert same["low"] == same["value"] == same["high"] == 0 and same["n"] == 64
    apart = T.frechet_paired(one + 0.5, one, real)
    assert 0 < apart["low"] < apart["value"] < apart["high"]
    assert apart["value"] == pytest.approx(T.frechet(one + 0.5, real) - T.frechet(one, real))
    far, alone = T.frechet_paired(one + 2.1, one + 2, real), T.frechet_interval(one + 2, real)
    assert far["high"] - far["low"] < (alone["high"] - alone["low"]) / 3
    with pytest.raises(ValueError, match="of the same pictures"):
        T.frechet_paired(one[:40], one, real)


def test_the_axes_of_the_looks_lie_beside_the_table(monkeypatch, tmp_path):
    axes = (torch.randn(128), torch.randn(128, C.LOOKS))
    monkeypatch.setattr(C, "checksum_of", lambda *parts: "a"), monkeypatch.setattr(C, "real_looks", lambda *given: (axes, torch.zeros(3, C.LOOKS)))
    C.write_real(None, None, tmp_path / "real.csv")
    assert all(torch.equal(a, b) for a, b in zip(C.stored_axes(tmp_path), axes))
    (tmp_path / "real.safetensors").unlink(), C.write_real(None, None, tmp_path / "real.csv")
    assert (tmp_path / "real.safetensors").exists(), "a table of before gets them, too"
    mean, main = C.stored_axes()
    assert mean.shape == (128,) and main.shape == (128, C.LOOKS)


# ---- ablations and commands --------------------------------------------------------------------------------------------

def test_an_ablation_is_what_it_says(pipe):
    full = new_head(pipe, "pose")
    assert A.ABLATIONS["layer2"].head(pipe, "pose", 0).mixing_weights.softmax(0).round().tolist() == [0, 0, 1, 0, 0, 0]
    assert not A.ABLATIONS["equal_mixing"].head(pipe, "pose", 0).mixing_weights.requires_grad
    assert not A.ABLATIONS["without_timestep"].head(pipe, "pose", 0).config.use_timestep
    reading = read_picture(pipe, None, 300, latents=torch.zeros(1, 4, 32, 32))
    mirror = read_picture(pipe, None, 699, latents=torch.zeros(1, 4, 32, 32))
    mirrored = A.ABLATIONS["mirrored"].head(pipe, "pose", 0)
    assert torch.equal(mirrored.embed(reading), full.embed(mirror)) and not torch.equal(mirrored.embed(reading),
                                                                                        full.embed(reading))
    with pytest.raises(ValueError, match="no ablation 'plain_loss' of depth"):
        A.train_ablation("plain_loss", "depth", 100)


@pytest.mark.parametrize("words", [["train", "colours"], ["contest", "--contestants", "nobody"],
                                   ["contest", "--strengths", "-1"],
                                   ["train", "--labels", "0"], ["paint"], ["ablate", "--ablations", "nothing"]])
def test_bad_commands_are_refused_in_a_sentence(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert "Traceback" not in capsys.readouterr().err
