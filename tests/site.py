"""Checks a site: every link to one of its pages, places on a page or files has a target.

    python site.py FOLDER
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit


class Page(HTMLParser):
    """The link targets on a page, and its links."""

    def __init__(self, path):
        super().__init__()
        self.places, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.places.add(value)
            elif name in ("href", "src") and value and tag != "base":
                self.links.append(value)


def main():
    site = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    wrong, count = [], 0
    for path, page in pages.items():
        # These two show other pages, whose links are relative to other places.
        if path.name in ("404.html", "toc.html"):
            continue
        for link in page.links:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            count += 1
            file, place = urldefrag(link)
            target = (path.parent / unquote(file)).resolve() if file else path
            if not target.exists() or place and target in pages and unquote(place) not in pages[target].places:
                wrong.append(f"{path.relative_to(site)}: {link}")
    if wrong or count < 100:
        sys.exit("links that lead nowhere:\n" + "\n".join(wrong) if wrong else f"only {count} links")
    print(f"{len(pages)} pages, {count} links")


main()
