"""When a registered version becomes the champion: the rules of ``stm register --rule``.

    always            every new version
    never             none; the alias stays where it is
    better:METRIC     one that scores higher than the champion, METRIC being top1, top5 or mean_class_accuracy

Numbers are compared only where they mean the same: same manifest (by fingerprint), same protocol, same classes. A
manifest's fingerprint covers ids, labels and lengths, so a list with one video more is another manifest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from stm.errors import UserError

METRICS = ("top1", "top5", "mean_class_accuracy")
_TAG = "stm.measured"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a version scored, and on what."""

    manifest: str
    """Fingerprint."""
    manifest_path: str
    protocol: str
    classes: str
    """sha256 of the class names in their order."""
    num_videos: int
    """N: unreadable videos count as wrong."""
    unreadable: int
    top1: float
    top5: float
    mean_class_accuracy: float

    def to_tags(self) -> dict[str, str]:
        """Tags of a model version: one that is read back, and one for each number that people look for."""
        shown = {f"stm.{name}": f"{getattr(self, name):.6g}" for name in METRICS}
        return {_TAG: json.dumps(asdict(self)), **shown, "stm.num_videos": str(self.num_videos)}

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Measurement | None:
        """The inverse; None where the version was not measured, or by another version of stm."""
        try:
            return cls(**json.loads(tags[_TAG]))
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Champion:
    """The version that holds the alias."""

    version: str
    measured: Measurement | None


def check(rule: str) -> None:
    """Raise ``UserError`` where there is no such rule."""
    metric = rule.removeprefix("better:")
    if rule not in ("always", "never") and not (rule.startswith("better:") and metric in METRICS):
        raise UserError(
            f"--rule {rule}: use `always`, `never`, or `better:` with one of {', '.join(METRICS)}"
        )


def decide(rule: str, measured: Measurement | None, champion: Champion | None) -> tuple[bool, str]:
    """Whether a new version becomes the champion, and the sentence that says why.

    Raises ``UserError`` where the rule compares and there is nothing comparable.
    """
    check(rule)
    if rule == "never":
        return False, "the rule is `never`"
    if rule == "always":
        return True, "the rule is `always`"
    metric = rule.removeprefix("better:")
    if measured is None:
        raise UserError(
            f"--rule {rule} compares measurements: give --manifest, to measure this one on"
        )
    if champion is None:
        return True, "there was no champion"
    _require_alike(rule, measured, champion)
    assert champion.measured is not None
    ours, theirs = getattr(measured, metric), getattr(champion.measured, metric)
    numbers = (
        f"{metric} {ours:.2%} against {theirs:.2%} of version {champion.version}, "
        f"N = {measured.num_videos}, {measured.protocol}"
    )
    return ours > theirs, f"{'higher' if ours > theirs else 'not higher'}: {numbers}"


def _require_alike(rule: str, measured: Measurement, champion: Champion) -> None:
    old = champion.measured
    way_out = (
        "measure both on the same (register the champion's checkpoint once more with this --manifest and "
        "--protocol, under `--rule always`), or register with `--rule never`"
    )
    if old is None:
        raise UserError(
            f"--rule {rule}: the champion, version {champion.version}, was never measured: {way_out}"
        )
    differences = [
        f"{what} {theirs} of the champion (version {champion.version}), {ours} here"
        for what, ours, theirs in (
            ("manifest", f"{measured.manifest_path} [{measured.manifest[:12]}]",
             f"{old.manifest_path} [{old.manifest[:12]}]"),
            ("protocol", measured.protocol, old.protocol),
            ("classes", measured.classes[:12], old.classes[:12]),
        )
    ]  # fmt: skip
    unlike = [
        text
        for text, same in zip(
            differences,
            (
                measured.manifest == old.manifest,
                measured.protocol == old.protocol,
                measured.classes == old.classes,
            ),
            strict=True,
        )
        if not same
    ]
    if unlike:
        raise UserError(
            f"--rule {rule} compares like with like alone: {'; '.join(unlike)}: {way_out}"
        )
