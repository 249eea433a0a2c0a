"""What the evidence's tables say: each sentence and number from rows, and what the rows lack is said to be not measured."""
import itertools
import json
import math
import shlex

import pytest
import torch

from rg_minimal.classroom import plots
from rg_minimal.evidence import ablations as A, baselines as B, contest as C, many as M, recipes, report as R, statistics as T, trial
from rg_minimal.evidence.__main__ import commands, main
from rg_minimal.files import write_rows
from rg_minimal.pipelines import load_head


def row(contestant="head", labels=100, picture=0, control=0.5, **changes):
    look = " ".join(f"{value:.3f}" for value in torch.randn(C.LOOKS, generator=torch.Generator().manual_seed(picture)).tolist())
    return {"contestant": contestant, "task": "pose", "labels": labels, "seed": 0, "picture": picture, "strength": 1.0, "control": control,
            "whole": 1.0, "attributes": 1.0, "passes": 50.0, "seconds": 2.0, "look": look, "settings": "{}", "version": "a", "network": "", **changes}


def arm(contestant, labels, control, pictures=8, **changes):
    return [row(contestant, labels, picture, control + 0.001 * (picture % 3), **changes) for picture in range(pictures)]


def cost(contestant, labels=100, seed=0, **changes):
    return {"contestant": contestant, "task": "pose", "labels": labels, "seed": seed, "parameters": 1000, "training_seconds": 60.0,
            "device": "cpu", "steps": 400, "network": "", **changes}


def tuned(name="head", best=0, labels=1000, pictures=2):
    """A tuning that was made to its end, of which one setting is the best."""
    return [row(name, labels, picture, 0.9 if number == best else 0.3, settings=json.dumps(each))
            for number, each in enumerate(C.budget(name, "pose")) for picture in range(pictures)]


HEAD = arm("head", 100, 0.75)
HOLDS = HEAD + [each for labels, control in ((10, 0.2), (100, 0.5), (1000, 0.95)) for each in arm("controlnet", labels, control)]


@pytest.mark.parametrize("controls, verdict, number", [
    ({10: 0.2, 100: 0.5, 1000: 0.95}, "holds", "360"), ({10: 0.5, 100: 0.95}, "fails", "36"), ({10: 0.9, 100: 0.95}, "fails", "10 or fewer"),
    ({10: 0.2, 1000: 0.5}, "holds", "more than 1,000"), ({1000: 0.95}, "open", "1,000 or fewer"), ({10: 0.3}, "open", "more than 10")])
def test_the_claim_is_judged_by_the_interval(controls, verdict, number):
    rows = HEAD + [each for labels, control in controls.items() for each in arm("controlnet", labels, control)]
    found = R.answer(R.Tables(rows), "pose")
    assert found["verdict"] == verdict and R.needs(found).startswith(number)
    said = R.sentence(found)
    assert number in said and {"holds": "holds here", "fails": "does not hold", "open": "not decided"}[verdict] in said and "n = 8" in said


def test_the_gap_is_of_equally_many_labels_and_says_who_is_nearer():
    found = R.answer(R.Tables(HOLDS), "pose")
    assert found["gap"]["value"] == pytest.approx(0.25) and "the head is nearer by 0.250" in R.sentence(found)
    depth = [{**each, "task": "depth"} for each in HOLDS]                       # there the error is measured
    found = R.answer(R.Tables(depth), "depth")
    assert found["gap"]["value"] == pytest.approx(-0.25) and "the head is farther off by 0.250" in R.sentence(found)


def test_what_is_not_there_is_not_measured():
    empty = R.Tables()
    assert R.answer(empty, "pose")["verdict"] == R.NOT and R.NOT in R.sentence(R.answer(empty, "pose"))
    assert R.markdown(empty).count(R.NOT) == 3 * 7
    assert R.trade(empty, "pose") == R.efficiency(empty, "pose") == R.ablation_scores(empty, "pose") == {} and R.together(empty, "pose") == []
    assert R.NOT in R.trade_table({}) and "pose: nothing was measured." in R.gaps(empty)
    some = R.gaps(R.Tables(HOLDS))
    assert any("fewer than 3 trainings" in each for each in some) and any("T2I-Adapter" in each and R.NOT in each for each in some)
    assert f"pose: ControlNet with 30, 300, 10,000 labels: {R.NOT}." in some and f"pose: our head with 10, 30, 300, 1,000, 10,000 labels: {R.NOT}." in some
    half = R.gaps(R.Tables(HOLDS, tune=tuned()[:3]))
    assert "Settings were not tuned, everybody has defaults." in some and "Settings were not tuned, and are defaults: pose, ControlNet." in half
    assert "Settings were not tuned to the end, and those that were measured last count: pose, our head." in half
    assert [each for each in R.gaps(R.Tables(HOLDS, tune=tuned())) if "to the end" in each] == []
    with pytest.raises(ValueError, match="choose one of"):
        R.answer(empty, "colour")


def test_an_arm_that_was_not_measured_to_its_end_is_left_out_and_named():
    rows, partial = R.whole_arms(HOLDS + arm("adapter", 100, 0.9, pictures=3))
    assert rows == HOLDS and partial == ["pose: T2I-Adapter with 100 labels, seed 0, strength 1: 3 of 8 pictures"]


def test_more_pictures_of_one_arm_leave_the_others_what_they_are():
    for more in (8, 64):                                                        # ControlNet with a thousand labels goes on
        rows, partial = R.whole_arms(HOLDS + arm("controlnet", 1000, 0.95, 8 + more)[8:])
        assert rows == HOLDS and not partial
    some = arm("head", 100, 0.75, 12) + arm("controlnet", 100, 0.5)             # one of each: what both have
    assert R.whole_arms(some) == ([each for each in some if each["picture"] < 8], [])
    begun = HEAD + arm("controlnet", 100, 0.5, 2)
    assert R.whole_arms(begun) == (HEAD, ["pose: ControlNet with 100 labels, seed 0, strength 1: 2 of 8 pictures"])
    further = [each for name in ("head", "adapter", "controlnet") for each in arm(name, 100, 0.5, 16)] + arm("linear", 100, 0.4)
    assert R.whole_arms(further) == (further[:-8], ["pose: best raw layer with 100 labels, seed 0, strength 1: 8 of 16 pictures"])
    elsewhere = HOLDS + [each | {"picture": each["picture"] + 4} for each in arm("adapter", 100, 0.9)]
    assert R.whole_arms(elsewhere) == (HOLDS, ["pose: T2I-Adapter with 100 labels, seed 0, strength 1: 4 of 8 pictures"])
    tables = R.read_tables()
    extra = [{**each, "picture": each["picture"] + 64} for each in R.pick(tables.contest, task="pose", contestant="head", labels=100, seed=0, strength=1.0)[:8]]
    assert R.whole_arms(tables.contest + extra, tables.tune) == (tables.contest, [])


def test_rows_of_settings_that_were_not_chosen_do_not_count():
    best, *_, other = (json.dumps(each) for each in C.budget("head", "pose"))
    holds = [each | {"settings": best} if each["contestant"] == "head" else each for each in HOLDS]
    rows, partial = R.whole_arms(holds + arm("head", 10, 0.5, settings=other), tuned=tuned())
    assert rows == holds and partial == ["pose: our head with 10 labels, seed 0, strength 1: 0 of 8 pictures with the settings that were chosen"]
    rows, partial = R.whole_arms(holds + arm("head", 10, 0.5, settings=other), tuned=tuned()[:-1])
    assert rows == holds + arm("head", 10, 0.5, settings=other) and not partial, "a tuning that was killed chooses nothing"
    with pytest.raises(ValueError, match="there is no folder nowhere"):
        R.read_tables("nowhere")


def test_the_table_of_the_readme_has_a_row_of_each_number_of_labels():
    tables = R.Tables(HOLDS, training=[cost("head", parameters=330_000), cost("controlnet", parameters=3_400_000)])
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in R.markdown(tables).splitlines()]
    assert [line[0] for line in lines[2:]] == ["pose, 100: PCK@0.05", "pose, added weights", "depth", "edges"]
    measured, added = lines[2:4]
    assert measured[1].startswith("0.751 (") and measured[2].startswith("0.501 (") and measured[3] == R.NOT
    assert measured[4] == "8; 1, 1, -" and measured[5].startswith("360") and measured[6:] == [R.NOT, "yes (one training)"] and added[1:4] == ["0.33 M", "3.40 M", R.NOT]
    assert {len(line) for line in lines} == {8}


def test_what_was_tried_is_told_and_the_best_of_it_is_chosen():
    rows = [each | ({"control": 1.0, "whole": 0.5} if '"step_size": 0.03' in each["settings"] else {}) for each in tuned(best=2, pictures=4)]
    first, killed = rows[:4], [row("adapter", settings=json.dumps(C.budget("adapter", "pose")[0]), control=0.25, attributes=0.5)]
    tables = R.Tables(tune=rows + killed + [each | {"labels": 100} for each in first])
    found = R.tuning(tables, "pose")
    assert [(each["settings"]["step_size"], round(each["merit"], 3), each["chosen"], each["n"], each["labels"]) for each in found["head"]] == [
        (0.03, 0.5, False, 4, 1000), (0.03, 0.5, False, 4, 1000), (0.05, 0.9, True, 4, 1000), *((size, 0.3, False, 4, 1000) for size in (
            0.05, 0.08, 0.08, 0.12, 0.12)), (0.03, 0.5, False, 4, 100)]
    assert found["adapter"][0]["merit"] == 0.125 and not found["adapter"][0]["chosen"] and R.tuning(tables, "depth") == {}
    said = R.tuning_table(found, "pose")
    assert said.count("chosen") == 1 and "our head: step size 0.05, inner steps 1" in said and "T2I-Adapter: scale 0.75, guidance scale 1.5" in said
    assert said in R.report(R.Tables(rows, tune=tables.tune)) and R.NOT in R.tuning_table({}, "pose")


def test_what_was_measured_before_it_was_trained_anew_is_said():
    old, new = arm("controlnet", 100, 0.5, network="a"), [{**cost("controlnet"), "network": "b"}]
    said = "pose: measured before they were trained anew: ControlNet with 100 labels, seed 0."
    assert said in R.gaps(R.Tables(HEAD + old, training=new))
    for rows, costs in ((old, []), (old, [{**new[0], "network": "a"}]), (old, [{**new[0], "network": ""}]), (arm("controlnet", 100, 0.5), new)):
        assert not any("trained anew" in each for each in R.gaps(R.Tables(HEAD + rows, training=costs)))


def test_what_is_missing_is_told_without_measuring_strengths(monkeypatch):
    """Asked for each contestant, their intervals took four fifths of the report's time."""
    tables, drawn = R.read_tables(), []
    monkeypatch.setattr(T, "frechet", lambda *sets: drawn.append(sets) or 0.0)
    assert any("other strengths than what was tuned: best raw layer" in each for each in R.gaps(tables)) and not drawn


def test_recipes_that_were_tried_are_told_and_what_was_not_tried_as_well():
    def tried(lr, merit, contestant="controlnet", labels=300, steps=1000):
        return {"contestant": contestant, "task": "pose", "labels": labels, "seed": 0, "steps": steps, "lr": lr, "settings": "{}", "loss": 0.01, "control": 0.9, "whole": 1.0,
                "attributes": 1.0, "merit": merit, "pictures": 32, "version": "a"}
    rows = [tried(1e-3, 0.8), tried(2e-3, 0.9), tried(2e-3, 0.7, steps=400), tried(2e-3, 0.6, "adapter"), tried(1e-3, 0.95, "adapter", steps=400)]
    tables = R.Tables(HOLDS, recipes=rows)
    assert R.rates(tables, "pose", "controlnet") == {1e-3, 2e-3} and len(R.rates(tables, "pose", "adapter")) == 1, "these two differ in steps as well"
    best = [line for line in R.recipe_table(tables, "pose").split("\n") if "most" in line]
    assert len(best) == 2 and "ControlNet, 300 labels: 1,000, 0.002" in best[0] and "T2I-Adapter, 300 labels: 400, 0.001" in best[1]
    assert R.recipe_table(tables, "pose") in R.report(tables) and R.NOT in R.recipe_table(tables, "depth")
    assert f"Other learning rates than the recipe's: pose, T2I-Adapter: {R.NOT}." in R.gaps(tables)
    assert R.rates_at_the_edge(tables, "pose") == ["ControlNet with 300 labels, 1,000 steps (0.002 of 0.001, 0.002)"] and R.rates_at_the_edge(tables, "depth") == []
    assert not R.rates_at_the_edge(R.Tables(recipes=[*rows, tried(4e-3, 0.85)]), "pose"), "between two others"
    assert "pose: learning rates at the edge of what was tried: ControlNet with 300 labels, 1,000 steps (0.002 of 0.001, 0.002)." in R.gaps(tables)
    trained = R.Tables(recipes=[tried(1e-3, 0.95), *rows], training=[{**cost("controlnet"), "labels": 300, "steps": 1000}])
    assert R.not_the_best(trained, "pose") == ["ControlNet with 300 labels (1,000 steps at 0.002; 1,000 steps at 0.001 had more)"]


def test_what_was_kept_before_its_last_step_is_said():
    rows = [{**cost("controlnet"), "labels": 100, "seed": seed, "steps": steps} for seed, steps in ((0, 1000), (1, 700))]
    rows += [{**cost("adapter"), "labels": 10, "steps": 100}, {**cost("head"), "labels": 100, "steps": 50}]
    said = "pose: trained by a recipe of before, which kept the state of least loss and may starve: ControlNet with 100 labels (1 of 2)."
    assert said in R.gaps(R.Tables(HOLDS, training=rows)) and not any("may starve" in each for each in R.gaps(R.Tables(HOLDS, training=rows[:1] + rows[2:])))


def test_what_was_chosen_at_the_edge_of_what_was_tried_is_said():
    edge, inside = tuned("adapter", 9), tuned("adapter", 2, labels=10)          # the largest of five scales, and one between
    assert R.at_the_edge(R.Tables(tune=edge), "pose", "adapter") == ["scale 2.5"] == R.at_the_edge(R.Tables(tune=inside + edge), "pose", "adapter")
    assert R.at_the_edge(R.Tables(tune=inside), "pose", "adapter") == R.at_the_edge(R.Tables(tune=edge[:-1]), "pose", "adapter") == []


def test_numbers_of_steps_at_the_edge_of_what_was_tried_are_said():
    def tried(labels, **merits):
        return [{"contestant": "controlnet", "task": "pose", "labels": labels, "seed": 0, "steps": int(steps[1:]), "lr": 2e-3, "settings": "{}", "merit": merit}
                for steps, merit in merits.items()]
    rows = tried(10, s200=0.8, s400=0.9) + tried(30, s200=0.8, s400=0.9, s1000=0.7) + tried(100, s1000=0.9)
    assert R.steps_at_the_edge(R.Tables(recipes=rows), "pose") == ["ControlNet with 10 labels (400 of 200, 400)", "ControlNet with 100 labels (1,000 alone)"]
    assert any("more or fewer may be better still: ControlNet with 10 labels" in each for each in R.gaps(R.Tables(HOLDS, recipes=rows)))
    second = [{**row, "seed": 1, "merit": 1 - row["merit"]} for row in rows[:2]]
    assert R.steps_at_the_edge(R.Tables(recipes=second + rows[:2]), "pose") == ["ControlNet with 10 labels, training 1 (200 of 200, 400)",
                                                                                "ControlNet with 10 labels (400 of 200, 400)"], "each training by itself"
    trained = [{**cost("controlnet"), "labels": labels, "steps": 1000} for labels in (10, 100, 300)]
    assert R.not_the_best(R.Tables(recipes=rows, training=trained), "pose") == ["ControlNet with 10 labels (1,000 steps at 0.002; 400 steps at 0.002 had more)"]
    assert "pose: measured with another recipe than had most merit: ControlNet with 10 labels (1,000 steps at 0.002; 400 steps at 0.002 had more)." in R.gaps(
        R.Tables(HOLDS, recipes=rows, training=trained))


def test_costs_are_those_of_all_parts():
    tables = R.Tables(arm("controlnet+head", 100, 0.9), training=[cost("head"), cost("head", seed=1, training_seconds=80.0), cost("controlnet", parameters=5000)])
    found = {each["contestant"]: each for each in R.costs(tables, "pose")}
    assert found["controlnet+head"] == {"contestant": "controlnet+head", "parameters": 6000, "training_seconds": 130.0, "trainings": 1,
                                        "seconds": 2.0, "passes": 50.0, "n": 8}
    assert found["adapter"]["parameters"] is None and found["unguided"]["parameters"] == 0
    assert "6,000" in R.cost_table(tables, "pose") and R.NOT in R.cost_table(tables, "pose")


def test_ideas_are_compared_with_the_head_in_pairs_and_by_what_they_cost():
    rows = (arm("head", 100, 0.75) + arm("loop", 100, 0.8, seconds=1.0, passes=75.0) + arm("head:short3", 100, 0.7, seed=1)
            + arm("predictor", 10, 0.9) + arm("controlnet", 100, 0.5))
    found = R.ideas(R.Tables(rows), "pose")
    assert [each["pair"] for each in found] == ["loop"]                         # the others have no head of their training beside them
    assert found[0]["control"]["value"] == pytest.approx(0.05, abs=1e-5) and (found[0]["time"], found[0]["passes"]) == (0.5, 1.5)
    assert "ideas, less our head" in R.idea_table(found) and "0.50" in R.idea_table(found) and R.NOT in R.idea_table([])
    assert "closed loop" not in R.efficiency(R.Tables(rows), "pose") and "ControlNet" in R.efficiency(R.Tables(rows), "pose")
    untried = R.gaps(R.Tables(rows))[-1]
    assert untried == "Not tried at all: one head of several tasks, drags without the anti-ghosting term."


def test_what_control_costs_is_of_the_same_pictures_for_everybody():
    spread = [each for strength in (0.5, 1.0) for each in arm("head", 100, 0.5 + 0.2 * strength, 40, strength=strength)]
    real = [{"look": each["look"], "version": "a"} for each in arm("head", 100, 0, 40)]
    tables = R.Tables(spread + arm("unguided", 0, 0.1, 40) + arm("controlnet", 100, 0.9, 20), real=real)
    found = R.trade(tables, "pose")
    assert list(found) == ["unguided", "head"] and [each["strength"] for each in found["head"]] == [0.5, 1.0]
    assert found["head"][1]["control"]["value"] == pytest.approx(0.7, abs=2e-3) and found["head"][1]["control"]["n"] == 40
    assert found["head"][0]["frechet"]["value"] == pytest.approx(0, abs=1e-3)           # the very same looks
    assert found["head"][0]["farther"]["value"] == pytest.approx(0, abs=1e-3) and found["head"][1]["farther"] is None, "against strength 1, in pairs"
    assert found["unguided"][0]["farther"] is None and "more than at 1" in R.trade_table(found)
    assert R.trade(R.Tables(spread), "pose")["head"][0]["frechet"] is None
    figure = plots.trade(found, "what is missing", {"whole": "whole puppets", "frechet": "Frechet distance"}, 1.0)
    assert figure.axes[0].containers[1][0].get_xdata()[1] == pytest.approx(0.3, abs=2e-3) and figure.axes[0].xaxis_inverted()
    assert [axes.get_ylabel() for axes in figure.axes] == ["whole puppets", "Frechet distance"]
    assert figure.get_supxlabel().endswith("nearer to the right\nwhiskers: 95 % intervals of n = 40 pictures; hollow: one training")
    assert [line[0].get_markerfacecolor() for line in figure.axes[0].containers] == ["0.45", "white"]
    assert R.trade(R.Tables(arm("unguided", 0, 0.1)), "pose") == {}


def test_how_far_renderings_are_from_others_is_of_many_splits():
    rng = torch.Generator().manual_seed(0)
    real = [{"look": " ".join(f"{value:.4f}" for value in row), "version": "a"} for row in torch.randn(200, 4, generator=rng).tolist()]
    least = R.floor(real, 64)
    assert least["low"] < least["value"] < least["high"] and least == R.floor(real, 64)
    assert least["value"] == pytest.approx(R.floor(real[::-1], 64)["value"], rel=0.15), "whichever come first"
    assert R.floor(real, 180) is None and R.floor(real, 20) is None and R.floor([], 64) is None


def test_strengths_are_compared_in_the_trainings_that_all_have():
    spread = [each for strength, seeds in ((0.5, (0, 2)), (1.0, (0, 1, 2))) for seed in seeds
              for each in arm("head", 100, 0.5 + 0.2 * strength - 0.2 * seed, 40, strength=strength, seed=seed)]
    alone = arm("controlnet", 100, 0.5, 40, strength=0.5, seed=1) + arm("controlnet", 100, 0.7, 40)     # no training has both
    tables = R.Tables(spread + alone + arm("unguided", 0, 0.1, 40), real=[{"look": each["look"], "version": "a"} for each in arm("head", 100, 0, 40)])
    found = R.trade(tables, "pose")
    assert list(found) == ["unguided", "head"]
    assert [round(each["control"]["value"], 2) for each in found["head"]] == [0.4, 0.5], "without the training that strength 0.5 lacks"
    assert [(each["control"]["seeds"], each["control"]["n"]) for each in found["head"]] == [(2, 40), (2, 40)]
    lines = R.trade_table(found).splitlines()
    assert lines[0].endswith("n  trainings") and [line.split()[-2:] for line in lines[1:]] == [["40", "none"], ["40", "2"], ["40", "2"]]
    asked = {(row["contestant"], row["strength"], row["seed"]) for row in R.behind(tables, "pose", "strength")}
    assert asked == {("unguided", 1.0, 0), *(("head", strength, seed) for strength in (0.5, 1.0) for seed in (0, 2))}, "and no commands for more"
    stored = R.trade(R.read_tables(), "pose")
    assert {(name, each[number]["seeds"]) for name, part in stored.items() for each in part for number in ("control", "whole", "attributes")} == {
        (name, len({row["seed"] for row in R.behind(R.read_tables(), "pose", "strength") if row["contestant"] == name})) for name in stored}


def test_rivals_are_compared_with_the_head_that_had_as_many_labels():
    rows = HOLDS + arm("unguided", 0, 0.1) + arm("controlnet+head", 100, 0.9)
    found, = R.rivals(R.Tables(rows), "pose")
    assert (found["pair"], found["against"], found["labels"]) == ("controlnet", "head", 100)
    assert found["control"]["value"] == pytest.approx(-0.25) and R.measured_with(R.Tables(rows), "pose") == [100]
    assert (text := R.together_table([found], "alone")).startswith("alone, less our head") and "\nControlNet " in text


def test_together_is_compared_with_each_alone():
    rows = arm("controlnet+head", 100, 0.9) + arm("controlnet", 100, 0.6) + arm("head", 100, 0.8)
    found = {each["against"]: each["control"]["value"] for each in R.together(R.Tables(rows), "pose")}
    assert found == {"controlnet": pytest.approx(0.3), "head": pytest.approx(0.1)}
    assert "+0.300 (+0.300 to +0.300)" in R.together_table(R.together(R.Tables(rows), "pose"))
    halved = [{**each, "whole": 0.5} if "+" in each["contestant"] else each for each in rows]
    before, after = (next(each for each in R.together(R.Tables(part), "pose") if each["against"] == "head")["merit"]["value"] for part in (rows, halved))
    assert after < before, "merit knows of whole puppets, too"


def test_parts_of_the_head_are_scored_and_guided_with():
    scores = [{"ablation": name, "task": "pose", "labels": 100, "seed": seed, "timestep": t, "score": value + 0.02 * seed, "parameters": 9, "scores": "", "network": "", "version": "a"}
              for name, value in (("head", 0.9), ("mirrored", 0.8), ("layer0", 0.3)) for seed in (0, 1) for t in (100, 500)]
    found = R.ablation_scores(R.Tables(ablations=scores), "pose")
    assert list(found) == ["which layers", "timestep embedding"]
    assert found["timestep embedding"]["told 999 - t"][0] == {"timestep": 100, "value": pytest.approx(0.81), "low": 0.8, "high": pytest.approx(0.82), "seeds": 2, "n": 0}
    assert R.scored_by(scores, "pose") == [f"python -m rg_minimal.evidence ablate pose --labels 100 --seeds {seed} --scores-only --ablations mirrored layer0"
                                           for seed in (0, 1)] and not R.scored_by(scores, "depth")
    assert commands().parse_args(shlex.split(R.scored_by(scores, "pose")[1])[3:]).seeds == [1]
    assert "told 999 - t" in R.ablations_said(R.Tables(ablations=scores), "pose") and len(plots.score_panels(found, "PCK").axes) == 2
    assert plots.score_panels(found, "PCK").get_supxlabel() == "whiskers: the least and the most of the trainings; 2 trainings"
    layers = {name: found["which layers"]["our head"] for name in ("our head", *(f"layer {i}" for i in range(len(plots.STYLES) + 3)))}
    drawn = [line for line in plots.score_panels({"which layers": layers}, "PCK").axes[0].get_lines() if line.get_label() in layers or len(line.get_xdata()) == 2]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle(), line.get_markerfacecolor()) for line in drawn if line.get_linestyle() != "None"}
    assert len(looks) == len(layers), "no two of many heads look alike"
    told = R.Tables(ablations=[{**row, "scores": " ".join(f"{row['score'] + 0.01 * (i % 3):.4f}" for i in range(9))} for row in scores])
    part = R.ablation_scores(told, "pose")["timestep embedding"]["told 999 - t"][0]
    assert part["value"] == pytest.approx(0.82) and part["low"] < 0.82 < part["high"] and (part["n"], part["seeds"]) == (9, 2)
    assert plots.score_panels(R.ablation_scores(told, "pose"), "PCK").get_supxlabel() == "whiskers: 95 % intervals of n = 9 labelled pictures; 2 trainings"
    lines = [line for line in R.report(told).split("\n") if "told 999 - t" in line]
    assert any("-0.100 (-0.100 to -0.100)" in line for line in lines), "in pairs of pictures and trainings"
    fewer = [{**row, "labels": 10, "scores": "0.1 0.2"} for row in told.ablations if row["ablation"] != "layer0"]
    assert R.more_than_ours(R.Tables(ablations=told.ablations + fewer), "pose") == R.more_than_ours(told, "pose"), "of one number of labels"
    assert {each["n"] for each in R.more_than_ours(told, "pose").values()} == {9} and R.more_than_ours(R.Tables(), "pose") == {}
    gone = R.ablation_differences(R.Tables(HEAD + arm("head:mirrored", 100, 0.7)), "pose")
    part = gone["told 999 - t, 100 labels"]
    assert part["value"] == pytest.approx(-0.05, abs=1e-5) and part["n"] == 8
    figure = plots.differences(gone, "PCK")
    axes, = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["told 999 - t, 100 labels"]
    assert figure.get_suptitle() == "whiskers: 95 % intervals of n = 8 pairs of pictures; one training each"
    assert plots.differences({"mine": {"value": 0.1, "low": 0.0, "high": 0.2}}, "PCK").get_suptitle() == "", "of what does not say how many it is of"


def test_commands_that_are_named_are_commands():
    """The commands beside a figure measure its rows and no others."""
    tables = R.Tables(HOLDS + arm("head", 1000, 0.8, strength=2.0) + arm("head:mirrored", 100, 0.7), training=[cost("head"), cost("mirrored")])
    named = [*R.commands_of(tables.contest), *R.trained_by(tables.training)]
    again = set()
    for line in named:
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "rg_minimal.evidence"]
        options = commands().parse_args(words[3:])
        if options.command == "contest":
            again |= {each for each in C.entries(options.tasks, options.contestants, options.labels, options.seeds, options.strengths)}
            assert options.pictures == 8
    assert again == {tuple(each[name] for name in ("contestant", "task", "labels", "seed", "strength")) for each in tables.contest
                     if ":" not in each["contestant"]}
    assert any("ablate pose --ablations mirrored" in line for line in named) and any("train pose --kinds head" in line for line in named)
    assert not any("--kinds mirrored" in line for line in named)
    tuned, = map(shlex.split, R.tuned_by(HOLDS[:8]))
    asked = commands().parse_args(tuned[3:])
    assert (asked.command, asked.tasks, asked.contestants, asked.tuned_with, asked.tuned_on) == ("tune", ["pose"], [HOLDS[0]["contestant"]], HOLDS[0]["labels"], 8)
    drags = [{"answer": name, "picture": picture, "seed": 1} for name, pictures in (("exact", 7), (trial.DRAG, 3)) for picture in range(pictures)]
    line, = map(shlex.split, R.dragged_by(drags, "trial"))
    asked = commands().parse_args(line[3:])
    assert (asked.command, asked.pictures, asked.drags, asked.seed) == ("trial", 7, 3, 1) and R.dragged_by([], "ghosting") == []


def test_a_figure_names_the_commands_of_its_own_rows():
    extra = {"strength": arm("head", 1000, 0.8, strength=2.0) + arm("head", 1000, 0.8, strength=0.5), "together": arm("adapter+head", 100, 0.9), "parts": arm("head:mirrored", 100, 0.7),
             "ideas": arm("loop", 100, 0.8) + arm("predictor", 100, 0.7)}
    tables = R.Tables(HOLDS + sum(extra.values(), []))
    assert R.behind(tables, "pose", "labels") == HOLDS and R.behind(tables, "depth", "labels") == []
    for what, rows in extra.items():
        assert R.behind(tables, "pose", what) == rows
    assert R.again(tables, "pose", "ideas").splitlines() == [
        "again: python -m rg_minimal.evidence contest pose --contestants loop predictor --labels 100 --seeds 0 --strengths 1 --pictures 8"]
    with pytest.raises(ValueError):
        R.behind(tables, "pose", "colours")


def test_everything_comes_in_an_order_in_which_each_finds_what_it_needs(tmp_path):
    """Walked in an empty folder of runs: what is trained, tuned and measured was trained before."""
    finished, parsed = set(), [commands().parse_args(shlex.split(line)[3:]) for line in R.everything(R.read_tables())]
    order = [each.command for each in parsed]
    assert order.index("train") < order.index("tune") < order.index("contest") < order.index("trial") and {"ablate", "ghosting"} <= set(order)
    assert max(i for i, each in enumerate(order) if each == "tune") < order.index("recipes"), "which are measured with the settings that were chosen"
    for each in parsed:
        if each.command == "train":
            for kind in each.kinds:
                for key in itertools.product(each.tasks, each.labels, each.seeds):
                    assert kind not in M.LEARNS_FROM or (M.LEARNS_FROM[kind], *key) in finished, (kind, key)
                    finished.add((kind, *key))
        elif each.command in ("tune", "contest"):
            labels = [each.tuned_with] if each.command == "tune" else each.labels
            for name in each.contestants:
                needs = [(part, *key) for part in C.CONTESTANTS[name].parts for key in itertools.product(each.tasks, labels, getattr(each, "seeds", [0]))]
                assert set(needs) <= finished, (each.command, name, set(needs) - finished)


def test_what_a_changed_head_reads_is_compared_at_the_noisiest_timestep_too():
    score = lambda name, t, value: {"ablation": name, "task": "pose", "labels": 100, "seed": 0, "timestep": t, "score": value, "parameters": 9,
                                    "scores": " ".join(f"{value + 0.01 * (i % 3):.4f}" for i in range(40)), "network": "", "version": "a"}
    tables = R.Tables(ablations=[score("head", 100, 0.8), score("head", 750, 0.8), score("below250", 100, 0.9), score("below250", 750, 0.7)])
    assert R.more_than_ours(tables, "pose")["below250"]["value"] == pytest.approx(0, abs=1e-6)
    assert R.more_than_ours(tables, "pose", 750)["below250"]["high"] == pytest.approx(-0.1, abs=1e-4) == R.more_than_ours(tables, "pose", 750)["below250"]["low"]
    said = R.ablations_said(tables, "pose")
    assert "t = 750, less our head" in said and "-0.100 (-0.100 to -0.100)" in said and R.NOT in R.ablations_said(R.Tables(), "pose")


def test_steps_that_nobody_varied_and_rows_without_a_network_are_said():
    told = R.gaps(R.Tables(HOLDS))
    assert "pose: the number of steps is the recipe's, and no other was tried: ControlNet with 10, 100, 1,000 labels." in told
    recipe = {"contestant": "controlnet", "task": "pose", "seed": 0, "steps": 400, "lr": 2e-3, "settings": "{}", "merit": 0.5}
    told = R.gaps(R.Tables(HOLDS, recipes=[recipe | {"labels": 100}]))
    assert "pose: the number of steps is the recipe's, and no other was tried: ControlNet with 10, 1,000 labels." in told
    nameless = lambda rows: [each for each in R.gaps(R.Tables(rows)) if "do not name the very network" in each]
    half = [{**each, "network": "a" if each["contestant"] == "head" else ""} for each in HOLDS]
    share = sum(not each["network"] for each in half) / len(half)
    assert nameless(half)[0].startswith(f"{share:.0%} of the rows of trained networks") and not nameless([{**each, "network": "a"} for each in HOLDS])


def test_the_figure_of_changed_heads_names_its_rows():
    tables = R.Tables(HOLDS + arm("head:short2", 100, 0.7) + arm("head:mirrored", 100, 0.7) + arm("loop", 100, 0.8))
    assert {row["contestant"] for row in R.behind(tables, "pose", "parts")} == {"head:short2", "head:mirrored"}
    assert "ablate pose --ablations short2 mirrored" in R.again(tables, "pose", "parts")


def test_few_pairs_are_moved_by_students_t():
    """Of sixteen differences: mean 0, spread 1, so the ends are 2.131 errors of the mean away."""
    apart = torch.arange(16).float() - 7.5
    apart = (apart / apart.std())[None]
    found = T.few_pairs(apart + 1, torch.ones(1, 16))
    assert (found["n"], found["less"], found["more"]) == (16, 8, 8) and found["value"] == pytest.approx(0, abs=1e-6)
    assert -found["low"] == pytest.approx(2.131 / 4, rel=0.1) == found["high"]


def test_a_report_of_a_folder(tmp_path, capsys):
    write_rows(tmp_path / "contest.csv", HOLDS, C.KINDS_OF)
    write_rows(tmp_path / "training.csv", [cost("head"), cost("controlnet")], R.COSTS)
    tables = R.read_tables(str(tmp_path))
    assert tables.contest == HOLDS and tables.training[0]["parameters"] == 1000
    main(["report", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert R.sentence(R.answer(tables, "pose")) in printed and "Not tried at all" in printed
    write_rows(tmp_path / "tune.csv", [row(version="b")], C.KINDS_OF)
    with pytest.raises(ValueError, match="several models"):
        R.read_tables(str(tmp_path))
    (tmp_path / "tune.csv").unlink()
    recipe = {**dict.fromkeys(recipes.KINDS_OF, 0), "contestant": "adapter", "task": "pose", "settings": "{}", "version": "b"}
    write_rows(tmp_path / "recipes.csv", [recipe], recipes.KINDS_OF)
    with pytest.raises(ValueError, match="several models"):
        R.read_tables(str(tmp_path))
    (tmp_path / "recipes.csv").unlink()
    scored = {**dict.fromkeys(A.KINDS_OF, 0), "ablation": "head", "task": "pose", "scores": "", "network": "", "version": "b"}
    write_rows(tmp_path / "ablations.csv", [scored], A.KINDS_OF)
    with pytest.raises(ValueError, match="several models"):
        R.read_tables(str(tmp_path))
    (tmp_path / "ablations.csv").unlink()
    for name, version in (("trial", "a"), ("ghosting", "b")):
        write_rows(tmp_path / f"{name}.csv", [{**dict.fromkeys(trial.KINDS_OF, 0), "answer": "exact", "kind": "wrist", "settings": "{}", "version": version}], trial.KINDS_OF)
    with pytest.raises(ValueError, match="several models"):
        R.read_tables(str(tmp_path))


def test_labels_that_nobody_planned_are_counted_as_well():
    tables = R.Tables(HOLDS + arm("head", 50, 0.7))
    first, *rest = R.coverage(tables).split("\n")
    assert first.split()[3:-2] == ["10", "30", "50", "100", "300", "1,000", "10,000"]
    head, = (line for line in rest if line.startswith("pose, our head"))
    assert head.split()[5] == "1" and any("our head with" in each and "50" in each and "fewer than" in each for each in R.gaps(tables))


def test_numbers_of_labels_in_words():
    assert [R.amount(value, [10, 1000]) for value in (0, math.inf, 123.4, 9876.0)] == ["10 or fewer", "more than 1,000", "120", "9,900"]


@pytest.mark.parametrize("call, says", [
    (lambda: plots.trade({}, "a", {"whole": "b"}), "at least one contestant"), (lambda: plots.differences({}, "a"), "at least one"),
    (lambda: plots.score_panels({}, "a"), "at least one part")])
def test_empty_figures_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_what_notebook_a4_and_the_readme_say_of_the_tables():
    """Sentences that no cell prints, held by the rows that they are about."""
    tables = R.read_tables()
    several = {(rival, at): R.answer(tables, "pose", rival, at)["gap"] for rival in B.KINDS for at in B.LABELS}
    for (rival, at), gap in several.items():
        if rival == "controlnet":
            assert gap["low"] < 0 < gap["high"], f"of ControlNet no number tells the two apart, nor does {at}"
        assert rival == "controlnet" or gap["value"] < 0.03, f"the adapter is no more than a little behind, with {at}"
    assert {(rival, at) for (rival, at), gap in several.items() if gap["seeds"] > 2} == set(itertools.product(B.KINDS, B.LABELS)), "three trainings of each"
    rival = {(each["pair"], each["labels"]): each for each in R.rivals(tables, "pose")}
    assert all(-0.025 < rival["controlnet", labels]["control"]["value"] < -0.005 for labels in (10, 30)), "a hundredth or two"
    assert all(-0.01 < rival["controlnet", labels]["control"]["value"] < 0 for labels in (100, 300, 1000, 10_000)), "by less than one with more"
    head = {labels: R.pick(tables.contest, task="pose", contestant="head", labels=labels, strength=1.0) for labels in B.LABELS}
    missed = 1 - sum(row["control"] for row in head[10]) / len(head[10])
    assert rival["controlnet", 10]["control"]["low"] < -missed and rival["controlnet", 10]["control"]["high"] > 0, "twice as many joints, or fewer"
    assert rival["controlnet", 10]["merit"]["high"] < 0, "of all three together ten labels are worth more in a head"
    assert all(each["merit"]["low"] < 0 < each["merit"]["high"] for (name, labels), each in rival.items() if name in B.KINDS and labels > 10), "from thirty on nobody is ahead"
    assert rival["adapter", 30]["control"]["high"] < 0
    assert all(rival["adapter", labels]["control"]["low"] < 0 < rival["adapter", labels]["control"]["high"] for labels in (100, 300, 1000, 10_000)), "no longer, nor ahead"
    assert rival["adapter", 10_000]["control"]["value"] == pytest.approx(0.005, abs=0.001), "by half a hundredth with ten thousand"
    at_ten = R.pick(tables.tune, task="pose", labels=10)
    by_scale = lambda name, number: {scale: sum(row[number] for row in rows) / len(rows) for scale in (0.75, 1.5, 2.5) if (rows := [
        row for row in R.pick(at_ten, contestant=name) if json.loads(row["settings"])["scale"] == scale])}
    lost, broken = by_scale("controlnet", "attributes"), by_scale("adapter", "whole")
    assert lost[1.5] < lost[0.75] - 0.04 and broken[2.5] < 0.5 < 0.9 < broken[0.75], "pushed hard a network of ten labels repeats what it knows by heart"
    scale = lambda name, labels: C.chosen(tables.tune, name, "pose", labels)["scale"]
    assert scale("controlnet", 10) == min(json.loads(row["settings"])["scale"] for row in R.pick(at_ten, contestant="controlnet"))
    assert scale("adapter", 10) < scale("adapter", 1000), "so tuning with ten labels pushes gently"
    assert all(-0.03 < each["attributes"]["value"] for (name, _), each in rival.items() if name in B.KINDS), "and then few attributes are lost"
    assert all(sum(row["attributes"] for row in rows) / len(rows) > 0.99 for rows in head.values()), "a head loses none to speak of"
    short, long = (R.pick(tables.recipes, task="pose", contestant="controlnet", labels=30, steps=steps, lr=2e-3)[0] for steps in (200, 400))
    assert short["loss"] < long["loss"] and short["control"] < long["control"] - 0.02, "less loss after two hundred steps, nearer after four hundred"
    for name, steps in (("controlnet", {10: 400, 30: 400}), ("adapter", {10: 100, 30: 200})):
        for labels, usual in steps.items():
            tried = R.pick(tables.recipes, task="pose", contestant=name, labels=labels)
            assert max(tried, key=lambda each: each["merit"])["steps"] == usual == B.usual_steps(labels, B.BaselineRecipe(name, "pose")), "the best was taken"
    costs, depth, edges = ({each["contestant"]: each for each in R.costs(tables, task)} for task in ("pose", "depth", "edges"))
    assert costs["head"]["seconds"] / costs["controlnet"]["seconds"] == pytest.approx(1.1, abs=0.15), "about as long"
    assert all(each["head"]["seconds"] / each["controlnet"]["seconds"] == pytest.approx(1.55, abs=0.15) for each in (depth, edges)), "half as long again"
    assert all(each["adapter"]["seconds"] < each["head"]["seconds"] for each in (costs, depth, edges)), "the adapter costs less"
    assert costs["controlnet"]["parameters"] / costs["head"]["parameters"] == pytest.approx(10, abs=0.5)
    assert costs["head"]["passes"] / costs["controlnet"]["passes"] == pytest.approx(1.5, abs=0.05)
    assert costs["linear"]["parameters"] < costs["head"]["parameters"] / 200
    rivals = {each["pair"]: each for each in R.rivals(tables, "pose") if each["labels"] == 100}
    assert -0.05 < rivals["linear"]["control"]["low"] < rivals["linear"]["control"]["high"] < 0, "one layer is measurably behind, by a few hundredths"
    assert rivals["detector"]["control"]["high"] < 0 and rivals["detector"]["whole"]["high"] < 0, "the detector controls less and breaks puppets"
    ghost = R.ghosting(tables)["anti-ghosting 0"]
    assert ghost["judge"]["low"] < 0 < ghost["judge"]["high"] and ghost["judge"]["median"] < -0.24 and ghost["whole"]["value"] >= 0, "undecided"
    rows = {(row["answer"], row["picture"]): row["judge"] for row in tables.ghosting}
    gains = sorted(rows["anti-ghosting 0", picture] - rows["anti-ghosting 0.3", picture] for name, picture in rows if name == "anti-ghosting 0")
    assert gains[1] < -4 < -1 < gains[2], "two of them by four pixels"
    for at in (10, 30, 100):
        depth = R.answer(tables, "depth", "controlnet", at)
        assert depth["verdict"] == "fails" and depth["gap"]["high"] < 0, "for depth ControlNet is nearer with any number"
        assert depth["gap"]["seeds"] == (3 if at == 100 else 1)
    assert R.answer(tables, "depth", "adapter")["gap"]["high"] < 0, "and the adapter with a hundred"
    assert R.answer(tables, "edges")["verdict"] == "fails" and R.answer(tables, "edges")["gap"]["high"] < 0, "for edges ControlNet is nearer as well"
    behind = R.answer(tables, "edges", "adapter")["gap"]
    assert -0.001 < behind["low"] < 0 < 0.005 < behind["value"], "and the head all but measurably nearer than the adapter"
    assert {R.answer(tables, task, kind)["gap"]["seeds"] for task in ("depth", "edges") for kind in B.KINDS} == {3}, "with a hundred there are three"
    rates = {(row["contestant"], row["task"], row["labels"]) for row in tables.recipes if row["lr"] != B.BaselineRecipe.lr}
    assert rates == {("adapter", "pose", 10), ("adapter", "pose", 100), ("controlnet", "pose", 100)}, "other learning rates were tried for these alone"
    for labels, steps in ((10, 100), (100, 200)):
        merits = {row["lr"]: row["merit"] for row in R.pick(tables.recipes, contestant="adapter", labels=labels, steps=steps)}
        assert set(merits) == {1e-3, 2e-3, 4e-3} and max(merits, key=merits.get) == 2e-3, "half and twice the rate had less merit"
    merits = {row["lr"]: row["merit"] for row in R.pick(tables.recipes, contestant="controlnet", labels=100, steps=1000)}
    assert merits[4e-3] < merits[2e-3] - 0.005 and set(merits) == {1e-3, 2e-3, 4e-3} and merits[1e-3] - merits[2e-3] == pytest.approx(0.005, abs=0.001)
    usual, longer = (R.pick(tables.recipes, contestant="controlnet", labels=10, steps=steps)[0] for steps in (400, 1000))
    assert longer["control"] > usual["control"] + 0.01 and longer["attributes"] < usual["attributes"] - 0.01 and longer["merit"] < usual["merit"], "no better"
    more = R.more_than_ours(tables, "pose")
    assert len(more) == 20 and {(each["n"], each["seeds"]) for each in more.values()} == {(64, 1)}, "each with an interval"
    scores = {(row["ablation"], row["timestep"]): row for row in tables.ablations}
    assert all(scores["equal_mixing", t]["scores"] == scores["head", t]["scores"] for _, t in scores), "the very same share of joints in every picture"
    assert all(0.94 < each < 1.08 for each in load_head("data/heads/pose").mixing_weights.tolist()), "the weights that are learned hardly leave 1"
    noisiest = R.more_than_ours(tables, "pose", 750)
    assert -0.02 < noisiest["below250"]["value"] < -0.005 and noisiest["below250"]["high"] < 0, "a hundredth at the noisiest, measurably for the quarter"
    assert -0.02 < noisiest["below500"]["value"] < -0.005 and 0 < noisiest["below500"]["high"] < 0.005, "all but measurably for the half"
    undecided = ("without_timestep", "mirrored", "layer3", "last3", "width256", "below250", "below500", "short4")
    assert all(-0.009 < more[name]["low"] <= 0 <= more[name]["high"] < 0.009 for name in undecided), "as much, to within a hundredth"
    assert all(-0.005 < more[name]["low"] and more[name]["high"] < 0.005 for name in ("without_timestep", "mirrored")), "to within half a hundredth"
    assert all(each["high"] < 0 for name, each in more.items() if name not in (*undecided, "equal_mixing")), "the others read measurably less"
    assert max(more[f"layer{i}"]["high"] for i in (0, 1, 5)) < -0.07 and more["layer3"]["value"] == max(more[f"layer{i}"]["value"] for i in range(6))
    assert all(scores["plain_loss", t]["score"] < scores["head", t]["score"] for _, t in scores), "without the balanced loss it reads less at every timestep"
    assert -0.007 < more["above500"]["value"] < -0.003, "half a hundredth"
    assert more["several"]["high"] < -0.05, "which reads poses less well"
    strong = R.trade(tables, "pose")
    one, two = ({each["strength"]: each for each in strong["controlnet"]}[strength] for strength in (1.0, 2.0))
    assert abs(two["control"]["value"] - one["control"]["value"]) < 0.005 and two["attributes"]["high"] < one["attributes"]["low"] and two["farther"]["low"] > 0
    ours = {each["strength"]: each for each in strong["head"]}
    assert ours[2.0]["control"]["value"] > ours[1.0]["control"]["value"] and ours[2.0]["attributes"]["value"] > 0.99
    assert all(each["farther"] is None or each["farther"]["low"] < 0 for name, part in strong.items() for each in part
               if (name, each["strength"]) != ("controlnet", 2.0)), "no other strength is measurably farther from renderings"
    ideas = {each["pair"]: each for each in R.ideas(tables, "pose")}
    assert ideas["loop"]["control"]["low"] < 0 < ideas["loop"]["control"]["high"] and ideas["loop"]["time"] > 1.3, "the loop costs more and comes as near"
    short, shorter, several = (ideas[f"head:{name}"] for name in ("short4", "short3", "several"))
    assert -0.01 < short["control"]["low"] < 0 < short["control"]["high"] < 0.01 and shorter["time"] < short["time"] < 0.9 and shorter["control"]["high"] < 0
    assert several["control"]["low"] < 0 < several["control"]["high"] and several["time"] == pytest.approx(1, abs=0.05)
    assert ideas["predictor"]["control"]["high"] < -0.3 and ideas["predictor"]["passes"] > 0.9, "the predicted direction controls far less"
    told = {(each["metric"], each["answer"]): each for each in trial.summarize(tables.trial)}
    anywhere, near = (trial.ranked(tables.trial, metric) for metric in ("anywhere", "near"))
    assert told["anywhere", "nothing"]["more_high"] < 0 and anywhere["low"] < 0.5 < anywhere["high"], "smaller on average, and undecided case by case"
    assert told["near", "nothing"]["more_low"] > 0 and near["value"] == pytest.approx(0.8, abs=0.03), "the near one: four times in five"
    pairs = {(each["pair"], each["against"]): each for each in R.together(tables, "pose")}
    assert len(pairs) == 4 and all(each["control"]["low"] > 0 for key, each in pairs.items() if key != ("adapter+head", "adapter"))
    assert -0.002 < pairs["adapter+head", "adapter"]["control"]["low"] <= 0.001, "all but measurably nearer"
    assert all(each["attributes"]["high"] < 0.001 and each["attributes"]["value"] < -0.01 for each in pairs.values()), "at the price of some attributes"
