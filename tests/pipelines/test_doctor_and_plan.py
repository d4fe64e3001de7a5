"""`stm doctor` and `stm plan` on the command line: exit status, JSON alone on stdout, what they write."""

from __future__ import annotations

import json

import pytest

from pipelines import cli
from stm.doctor.finding import fails, ok


def stm(capfd, *arguments):
    """(exit status, stdout, stderr) of a command run in this process."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([ok("python", "3.11")], 0),
        ([ok("python", "3.11"), fails("storage", "cannot be written", "mend it")], 1),
    ],
)
def test_a_check_that_fails_is_exit_status_1(capfd, monkeypatch, findings, status):
    from stm.doctor import examine

    monkeypatch.setattr(examine, "examine", lambda settings: findings)
    assert stm(capfd, "doctor")[0] == status
    code, out, _ = stm(capfd, "doctor", "--json")
    assert code == status
    assert [line["status"] for line in json.loads(out)["findings"]] == [f.status for f in findings]


def test_a_line_says_status_check_finding_and_what_to_do(capfd, monkeypatch):
    from stm.doctor import examine

    found = [fails("storage", "cannot be written", "mend it")]
    monkeypatch.setattr(examine, "examine", lambda settings: found)
    assert stm(capfd, "doctor")[1] == "fails    storage        cannot be written -> mend it\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["doctor", "--workers", "0"], "--workers 0: must be at least 1"),
        (["doctor", "--deadline_s", "0"], "--deadline_s 0: must be above 0"),
        (["plan", "--epochs", "5"], "a plan does not guess it: measure it with"),
        (["plan", "--jiter", "0.1"], "did you mean --jitter"),
    ],
)
def test_bad_input_is_one_message_and_status_2(capfd, arguments, said):
    status, out, err = stm(capfd, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


PLAN = [
    "plan", "--decode_clips_per_s_core", "56.5", "--train_clips_per_s_gpu", "100", "--batch_size", "16",
    "--prices", "sample", "--num_videos", "86017", "--epochs", "50",
]  # fmt: skip


def test_a_plan_is_a_table_with_everything_it_assumes(capfd):
    status, out, _ = stm(capfd, *PLAN)
    assert status == 0
    assert "made-up prices" in out
    assert "train_clips_per_s_gpu 100: given on the command line" in out
    assert "step times of ranks vary by 3%" in out
    assert [line.split()[0] for line in out.splitlines() if line.endswith(tuple("0123456789"))][-9:] == [
        "1", "2", "4", "8", "16", "32", "64", "128", "256",
    ]  # fmt: skip


def test_a_plan_writes_its_figure_and_its_numbers(capfd, tmp_path):
    status, out, _ = stm(capfd, *PLAN, "--output", tmp_path / "plan", "--json", "--jitter", "0.0")
    printed = json.loads(out)
    assert status == 0
    assert json.loads((tmp_path / "plan" / "plan.json").read_text()) == printed
    assert (tmp_path / "plan" / "plan.png").stat().st_size > 10_000
    assert printed["gradient_mb"] == 96.1  # 24.0 M parameters of STM-50, float32
    assert printed["rows"][0]["efficiency"] == 1.0


def test_a_machine_that_is_not_in_the_prices_is_named_with_those_that_are(capfd):
    status, _, err = stm(capfd, *PLAN, "--gpu_node", "h100")
    assert status == 2
    assert "--gpu_node h100: not in the prices, which have gpu, cpu, head" in err
