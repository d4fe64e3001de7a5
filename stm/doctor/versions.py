"""Check that Python, the libraries and the code are the same on every node, and in the ranges of this package."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

from stm.doctor.finding import Finding, fails, ok, warning
from stm.doctor.nodes import listed
from stm.plural import counted
from stm.version import DISTRIBUTION

MUST_AGREE = frozenset(
    ("torch", "ray", "numpy", "pyarrow", "av", "decord", "safetensors", "fsspec")
)
"""Libraries that compute results or communicate between nodes; a difference in others is only a warning."""

REINSTALL = "install the same environment on every node: `make install`, or the image of clusters/Dockerfile"

Reports = dict[str, dict[str, Any]]
"""The result of ``stm.doctor.facts.gather`` for each node, by name."""


def requirements() -> dict[str, str]:
    """Return the accepted range of each library that this machine needs, from the installed metadata of stm."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    needed = [Requirement(line) for line in lines]
    return {
        requirement.name: str(requirement.specifier)
        for requirement in needed
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


def check_python(reports: Reports) -> Finding:
    """Check that all nodes have one Python version, because Ray sends pickled functions between them."""
    found = _groups({name: report["python"] for name, report in reports.items()})
    if len(found) == 1:
        return ok("python", f"{next(iter(found))} on {_count(reports)}")
    minors = {version.rsplit(".", 1)[0] for version in found}
    said = f"differs between nodes: {_told(found)}"
    if len(minors) > 1:
        return fails("python", said, REINSTALL)
    return warning("python", said, REINSTALL)


def check_libraries(reports: Reports, ranges: dict[str, str]) -> Finding:
    """Check that libraries are in their ranges on every node, and that `MUST_AGREE` are the same everywhere."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    if not ranges:
        return warning(
            "libraries",
            "stm is not an installed package here, so the versions that it needs are unknown",
            "`pip install -e .` in its folder",
        )
    wrong: dict[str, str] = {}
    for name, report in reports.items():
        bad = []
        for library, accepted in ranges.items():
            version = report["versions"].get(library)
            if version is None:
                bad.append(f"{library} is not installed")
            elif not SpecifierSet(accepted).contains(Version(version), prereleases=True):
                bad.append(f"{library} {version} is not {accepted}")
        if bad:
            wrong[name] = ", ".join(bad)
    if wrong:
        return fails("libraries", listed(wrong), REINSTALL)
    # "2.13.0+cpu" and "2.13.0+cu128" compute the same way: decoding nodes need no CUDA build.
    differing = {
        library: found
        for library in ranges
        if len(found := _groups({n: _public(r["versions"][library]) for n, r in reports.items()}))
        > 1
    }
    if differing:
        said = "; ".join(f"{library} {_told(found)}" for library, found in differing.items())
        if MUST_AGREE & differing.keys():
            return fails("libraries", f"differ between nodes: {said}", REINSTALL)
        return warning("libraries", f"differ between nodes: {said}", REINSTALL)
    report = next(iter(reports.values()))
    main = ", ".join(
        f"{library} {report['versions'][library]}"
        for library in ("torch", "ray", "av", "mlflow")
        if library in ranges
    )
    return ok("libraries", f"{len(ranges)} within their ranges on {_count(reports)}: {main}")


def check_code(reports: Reports) -> Finding:
    """Check that all nodes have the same source, since the version number does not change with every edit."""
    found = _groups({name: report["code"] for name, report in reports.items()})
    if len(found) == 1:
        return ok("code", f"stm {next(iter(found))} on {_count(reports)}")
    return fails(
        "code",
        f"nodes run different code of stm: {_told(found)}",
        "install the same version on every node, or submit it with the job (`working_dir`)",
    )


def _public(version: str) -> str:
    return version.partition("+")[0]


def _groups(values: dict[str, str]) -> dict[str, list[str]]:
    """Return the nodes of each value, the most frequent value first."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _told(groups: dict[str, list[str]]) -> str:
    return ", ".join(
        f"{value} on {names[0] if len(names) == 1 else counted(len(names), 'node')}"
        for value, names in groups.items()
    )


def _count(reports: Reports) -> str:
    nodes = len(reports.keys() - {DRIVER})
    return counted(nodes, "node")


DRIVER = f"this process ({sys.executable})"
"""Name of the report of this process, in which a job's driver would run."""
