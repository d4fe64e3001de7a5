"""Options come from signatures: found by themselves, spelt one way, and a wrong one is answered in plain words."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import pipelines
from pipelines import cli, console
from pipelines.command import check
from pipelines.options import Options
from pipelines.words import Call, read
from stm.bounds import Bounds, Rule
from stm.config import Config, ModelConfig
from stm.errors import UserError

ROOT = Path(__file__).parents[2]
VERBS = list(cli.verbs())
RAW = re.compile(
    r"Parser key|<class|typing\.|Expected a|Union|Namespace|Group '|not accepted|class_path|Traceback"
)
"""Words of the parser that are none of ours."""


def call(verb: str, *words: str) -> Call:
    return read(Options.of(cli.module_of(verb)), list(words))


def refused(verb: str, *words: str) -> str:
    with pytest.raises(UserError) as error:
        call(verb, *words)
    assert not RAW.search(str(error.value)), error.value
    return str(error.value)


# ---------------------------------------------------------------------- a verb is one file

GREETING = '''"""Greet: ``stm greet Ann``."""

from pipelines.options import Count


def greet(name: str, *, times: Count = 1, loud: bool = False) -> dict[str, str]:
    """Greet somebody, often if need be.

    Examples:
        stm greet Ann --times 2

    Args:
        name: who is greeted
        times: how often
        loud: in capitals
    """
    said = " ".join([f"hello {name}"] * times)
    return {"said": said.upper() if loud else said}


def show(result: dict[str, str]) -> str:
    return result["said"]
'''


def test_a_file_is_a_verb_with_help_and_checks(tmp_path, monkeypatch, capfd):
    (tmp_path / "greet.py").write_text(GREETING)
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "pipelines.greet", raising=False)
    assert list(cli.verbs()) == [*VERBS, "greet"]
    assert "  greet     Greet somebody, often if need be\n" in cli.usage()
    assert cli.main(["greet", "--help"]) == 0
    shown = capfd.readouterr().out
    for said in ("usage: stm greet NAME", "who is greeted", "how often", "stm greet Ann --times 2"):
        assert said in shown
    assert cli.main(["greet", "Ann", "--times", "2", "--loud"]) == 0
    assert capfd.readouterr().out == "HELLO ANN HELLO ANN\n"
    assert cli.main(["greet", "Ann", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"said": "hello Ann"}
    assert cli.main(["greet", "Ann", "--times", "0"]) == 2
    assert "--times 0: must be at least 1" in capfd.readouterr().err
    assert cli.main(["greeet"]) == 2
    assert "did you mean `stm greet`?" in capfd.readouterr().err


def test_help_lists_the_verbs_that_the_order_names():
    assert set(cli.ORDER) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_no_type_of_python(verb, capfd):
    assert cli.main([verb, "--help"]) == 0
    assert not re.findall(r"\b(?:Literal|Optional|Union|Annotated)\[", capfd.readouterr().out)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_help_and_every_example_parses(verb):
    options = Options.of(cli.module_of(verb))
    sections = {name.partition(".")[0] for name in options.types if "." in name}
    silent = [
        action.dest
        for action in options.parser._actions
        if not action.help and action.dest not in sections
    ]
    assert not silent
    assert 0 < len(cli.verbs()[verb]) <= 90
    examples = [line.strip() for line in options.parser.epilog.splitlines()[1:]]
    assert examples
    for example in examples:
        words = shlex.split(example)
        if words[0] == "stm" and "--print_config" not in words:
            call(words[1], *words[2:])


@pytest.mark.parametrize(
    "words",
    [
        "index --format folder --root .", "prepare --manifest m", "export --checkpoint x --format onnx",
        "explain a.mp4 --checkpoint x", "evaluate --checkpoint x --manifest m", "plan --bench b", "demo",
        "splits --manifests m", "bench decode --videos v",
    ],
)  # fmt: skip
def test_a_url_is_no_place_for_what_is_written_on_this_machine(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    said = refused(*words.split(), "--output", "s3://bucket/x")
    assert "--output s3://bucket/x: is a URL, but this is written only on this machine" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "index --format list --root s3://b/v --output o --annotations",
        "index --format list --root v --output o --classes", "evaluate --fuse a.parquet", "plan --bench",
        "plan --prices", "doctor --bench", "tune --config", "train --model.plugin",
        "evaluate --checkpoint s3://b/r --manifest s3://b/m --plugin",
    ],
)  # fmt: skip
def test_a_url_is_refused_where_a_file_of_this_machine_is_read(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    said = refused(*words.split(), "s3://bucket/x")
    assert "s3://bucket/x: is a URL, but this is read only on this machine" in said
    with pytest.raises(UserError, match=r"this is read only on this machine|uses no cluster"):
        check([*words.split(), "s3://bucket/x"], None, [])
    assert not list(tmp_path.iterdir())


def test_names_of_options_are_written_with_underscores_everywhere():
    options = {name for verb in VERBS for name in Options.of(cli.module_of(verb)).types}
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("clusters/*"),
        *ROOT.glob("stm/recipes/*.yaml"),
    ]
    files += [path for folder in ("stm", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    wrong = [
        f"{path.relative_to(ROOT)}: --{name}"
        for path in files
        if path.is_file() and path.name != "words.py"
        for line in path.read_text().splitlines()
        if "mlflow server" not in line  # whose option it is
        for name in re.findall(r"--([a-z][\w.-]*-[\w.-]*\w)", line)
        if name.replace("-", "_") in options
    ]
    assert not wrong


# ---------------------------------------------------------------------- words


def test_hyphens_in_names_are_underscores_and_values_stay():
    made = call(
        "index", "--format=folder", "--root", "my-videos", "--output=a-b=c_d", "--val-fraction=0.25"
    )
    assert made.keywords["val_fraction"] == 0.25
    assert (made.keywords["root"], made.keywords["output"]) == ("my-videos", "a-b=c_d")
    config = call("train", "--train.num-workers", "2", "--train.name", "a-b").keywords["config"]
    assert (config.train.num_workers, config.train.name) == (2, "a-b")


def test_a_value_may_be_negative_or_look_like_an_option_behind_an_equals_sign():
    assert call("demo", "--seed", "-3").keywords["seed"] == -3
    assert "--start_s -1e-3: must not be negative" in refused("plan", "--start_s", "-1e-3")
    assert call("demo", "--output=--odd").keywords["output"] == "--odd"
    odd = call("predict", "--checkpoint", "x", "a.mp4", "--workers", "2", "--", "--odd.mp4")
    assert odd.keywords["videos"] == ["a.mp4", "--odd.mp4"]


def test_a_list_is_several_words_or_one():
    for words in (["1", "3"], ["[1, 3]"]):
        assert call("splits", "--manifests", "m", "--splits", *words).keywords["splits"] == [1, 3]
    names = ["a b", "[x].json", "12", "null.json"]
    assert call("plan", "--bench", *names).keywords["bench"] == names
    assert call("plan", "--bench=[x].json").keywords["bench"] == ["[x].json"]
    milestones = call("train", "--optim.milestones", "3", "4").keywords["config"].optim.milestones
    assert milestones == [3, 4]


def test_a_switch_stands_alone_or_before_its_value():
    assert call("predict", "--json", "a.mp4", "--checkpoint", "x").json
    for words, value in (
        ([], True),
        (["false"], False),
        (["--report"], True),
        (["--report=no"], False),
    ):
        at = words if words and words[0].startswith("--") else ["--report", *words] if words else []
        assert call("evaluate", *at).keywords["report"] is value
    assert call("bench", "model", "--onnx", "true", "--script").keywords["settings"].onnx
    assert call("train", "--train.compile").keywords["config"].train.compile


def test_what_is_typed_counts_over_a_file_and_the_last_of_two_counts_with_a_note():
    made = call("train", "--optim.lr", "0.5", "--config", "jester-t8", "--workers=4")
    assert made.keywords["config"].optim.lr == 0.5
    assert made.keywords["config"].train.num_workers == 4
    assert not made.notes
    twice = call("train", "--optim.lr", "1", "--optim.lr=2")
    assert twice.keywords["config"].optim.lr == 2
    assert twice.notes == ["--optim.lr is given 2 times; the last one counts: 2"]


def test_a_config_printed_by_an_older_version_is_read(tmp_path):
    (tmp_path / "old.yaml").write_text(
        "json: false\naddress: null\nworkers: null\noptim: {lr: 0.3}\n"
    )
    made = call("train", "--config", str(tmp_path / "old.yaml"))
    assert made.keywords["config"].optim.lr == 0.3


# ---------------------------------------------------------------------- bounds

WITHOUT_BOUNDS = set(ModelConfig.__dataclass_fields__)
"""Settings that `stm.model.check_settings` checks together."""


def _is_numeric(hint: Any) -> bool:
    return hint in (int, float) or any(map(_is_numeric, get_args(hint)))


def _without_bounds(name: str, hint: Any) -> list[str]:
    if is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        prefix = f"{name}." if hint in {*get_type_hints(Config).values()} else ""
        return [each for key in hints for each in _without_bounds(f"{prefix}{key}", hints[key])]
    bounds = [each for each in get_args(hint) if isinstance(each, Bounds | Rule)]
    plain = get_args(hint)[0] if bounds else hint
    return [name] if _is_numeric(plain) and not bounds else []


@pytest.mark.parametrize("verb", VERBS)
def test_every_number_of_every_verb_has_bounds(verb):
    function = getattr(cli.module_of(verb), verb)
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    found = [name for each in parameters for name in _without_bounds(each.name, each.annotation)]
    assert not [name for name in found if name.removeprefix("model.") not in WITHOUT_BOUNDS]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bench scale --gpu_clips_per_s 0", "--gpu_clips_per_s 0: must be above 0"),
        ("bench scale --gpu_clips_per_s -5", "--gpu_clips_per_s -5: must be above 0"),
        ("bench scale --gpu_clips_per_s .nan", "--gpu_clips_per_s .nan: must be a finite number"),
        ("submit --max_mib -1 -- demo", "--max_mib -1: must be above 0"),
        ("submit --max_mib .inf -- demo", "--max_mib .inf: must be a finite number"),
        ("plan --start_s .nan", "--start_s .nan: must be a finite number"),
        ("plan --cpu_nodes_per_gpu_node -1", "must not be negative, or null"),
        ("plan --jitter 1.5", "--jitter 1.5: must be in [0, 1]"),
        ("plan --network_share 0", "--network_share 0: must be in [0.01, 1]"),
        ("doctor --deadline_s .inf", "--deadline_s .inf: must be a finite number"),
        ("index --format list --root v --output o --val_fraction 1", "must be in (0, 1), or null"),
        ("index --format list --root v --output o --seed 1e30", "must be a whole number"),
        ("demo --seed 9999999999999999999", "must be in [-9223372036854775808, 922337203685477580"),
        ("evaluate --fuse a b --shares 0 0", "--shares [0, 0]: must be numbers of at least 0"),
        ("evaluate --fuse a b --shares .nan 1", "--shares [.nan, 1]: each must be a finite number"),
        ("splits --manifests m --splits 0 1", "--splits [0, 1]: must be numbers of at least 1"),
        ("train --workers 0", "--workers 0: must be at least 1, or null"),
        ("serve --checkpoint x --port 1000000", "--port 1000000: must be in [1, 65535]"),
        ("serve --checkpoint x --answer_s -0.1234567", "--answer_s -0.1234567: must be above 0"),
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_told_as_it_was_typed(words, said):
    verb, *rest = words.split()
    assert said in refused(verb, *rest)


# ---------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train --lr 0.1", "--optim.lr?"),
        ("train --num_workers 2", "--train.num_workers?"),
        ("train --num-workers=2", "--train.num_workers?"),
        ("train --epochs 3", "--optim.epochs?"),
        ("train --batch-size 3", "--optim.batch_size?"),
        ("train --train.lr 3", "--optim.lr?"),
        ("train --optim.lrr 3", "--optim.lr?"),
        ("train --learnig_rate 3", ""),
        ("train -lr 3", "--optim.lr?"),
        ("train --num 3", "--data.num_segments or --train.num_workers?"),
        ("train --optim.ep 3", "--optim.eps or --optim.epochs?"),
        ("train optim.lr=0.1", "--optim.lr?"),
        ("index --split-folder yes", "--split_folders?"),
        ("evaluate --batchsize 3", "--batch_size?"),
        ("submit train --workers 3", "the command must follow a --"),
    ],
)  # fmt: skip
def test_a_wrong_option_names_the_nearest(words, meant):
    verb, *rest = words.split()
    assert refused(verb, *rest).endswith(meant)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --optim.lr fast", "--optim.lr fast: must be a number"),
        ("train --optim.lr=", "--optim.lr '': must be a number"),
        ("train --optim.epochs 3.5", "--optim.epochs 3.5: must be a whole number"),
        ("train --workers two", "--workers two: must be a whole number or null"),
        ("train --data.flip up", "--data.flip up: must be one of auto, swap, never"),
        ("predict a.mp4 --checkpoint x --protocol eficient", "did you mean efficient?"),
        ("train --train.compile maybe", "--train.compile maybe: must be true or false"),
        ("train --optim.milestones 1 b", "--optim.milestones [1, b]: must be a list of numbers, as [0.5, 0.75]"),
        ("train --optim.milestones [1", "--optim.milestones [1: must be a list of numbers"),
        ("train --optim.groups [{match:fc}]", "must be a list of settings match, lr_scale, weight_decay"),
        ("train --train.resources_per_worker 3", "must be a mapping of names to numbers, as '{name: 1}'"),
        ("train --optim 3", "--optim 3: must be a YAML file of settings"),
        ("train --optim.lr", "--optim.lr has no value: the line ends; it must be a number"),
        ("train --train.name --x", "(a value that begins with - is written --train.name=--x)"),
        ("train more", "'more' belongs to no option"),
        ("bench speed", "what speed: must be one of decode, data, model, train, scale"),
        ("jobs stop a b", "'b' belongs to no option"),
        ("predict --checkpoint x", "VIDEOS is missing: video files"),
        ("index --root .", "--format is missing: format of the annotations, such as folder, list or"),
        ("plan --depth 18", "--depth 18: must be one of 26, 50, 101, 152"),
        ("serve --checkpoint x --port 70000", "--port 70000: must be in [1, 65535]"),
        ("prepare --manifest m --output o --gop 0", "--gop 0: must be in [1, 250]"),
    ],
)  # fmt: skip
def test_a_wrong_value_says_option_value_and_what_is_allowed(words, said):
    verb, *rest = words.split()
    assert said in refused(verb, *rest)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim:\n  learning_rte: 1\n", "x.yaml:2: optim.learning_rte: there is no such setting"),
        ("train:\n  num-workers: 2\n", "there is no such setting; did you mean train.num_workers?"),
        ("lr: 3\n", "x.yaml:1: lr: there is no such setting; did you mean optim.lr?"),
        ("optim:\n  lr: fast\n", "x.yaml:2: optim.lr: 'fast' must be a number"),
        (
            "optim: {groups: [{match: fc, scale: 5}]}\n",
            "optim.groups: [{'match': 'fc', 'scale': 5}] must be a list",
        ),
        ("data: {flip: swp}\n", "'swp' must be one of auto, swap, never; did you mean swap?"),
        ("optim: 3\n", "x.yaml:1: optim: is a section, and 3 contains no settings"),
        ("optim:\n", "x.yaml:1: optim: is a section, and None contains no settings"),
        ("optim: {lr: 1}\noptim: {epochs: 1}\n", "x.yaml:2: optim: is given twice"),
        ("- 1\n", "x.yaml: must be a mapping of settings"),
        ("", "x.yaml: must be a mapping of settings"),
        ("optim: {lr: [\n", "x.yaml:2: no YAML: "),
        (b"\xff\xfe\x00", "cannot be read: it is not text"),
    ],
)
def test_a_wrong_file_of_settings_says_line_and_setting(text, said, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said in refused("train", "--config", str(path))


def test_a_config_that_is_no_file_is_named(tmp_path):
    assert f"--config {tmp_path}: is a folder" in refused("train", "--config", str(tmp_path))
    assert "--config '': name a YAML file or a recipe" in refused("train", "--config=")
    assert "--config s3://b/x.yaml: settings are read" in refused(
        "train", "--config", "s3://b/x.yaml"
    )
    assert "--config: optim.lrr: there is no such" in refused(
        "train", "--config", "optim: {lrr: 2}"
    )
    assert "--optim: lrr: there is no such setting" in refused("train", "--optim", "{lrr: 2}")


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_of_any_verb_shows_words_of_the_parser(verb):
    options = Options.of(cli.module_of(verb))
    said = []
    own = {name for name in options.types if verb == "train" or "." not in name}
    for name in own - set(options.words):
        for value in ("", "§ y", "[[1], x"):
            try:
                read(options, [f"--{name}={value}"])
            except UserError as error:
                said.append(str(error))
    assert len(said) > len(own) / 2, "most take no such words"
    assert not [each for each in said if RAW.search(each) or "cannot be read" in each]


# ---------------------------------------------------------------------- how it is started


@pytest.fixture
def own_folders(tmp_path):
    """A project that has packages of the names that this repository has, too."""
    for name in ("pipelines", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a package of the user')")
        (tmp_path / name / "cli.py").write_text("raise SystemExit('a package of the user')")
    return tmp_path


def test_a_project_with_a_folder_pipelines_of_its_own_runs_verbs(own_folders):
    words = ["predict", "--checkpoint", "/nowhere", "/nowhere.mp4"]
    done = subprocess.run(
        [sys.executable, "-m", "stm", *words], cwd=own_folders, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "stm predict: /nowhere.mp4: no such file or folder" in done.stderr
    assert "of the user" not in done.stderr


def test_loading_of_slow_libraries_is_told_once_and_only_where_they_load(capfd):
    words = "plan --decode_clips_per_s_core 56 --train_clips_per_s_gpu 100 --batch_size 16 --prices sample"
    done = subprocess.run(
        [sys.executable, "-m", "stm", *words.split(), "--num_videos", "99", "--epochs", "1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert re.fullmatch(r"\d\d:\d\d:\d\d loading PyTorch\n", done.stderr)
    before = list(sys.meta_path)
    with console._loading_told():
        pass
    assert sys.meta_path == before
    assert capfd.readouterr().err == ""
