"""What training does to pixels: from the seed alone, the same for all frames, and off unless it is asked for."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stm.config import DataConfig
from stm.data.annotations.mirroring import flip_rules
from stm.data.decode import Geometry, read_views
from stm.data.stream import augment, sampling, transforms
from stm.data.stream.augment import Augmentation, Operation, apply
from stm.data.stream.clips import ClipSpec, draw, load_views, reversal
from tests.videos import write_video

ALL = {
    "crop": "resized",
    "color_jitter": 0.4,
    "hue": 0.1,
    "grey": 0.5,
    "blur": 0.5,
    "randaugment": 2,
    "erasing": 0.5,
    "temporal_jitter": 0.5,
    "reverse": "auto",
}
NAMES = sorted({*augment._OF_PIXELS, *augment._OF_FRAMES})
STRENGTH = {"hue": 0.2, "solarize": 100.0, "posterize": 4.0, "rotate": 20.0, "blur": 1.5} | dict.fromkeys(
    ("shear_x", "shear_y", "translate_x", "translate_y"), 0.2
)  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("augment") / "a.mp4", num_frames=24))


@pytest.fixture(scope="module")
def picture():
    """uint8 [32, 32, 3]: noise around a gradient."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 180, 32)[:, None, None]
    return (ramp + rng.integers(0, 60, (32, 32, 3))).astype(np.uint8)


def training(**changes):
    return ClipSpec.training(DataConfig(size=32, **changes), flip=True, flip_map=None)


def load(video, spec, seed=1):
    return load_views(video, 24, 160, 96, 0, seed, spec)[0]


def operations_of(seed, **changes):
    return Augmentation(**changes).draw(seed, 224)


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_changes_a_clip_and_all_its_frames_alike(name, picture):
    clip = np.stack([picture] * 3)
    before = clip.copy()
    found = apply(clip, [Operation(name, STRENGTH.get(name, 0.4))])
    assert (found.shape, found.dtype) == (clip.shape, np.uint8)
    assert (clip == before).all()
    assert (found != clip).any()
    assert (found == found[:1]).all()


@pytest.mark.parametrize("name", sorted(augment._OF_PIXELS))
def test_equal_pixels_of_different_frames_stay_equal(name, picture):
    """A mean or a histogram of a single frame would make a clip flicker."""
    dark = picture // 3
    dark[0] = picture[0]
    found = apply(np.stack([picture, dark]), [Operation(name, STRENGTH.get(name, 0.4))])
    assert (found[0, 0] == found[1, 0]).all()


def test_operations_do_what_their_names_say(picture):
    clip = picture[None]

    def do(name, strength=0.0):
        return apply(clip, [Operation(name, strength)])[0].astype(int)

    assert (abs(do("brightness", 0.5) - picture / 2) <= 1).all()
    assert do("contrast", 0.0).std() == 0
    assert abs(do("contrast", 0.0).mean() - picture.mean()) < 8
    assert (do("grey") == do("grey")[..., :1]).all()
    assert (abs(do("color", 0.0) - do("grey")) <= 1).all()
    assert (do("solarize", 128.0) == np.where(picture < 128, picture, 255 - picture)).all()
    assert (do("posterize", 4.0) == picture & 0xF0).all()
    assert do("autocontrast").min() == 0
    assert do("autocontrast").max() == 255
    assert do("blur", 2.0).std() < picture.std()
    assert (do("translate_x", 0.25)[:, :24] == picture[:, 8:]).all()
    assert (do("translate_y", -0.25)[8:] == picture[:24]).all()
    assert (do("translate_x", 0.25)[:, 24:] == augment.GREY).all()
    assert (do("rotate", 90.0) == np.rot90(picture)).all()
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 200
    green = apply(red, [Operation("hue", 1 / 3)])[0, 0, 0]
    assert green[1] > 190
    assert max(green[0], green[2]) < 10


def test_erasing_puts_the_same_noise_into_one_box_of_all_frames(picture):
    clip = np.stack([picture, picture // 2])
    boxes = set()
    for seed in range(40):
        (operation,) = operations_of(seed, erasing=1.0)
        left, top, right, bottom = operation.box
        assert 0 <= left < right <= 224
        assert 0 <= top < bottom <= 224
        assert 0.015 < (right - left) * (bottom - top) / 224**2 < 0.35
        boxes.add(operation.box)
    assert len(boxes) == 40
    found = apply(clip, [Operation("erase", box=(4, 8, 20, 30), seed=1)])
    changed = (found != clip).any(-1)
    assert not changed[:, :8].any()
    assert not changed[:, :, 20:].any()
    assert changed[:, 8:30, 4:20].mean() > 0.95
    assert (found[0, 8:30, 4:20] == found[1, 8:30, 4:20]).all()


def test_each_kind_of_draw_is_left_alone_by_the_others():
    pixels = {name: ALL[name] for name in ALL if name not in ("crop", "temporal_jitter", "reverse")}
    for seed in range(30):
        together = operations_of(seed, **pixels)
        apart = [
            *operations_of(seed, randaugment=2),
            *operations_of(seed, color_jitter=0.4, hue=0.1),
            *operations_of(seed, grey=0.5),
            *operations_of(seed, blur=0.5),
            *operations_of(seed, erasing=0.5),
        ]
        assert together == apart


def test_shares_of_clips_are_what_was_asked_for_and_strengths_stay_in_bounds():
    drawn = [
        operations_of(seed, grey=0.2, blur=0.3, erasing=0.4, color_jitter=0.4, hue=0.1)
        for seed in range(2000)
    ]
    counts = {
        name: sum(operation.name == name for each in drawn for operation in each) / 2000
        for name in ("grey", "blur", "erase", "hue", "color")
    }
    expected = {"grey": 0.2, "blur": 0.3, "erase": 0.4, "hue": 1, "color": 1}
    assert counts == pytest.approx(expected, abs=0.04)
    for operation in (operation for each in drawn for operation in each):
        low, high = {"hue": (-0.1, 0.1), "blur": (0.1, 2), "grey": (0, 0), "erase": (0, 0)}.get(
            operation.name, (0.6, 1.4)
        )
        assert low <= operation.strength <= high


def test_randaugment_draws_all_its_operations_up_to_its_magnitude():
    drawn = [op for seed in range(2000) for op in operations_of(seed, randaugment=3)]
    assert len(drawn) == 6000
    names = [operation.name for operation in drawn]
    assert len(set(names)) == 14
    assert max(names.count(name) for name in set(names)) < 2 * min(map(names.count, set(names)))
    full = {op.strength for seed in range(200)
            for op in operations_of(seed, randaugment=3, randaugment_magnitude=10.0)}  # fmt: skip
    assert {30.0, -30.0, 256.0, 4.0, 0.3, -0.3, 0.45, -0.45, 1.9} <= {round(s, 6) for s in full}
    nothing = [op for seed in range(200)
               for op in operations_of(seed, randaugment=3, randaugment_magnitude=0.0)]  # fmt: skip
    assert {abs(op.strength) for op in nothing} == {0.0, 1.0}


def test_draws_are_the_same_on_every_machine():
    drawn = operations_of(20**14, **{name: ALL[name] for name in list(ALL)[1:6]}, erasing=1.0)
    assert [(op.name, round(op.strength, 9)) for op in drawn] == [
        *(("color", 0.19), ("sharpness", 0.19), ("brightness", 1.229372717)),
        *(("contrast", 0.889105579), ("hue", -0.050388879), ("color", 0.715674167)),
        *(("grey", 0.0), ("blur", 1.963101641), ("erase", 0.0)),
    ]
    assert (drawn[-1].box, drawn[-1].seed) == ((110, 73, 222, 212), 8262013767271734310)


def test_the_same_seed_gives_the_same_pixels_in_a_fresh_process(video):
    spec = training(**ALL)
    digest = hashlib.sha256(load(video, spec, 7).tobytes()).hexdigest()
    code = (
        "import sys, hashlib\nfrom tests.data.test_augment import *\n"
        "print(hashlib.sha256(load(sys.argv[1], training(**ALL), 7).tobytes()).hexdigest())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, video], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == digest
    assert digest != hashlib.sha256(load(video, spec, 8).tobytes()).hexdigest()


def test_by_default_a_clip_is_what_the_paper_draws(video):
    """The recipe of the paper is bit for bit what it was before there was more."""
    for seed in range(6):
        generator = np.random.Generator(np.random.PCG64(seed))
        indices = sampling.random_indices(24, 8, generator)
        view = transforms.random_view(160, 96, [1.0, 0.875, 0.75, 0.66], True, generator)
        expected = read_views(video, indices, [view.box], 32, "auto", Geometry(24, 160, 96))
        assert (load(video, training(), seed) == expected[:, :, :, :: -1 if view.flip else 1]).all()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_settings_give_clips_of_the_seed_alone(video, data):
    any_of = data.draw
    chosen = {
        "crop": any_of(st.sampled_from(["corners5", "corners13", "resized"])),
        "color_jitter": any_of(st.sampled_from([0.0, 0.4, 1.0])),
        "hue": any_of(st.sampled_from([0.0, 0.5])),
        "grey": any_of(st.sampled_from([0.0, 1.0])),
        "blur": any_of(st.sampled_from([0.0, 1.0])),
        "randaugment": any_of(st.integers(0, 4)),
        "erasing": any_of(st.sampled_from([0.0, 1.0])),
        "reverse": any_of(st.sampled_from(["never", "auto"])),
        "temporal_jitter": any_of(st.sampled_from([0.0, 1.0])),
        "num_segments": any_of(st.integers(1, 12)),
        "sampling": any_of(st.sampled_from(["segments", "dense", "seconds"])),
    }
    seed = any_of(st.integers(0, 2**64 - 1))
    spec = training(**chosen)
    clips = load(video, spec, seed)
    assert (clips.shape, clips.dtype) == ((1, spec.num_segments, 32, 32, 3), np.uint8)
    load(video, spec, seed + 1 if seed < 2**63 else seed - 1)
    assert (clips == load(video, spec, seed)).all()


def test_temporal_jitter_changes_how_long_a_window_lasts():
    def lengths(**changes):
        spec = training(num_segments=4, **changes)
        shown = (draw(24, 160, 96, 0, seed, spec).frames for seed in range(60))
        return [int(frames[-1] - frames[0]) for frames in shown]

    assert set(lengths(sampling="dense", frame_stride=4)) == {12}
    jittered = lengths(sampling="dense", frame_stride=4, temporal_jitter=1.0)
    assert {6, 9, 12, 15, 18} <= set(jittered)
    whole, part = lengths(), lengths(temporal_jitter=2.0)
    assert min(whole) > 12
    assert min(part) < 10 < 15 < max(part)


def shown(video, spec, seed, label=0):
    clips, label = load_views(video, 24, 160, 96, label, seed, spec)
    return clips[0], label


def test_half_the_clips_are_played_backwards_and_keep_their_labels(video):
    kept, backwards = training(), training(reverse="auto")
    turned = 0
    for seed in range(30):
        (played, _), (clip, label) = shown(video, kept, seed), shown(video, backwards, seed)
        turned += (clip != played).any()
        assert label == 0
        assert (clip == played).all() or (clip == played[::-1]).all()
    assert 8 < turned < 22


@pytest.mark.parametrize(
    ("reverse", "classes", "become"),
    [
        ("auto", ["jump", "run", "climb"], {0: {0}, 1: {1}, 2: {2}}),
        ("auto", ["opening a door", "closing a door", "climb"], {}),
        ("swap", ["opening a door", "closing a door", "climb"], {0: {1}, 1: {0}}),
        ("swap", ["jump", "run", "climb"], {0: {0}, 1: {1}, 2: {2}}),
        ("never", ["jump", "run", "climb"], {}),
    ],
)
def test_classes_that_are_each_other_backwards_are_swapped_or_left_alone(reverse, classes, become):
    spec = ClipSpec.training(
        DataConfig(reverse=reverse), flip=False, flip_map=None, classes=classes
    )
    for label in range(3):
        drawn = [draw(24, 160, 96, label, seed, spec) for seed in range(40)]
        turned = {each.label for each in drawn if each.is_reversed}
        played = {each.label for each in drawn if not each.is_reversed}
        assert played == {label}
        assert turned == become.get(label, set())


def test_a_clip_that_is_mirrored_and_reversed_gets_the_label_of_both(video):
    """Pushing to the left, mirrored and backwards, is pulling to the left."""
    classes = [
        *("pushing it from left to right", "pushing it from right to left"),
        *("pulling it from left to right", "pulling it from right to left"),
    ]
    spec = ClipSpec.training(
        DataConfig(flip="swap", reverse="swap"),
        flip=False,
        flip_map=flip_rules(classes)[1],
        classes=classes,
    )
    expected = {(False, False): 0, (True, False): 1, (False, True): 3, (True, True): 2}
    for seed in range(40):
        drawn = draw(24, 160, 96, 0, seed, spec)
        assert drawn.label == expected[drawn.is_mirrored, drawn.is_reversed]


def test_what_reversal_does_to_the_classes_is_said():
    def said(reverse, *classes):
        return reversal(DataConfig(reverse=reverse), classes)

    assert said("auto", "jump", "run") == (
        "--data.reverse auto: half the clips of every class are played backwards"
    )
    doors = ("climb", "open door", "close door")
    assert "no clip is played backwards, since 'open door' and 'close door' are" in said(
        "auto", *doors
    )
    assert "of 2 of 3 classes half the clips become the other's" in said("swap", *doors)
