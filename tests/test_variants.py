"""Every kind of block, ours and a stranger's, scores alike wherever a network is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stm.checkpoint import format as checkpoints
from stm.config import Config, DataConfig, ModelConfig
from stm.data.decode import probe
from stm.data.stream.clips import load_views
from stm.errors import UserError
from stm.evaluate.protocols import protocol
from stm.model import Block, build_model, check_settings, plugins, registry
from stm.model.folding import fold
from stm.model.inputs import normalise
from stm.model.packed import can_pack, pack
from tests.package.untrained import SIZE, T, write_checkpoint
from tests.videos import write_video

PLUGIN = str(Path(__file__).with_name("foreign_blocks.py"))
FOREIGN = ("gated", "wrapped")
EVERY = (*registry.names(), *FOREIGN)


@pytest.fixture(autouse=True)
def own_plugin(monkeypatch):
    """The stranger's file is loaded, as ``--plugin`` does it, and everything is as it was afterwards."""
    before = {name: dict(getattr(plugins, name)) for name in ("_loaded", "_received", "_names")}
    plugins.load(PLUGIN)
    yield
    for digest in plugins._loaded:
        registry.forget(digest)
    for name, value in before.items():
        getattr(plugins, name).clear()
        getattr(plugins, name).update(value)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, num_frames=12, width=64, height=48)
    return str(path)


def settings_of(variant: str) -> dict[str, str]:
    return {"variant": variant} | ({"plugin": PLUGIN} if variant in FOREIGN else {})


@pytest.fixture
def network(tmp_path):
    """(directory of a checkpoint, its network as ``build_model`` makes it)."""

    def make(variant: str):
        directory = write_checkpoint(tmp_path / variant, model=settings_of(variant))
        arguments = checkpoints.network_arguments(checkpoints.read_meta(directory), directory)
        model = build_model(**arguments)
        model.load_state_dict(checkpoints.read_weights(directory))
        return directory, model.eval()

    return make


def clip_of(video: str) -> np.ndarray:
    """uint8 [1, T, S, S, 3], as `stm predict` decodes it."""
    spec = protocol("efficient").clip(DataConfig(num_segments=T, size=SIZE))
    info = probe(video)
    return load_views(video, info.num_frames, info.width, info.height, 0, 0, spec)[0]


def scores_of(model: torch.nn.Module, clips: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(normalise(clips, torch.device("cpu"))).softmax(1).numpy()


@pytest.mark.parametrize("variant", EVERY)
def test_folded_and_packed_it_scores_as_itself(network, variant):
    _, model = network(variant)
    with torch.no_grad():
        clips = torch.randn(2, T, 3, 48, 40)
        expected = model(clips)
        torch.testing.assert_close(fold(model)(clips), expected, rtol=1e-3, atol=1e-4)
        if can_pack():
            torch.testing.assert_close(pack(model)(clips), expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(model(clips), expected)


@pytest.mark.parametrize("variant", EVERY)
def test_in_predict_serve_and_a_package_it_scores_as_itself(network, video, tmp_path, variant):
    from stm.evaluate.predict import predict
    from stm.packing.contents import save_package
    from stm.serve.network import Network

    directory, model = network(variant)
    clip = clip_of(video)
    expected = scores_of(model, clip)[0]

    found = predict(directory, [video])["videos"][0]["top5"]
    classes = checkpoints.read_meta(directory).classes
    for row in found:
        assert row["score"] == pytest.approx(expected[classes.index(row["class"])], abs=1e-5)

    served = Network(directory, 1, T, SIZE, plugins.loaded())._classifier.scores(clip[None])[0]
    np.testing.assert_allclose(served, expected, atol=1e-5)

    import mlflow.pyfunc

    meta = checkpoints.read_meta(directory)
    save_package(tmp_path / "package", directory, meta, "card", ["torch"])
    package = mlflow.pyfunc.load_model(str(tmp_path / "package"))
    answer = package.predict([video]).iloc[0]
    by_class = dict(zip(answer["classes"], answer["scores"], strict=True))
    for name, score in by_class.items():
        assert score == pytest.approx(expected[classes.index(name)], abs=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torch_export", "safetensors"])
@pytest.mark.parametrize("variant", FOREIGN)
def test_exported_a_strangers_block_scores_as_itself(network, tmp_path, variant, kind):
    """`export` compares the file's logits with the network's, and keeps no file that differs."""
    from stm.export import export

    directory, _ = network(variant)
    result = export(directory, kind, str(tmp_path / "file"))
    assert result["plugin"]["digest"] == plugins.loaded()[-1].digest
    assert result["difference"] < 1e-4


@pytest.mark.ray
@pytest.mark.parametrize("variant", ["stm", *FOREIGN])
def test_in_evaluate_it_scores_as_itself(ray_cluster, network, video, tmp_path, variant):
    from stm.data.annotations import Annotations, Entry
    from stm.data.index.indexing import index_videos
    from stm.scoring.inference import score_manifest

    directory, model = network(variant)
    classes = tuple(checkpoints.read_meta(directory).classes)
    listed = Annotations(classes, {"val": [Entry("clip", video, 0, "", "list:1")]}, "made")
    manifest = index_videos(listed, cross_check=0)[0]["val"]
    clip = protocol("efficient").clip(DataConfig(num_segments=T, size=SIZE))
    found = score_manifest(manifest, directory, clip).scores_NK[0]
    np.testing.assert_allclose(found, scores_of(model, clip_of(video))[0], atol=1e-5)


def test_code_out_of_a_checkpoint_does_not_run_unasked(network, monkeypatch):
    directory, _ = network("gated")
    meta = checkpoints.read_meta(directory)
    digest = meta.plugin["digest"]
    plugins._loaded.clear()
    registry.forget(digest)
    with pytest.raises(
        ValueError, match=r"by itself: give the same file as --plugin foreign_blocks.py"
    ):
        checkpoints.network_arguments(meta, directory)
    assert "gated" not in registry.names()
    copy = Path(directory) / checkpoints.PLUGIN
    monkeypatch.setenv(plugins.VARIABLE, str(copy))
    assert checkpoints.network_arguments(meta, directory)["variant"] == "gated"
    assert "gated" in registry.names()


def test_another_source_of_the_same_name_is_not_taken(network, tmp_path, monkeypatch):
    directory, _ = network("gated")
    plugins._loaded.clear()
    other = tmp_path / "foreign_blocks.py"
    other.write_text(Path(PLUGIN).read_text().replace("0.5 * super", "0.6 * super"))
    plugins.load(str(other))
    with pytest.raises(ValueError, match=r"the given .* has another source"):
        checkpoints.network_arguments(checkpoints.read_meta(directory), directory)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (", r"blocks.py, line 1: "),
        ("import torch\n1 / 0\n", r"blocks.py, line 2: ZeroDivisionError"),
        ("from stm.model import Block, register\nregister('half')(Block)\n1 / 0\n", r"line 3: ZeroDiv"),
        ("import no_such_package\n", r"line 1: ModuleNotFoundError.*can import only installed"),
        ("x = 1\n", "it registers no block"),
        ("from stm.model import register\n@register('stm')\ndef a(i, c, s): ...\n", "stm's own"),
        ("from stm.model import register\n@register('a')\ndef a(i, c, s, heads): ...\n", "heads has no default"),
    ],
    ids=["syntax", "crash", "half", "import", "empty", "taken", "no default"],
)  # fmt: skip
def test_a_plugin_that_cannot_be_used_says_why(tmp_path, source, message):
    path = tmp_path / "blocks.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=message):
        plugins.load(str(path))
    assert registry.get("stm").origin == ""
    assert "half" not in registry.names()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "tsn", "fusion": "concat"}, "--model.fusion is 'concat', which has no effect"),
        ({"blocks": [9]}, r"--model.blocks is \(9,\); allowed: 0 to 2"),
        ({"stages": []}, r"--model.stages is \(\); allowed: some of"),
        ({"variant": "cmm", "temporal_conv": "ordinary"}, "--model.temporal_conv is 'ordinary'"),
        ({"width": 24}, "--model.width gives a block 24 channels"),
        ({"depth": 34}, "--model.depth is 34"),
        ({"variant": "stn"}, "--model.variant is 'stn'; allowed: one of"),
        ({"temporal_kernel": 4}, "--model.temporal_kernel is 4; allowed: an odd number"),
        (
            {"plugin": PLUGIN, "variant": "gated", "settings": {"slop": 1.0}},
            "--model.settings.slop",
        ),
        (
            {"plugin": PLUGIN, "variant": "gated", "settings": {"slope": "a"}},
            "--model.settings.slope",
        ),
        (
            {"settings": {"variant": "tsn"}},
            "^--model.settings: variant is not a setting of the block",
        ),
        ({"plugin": "no/such.py"}, "--model.plugin: plugin no/such.py: no such file"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_built_are_refused_before_anything_starts(settings, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.check_model(Config(model=ModelConfig(**settings)))


def test_a_block_that_does_not_run_is_refused():
    with registry.registering("test"):

        @registry.register("broken")
        class Broken(Block):
            def forward(self, x, num_frames):
                return x @ x

    try:
        with pytest.raises(UserError, match="variant 'broken': its block does not run on 4 frames"):
            check_settings(4, runs=True, variant="broken")
    finally:
        registry.forget("test")


def test_a_plugins_defaults_are_its_own():
    """`reduction` has another default in the plugin than in `ModelConfig`."""
    config = Config(model=ModelConfig(plugin=PLUGIN, variant="gated", depth=26, width=16))
    model = build_model(**checkpoints.model_arguments(config))
    assert model.layer1[0].cmm.reduce.out_channels == 4
    config = Config(model=ModelConfig(plugin=PLUGIN, variant="gated", settings={"reduction": 8}))
    model = build_model(**checkpoints.model_arguments(config) | {"depth": 26, "width": 16})
    assert model.layer1[0].cmm.reduce.out_channels == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "tsn"}, "variant is not a setting of the block: set it with --model.variant"),
        (
            {"num_classes": 3},
            "num_classes is not a setting of the block: the classes of the videos",
        ),
        ({"fusion": "concat"}, "fusion is not a setting of the block: set it with --model.fusion"),
    ],
)
def test_settings_of_a_block_do_not_replace_those_of_the_network(settings, said):
    """The run would be recorded as another one than it is."""
    with pytest.raises(UserError, match=said):
        ModelConfig(settings=settings).build_arguments()
