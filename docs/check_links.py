"""Check the site in `_docs/`: every link inside it leads somewhere, no page loads anything from
another host, and every picture has a text.

    python docs/check_links.py [FOLDER]
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from nbdev.config import get_config

LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "source": "src",
    "iframe": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
    "embed": "src",
}


class Page(HTMLParser):
    "The ids, links (`<a href>`) and loaded addresses (scripts, styles, images) of a page."

    def __init__(self, html):
        super().__init__()
        self.ids = {"", "top"}
        self.links = []
        self.loads = []
        self.without_text = 0  # pictures that say nothing to who cannot see them
        self.in_style = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id") or attrs.get("name"))
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag == "img" and not attrs.get("alt"):
            self.without_text += 1
        if tag in LOADS and attrs.get(LOADS[tag]):
            self.loads.append(attrs[LOADS[tag]])
        self.loads += urls(attrs.get("style") or "")
        self.in_style = tag == "style"

    def handle_data(self, data):
        if self.in_style:
            self.loads += urls(data)


def urls(css):
    "What a style sheet loads."
    found = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", css)
    return [address or imported for address, imported in found]


def problems(root, own_site):
    "One line for each dead link, missing file and address on another host."
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    loads = {path: page.loads for path, page in pages.items()}
    loads.update({path: urls(path.read_text(encoding="utf-8")) for path in root.rglob("*.css")})

    def target(path, address):
        "The file that an address on the page at `path` means, and the anchor in it."
        parts = urlsplit(urljoin(path.relative_to(root).as_posix(), address))
        file = root / unquote(parts.path).lstrip("/")
        return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)

    for path, addresses in loads.items():
        for address in addresses:
            if re.match(r"(https?:)?//", address):
                yield f"{path.relative_to(root)} loads from another host: {address}"
            elif not re.match(r"data:|#", address) and not target(path, address)[0].is_file():
                yield f"{path.relative_to(root)} loads a missing file: {address}"
    for path, page in pages.items():
        if page.without_text:
            yield f"{path.relative_to(root)} has pictures without a text: {page.without_text}"
        for address in page.links:
            if address.startswith(own_site):
                yield f"{path.relative_to(root)} links to its own site from outside: {address}"
            elif not urlsplit(address).scheme and not address.startswith("//"):
                file, anchor = target(path, address)
                if not file.is_file():
                    yield f"{path.relative_to(root)} has a dead link: {address}"
                elif file in pages and anchor not in pages[file].ids:
                    yield f"{path.relative_to(root)} has a link to a missing anchor: {address}"


def main():
    settings = get_config(path=Path(__file__).resolve().parent)
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else settings.config_path / "_docs"
    found = sorted(set(problems(root.resolve(), settings.doc_host)))
    print("\n".join(found) if found else "links: all good")
    return len(found) > 0


if __name__ == "__main__":
    sys.exit(main())
