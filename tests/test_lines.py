"""How exported code reads. `ruff` keeps what it can see, in notebooks too; the rest is read here from the syntax: no conditional in
a conditional, none in an f-string, no expression for its effect, at most two `for` in a comprehension; short cells, short modules,
and a lesson at least after every five cells."""

import ast, json, subprocess, sys

import pytest

from conftest import ROOT

MOST_LINES, MOST_CELLS, MOST_MODULE, LEAST_WORDS = 20, 5, 400, 30
CHAPTERS = [
    p for p in sorted((ROOT / 'nbs').rglob('*.ipynb')) if '#| default_exp' in p.read_text(encoding='utf-8')
]


def cells(path):
    "(kind, id, source) of each cell: 'export', 'hide', 'code' or 'markdown'"
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(c['source'])
        first = source.partition('\n')[0]
        kind = c['cell_type']
        for mark in ('export', 'hide'):
            if first.startswith(f'#| {mark}') or first.startswith('#| default_exp'):
                kind = mark if first.startswith(f'#| {mark}') else 'hide'
        yield kind, c['id'], source


EXPORTED = [
    (f'{p.relative_to(ROOT)} {id}', source)
    for p in CHAPTERS
    for kind, id, source in cells(p)
    if kind == 'export'
]


def effects(node):
    "Is an expression statement evaluated for its effect only, and is it not one call?"
    if not isinstance(node, ast.Expr): return False
    value = node.value
    return isinstance(
        value,
        (
            ast.Tuple,
            ast.List,
            ast.ListComp,
            ast.SetComp,
            ast.GeneratorExp,
            ast.DictComp,
            ast.BoolOp,
            ast.IfExp,
            ast.Compare,
        ),
    )


def faults(source):
    "What a reader would have to read twice"
    for node in ast.walk(ast.parse(source)):
        at = f'line {getattr(node, "lineno", "?")}'
        if isinstance(node, ast.IfExp) and any(
            isinstance(x, ast.IfExp) for x in ast.walk(node) if x is not node
        ):
            yield f'{at}: a conditional in a conditional'
        if isinstance(node, ast.FormattedValue) and any(
            isinstance(x, ast.IfExp) for x in ast.walk(node.value)
        ):
            yield f'{at}: a conditional in an f-string'
        if effects(node): yield f'{at}: an expression for its effect'
        if (
            isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp))
            and len(node.generators) > 2
        ):
            yield f'{at}: three `for`'


@pytest.mark.parametrize('source,found', [('x = a if b else c if d else e', 'conditional in a conditional'), ("x = f'{1 if a else 2}'", 'in an f-string'), ('f(), g()', 'effect'),
                                          ('[f(x) for x in y]', 'effect'), ('a or f()', 'effect'), ('x = [1 for a in b for c in d for e in f]', 'three'),
                                          ('f()', ''), ('x = a if b else c', ''), ("x = f'{a}'", ''), ('x = [f(y) for y in z for a in y]', ''), ('"A docstring"', '')])
def test_the_test(source, found):
    wrong = [*faults(source)]
    assert bool(wrong) == bool(found) and all(found in w for w in wrong)


def test_exported_cells_read_once():
    assert not [f'{place}, {fault}' for place, source in EXPORTED for fault in faults(source)]


def counted(source):
    "The lines of a cell, those of signatures and of a dataclass's fields left out: each holds one documented parameter"
    lines = {
        i for i, line in enumerate(source.splitlines(), 1) if line.strip() and not line.startswith('#| ')
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines -= {*range(node.lineno + 1, node.body[0].lineno)}
        if isinstance(node, ast.AnnAssign): lines.discard(node.lineno)
    return len(lines)


def test_exported_cells_are_short():
    "One that is longer says why, in a comment that begins with `# Long:`"
    assert not [
        f'{place}: {counted(source)} lines'
        for place, source in EXPORTED
        if counted(source) > MOST_LINES and '# Long: ' not in source
    ]


def test_modules_are_short():
    lines = {
        p.relative_to(ROOT).as_posix(): p.read_text(encoding='utf-8').count('\n')
        for p in (ROOT / 'llm2llm').rglob('*.py')
        if p.stem != '_modidx'
    }
    assert not {p: n for p, n in lines.items() if n > MOST_MODULE}


def test_a_lesson_after_every_few_cells():
    "A lesson, or prose of some length: a heading or a sentence does not let a reader rest"
    wrong = []
    for path in CHAPTERS:
        run = 0
        for kind, id, source in cells(path):
            if kind == 'code' or (kind == 'markdown' and len(source.split()) >= LEAST_WORDS): run = 0
            if kind == 'export': run += 1
            if run == MOST_CELLS+1: wrong.append(f'{path.relative_to(ROOT)} {id}')
    assert not wrong


def test_ruff():
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'check', 'nbs', 'tests'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_modules_import_what_they_use():
    "A name that only a lesson imports is there in the notebook, and missing in the module"
    words = ['check', 'llm2llm', '--isolated', '--select', 'F821']
    done = subprocess.run([sys.executable, '-m', 'ruff', *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
