"""Labels of your own: what is written and read back trains the same head, bit for bit; what cannot be used is named.

The bad inputs are in `tests/inputs/own_labels.py`.
"""
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import rg_minimal
from rg_minimal import train as T
from rg_minimal.keypoints import keypoint_loss, keypoint_objective, keypoint_score, match_points, read_joints
from rg_minimal.label_files import Shot, as_label_map, open_map
from rg_minimal.labels import Frame, Labelled, from_dataset, open_dataset, read_labels, triplet_loss
from rg_minimal.puppets import heads as H
from rg_minimal.puppets import render, sample_scenes
from rg_minimal.puppets.export import export_puppets
from rg_minimal.saving import train_head
from tiny import tiny_pipe

ROOT = Path(__file__).resolve().parent.parent
COUNT, STEPS, BATCH, SEED = 8, 2, 2, 7


@pytest.fixture(scope="module")
def pipe():
    return rg_minimal.load_pipeline(ROOT / "data" / "puppet-diffusion", device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of puppets for each kind."""
    place = tmp_path_factory.mktemp("puppets")
    return {kind: export_puppets(kind, place / kind, 5 if kind == "triplets" else COUNT, SEED)
            for kind in ("keypoints", "map", "lines", "points", "triplets")}


def quantised(pictures, most=255):
    return (pictures * most).round() / most


def weights(head):
    return {name: tensor.clone() for name, tensor in head.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def from_files(pipe, data):
    head = data.new_head(pipe)
    batches = data.batches(pipe, BATCH)
    rate = lambda done: 1e-3 * (0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done, dtype=torch.float64)).item()))
    for _ in train_head(head, pipe, batches, STEPS, data.loss, rate, latents=True):
        pass
    return weights(head)


def in_memory(pipe, name, samples):
    """The recipe of the shipped heads on pictures of 8 bits that never were files."""
    def made(count, seed):
        pictures, truth = samples(count, seed)
        return tuple(quantised(each) for each in pictures), truth
    task = replace(H.TASKS[name], samples=made, count=COUNT)
    head = H.new_head(pipe, task)
    for _ in H.train_task(pipe, task, H.collect(pipe, task, seed=SEED), head, steps=STEPS, batch=BATCH, lr=1e-3):
        pass
    return weights(head)


def depth_samples(count, seed):
    frames = render(sample_scenes(count, seed))
    return (frames.image,), (H.depth_target(quantised(frames.depth, 65535)),)


@pytest.mark.parametrize("kind, task, samples", [
    ("keypoints", "pose", H.TASKS["pose"].samples), ("map", "depth", depth_samples), ("points", "correspondence", H.TASKS["correspondence"].samples)])
def test_a_head_trained_from_files_is_the_one_trained_in_memory(pipe, made, kind, task, samples):
    data = read_labels(kind, pipe, *map(str, made[kind]))
    assert len(data) == COUNT and not data.left_out
    assert same(from_files(pipe, data), in_memory(pipe, task, samples))


def test_hidden_joints_are_labelled(made):
    """COCO's visibility 1: behind something, and known all the same."""
    told = {number for each in json.loads(made["keypoints"][1].read_text())["annotations"] for number in each["keypoints"][2::3]}
    assert told == {1, 2}
    assert read_labels("keypoints", tiny_pipe(), *map(str, made["keypoints"])).truth[1].all()


def test_lines_from_files_train_as_in_memory(pipe, made):
    data = read_labels("lines", pipe, *map(str, made["lines"]))
    frames = render(sample_scenes(COUNT, SEED))
    lines = (torch.nn.functional.adaptive_max_pool2d(frames.edges.float(), 32) >= 0.5).float() * 2 - 1
    draw = H.draw_batches(H.Samples((rg_minimal.encode(pipe, quantised(frames.image)),), (lines,)), BATCH)
    head = data.new_head(pipe)
    for _ in train_head(head, pipe, draw, STEPS, partial(rg_minimal.spatial_loss, background=-1.0), latents=True):
        pass
    again = data.new_head(pipe)
    for _ in train_head(again, pipe, data.batches(pipe, BATCH), STEPS, data.loss, latents=True):
        pass
    assert same(weights(head), weights(again)) and data.loss.keywords == {"background": -1.0}


def test_triplets_from_folders_train_as_in_memory(pipe, made):
    data = read_labels("triplets", pipe, str(made["triplets"][0]))
    scenes = [H.sample_looks(SEED + i) for i in range(5)]
    pictures = torch.cat([quantised(render([scene]).image) for each in scenes for scene in each])       # two of each identity
    latents = torch.cat([rg_minimal.encode(pipe, part) for part in pictures.split(8)])

    def draw(step):
        rng = torch.Generator().manual_seed(step)
        pick = lambda end: int(torch.randint(end, (), generator=rng))
        rows = []
        for _ in range(BATCH):
            same = pick(10)
            other = (same + 1 + pick(9)) % 10
            first = pick(2)
            rows.append((2 * same + first, 2 * same + (first + 1 + pick(1)) % 2, 2 * other + pick(2)))
        return tuple(latents[list(column)] for column in zip(*rows)),
    head, again = data.new_head(pipe), data.new_head(pipe)
    for one, batches, loss in ((head, draw, triplet_loss), (again, data.batches(pipe, BATCH), data.loss)):
        for _ in train_head(one, pipe, batches, STEPS, loss, latents=True):
            pass
    assert same(weights(head), weights(again))


def test_a_data_set_trains_as_its_files(pipe, made, tmp_path):
    import datasets
    pictures, labels = made["keypoints"]
    told = json.loads(labels.read_text())
    rows = {"image": [str(pictures / each["file_name"]) for each in told["images"]], "spots": [each["keypoints"] for each in told["annotations"]]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "set"))
    columns = {"picture": "image", "keypoints": "spots"}
    data = from_dataset("keypoints", pipe, open_dataset(tmp_path / "set"), columns, names=told["categories"][0]["keypoints"])
    T.main(["--kind", "keypoints", "--dataset", str(tmp_path / "set"), "--columns", "picture=image", "keypoints=spots", "--names",
            *data.names, "--model", str(ROOT / "data" / "puppet-diffusion"), "--output", str(tmp_path / "head"), "--steps", "1", "--batch", "2"])
    assert rg_minimal.load_head(tmp_path / "head", pipe).config.extra["keypoints"] == list(data.names)
    files = read_labels("keypoints", pipe, str(pictures), str(labels))
    assert data.names == files.names and all(torch.equal(a, b) for a, b in zip(data.truth, files.truth))
    assert torch.equal(data.encode(pipe), files.encode(pipe))


def test_data_sets_of_every_kind_say_what_files_say(made):
    """Rows of dicts, as data sets give them."""
    pipe, array = tiny_pipe(), lambda path: numpy.asarray(Image.open(path))
    pictures, labels = made["map"]
    rows = [{"picture": array(path), "map": Image.open(labels / path.name)} for path in sorted(pictures.iterdir())]
    told, files = from_dataset("map", pipe, rows), read_labels("map", pipe, str(pictures), str(labels))
    assert torch.equal(told.truth[0], files.truth[0]) and torch.equal(told.encode(pipe), files.encode(pipe))
    files = read_labels("points", pipe, *map(str, made["points"]), fit="stretch")
    back = [each * 4 for each in files.truth]                                           # 32 pixels stand for 128
    rows = [{"picture_a": array(made["points"][0] / f"{i:05}a.png"), "picture_b": array(made["points"][0] / f"{i:05}b.png"),
             "points_a": back[0][i].tolist(), "points_b": back[1][i].tolist()} for i in range(COUNT)]
    told = from_dataset("points", pipe, rows)
    assert all(torch.allclose(a, b) for a, b in zip(told.truth, files.truth)) and len(told.shots) == 2 * COUNT
    files = read_labels("triplets", pipe, str(made["triplets"][0]))
    rows = [{"picture": array(shot.held), "identity": files.names[i]} for shot, i in zip(files.shots, files.truth[0].tolist())]
    told = from_dataset("triplets", pipe, rows)
    assert told.names == files.names and torch.equal(told.truth[0], files.truth[0])


# ---- what becomes of pictures and labels -------------------------------------------------------------------------------

def write_coco(folder, sizes, keypoints, **changes):
    (folder / "pictures").mkdir(parents=True)
    for i, (width, height) in enumerate(sizes):
        Image.fromarray(numpy.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=numpy.uint8)).save(folder / "pictures" / f"{i}.png")
    told = {"images": [{"id": i, "file_name": f"{i}.png"} for i in range(len(sizes))],
            "annotations": [{"image_id": i, "category_id": 1, "keypoints": points} for i, points in enumerate(keypoints)],
            "categories": [{"id": 1, "name": "x", "keypoints": ["a", "b"]}], **changes}
    (folder / "labels.json").write_text(json.dumps(told))
    return str(folder / "pictures"), str(folder / "labels.json")


def test_points_go_along_when_a_picture_is_cut_or_stretched(tmp_path):
    place = write_coco(tmp_path, [(96, 64)], [[16 + 10, 20, 2, 2, 30, 2]])
    cut = read_labels("keypoints", tiny_pipe(), *place)
    assert torch.equal(cut.truth[0][0, 0], torch.tensor([5.0, 10.0])) and cut.truth[1].tolist() == [[True, False]]
    assert "1 cut off" in str(cut.notes[0])
    stretched = read_labels("keypoints", tiny_pipe(), *place, fit="stretch")
    assert torch.allclose(stretched.truth[0], torch.tensor([[[26 / 3, 10.0], [2 / 3, 15.0]]])) and stretched.truth[1].all()
    assert cut.frame.picture(cut.shots[0].picture()).shape == (1, 3, 32, 32)


def test_a_bright_spot_stays_under_its_keypoint(tmp_path):
    """A picture whose only light is at the keypoint, cut and made smaller: it is still there."""
    (tmp_path / "pictures").mkdir()
    picture = numpy.zeros((96, 160, 3), numpy.uint8)
    picture[60:66, 90:96] = 255
    Image.fromarray(picture).save(tmp_path / "pictures" / "0.png")
    told = {"images": [{"id": 0, "file_name": "0.png", "width": 160, "height": 96}], "categories": [{"id": 1, "name": "x", "keypoints": ["a"]}],
            "annotations": [{"image_id": 0, "category_id": 1, "keypoints": [93, 63, 2]}]}
    (tmp_path / "labels.json").write_text(json.dumps(told))
    for fit in ("crop", "stretch"):
        data = read_labels("keypoints", tiny_pipe(), str(tmp_path / "pictures"), str(tmp_path / "labels.json"), fit=fit)
        light = data.frame.picture(data.shots[0].picture()).mean(1)[0]
        centre = torch.stack((light.sum(0) @ (torch.arange(32) + 0.5), light.sum(1) @ (torch.arange(32) + 0.5))) / light.sum()
        assert (centre - data.truth[0][0, 0]).norm() < 0.3, fit


def test_unlabelled_keypoints_do_not_count():
    readout, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    labelled = torch.tensor([[True, False, True], [False, False, True]])
    other = torch.where(labelled[..., None, None], target, torch.rand(2, 3, 8, 8))
    assert torch.equal(keypoint_loss(readout, target, labelled), keypoint_loss(readout, other, labelled))
    assert not torch.equal(keypoint_loss(readout, target), keypoint_loss(readout, other))
    full = torch.ones_like(labelled)
    assert torch.equal(keypoint_loss(readout, target, full), H.pose_loss(readout, target))


def test_a_score_of_keypoints_by_hand():
    points = torch.tensor([[[8.0, 8], [24, 24], [4, 28]], [[20.0, 20], [16, 16], [16, 16]]])
    labelled = torch.tensor([[True, True, False], [True, False, False]])
    maps = H.heatmaps(points, 32, 32)
    maps[:, 2] = 0                                                                       # unlabelled, and read somewhere
    assert keypoint_score(maps, points, labelled, 32).tolist() == [1, 1]
    moved = points.clone()
    moved[0, 0, 0] += 1.2                                                               # 5 % of a box of 16 is 0.8 pixels
    moved[1, 0, 0] += 1.2                                                               # 5 % of a picture of 32 is 1.6
    assert keypoint_score(maps, moved, labelled, 32).tolist() == [0.5, 1]


def test_the_largest_of_several_people_counts(tmp_path):
    people = [[2, 2, 2, 6, 6, 2], [8, 8, 2, 24, 28, 2], [1, 1, 2, 3, 9, 2]]
    both = [{"image_id": 0, "category_id": 1, "keypoints": points} for points in people]
    place = write_coco(tmp_path, [(32, 32)], people[:1], annotations=both)
    data = read_labels("keypoints", tiny_pipe(), *place)
    assert data.truth[0][0].tolist() == [[8, 8], [24, 28]] and "3 are annotated" in str(data.notes[0])
    both[2]["area"] = 1e6
    Path(place[1]).write_text(Path(place[1]).read_text().replace('[1, 1, 2, 3, 9, 2]}', '[1, 1, 2, 3, 9, 2], "area": 1e6}'))
    assert read_labels("keypoints", tiny_pipe(), *place).truth[0][0].tolist() == [[1, 1], [3, 9]]


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "npy", "npy channels", "uint16"])
def test_maps_of_every_number_format_hold_what_was_drawn(mode, tmp_path):
    drawn = numpy.zeros((16, 16), numpy.float32)
    drawn[4:9, 2:7] = 1
    path = tmp_path / "a.png"
    if mode.startswith("npy") or mode == "uint16":
        path = path.with_suffix(".npy")
        numpy.save(path, drawn[..., None] if "channels" in mode else (drawn * 65535).astype(numpy.uint16) if mode == "uint16" else drawn)
    elif mode == "I;16":
        Image.fromarray((drawn * 65535).astype(numpy.uint16)).save(path)
    else:
        Image.fromarray((drawn * 255).astype(numpy.uint8)).convert(mode).save(path)
    wanted = torch.from_numpy(drawn)[None, None]
    assert torch.equal(as_label_map(open_map(path)), wanted.expand(-1, 3, -1, -1) if mode == "RGB" else wanted)


def noise(i, *shape):
    return numpy.random.default_rng(i).integers(0, 255, (*shape, 3), dtype=numpy.uint8)


def test_grey_maps_in_colours_are_grey_and_black_ones_among_coloured_are_coloured(pipe):
    """The first of them decides nothing."""
    picture, black = torch.rand(6, 3, 128, 128).unbind(), Image.new("RGB", (64, 64))
    grey = Image.fromarray(noise(0, 64, 64)[..., :1].repeat(3, -1))
    rows = lambda *maps: [dict(picture=picture[i], map=each) for i, each in enumerate(maps)]
    of = lambda maps, kind="map": from_dataset(kind, pipe, rows(*maps))
    assert of([grey, black]).truth[0].shape == (2, 1, 32, 32) == of([grey, black], "lines").truth[0].shape
    coloured = of([black, Image.fromarray(noise(1, 64, 64)), grey])
    assert coloured.truth[0].shape == (3, 3, 32, 32) and coloured.new_head(pipe).config.out_channels == 3
    with pytest.raises(ValueError, match="row 2, map: has 1 channels where the others have 3"):
        of([black, Image.fromarray(noise(1, 64, 64)), grey.convert("L")])
    with pytest.raises(ValueError, match="row 0, map: has 3 channels where lines have 1"):
        of([Image.fromarray(noise(1, 64, 64))], "lines")


def test_maps_that_are_tensors_have_channels_first(pipe):
    array = torch.rand(64, 48, 2, generator=torch.Generator().manual_seed(0))
    for value in (array.movedim(-1, 0), array.movedim(-1, 0)[None]):
        assert torch.equal(as_label_map(value), as_label_map(array.numpy()))
    assert torch.equal(as_label_map(array[..., 0]), as_label_map(array.numpy()[..., :1]))
    assert torch.allclose(as_label_map((array * 255).byte()[..., 0]), array[..., 0], atol=1 / 255)
    assert as_label_map(array[..., 0].bfloat16()).dtype == torch.float32
    for wrong in (array * 255, array * torch.nan, array - 0.5, torch.rand(65, 8, 8)):
        with pytest.raises(ValueError):
            as_label_map(wrong)
    with pytest.raises(ValueError, match=r"row 0, map: has values in .* scale it"):
        from_dataset("map", pipe, [dict(picture=torch.rand(3, 128, 128), map=torch.rand(1, 1, 64, 64) * 255)])


@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_images_of_numbers_without_a_scale_are_taken_as_arrays_are(kind):
    """One file's largest number says nothing of how the others are to be read."""
    array = (numpy.arange(64).reshape(8, 8) % 2).astype(kind)
    assert torch.equal(as_label_map(Image.fromarray(array)), as_label_map(array)) and as_label_map(array).max() == 1
    for most in (9, 250, 300):
        with pytest.raises(ValueError, match="scale it"):
            as_label_map(Image.fromarray(array * numpy.asarray(most, kind)))


def test_a_map_with_a_transparent_colour_is_refused(tmp_path):
    Image.fromarray(noise(0, 8, 8)[..., 0]).save(tmp_path / "a.png", transparency=0)
    with pytest.raises(ValueError, match="has a colour that is transparent"):
        as_label_map(open_map(tmp_path / "a.png"))


def test_a_map_in_colours_has_three_channels():
    array = numpy.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=numpy.uint8)
    assert torch.allclose(as_label_map(Image.fromarray(array)), torch.from_numpy(array / 255).permute(2, 0, 1)[None].float())


@pytest.mark.parametrize("kind", ["keypoints", "map", "points", "triplets"])
def test_learned_and_held_out_have_nothing_in_common(kind, made):
    data = read_labels(kind, tiny_pipe(), *(str(each) for each in made[kind] if each))
    for seed in range(3):
        learn, held = data.split(0.3, seed)
        assert not {shot.name for shot in learn.shots} & {shot.name for shot in held.shots}
        assert len(learn) + len(held) == len(data) and len(held) >= 0.3 * len(data) and not set(learn.groups) & set(held.groups)
    assert torch.equal(data.split(0.3, 1)[0].shows, data.split(0.3, 1)[0].shows)
    assert {shot.name for shot in data.split(0.3, 1)[1].shots} != {shot.name for shot in data.split(0.3, 2)[1].shots}
    assert len(data.split(0)[1]) == 0


def test_a_group_that_is_far_larger_than_the_share_is_learned_from():
    """Of identities with twenty, two, two and two pictures no tenth is twenty."""
    groups = [0] * 20 + [1, 1, 2, 2, 3, 3]
    rows = torch.arange(len(groups))
    shots = [Shot(str(i), None) for i in rows.tolist()]
    data = Labelled("triplets", Frame(32, 16), shots, rows[:, None], (torch.tensor(groups),), groups)
    assert [len(data.split(0.1, seed)[1]) for seed in range(8)] == [4] * 8


def test_a_triplet_needs_two_pictures_of_each_identity(made):
    data = read_labels("triplets", tiny_pipe(), str(made["triplets"][0]))
    one, other = ((data.truth[0] == each).nonzero()[:, 0].tolist() for each in (0, 1))
    with pytest.raises(ValueError, match="of the identity 1 there is one picture among these samples"):
        data[[*one[:2], other[0]]].draw_triplets(2, torch.Generator().manual_seed(0))


def film(folder, pairs):
    (folder / "frames").mkdir(parents=True)
    for i in range(10):
        Image.fromarray(numpy.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=numpy.uint8)).save(folder / "frames" / f"{i}.png")
    lines = [f"{a}.png,{b}.png,{10 + j},{5 + j},{12 + j},{6 + j}" for a, b in pairs for j in range(3)]
    (folder / "points.csv").write_text("\n".join(["frame_a,frame_b,x_a,y_a,x_b,y_b", *lines]))
    return str(folder / "frames"), str(folder / "points.csv")


def test_of_one_film_the_last_frames_are_held_out_and_pairs_across_left_out(tmp_path):
    data = read_labels("points", tiny_pipe(), *film(tmp_path, [(i, i + 1) for i in range(9)]))
    learn, held = data.split(0.3)
    assert [shot.name for shot in held.shots] == ["7.png", "8.png", "9.png"] and (len(learn), len(held)) == (6, 2)
    assert data.truth[0].shape == (9, 64, 2) and data.truth[0][0, :4].tolist() == [[10, 5], [11, 6], [12, 7], [10, 5]]


def test_triplets_are_of_two_identities_and_different_pictures(made):
    data = read_labels("triplets", tiny_pipe(), str(made["triplets"][0]))
    anchor, positive, negative = data.draw_triplets(200, torch.Generator().manual_seed(0))
    who = data.truth[0]
    assert (who[anchor] == who[positive]).all() and (who[anchor] != who[negative]).all() and (anchor != positive).all()
    assert len(set(anchor.tolist())) == 20 and len(set(negative.tolist())) == 20


def picture(number):
    return torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(number))


def plain(pipe, count=6, kind="map", **changes):
    return from_dataset(kind, pipe, [dict(picture=picture(i), map=torch.rand(64, 64).numpy(), **changes) for i in range(count)])


def test_latents_are_those_of_the_samples_that_are_learned_from(pipe):
    data = plain(pipe)
    latents, (learn, _) = data.encode(pipe), data.split(0.5)
    with pytest.raises(ValueError, match="those of 6 pictures, but these samples show 3; encode what is learned from, after the split"):
        learn.batches(pipe, 2, latents=latents)
    own, again = learn.batches(pipe, 2, latents=learn.encode(pipe))(0)[0][0], learn.batches(pipe, 2)(0)[0][0]
    assert torch.equal(own, again)
    for wrong in ([True, False, False, True], [0, 9], [-1], [0.5], 0, slice(0, 2), "01"):
        with pytest.raises(ValueError, match="index"):
            data[wrong]


def test_a_single_data_set_has_no_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"a": 1}]).save_to_disk(tmp_path / "set")
    assert len(open_dataset(tmp_path / "set")) == 1
    for split in ("test", "train[:2]"):
        with pytest.raises(ValueError, match="is a single data set without splits; leave split out"):
            open_dataset(tmp_path / "set", split=split)


def test_a_mask_of_zeros_and_ones_is_no_map_of_bytes():
    mask = numpy.eye(32, dtype=numpy.uint8)
    for wrong in (mask, mask.astype(numpy.uint16), Image.fromarray(mask)):
        with pytest.raises(ValueError, match="holds 0 and 1 as"):
            as_label_map(wrong)
    for right in (mask > 0, mask * 255, mask.astype(float), Image.fromarray(mask > 0), mask * 0):
        assert as_label_map(right).max() == float(numpy.asarray(right).max() > 0)


@pytest.mark.parametrize("kind, most, largest", [("uint8", 5, "0.02"), ("uint16", 5000, "0.076"), ("uint32", 5000, "1.2e-06"), ("uint8", 0, "0")])
def test_maps_none_of_which_is_bright_are_of_something_else(pipe, kind, most, largest):
    """Numbers of classes, and millimetres: as maps they would be black, and a head that reads black would have a splendid score."""
    dark, bright = numpy.full((32, 32), most, kind), numpy.full((32, 32), numpy.iinfo(kind).max // 2, kind)
    rows = lambda *maps: [dict(picture=noise(i, 128, 128), map=each) for i, each in enumerate(maps)]
    for maps in ((dark, dark), (torch.from_numpy(dark), dark)) + ((Image.fromarray(dark),) * 2,) * (kind != "uint32"):
        with pytest.raises(ValueError, match=f"maps: none of the 2 reaches more than {largest} of what its format can hold .* pass floats"):
            from_dataset("map", pipe, rows(*maps))
    assert len(from_dataset("map", pipe, rows(dark, bright))) == len(from_dataset("map", pipe, rows(dark / 65535, dark * 0.0))) == 2


def test_what_a_row_lacks_is_named_and_may_be_left_out(pipe):
    picture = torch.rand(3, 128, 128)
    rows = [dict(picture=1 - picture, map=numpy.zeros((64, 64))), dict(picture=picture)]
    with pytest.raises(ValueError, match="row 1, map: has no 'map'; give each row one"):
        from_dataset("map", pipe, rows)
    assert len(from_dataset("map", pipe, rows, skip_bad=True)) == 1
    assert "shows no line" in str(from_dataset("lines", pipe, [*rows, dict(picture=picture * 0.5, map=numpy.eye(64))], skip_bad=True).notes)
    with pytest.raises(ValueError, match="maps: none of the 1 shows a line, .* make the lines white"):
        from_dataset("lines", pipe, rows[:1])


def rows_of(*keypoints):
    return [dict(picture=torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)), keypoints=each) for i, each in enumerate(keypoints)]


def test_a_bad_first_row_does_not_say_how_many_keypoints_there_are():
    good = [[5.0, 9.0], [20.0, 30.0]]
    for bad in ([], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match=f"^1 of the files .*row 0: (has {len(bad)} keypoints where the others have 2|keypoints are )"):
            from_dataset("keypoints", tiny_pipe(), rows_of(bad, good, good))
        kept = from_dataset("keypoints", tiny_pipe(), rows_of(bad, good, good), skip_bad=True)
        assert len(kept) == 2 and kept.names == ("0", "1")


@pytest.mark.parametrize("kind, rows, settings, message", [
    ("keypoints", rows_of([[5.0, 9.0], [20.0, 30.0]]), {"names": "ab"}, "names is 'ab'; pass a list"),
    ("map", [dict(picture=torch.rand(3, 32, 32), map=numpy.zeros((32, 32)))], {"names": ["a"]}, "names is ..a',.; pass a list .* none for other kinds"),
    ("map", [dict(image=torch.rand(3, 32, 32))], {"columns": {"picture": "image", "map": "image"}}, "one column twice; name one for each"),
    ("map", [(torch.rand(3, 32, 32), numpy.zeros((32, 32)))], {}, "row 0 of the data set is .*pass a dict for each"),
])
def test_what_a_data_set_is_said_to_hold_makes_sense(kind, rows, settings, message):
    with pytest.raises(ValueError, match=message):
        from_dataset(kind, tiny_pipe(), rows, **settings)


def test_pictures_are_no_maps_of_themselves(made):
    pictures = str(made["map"][0])
    with pytest.raises(ValueError, match="pictures and labels are the same folder"):
        read_labels("map", tiny_pipe(), pictures, f"{pictures}/../{Path(pictures).name}")


@pytest.mark.parametrize("changes, message", [
    ({"annotations": [{"image_id": 0, "category_id": 1, "keypoints": [1, 1, 2, 3, 9, 2], "area": float("nan")}]}, "annotations.0.area"),
    ({"categories": [{"id": 1, "name": "x", "keypoints": ["a", "b"]}, {"id": 1, "name": "y"}]}, "two categories with the id 1"),
    ({"annotations": [{"image_id": 0, "category_id": 1, "keypoints": keypoints} for keypoints in ([1, 1, 2, 3, 9, 2], [1, 1, 2])]},
     "annotation 1 has 3 numbers, and 2 keypoints need 6")])
def test_what_is_wrong_in_a_coco_file_is_named(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_labels("keypoints", tiny_pipe(), *write_coco(tmp_path, [(64, 64)], [], **changes))


def test_lines_of_a_table_are_counted_as_an_editor_does(tmp_path):
    place = film(tmp_path, [(0, 1)])
    table = Path(place[1])
    table.write_text(table.read_text().replace("\n0.png", "\n\n\n0.png", 1) + "\n0.png,1.png,nan,1,2,3")
    with pytest.raises(ValueError, match="points.csv, line 7: x_a is 'nan'"):
        read_labels("points", tiny_pipe(), *place)


def test_frames_are_counted_once_while_they_are_looked_at(tmp_path):
    looked = []
    read_labels("points", tiny_pipe(), *film(tmp_path, [(0, 1), (1, 2), (2, 3)]), look=lambda *each: looked.append(each))
    assert looked == [(i, 4) for i in range(1, 5)]


@pytest.mark.parametrize("identity", [[1, 2], {"a": 1}, 0.5, None])
def test_an_identity_is_a_text_or_a_number(pipe, identity):
    with pytest.raises(ValueError, match="identity is .*pass a text or a whole number"):
        from_dataset("triplets", pipe, [dict(picture=torch.rand(3, 128, 128), identity=identity) for _ in range(4)])


@pytest.mark.parametrize("visibility", [0.01, -1, 3])
def test_a_visibility_is_one_of_three_numbers(pipe, visibility):
    row = dict(picture=torch.rand(3, 128, 128), keypoints=[[5.0, 9.0, 2], [50.0, 60.0, visibility]])
    with pytest.raises(ValueError, match="pass 0 .not labelled., 1 .hidden. or 2 .seen."):
        from_dataset("keypoints", pipe, [row], names=["a", "b"])


@pytest.mark.parametrize("point", [(float("nan"), 3.0), (-50.0, 3.0), (3.0, 900.0)])
def test_points_outside_have_no_match(point):
    features = torch.rand(1, 8, 8, 8)
    with pytest.raises(ValueError, match="outside the picture of 32 x 32 pixels, or are NaN"):
        match_points(features, features, torch.tensor([[point]]), 32)


# ---- the command -------------------------------------------------------------------------------------------------------

@pytest.fixture
def tiny(monkeypatch):
    """The command trains on the tiny model."""
    monkeypatch.setattr(T, "load_pipeline", lambda *args, **settings: tiny_pipe())


def command(made, kind, out, *more):
    labels = ["--labels", str(made[kind][1])] if made[kind][1] else []
    T.main(["--kind", kind, "--pictures", str(made[kind][0]), *labels, "--output", str(out), "--steps", "4", "--batch", "2", "--every", "2", *more])


@pytest.mark.parametrize("kind", ["keypoints", "map", "lines", "points", "triplets"])
def test_one_command_trains_scores_and_writes_a_card(kind, made, tiny, tmp_path, capsys):
    command(made, kind, tmp_path / "head", "--held-out", "0.3", "--name", "mine")
    said, card = capsys.readouterr().out, (tmp_path / "head" / "README.md").read_text()
    assert "step 4 of 4" in said and "held out" in said and sorted(path.name for path in (tmp_path / "head").iterdir()) == ["README.md", "config.json", "head.safetensors"]
    head = rg_minimal.load_head(tmp_path / "head", tiny_pipe())
    scores, = head.config.extra["scores"].values()
    assert list(scores) == ["t = 100", "t = 500"] and f"{scores['t = 100']:.4f}" in card and head.config.property == "mine"
    assert all(word in card for word in ("## Recipe", "- steps: 4", "held out", "load_head(", "## Config"))


def test_a_killed_training_goes_on_to_the_same_bits(made, tiny, tmp_path, monkeypatch):
    command(made, "keypoints", tmp_path / "whole")
    real = T.train_head

    def killed(*args, **settings):
        for state in real(*args, **settings):
            yield state
            if state.step == 3:
                raise KeyboardInterrupt
    monkeypatch.setattr(T, "train_head", killed)
    with pytest.raises(SystemExit):
        command(made, "keypoints", tmp_path / "killed")
    monkeypatch.setattr(T, "train_head", real)
    command(made, "keypoints", tmp_path / "killed")
    for name in ("head.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_another_recipe_does_not_go_on_from_a_checkpoint(made, tmp_path):
    pipe = tiny_pipe()
    data = read_labels("keypoints", pipe, *map(str, made["keypoints"]))
    marks = []
    for lr, change in ((1e-3, 0), (2e-3, 0), (1e-3, 1)):
        changed = replace(data, truth=(data.truth[0] + change, data.truth[1]))
        run = T.train_labels(changed, pipe, tmp_path / f"{len(marks)}", steps=2, batch=2, every=1, lr=lr)
        next(run)
        marks.append(next((tmp_path / f"{len(marks)}").glob("training-*")).name)
    assert len(set(marks)) == 3


def begun(folder, data, pipe, **recipe):
    run = T.train_labels(data, pipe, folder, **{"steps": 2, "batch": 2, "every": 1, "held_out": 0.0, **recipe})
    next(run)
    return run


@pytest.mark.parametrize("name", ["README.md", "config.json", "training-notes.safetensors"])
def test_what_lies_in_the_folder_is_neither_lost_nor_found_after_the_training(name, made, tmp_path):
    pipe = tiny_pipe()
    data = read_labels("keypoints", pipe, *map(str, made["keypoints"]))
    (tmp_path / name).write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=f"holds {name}, which would be lost"):
        T.train_labels(data, pipe, tmp_path, steps=1, batch=2)
    assert [path.name for path in tmp_path.iterdir()] == [name] and "bert" in (tmp_path / name).read_text()
    with pytest.raises(ValueError, match="data is 'photos'; pass what read_labels"):
        T.train_labels("photos", pipe, tmp_path / "head")


def test_a_training_that_was_not_finished_is_not_deleted_by_another(made, tmp_path):
    pipe = tiny_pipe()
    data = read_labels("keypoints", pipe, *map(str, made["keypoints"]))
    begun(tmp_path, data, pipe).close()
    checkpoint, = tmp_path.iterdir()
    with pytest.raises(ValueError, match=f"holds {checkpoint.name}, of a training with other data, another model or another recipe"):
        T.train_labels(data, pipe, tmp_path, steps=1, batch=2, held_out=0.0)
    assert checkpoint.exists()


def test_a_killed_training_goes_on_where_pictures_are_encoded_to_other_last_bits(made, tmp_path, monkeypatch):
    """As they are with another number of threads."""
    pipe = tiny_pipe()
    data = read_labels("keypoints", pipe, *map(str, made["keypoints"]))
    begun(tmp_path, data, pipe).close()
    real = Labelled.encode
    monkeypatch.setattr(Labelled, "encode", lambda self, pipe, chunk=8: real(self, pipe, chunk) * (1 + 1e-7))
    assert [state.step for state in T.train_labels(data, pipe, tmp_path, steps=2, batch=2, every=1, held_out=0.0)] == [2]


@pytest.mark.parametrize("options, message", [
    (["--kind", "map", "--category", "person"], "--category is of a COCO file"), (["--kind", "map", "--names", "nose"], "--names are of keypoints"),
    (["--kind", "map", "--columns", "picture=a", "picture=b"], "one name twice; say each once")])
def test_options_that_would_be_ignored_are_refused(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        T.main([*options, "--dataset", "none", "--output", str(tmp_path / "head")])
    assert message in capsys.readouterr().err


def test_bad_files_are_named_and_can_be_left_out(made, tiny, tmp_path, capsys):
    shutil.copytree(made["keypoints"][0].parent, tmp_path / "data")
    (tmp_path / "data" / "pictures" / "00003.png").write_bytes(b"no picture")
    (tmp_path / "data" / "pictures" / "00005.png").unlink()
    here = {"keypoints": (tmp_path / "data" / "pictures", tmp_path / "data" / "labels.json")}
    with pytest.raises(SystemExit):
        command(here, "keypoints", tmp_path / "head")
    said = capsys.readouterr().err
    assert "00003.png" in said and "00005.png" in said and "--skip-bad" in said and not (tmp_path / "head").exists()
    command(here, "keypoints", tmp_path / "head", "--skip-bad")
    said, card = capsys.readouterr().out, (tmp_path / "head" / "README.md").read_text()
    assert "6 samples of 6 pictures; 2 left out" in said
    assert all(f"left out: {name}" in said and name in card.split("## Left out")[1] for name in ("00003.png", "00005.png"))


def test_a_head_of_keypoints_guides(made, tmp_path):
    pipe = tiny_pipe()
    data = read_labels("keypoints", pipe, *map(str, made["keypoints"]))
    head = data.new_head(pipe).eval()
    objective = keypoint_objective(head, torch.full((14, 2), 12.0), 32)
    assert objective.target.shape == (1, 14, 16, 16) and read_joints(objective.target, 32)[0].allclose(torch.tensor(12.0), atol=0.2)
    pictures, _ = rg_minimal.sample(pipe, "a puppet", [objective], num_inference_steps=2)
    assert pictures.isfinite().all()
    with pytest.raises(ValueError, match="13 points a picture, but this head reads 14"):
        keypoint_objective(head, torch.full((13, 2), 12.0), 32)
    depth = H.new_head(pipe, "depth")
    with pytest.raises(ValueError, match="this head reads depth, no heatmaps of keypoints"):
        keypoint_objective(depth, torch.full((1, 2), 12.0), 32)


@pytest.mark.parametrize("names, said", [([1, 2], "names is .*pass a list of texts"), (["a", "a"], "one name twice"), (3, "names is 3")])
def test_names_of_keypoints_are_texts_each_another(names, said):
    """Found at the call: else the card fails, after the whole training."""
    row = {"picture": Image.new("RGB", (32, 32)), "keypoints": [[4, 4], [20, 20]]}
    with pytest.raises(ValueError, match=said):
        from_dataset("keypoints", tiny_pipe(), [row] * 4, names=names)


def test_what_a_card_cannot_say_is_refused_before_the_training(tmp_path):
    rows = [{"picture": Image.new("RGB", (32, 32), (i, 0, 0)), "keypoints": [[4, 4], [20, 20]]} for i in range(4)]
    data = from_dataset("keypoints", tiny_pipe(), rows, names=["a", "b"])
    with pytest.raises(ValueError, match="cannot be written"):
        T.train_labels(data, tiny_pipe(), tmp_path / "head", steps=2, batch=2, told={"a": float("nan")})


def test_a_table_of_points_with_decimal_commas_or_a_column_twice_is_not_misread(tmp_path):
    for name in ("0.png", "1.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    table = tmp_path / "points.csv"
    table.write_text("frame_a,frame_b,x_a,y_a,x_b,y_b\n0.png,1.png,10,5,12,5,14,5,16,5\n")
    with pytest.raises(ValueError, match=r"line 2.*has 10 fields for 6 columns \(a comma in a number"):
        read_labels("points", tiny_pipe(), tmp_path, table)
    table.write_text("frame_a,frame_b,x_a,y_a,x_b,y_b,x_a\n0.png,1.png,10,5,12,5,14\n")
    with pytest.raises(ValueError, match="several columns x_a"):
        read_labels("points", tiny_pipe(), tmp_path, table)


def test_puppets_are_not_written_among_others(tmp_path):
    export_puppets("keypoints", tmp_path / "a", 2)
    with pytest.raises(ValueError, match="holds labels.json, pictures/00000.png, pictures/00001.png, which would be lost"):
        export_puppets("map", tmp_path / "a", 1, seed=5)


def test_features_of_maps_of_two_sizes_are_matched_in_the_size_of_each():
    one, other = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8)
    one[:, 0], other[:, 0] = 1.0, 1.0
    one[0, :, 1, 1] = other[0, :, 6, 5] = torch.tensor([0.0, 1.0])
    assert match_points(one, other, torch.tensor([[[1.5, 1.5]]]) * 8, 32).tolist() == [[[22.0, 26.0]]]
    with pytest.raises(ValueError, match="pass features"):
        match_points(one, other[:, :1], torch.tensor([[[12.0, 12.0]]]), 32)


@pytest.mark.parametrize("kind", ["keypoints", "map"])
def test_labels_that_were_read_for_another_model_are_refused(pipe, kind, tmp_path):
    rows = [dict(picture=picture(i), map=torch.rand(64, 64).numpy(), keypoints=[[10.0, 20.0], [100.0, 60.0]]) for i in range(8)]
    data, other = from_dataset(kind, pipe, rows), tiny_pipe()
    for learn in (lambda: T.train_labels(data, other, str(tmp_path / "out"), steps=2, batch=2), lambda: data.batches(other, 2), lambda: data.encode(other)):
        with pytest.raises(ValueError, match="were read for 32 x 32 cells, but this model has 64 x 64 for 128 pixels; read them with the pipeline"):
            learn()
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="chunk"):
        data.encode(pipe, chunk=0)


def test_keypoints_that_are_not_labelled_may_be_nan(pipe):
    nan = float("nan")
    rows = [dict(picture=picture(i), keypoints=[[10.0, 20.0, 2], [nan, nan, 0]]) for i in range(3)]
    data = from_dataset("keypoints", pipe, rows)
    assert data.truth[0].isfinite().all() and data.truth[1].tolist() == [[True, False]] * 3
    with pytest.raises(ValueError, match="keypoints are"):
        from_dataset("keypoints", pipe, [dict(picture=picture(0), keypoints=[[nan, nan, 2]])] * 3)
