"""The rules of ``stm register --rule``, which decide whether a new version becomes the champion.

    always            Every new version becomes the champion.
    never             No new version becomes the champion.
    better:METRIC     A new version becomes the champion if its METRIC (top1, top5 or mean_class_accuracy) is higher.

Two measurements can be compared only if they have the same manifest (by fingerprint), protocol and classes. The
fingerprint covers ids, labels and lengths, so a list with one more video is another manifest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from stm.errors import UserError

METRICS = ("top1", "top5", "mean_class_accuracy")
_TAG = "stm.measured"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The accuracy of a version, with the manifest and protocol of its measurement."""

    manifest: str
    """Fingerprint of the manifest."""
    manifest_path: str
    protocol: str
    classes: str
    """SHA-256 of the class names in their order, in hex."""
    num_videos: int
    """N, with unreadable videos, which count as wrong."""
    unreadable: int
    top1: float
    top5: float
    mean_class_accuracy: float

    def to_tags(self) -> dict[str, str]:
        """Tags of a model version: one for ``from_tags``, and one for each number that people search for."""
        shown = {f"stm.{name}": f"{getattr(self, name):.6g}" for name in METRICS}
        return {_TAG: json.dumps(asdict(self)), **shown, "stm.num_videos": str(self.num_videos)}

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Measurement | None:
        """The inverse of ``to_tags``; None if the version has no such tag, or one that this stm cannot read."""
        try:
            return cls(**json.loads(tags[_TAG]))
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Champion:
    """The version with the alias ``champion``."""

    version: str
    measured: Measurement | None


def check(rule: str) -> None:
    """Raise ``UserError`` if there is no such rule."""
    metric = rule.removeprefix("better:")
    if rule not in ("always", "never") and not (rule.startswith("better:") and metric in METRICS):
        raise UserError(
            f"--rule {rule}: use `always`, `never`, or `better:` with one of {', '.join(METRICS)}"
        )


def decide(rule: str, measured: Measurement | None, champion: Champion | None) -> tuple[bool, str]:
    """Return whether a new version becomes the champion, and the reason as text.

    Raises ``UserError`` if the rule compares measurements and these cannot be compared.
    """
    check(rule)
    if rule == "never":
        return False, "the rule is `never`"
    if rule == "always":
        return True, "the rule is `always`"
    metric = rule.removeprefix("better:")
    if measured is None:
        raise UserError(
            f"--rule {rule} compares measurements: give --manifest, so that this checkpoint is measured"
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
        "measure both in the same way (register the champion's checkpoint again with this --manifest and "
        "--protocol, and `--rule always`), or register with `--rule never`"
    )
    if old is None:
        raise UserError(
            f"--rule {rule}: the champion, version {champion.version}, was never measured: {way_out}"
        )
    differences = [
        f"{what} {theirs} of the champion (version {champion.version}), {ours} of this checkpoint"
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
            f"--rule {rule} needs the same manifest, protocol and classes: {'; '.join(unlike)}: {way_out}"
        )
