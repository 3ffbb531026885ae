"""Text without its markup, formulas as Unicode: for the menus, and for what is read aloud."""

import re
import unicodedata

ACCENTS = {"dot": "\u0307", "ddot": "\u0308", "hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}
SYMBOLS = {
    "cdot": "·",
    "times": "×",
    "pm": "±",
    "le": "≤",
    "leq": "≤",
    "ge": "≥",
    "geq": "≥",
    "ne": "≠",
    "neq": "≠",
    "approx": "≈",
    "sim": "∼",
    "ll": "≪",
    "gg": "≫",
    "in": "∈",
    "to": "→",
    "mapsto": "↦",
    "infty": "∞",
    "int": "∫",
    "sum": "∑",
    "prod": "∏",
    "partial": "∂",
    "nabla": "∇",
    "sqrt": "√",
    "top": "⊤",
    "ell": "ℓ",
    "lvert": "|",
    "rvert": "|",
    "lVert": "‖",
    "rVert": "‖",
    "odot": "⊙",
    "otimes": "⊗",
    "circ": "∘",
    "subset": "⊂",
    "Re": "Re",
    "Im": "Im",
    "ldots": "…",
    "dots": "…",
    "cdots": "…",
    "quad": " ",
    "qquad": " ",
    "left": "",
    "right": "",
    "big": "",
    "Big": "",
    "varepsilon": "ε",
    "varphi": "φ",
    "mathbb": "",
    "mathcal": "",
    "mathrm": "",
    "mathbf": "",
    "operatorname": "",
    "text": "",
}
SPACED = "·×±≤≥≠≈∼≪≫∈→↦⊂"  # signs that stand between two things
SMALL = {
    "_": str.maketrans("0123456789+-=()ijkn", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ᵢⱼₖₙ"),
    "^": str.maketrans("0123456789+-=()ijkn", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱʲᵏⁿ"),
}


def symbol(found):
    "What stands for a command: a Greek letter, a sign with the space behind it, a name."
    command, space = found[1], found[2]
    if command in SYMBOLS:
        sign = SYMBOLS[command]
        return sign + space if sign and sign in SPACED else sign
    size = "SMALL" if command.islower() else "CAPITAL"
    name = "LAMDA" if command.lower() == "lambda" else command.upper()
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {name}")
    except KeyError:
        return command + space


def raised(found):
    "An index or a power: small letters where there are some, else behind `_` or `^`."
    mark, text = found[1], (found[2] or found[3]).strip()
    small = text.translate(SMALL[mark])
    if not set(small) & set(text):
        return small
    return mark + (text if len(text) == 1 else f"({text})")


def fraction(found):
    "`a/b`, with parentheses around what is more than one word."
    parts = [(found[1] or found[3]).strip(), (found[2] or found[4]).strip()]
    parts = [part if re.fullmatch(r"\w+", part) else f"({part})" for part in parts]
    return "/".join(parts)


def plain_formula(tex):
    "A formula, or a text with formulas whose dollars are gone, in Unicode."
    text = re.sub(r"\\[,;:! ]|~", " ", tex)
    text = re.sub(r"\\\|", "‖", text)
    text = re.sub(r"\\[td]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\w)\s*(\w))", fraction, text)
    for accent, mark in ACCENTS.items():
        text = re.sub(rf"\\{accent}\b\s*\{{?(\\?\w)\}}?", rf"\1{mark}", text)
    text = re.sub(r"\\([A-Za-z]+)(\s*)", symbol, text)
    text = re.sub(r"([_^])(?:\{([^{}]*)\}|(\S))", raised, text)
    text = re.sub(r"[{}\\]", "", text)
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text).strip())


def plain(markdown):
    "A line of Markdown as the text it shows."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r"<[^>]+>", "", text)
    pieces = re.split(r"(\$\$.+?\$\$|(?<!\\)\$[^$]+\$|`[^`]+`)", text, flags=re.DOTALL)
    for i, piece in enumerate(pieces):
        if piece.startswith("$"):
            pieces[i] = plain_formula(piece.strip("$"))
        elif piece.startswith("`"):
            pieces[i] = piece.strip("`")
        else:
            piece = re.sub(r"(?<!\\)\*+|(?<!\w)_+|_+(?!\w)", "", piece)
            pieces[i] = re.sub(r"\\(\W)", r"\1", piece)
    return re.sub(r"\s+", " ", "".join(pieces)).strip()
