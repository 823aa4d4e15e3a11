"Every notebook runs from its first cell to its last, as nbdev-test runs it: one test and one warm process each."
import ast, json, re, sys

import pytest

from conftest import ROOT

NOTEBOOKS = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if not any(part[0] in '._' for part in p.relative_to(ROOT).parts)
)
names = lambda p: p.relative_to(ROOT/'nbs').as_posix()


CODE = 'import sys; from nbdev.test import nbdev_test; nbdev_test(sys.argv[1], n_workers=0, do_print=True)'


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=names)
def test_runs(nb, run):
    assert f'- Completed {nb}' in run(sys.executable, '-c', CODE, nb).stdout, 'nbdev-test did not run it'


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=names)
def test_saved_as_a_page(nb):
    "No error is saved, no machine's paths, and a page that shows something."
    cells = json.loads(nb.read_text(encoding='utf-8'))['cells']
    outputs = [(c['id'], o) for c in cells if c['cell_type'] == 'code' for o in c['outputs']]
    assert not [i for i, o in outputs if o['output_type'] == 'error'], 'cells with an error as their output'
    said = {
        i: json.dumps(o.get('text', ''))
        + json.dumps({k: v for k, v in o.get('data', {}).items() if not k.startswith('image/')})
        for i, o in outputs
    }
    paths = {
        i: m[0]
        for i, s in said.items()
        if (m := re.search(r'(/work/|/root/|/home/|/Users/|/tmp/|site-packages)[^"\s]*', s))
    }
    assert not paths, 'cells whose output names a path of the machine it was run on'
    assert not [i for i, o in outputs if o.get('name') == 'stderr'], (
        'cells with a warning or a log line as their output'
    )
    title = next(c for c in cells if c['cell_type'] == 'markdown')
    assert ''.join(title['source']).startswith('# ')


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=names)
def test_imports_have_cells_of_their_own(nb):
    "nbdev runs the cells with imports when it builds the pages, and only them: other code in such a cell fails there."
    mixed = []
    for cell in json.loads(nb.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or re.search(r'^#\|\s*(export|eval: *false)', source, re.M): continue
        body = ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M)).body
        imports = [isinstance(node, ast.Import | ast.ImportFrom) for node in body]
        if any(imports) and not all(imports): mixed.append(cell['id'])
    assert not mixed, 'cells with imports and other code'
