"""What the site has beside the pages of docs/: pages and files from elsewhere in the repository, and notebooks."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "clusters/README.md": "clusters.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside docs/, and their place in the site."""
LINK = re.compile(r"(\]\()([^)#\s:]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of `PAGES`, and each file outside docs/ that a page links to."""
    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    for file in [f for f in files if f.src_uri.endswith(".md") and f.src_uri not in PAGES.values()]:
        for _, target in LINK.findall(file.content_string):
            path = _in_repository(f"docs/{file.src_uri}", target)
            if path.startswith("docs/") or path in PAGES or not (ROOT / path).is_file():
                continue
            if files.get_file_from_path(f"files/{path}") is None:
                content = (ROOT / path).read_bytes()
                files.append(File.generated(config, f"files/{path}", content=content))
    for file in [f for f in files if f.src_uri.endswith(".ipynb")]:
        files.remove(file)
        for made in _notebook(Path(file.abs_src_path), file.src_uri, config):
            files.append(made)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that are right in the repository become links that are right in the site."""
    here = page.file.src_uri
    source = next((s for s, place in PAGES.items() if place == here), f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        path = _in_repository(source, match[2])
        if path.endswith(".ipynb"):
            path += ".md"
        place = PAGES.get(path) or (
            path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
        )
        return match[1] + posixpath.relpath(place, posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)


def on_config(config: Any) -> Any:
    """The navigation names notebooks; the site has the pages that are made of them."""
    config["nav"] = json.loads(json.dumps(config["nav"]).replace('.ipynb"', '.ipynb.md"'))
    return config


def _in_repository(source: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _notebook(path: Path, place: str, config: Any) -> list[File]:
    """A notebook as a page and its pictures; its outputs are those that are saved in it."""
    from nbconvert import MarkdownExporter

    body, resources = MarkdownExporter().from_filename(str(path))
    folder = posixpath.dirname(place)
    name = posixpath.basename(place).removesuffix(".ipynb")
    made = []
    for output, content in resources["outputs"].items():
        body = body.replace(f"]({output})", f"]({name}-{output})")
        made.append(File.generated(config, f"{folder}/{name}-{output}", content=content))
    return [File.generated(config, f"{place}.md", content=body), *made]
