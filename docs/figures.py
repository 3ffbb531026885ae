"""Stored pictures, as a page shows them: at the size they were drawn for, and with a text for who
cannot see them.

A picture stored at twice the density of a screen is shown at half its pixels, so it is sharp there.
"""

import ast
import base64
import html
import re
import struct

import yaml
from tex import plain

PICTURES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")
TWICE = 144  # dots per inch from which a picture was drawn for two dots a pixel
SHORTEST = 60  # characters of a text; a shorter sentence takes the next one along
LONGEST = 250


class Place:
    "Where on a page we are: the last heading, and how the last text begins."

    def __init__(self):
        self.heading = ""
        self.sentence = ""

    def read(self, markdown):
        "Go past a text cell."
        headings = re.findall(r"^#+ +(.+)", markdown, flags=re.MULTILINE)
        if headings:
            self.heading = plain(re.sub(r"\{[^}]*\}\s*$", "", headings[-1]))
            self.sentence = ""
        below = re.split(r"^#+ .*$", markdown, flags=re.MULTILINE)[-1]
        self.sentence = beginning(below) or self.sentence

    def text(self):
        "The heading and the sentence, for a picture that stands here."
        parts = [part for part in (self.heading, self.sentence) if part]
        return ": ".join(parts) or "Figure"


def beginning(markdown):
    "The first sentence, or two, of the first paragraph that is prose, as plain text."
    for paragraph in re.split(r"\n\s*\n", markdown):
        paragraph = paragraph.strip()
        if paragraph and not re.match(r":::|```|\||<|\$\$|>|\[!\[", paragraph):
            text = plain(re.sub(r"^([-*]|\d+\.) +", "", paragraph))
            sentences = re.split(r"(?<=[.?!]) ", text)
            taken = 1 if len(sentences[0]) >= SHORTEST else 2
            return shorten(" ".join(sentences[:taken]).rstrip(":"))
    return ""


def shorten(text):
    "At most `LONGEST` characters of a text, cut between words."
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST].rsplit(" ", 1)[0] + " …"


def options(source):
    "The `#| key: value` lines in front of a cell, as a dictionary."
    lines = re.findall(r"^#\|\s*(.*)", source, flags=re.MULTILINE)
    try:
        found = yaml.safe_load("\n".join(lines))
    except yaml.YAMLError:
        found = None
    return found if isinstance(found, dict) else {}


def drawn_titles(source):
    "The titles that a cell gives to its axes, where they are written out in it."
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    titles = []
    for node in ast.walk(tree):
        name = getattr(getattr(node, "func", None), "attr", "")
        if name in ("title", "set_title", "suptitle") and node.args:
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                titles.append(plain(node.args[0].value))
    return [title for title in titles if title]


def picked(option, number):
    "The text for a picture of a cell; an option may be one text for all or a list."
    if isinstance(option, list):
        return str(option[number]) if number < len(option) else ""
    return str(option) if option else ""


def describe(source, place, number, of):
    "The text of a picture: what its cell says, else its titles, else where it stands."
    given = options(source)
    text = picked(given.get("fig-alt"), number) or picked(given.get("fig-cap"), number)
    if text:
        return plain(text)
    titles = drawn_titles(source)
    if titles:
        text = "; ".join(titles)
        text = f"{place.heading}: {text}" if place.heading else text
    else:
        text = place.text()
    return f"{text} ({number + 1} of {of})" if of > 1 else text


def dots_per_inch(png):
    "The density that a PNG was stored with, 0 where it does not say."
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind == b"pHYs":
            across, _, unit = struct.unpack(">IIB", png[at + 8 : at + 17])
            return round(across * 0.0254) if unit == 1 else 0
        at += 12 + length
    return 0


def size(png, metadata):
    "Width and height on the page, in pixels of CSS, of a PNG and of the metadata of its output."
    if "width" in metadata and "height" in metadata:
        return int(metadata["width"]), int(metadata["height"])
    width, height = struct.unpack(">II", png[16:24])
    scale = 2 if dots_per_inch(png) >= TWICE else 1
    return round(width / scale), round(height / scale)


def picture(kind, value, metadata, text):
    "The HTML of a picture."
    text = html.escape(text)
    if kind == "image/svg+xml":
        svg = value[value.index("<svg") :]
        return svg.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    value = "".join(value.split())
    attributes = ""
    if kind == "image/png":
        width, height = size(base64.b64decode(value), metadata)
        attributes = f' width="{width}" height="{height}"'
    return f'<img src="data:{kind};base64,{value}" alt="{text}"{attributes}>'


def show_figures(cell, place):
    "Turn the pictures among a cell's outputs into HTML with their size and their text."
    outputs = cell.get("outputs") or []
    found = []
    for output in outputs:
        data = output.get("data") or {}
        kind = next((kind for kind in PICTURES if kind in data), None)
        if kind and "text/html" not in data:
            found.append((output, kind))
    for number, (output, kind) in enumerate(found):
        text = describe(cell.source, place, number, len(found))
        value = "".join(output["data"][kind])
        metadata = (output.get("metadata") or {}).get(kind) or {}
        caption = picked(options(cell.source).get("fig-cap"), number)
        caption = f"<figcaption>{html.escape(plain(caption))}</figcaption>" if caption else ""
        shown = picture(kind, value, metadata, text)
        output["data"] = {"text/html": f'<figure class="output-figure">{shown}{caption}</figure>'}
