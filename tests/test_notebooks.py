"Every notebook runs from its first cell to its last: one test each, run by one call of nbdev-test."
import ast, json, os, re, subprocess

import pytest

from conftest import BIN, ROOT

NOTEBOOKS = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if not any(part[0] in '._' for part in p.relative_to(ROOT).parts)
)
names = lambda p: p.relative_to(ROOT/'nbs').as_posix()


@pytest.fixture(scope='session')
def ran(request):
    "nbdev-test on the notebooks that this session selects: what it printed, those that ran, and the names of those that failed."
    chosen = sorted(
        {
            names(item.callspec.params['nb'])
            for item in request.session.items
            if getattr(item, 'originalname', '') == 'test_runs'
        }
    )
    n = request.config.getoption('--nb-workers') or (1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)
    res = subprocess.run([BIN/'nbdev-test', '--n-workers', str(n), '--do-print',
                          '--path-re', f"nbs/({'|'.join(map(re.escape, chosen))})$"],
                         cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding='utf-8')
    failed = re.search(r'Failed On The Following Notebooks:\n=+\n(.*)', res.stderr, re.S)
    return res, set(re.findall(r'- Completed (.*)', res.stdout)), set(failed[1].split() if failed else [])


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=names)
def test_runs(nb, ran):
    res, completed, failed = ran
    assert str(nb) in completed, f'nbdev-test did not run it:\n{res.stdout}\n{res.stderr[-6000:]}'
    assert nb.name not in failed and (failed or res.returncode == 0), res.stderr[-12000:]


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
