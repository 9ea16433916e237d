"""A check of the links inside built pages: every page, file and anchor that a page points to is there."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The targets and the anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {found[name] or "" for name in ("id", "name") if name in found}
        self.targets |= {found[name] or "" for name in ("href", "src") if found.get(name)}


def broken(folder: Path) -> list[str]:
    """What the pages in a folder point to and is not there; pages elsewhere are not asked for."""
    pages = {path.resolve(): _Page(path.read_text()) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            where = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = where / "index.html" if where.is_dir() else where
            name = f"{path.relative_to(folder.resolve())}: {target}"
            if not where.exists():
                found.append(f"{name}: no such file")
            elif parts.fragment and where in pages and unquote(parts.fragment) not in pages[where].anchors:
                found.append(f"{name}: no such anchor")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(broken(Path(sys.argv[1]))))
