"""Heads from the hub and to it: against a cache laid out as the hub lays it out, and an api that notes what it is told. No network."""
import contextlib
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

import rg_minimal
from rg_minimal import detectors, reference
from rg_minimal.classroom import larger
from rg_minimal.reference import CONVENTIONS, MirroredHead, RELEASED, best_convention, load_reference_head
from rg_minimal.saving import ReadoutHead, train_head
from tiny import make_head, tiny_pipe

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; `cache(repo_id, name, write)` puts a file there, by the function that writes it to a path."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repo_id, name, write, commit=COMMIT):
        place = tmp_path / "hub" / f"models--{repo_id.replace('/', '--')}"
        path = place / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        return path
    return put


@pytest.fixture
def hub(monkeypatch):
    """What was asked of the hub, which takes everything."""
    asked = []

    class Api:
        def __init__(self, token=None):
            asked.append(("token", token))

        def create_repo(self, repo_id, **settings):
            asked.append(("create", repo_id, settings))
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, **settings):
            asked.append(("upload", settings, sorted(path.name for path in Path(settings["folder_path"]).iterdir())))
            return f"https://hub/{settings['repo_id']}/commit/{COMMIT}"
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return asked


def no_network(*args, **settings):
    raise AssertionError(f"the hub was asked for {args} {settings}")


# ---- sharing -----------------------------------------------------------------------------------------------------------

def test_a_head_is_saved_as_ever_where_nothing_is_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", no_network)
    head = make_head(tiny_pipe())
    assert head.save_pretrained(tmp_path / "head") is None
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["config.json", "head.safetensors"]


def test_a_head_is_shared_with_a_card_of_its_config_and_scores(tmp_path, hub):
    head = make_head(tiny_pipe(), property="pose", base_model="some/model")
    head.config.extra |= {"scores": {"PCK": {"t = 100": 0.875}}, "recipe": {"steps": 400}, "left_out": ["a.png: is not there"]}
    assert head.save_pretrained(tmp_path / "head", push_to_hub=True, repo_id="me/pose", private=True) == f"https://hub/me/pose/commit/{COMMIT}"
    (_, token), (_, name, created), (_, upload, files) = hub
    assert token is None and name == "me/pose" and created == {"private": True, "exist_ok": True}
    assert files == ["README.md", "config.json", "head.safetensors"] and sorted(upload["allow_patterns"]) == sorted(files)
    text = (tmp_path / "head" / "README.md").read_text()
    front = huggingface_hub.ModelCard(text).data
    assert front.base_model == "some/model" and {"readout-guidance", "pose"} == set(front.tags)
    assert all(word in text for word in ("0.8750", "- steps: 400", "a.png: is not there", 'load_head(\'me/pose\', pipe)', "- width: 32"))


def test_a_card_that_is_there_is_kept(tmp_path, hub):
    (tmp_path / "README.md").write_text("mine")
    make_head(tiny_pipe()).save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pose")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_card_of_another_head_is_not_shared_with_this_one(tmp_path, hub):
    pipe = tiny_pipe()
    make_head(pipe, property="pose").save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pose")
    make_head(pipe, property="pose").save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pose")
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match="holds the card .README.md. of a head of pose, which would be shared with this one: delete it"):
        make_head(pipe, property="depth").save_pretrained(tmp_path, push_to_hub=True, repo_id="me/depth")
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("settings", [dict(push_to_hub=True), dict(repo_id="me/pose"), dict(push_to_hub=True, repo_id="pose"), dict(push_to_hub=True, repo_id="a/b/c")])
def test_what_cannot_be_shared_is_refused_before_it_is_written(settings, tmp_path):
    with pytest.raises(ValueError, match="repo_id is"):
        make_head(tiny_pipe()).save_pretrained(tmp_path / "head", **settings)
    assert not (tmp_path / "head").exists()


def test_where_the_hub_refuses_the_head_is_saved_all_the_same(tmp_path):
    """The true api, offline, as in all tests."""
    with pytest.raises(ValueError, match="is saved in .* could not be shared as me/pose .* log in"):
        make_head(tiny_pipe()).save_pretrained(tmp_path / "head", push_to_hub=True, repo_id="me/pose")
    assert rg_minimal.load_head(tmp_path / "head", tiny_pipe()).config.width == 32


# ---- loading by name ---------------------------------------------------------------------------------------------------

def test_a_head_in_the_cache_is_loaded_by_its_name(tmp_path, cache):
    head = make_head(tiny_pipe())
    head.save_pretrained(tmp_path / "head")
    for name in ("config.json", "head.safetensors"):
        cache("me/pose", name, lambda path, name=name: path.write_bytes((tmp_path / "head" / name).read_bytes()))
    for found in (rg_minimal.load_head("me/pose", tiny_pipe()), ReadoutHead.from_pretrained("me/pose", revision=COMMIT)):
        assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), head.state_dict().values()))
    with pytest.raises(ValueError, match="is not a head"):
        ReadoutHead.from_pretrained("me/pose", revision=OTHER)


def test_a_name_that_is_nowhere_is_refused_as_ever(cache):
    with pytest.raises(ValueError, match=r"me/pose is not a head \(it needs head.safetensors and config.json\); heads in me: none"):
        rg_minimal.load_head("me/pose")


def test_the_hub_is_asked_only_where_it_is_allowed_and_says_what_it_said(monkeypatch):
    asked = []

    def download(repo_id, filename, revision=None, local_files_only=None):
        asked.append((repo_id, filename, revision, local_files_only))
        raise HfHubHTTPError("404: no such repository", response=type("Response", (), {"headers": {}, "request": None})())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ValueError, match="config.json of me/pose at v1 could not be fetched from the hub .404: no such repository"):
        rg_minimal.load_head("me/pose", revision="v1", local_files_only=False)
    assert asked == [("me/pose", "config.json", "v1", False)]


DOORS = {"load_pipeline": lambda **how: rg_minimal.load_pipeline("nobody/none", **how), "load_head": lambda **how: rg_minimal.load_head("nobody/none", **how),
         "load_reference_head": lambda **how: load_reference_head(RELEASED[0], revision=COMMIT, **how),
         "a detector": lambda **how: detectors.load("AutoModelForDepthEstimation", "nobody/none", **how),
         "notebook 11": lambda local_files_only: larger.load_or_stand_in("nobody/none", download=not local_files_only)}


@pytest.mark.parametrize("door", DOORS)
def test_where_the_cache_alone_is_allowed_nothing_asks_the_network(door, cache, monkeypatch):
    """Not even huggingface_hub on its own account; an environment that is offline would hide it."""
    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **settings: asked.append(host) or _no_network())
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address) or _no_network())
    if hasattr(huggingface_hub.utils, "_detect_agent"):         # it asks once in a process
        monkeypatch.setattr(huggingface_hub.utils._detect_agent, "_registry", None)
    telemetry = huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    with contextlib.suppress(ValueError):
        DOORS[door](local_files_only=True)
    assert not asked and huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY == telemetry


def _no_network():
    raise OSError("no network in tests")


@pytest.mark.parametrize("door", DOORS)
def test_an_environment_that_forbids_downloads_is_named(door, cache, monkeypatch):
    """Where one is asked for, and only there; tests run in such an environment."""
    said = []
    for local_files_only in (False, True):
        try:
            said.append(str(DOORS[door](local_files_only=local_files_only)))
        except ValueError as error:
            said.append(str(error))
    assert "HF_HUB_OFFLINE is set" in said[0] and "HF_HUB_OFFLINE is set" not in said[1]


def test_a_folder_has_no_revision(tmp_path):
    make_head(tiny_pipe()).save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="is a folder here, which has none"):
        rg_minimal.load_head(tmp_path / "head", revision="v1")


def test_what_lies_in_the_repository_is_no_name_on_the_hub():
    from rg_minimal import hub
    assert not hub.is_hub_name("data/heads") and hub.is_hub_name("some/model")
    config = make_head(tiny_pipe(), base_model="data/puppet-diffusion").config
    assert huggingface_hub.ModelCard(hub.card(vars(config), "me/pose")).data.base_model is None


# ---- the released heads ------------------------------------------------------------------------------------------------

def released(path, pipe=None):
    """A small file in the authors' layout."""
    head = make_head(tiny_pipe(), out_channels=3, width=128, num_groups=32, hidden_channels=(128, 32))
    config = {"dims": list(head.config.layer_channels), "projection_dim": 128, "model_id": "tiny",
              "aggregation_kwargs": {"use_output_head": True, "output_head_channels": 3, "output_head_act": False, "bottleneck_sequential": False}}
    torch.save({"config": config, "aggregation_network": head.state_dict()}, path)
    return head


def test_a_released_head_is_loaded_by_name_from_the_cache_and_from_a_file(tmp_path, cache):
    cache(reference.REPOSITORY, f"weights/{RELEASED[0]}.pt", released)
    head = released(tmp_path / "here.pt")
    for found in (load_reference_head(RELEASED[0]), load_reference_head(f"{RELEASED[0]}.pt", revision=COMMIT), load_reference_head(tmp_path / "here.pt")):
        assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in head.state_dict().items())
    assert isinstance(load_reference_head(RELEASED[0], "step_index"), MirroredHead)


def test_a_fetched_head_is_pinned(monkeypatch, tmp_path):
    released(tmp_path / "a.pt")
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **settings: asked.append((args, settings)) or tmp_path / "a.pt")
    load_reference_head(RELEASED[3], local_files_only=False, revision=COMMIT)
    load_reference_head("mine.pt", repo_id="me/heads", local_files_only=False, revision=OTHER)
    assert asked == [(("g-luo/readout-guidance", "weights/readout_sdv15_drag_correspondence.pt"), {"revision": COMMIT, "local_files_only": False}),
                     (("me/heads", "mine.pt"), {"revision": OTHER, "local_files_only": False})]
    for revision in (None, "main", "a" * 39, "A" * 40):
        with pytest.raises(ValueError, match="pass the commit that you mean"):
            load_reference_head(RELEASED[3], local_files_only=False, revision=revision)


def test_a_released_head_that_is_nowhere(cache, tmp_path):
    with pytest.raises(ValueError, match="there is no file readout_sdv15_spatial_pose, and the hub's cache has no weights/readout_sdv15_spatial_pose.pt"):
        load_reference_head(RELEASED[0])
    released(tmp_path / "here.pt")
    with pytest.raises(ValueError, match="is a file, so neither revision nor the hub is asked"):
        load_reference_head(tmp_path / "here.pt", revision=COMMIT)


# ---- which convention --------------------------------------------------------------------------------------------------

def pictures(count=4, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_head_reads_best_with_the_convention_that_it_was_trained_with(name):
    """At little noise it is to read -0.5, at much noise 0.5, and it hears the timestep well."""
    pipe, shown = tiny_pipe(), pictures()
    plain = make_head(pipe, out_channels=1)
    head = CONVENTIONS[name](plain.config)
    head.load_state_dict(plain.state_dict())
    for bottleneck in head.bottleneck_layers:
        torch.nn.init.normal_(bottleneck.emb_layers.weight)
    for part in range(120):                                     # long enough on any processor: of ten beginnings each is told by more than twice
        for span, value in (((0, 100), -0.5), ((900, 1000), 0.5)):
            label, rng = torch.full((4, 1, 16, 16), value), torch.Generator().manual_seed(part)
            list(train_head(head, pipe, lambda step: (shown, label), 1, lr=3e-3, timesteps=span, generator=rng))
    found = best_convention(head, pipe, shown, torch.full((4, 1, 16, 16), -0.5), timesteps=(20, 60))
    assert found.best == name and max(found.losses.values()) > 1.05 * min(found.losses.values())
    again = best_convention(ReadoutHead.from_tensors(head.config, head.state_dict(), "it"), pipe, shown, torch.full((4, 1, 16, 16), -0.5), timesteps=(20, 60))
    assert again == found, "it asks the weights, not the class"


def test_heads_that_compare_pictures_have_a_convention_too():
    pipe = tiny_pipe()
    head = make_head(pipe, out_channels=0)
    members = tuple(pictures(2, i) for i in range(3))
    assert set(best_convention(head, pipe, members, loss=rg_minimal.appearance_loss).losses) == set(CONVENTIONS)


def test_a_head_that_ignores_the_timestep_has_none():
    pipe = tiny_pipe()
    with pytest.raises(ValueError, match="ignores the timestep"):
        best_convention(make_head(pipe, out_channels=1, use_timestep=False), pipe, pictures(), torch.zeros(4, 1, 16, 16))


def test_a_head_is_shared_under_the_name_of_its_folder_twice(tmp_path, monkeypatch):
    """A folder who/head is no repository when it is read, but is the name of one when it is shared."""
    shared = []
    monkeypatch.setattr("rg_minimal.hub.push", lambda folder, name, *rest: shared.append(name) or "done")
    monkeypatch.chdir(tmp_path)
    head = make_head(tiny_pipe())
    for _ in range(2):
        head.save_pretrained("who/head", push_to_hub=True, repo_id="who/head")
    assert shared == ["who/head"] * 2
    with pytest.raises(ValueError, match="repo_id is 'who'"):
        head.save_pretrained("who/head", push_to_hub=True, repo_id="who")


@pytest.mark.parametrize("timesteps, said", [((), "timesteps are none"), ((1.5,), "whole number")])
def test_conventions_are_compared_at_timesteps(timesteps, said):
    pipe = tiny_pipe()
    with pytest.raises(ValueError, match=said):
        best_convention(make_head(pipe), pipe, torch.rand(1, 3, 32, 32), torch.rand(1, 2, 8, 8), timesteps=timesteps)
    best = best_convention(make_head(pipe), pipe, torch.rand(1, 3, 32, 32), torch.rand(1, 2, 8, 8), timesteps=iter((20, 900)))
    assert len(best.losses) == 2, "a generator runs once, for both"
