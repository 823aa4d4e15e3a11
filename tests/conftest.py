"What every test shares: a quiet, offline, one-thread environment, and the project's folder."
import os, shutil, subprocess, sys
from pathlib import Path

import pytest

# Set before anything imports torch. Child processes inherit it, so that `pytest` alone does what `make test` does.
for name, value in dict(
    OMP_NUM_THREADS='1',
    TOKENIZERS_PARALLELISM='false',
    HF_HUB_OFFLINE='1',
    HF_HUB_DISABLE_TELEMETRY='1',
    MPLBACKEND='agg',
    PYTHONUTF8='1',
).items():
    os.environ.setdefault(name, value)
os.environ.pop('IN_TEST', None)  # nbdev's own mark: with it set, its commands do nothing

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
os.environ['PATH'] = (
    f'{BIN}{os.pathsep}{os.environ["PATH"]}'  # `llm2llm` and nbdev's commands are those of this environment
)


# The files that take longest come first, and the notebooks, which are many short tests, last: processes end together.
LONGEST = (
    'test_teacher',
    'test_grid',
    'test_resume',
    'test_docs',
    'test_export',
    'test_odd_replies',
    'test_ranks',
    'test_plan',
    'test_share',
    'test_student',
)


def pytest_xdist_make_scheduler(config, log):
    "One process runs a file, for the sake of its fixtures; a notebook needs none, so any process may run it, nor does the longest test."
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            alone = 'test_notebooks.py' in nodeid or 'thousands_of_requests' in nodeid
            return nodeid if alone else nodeid.split('::')[0]
    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place) + (item.path.stem == 'test_notebooks')))


def pytest_collection_finish():
    "What the tests have imported by now, warm processes are forked with"
    if 'torch' in sys.modules: warm.fork_server()


BROWSERLESS = 'no Chromium or Chrome here'  # the reason of every test that is skipped for want of a browser


def pytest_unconfigure(config):
    "The last lines say which tests need a browser that is not there, and how to get it. Workers of xdist have no reporter."
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    skipped = reporter.stats.get('skipped', []) if reporter else []
    files = [report.nodeid.split('::')[0] for report in skipped if BROWSERLESS in str(report.longrepr)]
    if not files: return
    reporter.write_line(
        f'{len(files)} tests of {", ".join(sorted(set(files)))} were skipped: they open pages in Chromium or Chrome.'
    )
    reporter.write_line(
        'To run them, install it (on Debian and Ubuntu: apt-get install chromium), and run `make test` again.'
    )


import warm


@pytest.fixture(scope='session')
def root(): return ROOT


@pytest.fixture(scope='session')
def run():
    """A command's finished process; the test fails, showing its output, if it ends with another status than `status`.
    With `cold` it starts as a user's does, and has nothing loaded."""

    def _run(*cmd, status=0, cwd=ROOT, timeout=600, cold=False, **env):
        words, how = [str(c) for c in cmd], dict(cwd=cwd, timeout=timeout, env={**os.environ, **env})
        if not cold and warm.is_warm(words, how['env']): res = warm.run(words, capture_output=True, text=True, **how)
        else: res = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, encoding='utf-8', **how)
        assert res.returncode == status, (
            f'{cmd} ended with {res.returncode}:\n{res.stdout[-3000:]}\n{res.stderr[-6000:]}'
        )
        return res
    return _run


@pytest.fixture
def install(tmp_path, monkeypatch):
    "A function that installs a package of one module for one test: its source, and its entry points in a group."

    def _install(name, source, group, **points):
        about = tmp_path / f'{name}-1.dist-info'
        about.mkdir()
        (tmp_path / f'{name}.py').write_text(source)
        (about / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1\n')
        lines = [f'[{group}]', *(f'{k} = {v}' for k, v in points.items()), '']
        (about / 'entry_points.txt').write_text('\n'.join(lines))
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        added.append(name)

    added = []
    yield _install
    for name in added: sys.modules.pop(name, None)


@pytest.fixture(scope='session')
def project(tmp_path_factory):
    "A function that copies the project's sources to a fresh folder, where a test may change them."
    def _copy(name):
        dest = tmp_path_factory.mktemp(name)
        skip = shutil.ignore_patterns(
            '.*', '_docs', '_proc', 'runs', 'build', 'dist', '*.egg-info', '__pycache__', 'shared'
        )
        shutil.copytree(ROOT, dest, dirs_exist_ok=True, symlinks=True, ignore=skip)
        return dest
    return _copy
