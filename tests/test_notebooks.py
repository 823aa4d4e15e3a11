"Every notebook runs from its first cell to its last: one test each, run by one call of nbdev-test."
import json, re, subprocess

import pytest

from conftest import BIN, ROOT

NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(ROOT).parts))
names = lambda p: p.relative_to(ROOT/'nbs').as_posix()


@pytest.fixture(scope='session')
def ran(request):
    "What nbdev-test said of the notebooks that this session selects, and the names of those that failed."
    chosen = sorted({item.callspec.params['nb'] for item in request.session.items if getattr(item, 'originalname', '') == 'test_runs'})
    cmd = [BIN/'nbdev-test', '--n-workers', str(request.config.getoption('--nb-workers')), '--timing',
           '--path-re', f"nbs/({'|'.join(re.escape(names(p)) for p in chosen)})$"]
    res = subprocess.run(cmd, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding='utf-8')
    failed = re.search(r'Failed On The Following Notebooks:\n=+\n(.*)', res.stderr, re.S)
    return res, set(failed[1].split()) if failed else set()


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=names)
def test_runs(nb, ran):
    res, failed = ran
    assert failed or res.returncode == 0, res.stderr[-6000:]
    assert nb.name not in failed, res.stderr[-12000:]


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=names)
def test_saved_as_a_page(nb):
    "No error is saved, no machine's paths, and a page that shows something."
    cells = json.loads(nb.read_text(encoding='utf-8'))['cells']
    outputs = [(c['id'], o) for c in cells if c['cell_type'] == 'code' for o in c['outputs']]
    assert not [i for i, o in outputs if o['output_type'] == 'error'], 'cells with an error as their output'
    said = {i: json.dumps(o.get('text', '')) + json.dumps({k: v for k, v in o.get('data', {}).items() if not k.startswith('image/')}) for i, o in outputs}
    paths = {i: m[0] for i, s in said.items() if (m := re.search(r'(/work/|/root/|/home/|/Users/|/tmp/|site-packages)[^"\s]*', s))}
    assert not paths, 'cells whose output names a path of the machine it was run on'
    assert not [i for i, o in outputs if o.get('name') == 'stderr'], 'cells with a warning or a log line as their output'
    title = next(c for c in cells if c['cell_type'] == 'markdown')
    assert ''.join(title['source']).startswith('# ')
