"""The page `api.html`: every public name of the package, as `help` has it, and what stands beside
its parameters in the source.

A module is imported, so that signatures and docstrings are those that `help` shows. One that cannot
be, because a package that it needs is missing, is read instead.
"""

import ast
import dataclasses
import enum
import html
import importlib
import inspect
import io
import json
import re
import sys
import tokenize
from pathlib import Path

import yaml
from tex import plain

ROOMS = ("numerics", "compile", "core", "nn", "models", "learners", "datasets", "plot")
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
INTRO = """---
title: API
description: Every public name, its parameters, the page that explains it and its source
---

`help(name)` shows the same signatures and docstrings. What stands behind `*` is given by name.
"""


# reading the source ------------------------------------------------------------------------------


class Source:
    "A module's file: what it defines, and its comments."

    def __init__(self, name, root):
        path = root / name.replace(".", "/")
        self.path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.name = name
        text = self.path.read_text(encoding="utf-8")
        self.tree = ast.parse(text)
        self.behind = {}  # comments that stand behind code, by line
        self.alone = {}  # comments that have their line for themselves
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith("# %%"):
                alone = not token.line[: token.start[1]].strip()
                kept = self.alone if alone else self.behind
                kept[token.start[0]] = token.string.lstrip("#").strip()
        self.nodes = {}
        for node in self.tree.body:
            for name in defined(node):
                self.nodes.setdefault(name, node)

    def public(self):
        "The names in `__all__`."
        return ast.literal_eval(self.nodes["__all__"].value)

    def imports(self, name):
        "The modules that a name comes from, and the name it has there."
        for node in self.tree.body:
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            for part in node.names:
                if name == (part.asname or part.name):
                    yield self.absolute(node), part.name

    def absolute(self, node):
        "The whole name of the module that an import names."
        if node.level == 0:
            return node.module
        parents = self.name.split(".")
        up = node.level - (self.path.name == "__init__.py")
        return ".".join([*parents[: len(parents) - up], node.module])

    def comment(self, first, last, top):
        "The comment behind the line `last`, else the lines of comment right above `first`."
        if last in self.behind:
            return self.behind[last]
        lines = []
        while first - 1 in self.alone and first - 1 > top:
            first -= 1
            lines.insert(0, self.alone[first])
        return " ".join(lines)

    def comments(self, name):
        "The comment of each parameter of a function or class; of what is returned as 'return'."
        node = self.nodes.get(name)
        if isinstance(node, FUNCTIONS):
            return self.of_function(node)
        if not isinstance(node, ast.ClassDef):
            return {}
        found = {}
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                found[part.target.id] = self.comment(part.lineno, part.end_lineno, node.lineno)
            elif isinstance(part, FUNCTIONS) and part.name == "__init__":
                found.update(self.of_function(part))
        return {name: comment for name, comment in found.items() if comment}

    def of_function(self, node):
        "The comments in the head of a function; one behind a line belongs to the last name on it."
        by_line = {}
        for name, first, last in head(node):
            by_line[last] = (name, first)
        found = {}
        for last, (name, first) in by_line.items():
            comment = self.comment(first, last, node.lineno)
            if comment:
                found[name] = comment
        return found


def defined(node):
    "The names that a statement of a module defines."
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def head(node):
    "Name, first line and last line of each parameter of a function, and of what it returns."
    arguments = node.args
    by_place = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(by_place) - len(arguments.defaults)) + arguments.defaults
    pairs = list(zip(by_place, defaults, strict=True))
    pairs.append((arguments.vararg, None))
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    pairs.append((arguments.kwarg, None))
    for argument, default in pairs:
        if argument is not None:
            yield argument.arg, argument.lineno, (default or argument).end_lineno
    if node.returns is not None:
        yield "return", node.returns.lineno, node.returns.end_lineno


class Written:
    "An annotation or a default as it stands in the source."

    def __init__(self, node):
        self.text = ast.unparse(node)

    def __repr__(self):
        return self.text


def signature_of_node(node):
    "The signature of a function or class that cannot be imported."
    if isinstance(node, ast.ClassDef):
        inits = [part for part in node.body if getattr(part, "name", "") == "__init__"]
        if not inits:
            return None
        node = inits[0]
    parameters = []

    def add(arguments, defaults, kind):
        for argument, default in zip(arguments, defaults, strict=True):
            parts = {"default": default, "annotation": argument.annotation}
            parts = {key: Written(part) for key, part in parts.items() if part is not None}
            parameters.append(inspect.Parameter(argument.arg, kind, **parts))

    given = node.args
    count = len(given.posonlyargs) + len(given.args)
    defaults = [None] * (count - len(given.defaults)) + given.defaults
    cut = len(given.posonlyargs)
    add(given.posonlyargs, defaults[:cut], inspect.Parameter.POSITIONAL_ONLY)
    add(given.args, defaults[cut:], inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if given.vararg:
        add([given.vararg], [None], inspect.Parameter.VAR_POSITIONAL)
    add(given.kwonlyargs, given.kw_defaults, inspect.Parameter.KEYWORD_ONLY)
    if given.kwarg:
        add([given.kwarg], [None], inspect.Parameter.VAR_KEYWORD)
    returns = Written(node.returns) if node.returns else inspect.Signature.empty
    return without_self(inspect.Signature(parameters, return_annotation=returns))


def without_self(signature):
    "A signature as the caller of a method sees it."
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)


# what there is to say about a name ---------------------------------------------------------------


@dataclasses.dataclass
class Entry:
    "A public name and what the page says about it."

    name: str
    room: str
    module: str  # where it is defined
    defined_as: str  # the name it has there
    line: int
    path: str  # of the file, from the root of the repository
    text: str = ""  # the first paragraph of its docstring
    signature: inspect.Signature | None = None
    comments: dict = dataclasses.field(default_factory=dict)
    methods: list = dataclasses.field(default_factory=list)  # name, signature, text
    values: list = dataclasses.field(default_factory=list)  # of a constant: key, value

    @property
    def anchor(self):
        return f"{self.room}-{self.name}"


class Package:
    "The package: its modules as text, and as objects where they can be imported."

    def __init__(self, name, root):
        self.name = name
        self.root = root
        self.sources = {}

    def source(self, module):
        "The file of a module, read once."
        if module not in self.sources:
            self.sources[module] = Source(module, self.root)
        return self.sources[module]

    def entries(self, room):
        "An entry for each public name of a room, in the order of its `__all__`."
        module = f"{self.name}.{room}"
        try:
            found = importlib.import_module(module)
        except Exception as error:
            print(f"api: {module} is read, not imported: {error}", file=sys.stderr)
            found = None
        for name in self.source(module).public():
            try:
                yield self.entry(name, room, getattr(found, name, None), found is not None)
            except LookupError as error:
                print(f"api: {name} is left out: {error}", file=sys.stderr)

    def entry(self, name, room, value, imported):
        "The entry of one name."
        module, defined_as = self.home(name, f"{self.name}.{room}", value)
        source = self.source(module)
        node = source.nodes[defined_as]
        path = source.path.relative_to(self.root).as_posix()
        entry = Entry(name, room, module, defined_as, node.lineno, path)
        if not imported:
            read_node(entry, source, node)
        elif callable(value):
            read_object(entry, value, self)
        else:
            entry.text = source.comment(node.lineno, node.end_lineno, 0)
            entry.values = values(value)
        return entry

    def home(self, name, module, value=None):
        "The module that defines a name, and the name it has there."
        home = getattr(value, "__module__", None)
        own = getattr(value, "__qualname__", None)
        if home and own and home.startswith(self.name) and own in self.source(home).nodes:
            return home, own
        source = self.source(module)
        if name in source.nodes:
            return module, self.original(source, name)
        for target, imported in source.imports(name):
            if target.startswith(self.name):
                return self.home(imported, target)
        raise LookupError(f"{module} does not define {name}")

    @staticmethod
    def original(source, name):
        "The name that a name was set equal to, itself if it was not."
        node = source.nodes[name]
        value = getattr(node, "value", None)
        return value.id if isinstance(value, ast.Name) and value.id in source.nodes else name

    def comments(self, value):
        "What stands beside the parameters of an object, and of those it takes them from."
        found = {}
        queue = list(value.__mro__) if inspect.isclass(value) else [value]
        for owner in queue:
            module = getattr(owner, "__module__", None) or ""
            if module.startswith(self.name):
                own = self.source(module).comments(owner.__qualname__)
                found = {**own, **found}
            init = vars(owner).get("__init__") if inspect.isclass(owner) else owner
            further = getattr(init, "__delwrap__", None)
            if further is not None and further not in queue:
                queue.append(further)
        return {**self.borrowed(value, found), **found}

    def borrowed(self, value, comments):
        "What stands beside the parameters of a function whose options are said to be taken."
        text = " ".join([inspect.getdoc(value) or "", *comments.values()])
        found = {}
        for name in re.findall(r"(?:options of|as for|as in) `(\w+)`", text, re.IGNORECASE):
            try:
                module, name = self.home(name, value.__module__)
            except LookupError:
                continue
            found.update(self.source(module).comments(name))
        found.pop("return", None)
        return found


def read_object(entry, value, package):
    "Take signature and text of an object as `help` does."
    entry.text = paragraph(inspect.getdoc(value))
    entry.comments = package.comments(value)
    if isinstance(value, enum.EnumMeta):
        entry.values = [(member.name, str(member)) for member in value]
        return
    try:
        entry.signature = inspect.signature(value)
    except ValueError:  # a class that says nothing of what it takes
        entry.signature = None
    if inspect.isclass(value):
        entry.methods = list(methods(value))
        options = options_of_base(value, package.name)
        entry.comments = {**options, **entry.comments}


def options_of_base(cls, package):
    "The comment of the `**options` that a class hands on to the class it is made of."
    base = cls.__mro__[1]
    init = vars(cls).get("__init__")
    if init is None or not base.__module__.startswith(package):
        return {}
    last = list(inspect.signature(init).parameters.values())[-1]
    by_name = last.kind is inspect.Parameter.VAR_KEYWORD
    return {last.name: f"options of `{base.__name__}`"} if by_name else {}


def read_node(entry, source, node):
    "Take signature and text of a definition in a module that was not imported."
    entry.comments = source.comments(entry.defined_as)
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        entry.text = paragraph(ast.get_docstring(node))
        entry.signature = signature_of_node(node)
    if isinstance(node, ast.ClassDef):
        for part in node.body:
            if isinstance(part, FUNCTIONS) and not part.name.startswith("_"):
                text = paragraph(ast.get_docstring(part))
                entry.methods.append((part.name, signature_of_node(part), text))


def methods(cls):
    "Name, signature and text of the public methods and properties that a class defines itself."
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield name, None, paragraph(inspect.getdoc(member))
        elif isinstance(member, (classmethod, staticmethod)):
            bound = getattr(cls, name)
            yield name, inspect.signature(bound), paragraph(inspect.getdoc(bound))
        elif inspect.isfunction(member):
            signature = without_self(inspect.signature(member))
            yield name, signature, paragraph(member.__doc__)


def values(value):
    "The keys and values of a dictionary; any other constant as one value without a key."
    return list(value.items()) if isinstance(value, dict) else [("", value)]


def paragraph(docstring):
    "The first paragraph of a docstring, on one line."
    text = inspect.cleandoc(docstring or "")
    return " ".join(text.split("\n\n")[0].split())


def shown(value):
    "A default or a value as text; a function or class by its name."
    if getattr(value, "func", None) is not None and hasattr(value, "keywords"):
        given = ", ".join(f"{key}={part!r}" for key, part in value.keywords.items())
        return f"{shown(value.func)}, {given}"
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    name = getattr(value, "__name__", None)
    if name and callable(value):
        return name
    return re.sub(r"<function ([\w.]+) at \w+>", r"\1", repr(value))


def kind_of(annotation):
    "An annotation as text, names without their modules."
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        annotation = Written(ast.parse(annotation, mode="eval").body)
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+", "", inspect.formatannotation(annotation))


# as HTML -----------------------------------------------------------------------------------------


def code(text):
    return f"<code>{html.escape(text)}</code>"


def inline(text):
    "A docstring or comment as HTML: code in backticks, formulas in dollars."
    parts = re.split(r"(`[^`]+`|\$[^$]+\$)", text)
    for i, part in enumerate(parts):
        if part.startswith("`") and len(part) > 1:
            parts[i] = code(part.strip("`"))
        elif part.startswith("$") and len(part) > 1:
            formula = html.escape(part.strip("$"))
            parts[i] = rf'<span class="math inline">\({formula}\)</span>'
        else:
            parts[i] = html.escape(part)
    return "".join(parts)


def markdown(text):
    "A docstring as Markdown: what is neither code nor formula means nothing but itself."
    parts = re.split(r"(`[^`]+`|\$[^$]+\$)", text)
    for i, part in enumerate(parts):
        if part[:1] not in ("`", "$"):
            parts[i] = re.sub(r"([^\w\s.,:;()])", r"\\\1", part)
    return "".join(parts)


def raw(text):
    "HTML as a part of a Markdown page."
    return f"```{{=html}}\n{text}\n```"


def parts_of(signature):
    "The parameters of a signature as they are written in a call, with `/` and `*` between them."
    kinds = inspect.Parameter
    written = []
    before = None
    for parameter in signature.parameters.values():
        if before is kinds.POSITIONAL_ONLY and parameter.kind is not before:
            written.append("/")
        by_name = parameter.kind is kinds.KEYWORD_ONLY
        if by_name and before not in (kinds.VAR_POSITIONAL, kinds.KEYWORD_ONLY):
            written.append("*")
        text = starred(parameter)
        if parameter.default is not kinds.empty:
            text += f"={shown(parameter.default)}"
        written.append(text)
        before = parameter.kind
    if before is kinds.POSITIONAL_ONLY:
        written.append("/")
    return written


def starred(parameter):
    "The name of a parameter, with its stars."
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return stars.get(parameter.kind, "") + parameter.name


def call(name, signature):
    "A signature as HTML that breaks between parameters only."
    parts = parts_of(signature)
    parts = [part + "," for part in parts[:-1]] + parts[-1:]
    spans = " ".join(f"<span>{html.escape(part)}</span>" for part in parts)
    returns = kind_of(signature.return_annotation)
    returns = "" if returns in ("", "None") else f" <span>→ {html.escape(returns)}</span>"
    return f"<code><b>{html.escape(name)}</b>({spans}){returns}</code>"


def table(titles, rows):
    "A table that scrolls in itself where it is too wide, without the columns that are empty."
    rows = [list(row) for row in rows]
    kept = [i for i in range(len(titles)) if any(row[i] for row in rows)]
    if not rows:
        return ""
    first = "".join(f'<th scope="col">{titles[i]}</th>' for i in kept)
    lines = ["".join(f"<td>{row[i]}</td>" for i in kept) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<div class="sd-table api-table"><table class="table">\n'
        f"<thead><tr>{first}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def parameter_rows(entry):
    "A row for each parameter, and one for what is returned."
    for name, parameter in entry.signature.parameters.items():
        default = parameter.default
        yield (
            code(starred(parameter)),
            code_or_nothing(kind_of(parameter.annotation)),
            code(shown(default)) if default is not inspect.Parameter.empty else "",
            inline(entry.comments.get(name, "")),
        )
    returns = entry.comments.get("return")
    if returns:
        kind = kind_of(entry.signature.return_annotation)
        yield "returns", code_or_nothing(kind), "", inline(returns)


def code_or_nothing(text):
    return code(text) if text else ""


def parameters(entry):
    "The table of an entry's parameters, if it says more than the signature does."
    if entry.signature is None:
        return ""
    rows = list(parameter_rows(entry))
    more = any(kind or comment for _, kind, _, comment in rows)
    generic = all(row[0] in ("<code>*args</code>", "<code>**kwargs</code>") for row in rows)
    if not more or generic:
        return ""
    return table(("Parameter", "Type", "Default", "What it is"), rows)


def method_table(entry):
    "The table of a class's own methods, those that say what they do."
    rows = []
    for name, signature, text in entry.methods:
        if not text:
            continue
        shape = code(f".{name}") if signature is None else call(f".{name}", signature)
        rows.append((shape, inline(text)))
    return table(("Method or property", "What it does"), rows)


def value_table(entry, anchors):
    "The table of what a constant holds; values that have an entry of their own link to it."
    rows = []
    for key, value in entry.values:
        text = code(shown(value)) if not isinstance(value, str) else inline(value)
        target = anchors.get(shown(value).split(",")[0])
        text = f'<a href="#{target}">{text}</a>' if target else text
        rows.append((code(key) if key else "", text))
    return table(("Name", "Value"), rows)


# the page ----------------------------------------------------------------------------------------


class Pages:
    "The pages of the site, as they were written for smalldocs: their titles, sections, anchors."

    def __init__(self, stage):
        self.stage = stage
        self.titles = {}
        self.sections = {}
        for path in stage.rglob("*.ipynb"):
            address = path.relative_to(stage).with_suffix(".html").as_posix()
            self.read(address, json.loads(path.read_text(encoding="utf-8"))["cells"])

    def read(self, address, cells):
        "Go through a page's text cells."
        front = yaml.safe_load("".join(cells[0]["source"]).strip("-\n")) or {}
        self.titles[address] = front.get("title", address)
        section = ""
        anchors = self.sections[address] = {}
        for cell in cells:
            if cell["cell_type"] != "markdown":
                continue
            text = "".join(cell["source"])
            for line in text.split("\n"):
                heading = re.match(r"##+ +(.+)", line)
                if heading:
                    section = plain(heading[1])
                for anchor in re.findall(r'id="([^"]+)"', line):
                    anchors.setdefault(anchor, section)

    def link(self, address, anchor):
        "A link to the place that explains a name, as HTML."
        title = html.escape(self.titles[address])
        section = self.sections[address].get(anchor)
        if section is None:
            return f'<a href="{address}">{title}</a>'
        section = html.escape(section)
        text = f"{title}: {section}" if section not in ("", title) else title
        return f'<a href="{address}#{anchor}">{text}</a>'


def explained(entry, pages, symbols):
    "The link to the page of an entry, empty where there is none."
    known = symbols.get(entry.module, {})
    address, _ = known.get(f"{entry.module}.{entry.defined_as}", (None, None))
    if address is None:  # a constant: the page of its module
        address = next((place[0].split("#")[0] for place in known.values()), None)
    if address is None:
        return ""
    address, _, anchor = address.partition("#")
    if address not in pages.titles:
        print(f"api: {entry.name} should be explained on {address}: no such page", file=sys.stderr)
        return ""
    return f"Explained in {pages.link(address, anchor)}"


def section(entry, pages, symbols, anchors, source_url):
    "The part of the page about one name, as Markdown."
    parts = [f"### {entry.name} {{#{entry.anchor}}}"]
    if entry.signature is not None:
        parts.append(raw(f'<p class="api-call">{call(entry.name, entry.signature)}</p>'))
    text = markdown(entry.text)
    tables = [parameters(entry), method_table(entry), value_table(entry, anchors)]
    if entry.defined_as != entry.name:
        target = anchors.get(entry.defined_as)
        first = f"[`{entry.defined_as}`](#{target})" if target else f"`{entry.defined_as}`"
        text = f"Another name of {first}. {text}"
        tables = []
    parts.append(text)
    parts += [raw(table) for table in tables if table]
    links = [explained(entry, pages, symbols)]
    links.append(f'<a href="{source_url}/{entry.path}#L{entry.line}">source</a>')
    links = " · ".join(link for link in links if link)
    parts.append(raw(f'<p class="api-links">{links}</p>'))
    return "\n\n".join(part for part in parts if part) + "\n"


def contents(room, entries, pages):
    "The head of a room: its page, and its names as links."
    names = "\n".join(f'<a href="#{entry.anchor}">{code(entry.name)}</a>' for entry in entries)
    address = f"rooms/{room}.html"
    about = f"<p>{pages.link(address, '')}</p>\n" if address in pages.titles else ""
    return raw(f'{about}<p class="api-names">{names}</p>') + "\n"


def write_api(stage, settings):
    "Write the index among the pages in `stage`; returns the name of its file."
    sys.path.insert(0, str(settings.config_path))  # the package of this tree, whatever is installed
    package = Package(settings.lib_name, settings.config_path)
    pages = Pages(Path(stage))
    symbols = read_symbols(settings)
    source_url = f"{settings.git_url}/blob/{settings.branch}"
    rooms = {room: list(package.entries(room)) for room in ROOMS}
    anchors = {}
    for entries in rooms.values():
        for entry in entries:
            if entry.defined_as == entry.name:
                anchors.setdefault(entry.name, entry.anchor)
    text = [INTRO]
    for room, entries in rooms.items():
        text.append(f"## {package.name}.{room} {{#{room}}}\n\n{contents(room, entries, pages)}")
        for entry in entries:
            text.append(section(entry, pages, symbols, anchors, source_url))
    (Path(stage) / "api.md").write_text("\n".join(text), encoding="utf-8")
    return "api.md"


def read_symbols(settings):
    "What nbdev knows of the package: module, name, and the page and file of it."
    text = (settings.lib_path / "_modidx.py").read_text(encoding="utf-8")
    return ast.literal_eval(ast.parse(text).body[-1].value)["syms"]
