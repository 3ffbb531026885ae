"""Asserts that tell what they compared.

`assert error < 1e-9` fails with nothing but its own text. Here the numbers come along: each operand
of a comparison, and each argument of a call, is given a name on the way, and the message shows it.

    AssertionError: error = 3.2e-07
"""
import ast
from textwrap import shorten

WIDTH = 200  # characters of a value that are shown
TELL = "_tell"  # under which name cells find `tell`
# what its text tells, or what cannot be named
PLAIN = ast.Constant, ast.Starred, ast.NamedExpr, ast.GeneratorExp


def tell(named):
    "Text and value of what was evaluated, a line each; `named` gives values by their texts."
    lines = []
    for text, value in named:
        try:
            shown = repr(value())
        except NameError:  # of a comparison that ended before it came to this one
            continue
        lines.append(f"{text} = {shorten(shown, WIDTH, placeholder=' ...')}")
    return "\n".join(lines)


class TellingAsserts(ast.NodeTransformer):
    "Gives a message to the asserts of a cell that have none."

    def visit_Assert(self, node):
        if node.msg is not None:
            return node
        named = []
        for holder, field, place in operands(node.test):
            operand = getattr(holder, field)[place] if place is not None else getattr(holder, field)
            if isinstance(operand, PLAIN):
                continue
            name = f"_operand_{len(named)}"
            named.append((ast.unparse(operand), name))
            kept = ast.NamedExpr(ast.Name(name, ast.Store()), operand)
            if place is None:
                setattr(holder, field, kept)
            else:
                getattr(holder, field)[place] = kept
        if not named:
            return node
        rows = ", ".join(f"({text!r}, lambda: {name})" for text, name in named)
        node.msg = ast.parse(f"{TELL}([{rows}])", mode="eval").body
        # nothing is kept alive by it
        names = [ast.Name(name, ast.Store()) for _, name in named]
        forget = ast.copy_location(ast.Assign(names, ast.Constant(None)), node)
        return [ast.fix_missing_locations(node), ast.fix_missing_locations(forget)]


def operands(test):
    "Where the operands of a test stand: their node, its field, and the place in it."
    if isinstance(test, ast.UnaryOp):
        yield from operands(test.operand)
    elif isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from operands(value)
    elif isinstance(test, ast.Compare):
        yield test, "left", None
        for place in range(len(test.comparators)):
            yield test, "comparators", place
    elif isinstance(test, ast.Call):
        for place in range(len(test.args)):
            yield test, "args", place
