"""Hooks of the site: generated pages, files from outside docs/, and links that work in site and repository."""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from generate_parameters import page as parameters_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("model_card.md", "NOTICE.md", "CONTRIBUTING.md", "CHANGELOG.md")
API = "reference/api"
# The target of a Markdown link or image, without its anchor. Addresses, lone anchors and absolute paths do not match.
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Insert the pages of the API into the navigation in place of their folder."""
    config.nav = _listed(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages, pages of the repository's root, and every linked file outside docs/."""
    from w2wpp.run.params import Params

    pages = {"reference/parameters.md": parameters_page(Params)} | dict(api_pages())
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    waiting = [name for name in ROOT_PAGES if (ROOT / name).is_file()]
    waiting += [f"docs/{file.src_uri}" for file in files.documentation_pages() if file.src_uri not in pages]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            inclusion = InclusionLevel.UNDEFINED if path in ROOT_PAGES else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, site_uri(path), abs_src_path=str(ROOT / path), inclusion=inclusion))
        if path.endswith(".md"):
            linked = {target for target in _targets(path, (ROOT / path).read_text()) if not target.startswith("docs/")}
            waiting += [target for target in sorted(linked - seen) if (ROOT / target).is_file()]
            seen |= linked
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    path, folder = _repository_path(page.file), posixpath.dirname(page.file.src_uri)

    def rewrite(match: re.Match) -> str:
        target = _target(path, match[0])
        return posixpath.relpath(site_uri(target), folder or ".") if (ROOT / target).is_file() else match[0]

    return markdown if path is None else LINK.sub(rewrite, markdown)


def site_uri(path: str) -> str:
    """The place of a repository's file on the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") or path in ROOT_PAGES else f"repository/{path}"


def api_pages() -> Iterator[tuple[str, str]]:
    """Address and Markdown of the API's pages: the package itself, and the public modules of each sub-package."""
    table = ["| sub-package | its job |", "|---|---|"]
    for package, folder in _packages():
        table.append(f"| [`{package}`]({_file(package)}) | {_summary(folder)} |")
        yield f"{API}/{_file(package)}", "\n\n".join([f"# {package}", _summary(folder), *_entries(folder, "**/*.py")])
    package = ROOT / "w2wpp"
    yield (
        f"{API}/index.md",
        "\n\n".join(["# Python API", _summary(package), "::: w2wpp", "\n".join(table), *_entries(package, "*.py")]),
    )


def _entries(folder: Path, pattern: str) -> list[str]:
    return [f"## {module}\n\n::: {module}" for module in _modules(folder, pattern)]


def _file(package: str) -> str:
    return f"{package.removeprefix('w2wpp.')}.md"


def _listed(items: list) -> list:
    pages = [f"{API}/index.md", *(f"{API}/{_file(package)}" for package, _ in _packages())]
    return [
        {title: pages if target == API else _listed(target) if isinstance(target, list) else target}
        for item in items
        for title, target in item.items()
    ]


def _packages() -> list[tuple[str, Path]]:
    return [(f"w2wpp.{path.parent.name}", path.parent) for path in sorted((ROOT / "w2wpp").glob("*/__init__.py"))]


def _modules(folder: Path, pattern: str) -> list[str]:
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted(folder.glob(pattern))]
    return [".".join(path.parts) for path in paths if not any(part.startswith("_") for part in path.parts)]


def _summary(folder: Path) -> str:
    return (ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "").split("\n")[0]


def _repository_path(file: File) -> str | None:
    if file.generated_by is None:
        return f"docs/{file.src_uri}"
    return None if file.abs_src_path is None else Path(file.abs_src_path).relative_to(ROOT).as_posix()


def _targets(path: str, markdown: str) -> set[str]:
    return {_target(path, link) for link in LINK.findall(markdown)}


def _target(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
