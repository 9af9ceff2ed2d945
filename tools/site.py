"""A hook of mkdocs: the pages that lie beside docs/ become pages of the site, and links to them lead there."""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def target(path, base):
    """Return a link's page or picture in the site, for a page in the folder `base`; None if the site has no such file."""
    found = (ROOT / base / path).resolve().relative_to(ROOT)
    place = PAGES.get(str(found)) or (found.relative_to("docs") if found.parts[0] == "docs" else None)
    return place and os.path.relpath(place, os.path.relpath(base or "docs", "docs"))


def rewritten(text, base):
    """Return a page's text with links for the site. What the site does not have is left as words."""

    def link(match):
        words, path, section = match.groups()
        if re.match(r"[a-z]+:", path):
            return match[0]
        place = target(path, base)
        return f"[{words}]({place}{section or ''})" if place else words

    return LINK.sub(link, text)


def on_files(files, config):
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=rewritten((ROOT / name).read_text(), "")))
    return files


def on_page_markdown(markdown, page, config, files):
    return markdown if page.file.src_uri in PAGES.values() else rewritten(markdown, Path("docs", page.file.src_uri).parent)
