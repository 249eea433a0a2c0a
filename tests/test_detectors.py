"""Pseudo-labels by tiny random detectors of the true classes, from files to files that a head learns from."""
import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from transformers import (DPTConfig, DPTForDepthEstimation, DPTImageProcessor, VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation,
                          VitPoseImageProcessor)

from rg_minimal.detectors import depth_maps, main, pose_keypoints
from rg_minimal.labels import read_labels
from tiny import tiny_pipe

NAMES = ("nose", "left_wrist", "right_wrist")


def shaken(network):
    """With large weights and a bias, so that what comes out is neither flat nor below zero everywhere."""
    for name, weight in network.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(weight, mean=0.2 if name.endswith("bias") else 0.0, std=0.05)
    return network


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(numpy.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=numpy.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


@pytest.fixture
def depth_model(tmp_path):
    torch.manual_seed(0)
    config = DPTConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
                       backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8)
    shaken(DPTForDepthEstimation(config)).save_pretrained(tmp_path / "dpt")
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dpt")
    return tmp_path / "dpt"


@pytest.fixture
def pose_model(tmp_path):
    torch.manual_seed(0)
    backbone = VitPoseBackboneConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=[32, 24], patch_size=[8, 8], out_indices=[2],
                                     out_features=["stage2"])
    names = dict(enumerate(NAMES))
    config = VitPoseConfig(backbone_config=backbone, use_pretrained_backbone=False, id2label=names, label2id={name: i for i, name in names.items()})
    shaken(VitPoseForPoseEstimation(config)).save_pretrained(tmp_path / "vitpose")
    VitPoseImageProcessor(size={"height": 32, "width": 24}).save_pretrained(tmp_path / "vitpose")
    return tmp_path / "vitpose"


def test_depth_by_a_detector_is_a_training_set(pictures, depth_model, tmp_path):
    place = depth_maps(str(pictures), str(tmp_path / "depth"), str(depth_model))
    found = [numpy.asarray(Image.open(place / f"{i}.png")) for i in range(3)]
    assert all(each.shape == (40, 48) and each.min() == 0 and each.max() == 65535 for each in found)
    data = read_labels("map", tiny_pipe(), str(pictures), str(place))
    assert data.truth[0].shape == (3, 1, 16, 16)


def test_keypoints_by_a_detector_are_a_training_set(pictures, pose_model, tmp_path):
    place = pose_keypoints(str(pictures), str(tmp_path / "labels.json"), str(pose_model), least=0.0)
    told = json.loads(Path(place).read_text())
    assert told["categories"][0]["keypoints"] == list(NAMES) and [each["file_name"] for each in told["images"]] == ["0.png", "1.png", "2.png"]
    data = read_labels("keypoints", tiny_pipe(), str(pictures), str(place), fit="stretch", skip_bad=True)
    assert data.names == NAMES and data.truth[0].shape[1:] == (3, 2)
    unsure = json.loads(Path(pose_keypoints(str(pictures), str(tmp_path / "b.json"), str(pose_model), least=1.0)).read_text())
    assert all(each["keypoints"] == [0] * 9 for each in unsure["annotations"])


def test_the_command_writes_and_refuses(pictures, depth_model, tmp_path, capsys):
    main(["depth", str(pictures), str(tmp_path / "out"), "--model", str(depth_model)])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png"]
    for arguments, words in (
            (["depth", str(pictures), "x", "--model", str(pictures)], "no detector could be loaded"),
            (["depth", str(tmp_path / "none"), "x", "--model", str(depth_model)], "which is no folder"),
            (["keypoints", str(pictures), "x", "--model", "some/body"], "no detector could be loaded")):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_what_is_there_is_not_lost_to_a_detector(tmp_path, monkeypatch):
    """Asked before a model is loaded: the pictures themselves, maps made by hand, one map for two pictures."""
    monkeypatch.setattr("rg_minimal.detectors.load", lambda *_: pytest.fail("the model was loaded"))
    pictures, maps = tmp_path / "pictures", tmp_path / "maps"
    pictures.mkdir(), maps.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "a.png"), Image.new("L", (8, 8)).save(maps / "a.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    for call in (lambda: depth_maps(pictures, pictures, "m"), lambda: depth_maps(pictures, maps, "m"), lambda: pose_keypoints(pictures, pictures / "a.png", "m"),
                 lambda: pose_keypoints(pictures, maps, "m")):
        with pytest.raises(ValueError, match="is there already, and would be lost"):
            call()
    Image.new("RGB", (8, 8)).save(pictures / "a.jpg")
    with pytest.raises(ValueError, match="several pictures of the stem a, whose maps would have one name"):
        depth_maps(pictures, tmp_path / "new", "m")
    assert all(path.read_bytes() == content for path, content in before.items()) and not (tmp_path / "new").exists()
