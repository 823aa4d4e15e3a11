"The package as a whole: its versions, what an import costs, what is in the wheel, and that the modules are the notebooks'."

import ast, os, re, subprocess, sys, time, zipfile
from configparser import ConfigParser
from importlib.metadata import distribution, distributions, packages_distributions, version

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import llm2llm


@pytest.fixture(scope='session')
def settings(root):
    parser = ConfigParser(delimiters=['='], interpolation=None)
    parser.read(root/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def pins(root):
    return dict(
        line.split('==')
        for line in (root / 'constraints.txt').read_text().splitlines()
        if line and line[0] != '#'
    )


def requirements(settings, key): return [Requirement(r) for r in settings[key].split('\n')[1:]]


@pytest.fixture(scope='session')
def wheel(project, run):
    "The built wheel, of a copy of the project."
    work = project('wheel')
    run(sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', work/'dist', work, cwd=work)
    [file] = (work/'dist').glob('*.whl')
    return zipfile.ZipFile(file)


# ---- versions and requirements

def test_one_version(settings, root, wheel):
    metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith('.dist-info/METADATA'))).decode()
    found = dict(
        settings=settings['version'],
        init=llm2llm.__version__,
        installed=version('llm2llm'),
        wheel=re.search(r'^Version: (.*)$', metadata, re.M)[1].strip(),
        changelog=re.search(r'^## (\d\S*)', (root / 'CHANGELOG.md').read_text(encoding='utf-8'), re.M)[1],
    )
    assert len(set(found.values())) == 1, found


def test_requirements_name_what_is_imported(settings, root):
    "Every module that llm2llm/ imports is of the standard library, of llm2llm itself, or of a requirement in settings.ini, extras included."
    named = {
        canonicalize_name(r.name)
        for key in ('requirements', 'eda_requirements', 'gguf_requirements', 'ray_requirements', 'yardsticks_requirements')
        for r in requirements(settings, key)
    }
    homes = packages_distributions()
    missing = set()
    for file in (root/'llm2llm').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            tops = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for top in {t.split('.')[0] for t in tops} - {'llm2llm'} - set(sys.stdlib_module_names):
                if not named & {canonicalize_name(d) for d in homes.get(top, [])}:
                    missing.add(f'{file.name}: {top}')
    assert not missing


def applies(req, extras):
    "Is a requirement of a package needed here, with these extras of it?"
    return req.marker is None or any(req.marker.evaluate(dict(extra=e)) for e in {'', *extras})


def test_constraints_are_complete(settings, root):
    "constraints.txt pins, without a local version, everything that the package and its extra need here, and nothing else."
    pinned = pins(root)
    assert not [n for n, v in pinned.items() if '+' in v or n != canonicalize_name(n)]
    needed, todo = set(), requirements(settings, 'requirements') + requirements(settings, 'dev_requirements')
    seen = set()
    while todo:
        req = todo.pop()
        if (str(req)) in seen: continue
        seen.add(str(req))
        needed.add(canonicalize_name(req.name))
        todo += [r for r in map(Requirement, distribution(req.name).requires or []) if applies(r, req.extras)]
    assert not needed - set(pinned), 'needed, and not in constraints.txt'
    for req in requirements(settings, 'requirements') + requirements(settings, 'dev_requirements'):
        assert pinned[canonicalize_name(req.name)] in req.specifier, (
            f'the tested version of {req.name} is outside settings.ini'
        )


def test_pins_take_the_oldest_python(root):
    "Debian 12 has Python 3.11.2; a pin that asks for 3.11.5 makes pip search for a solution that there is not."
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (root/'pyproject.toml').read_text())[1] + '.0'
    here = {canonicalize_name(d.name) for d in distributions()}
    asks = {n: distribution(n).metadata['Requires-Python'] or '' for n in pins(root) if n in here}
    assert len(asks) > 100 and not [(n, a) for n, a in asks.items() if oldest not in SpecifierSet(a)]


# ---- import

@pytest.fixture(scope='session')
def python(run): return lambda code: run(sys.executable, '-c', code, cold=True)


def test_import_loads_nothing_heavy(python):
    res = python('import sys, llm2llm; print(*sys.modules)')
    loaded = {m.split('.')[0] for m in res.stdout.split()}
    assert not loaded & {
        'torch',
        'transformers',
        'trl',
        'peft',
        'datasets',
        'bitsandbytes',
        'pandas',
        'numpy',
        'matplotlib',
        'sklearn',
        'IPython',
    }
    assert not [m for m in res.stdout.split() if m.startswith('llm2llm.')], (
        'a chapter is imported before it is used'
    )
    assert not res.stderr


def test_import_is_fast(python):
    "Against a bare interpreter in the same minute: under half a second more, however busy the machine."
    def seconds(code):
        start = time.perf_counter()
        python(code)
        return time.perf_counter() - start
    pairs = [(seconds('pass'), seconds('import llm2llm')) for _ in range(5)]
    assert min(b for _, b in pairs) - min(a for a, _ in pairs) < .5


def test_help_loads_no_torch(python):
    "What a user types first answers at once."
    res = python('import sys\nsys.argv = ["llm2llm", "--help"]\nfrom llm2llm.cli.main import main\n'
                 'try: main()\nexcept SystemExit: pass\nprint("\\n", "torch" in sys.modules)')
    assert res.stdout.split()[-1] == 'False' and 'demo' in res.stdout


@pytest.mark.parametrize('name', llm2llm.__all__)
def test_public_name(name):
    assert getattr(llm2llm, name) is not None
    assert name in dir(llm2llm)


def test_editors_see_the_same_names(root):
    tree = ast.parse((root/'llm2llm/__init__.py').read_text(encoding='utf-8'))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    assert {(i.module, a.name) for i in block.body for a in i.names} == {
        (chapter, name) for name, chapter in llm2llm._home.items()
    }


def test_chapters_are_reached_by_name(python):
    "A class that a later chapter adds methods to comes whole, and every package is an attribute, in a fresh interpreter."
    python('from llm2llm import Task; Task.from_files')
    python('import llm2llm; llm2llm.report; llm2llm.cli')


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Studnet'"): llm2llm.Studnet
    with pytest.raises(ImportError): exec('from llm2llm import Studnet')


# ---- the notebooks are the source

def test_modules_are_what_the_notebooks_export(project, run, root):
    work = project('export')
    init = (work/'llm2llm/__init__.py').read_bytes()
    by_hand = [work/'llm2llm'/name for name in ('__init__.py', '__main__.py')]
    for file in (work/'llm2llm').rglob('*.py'):
        if file not in by_hand: file.unlink()
    run('nbdev-export', cwd=work)
    made, kept = (
        {p.relative_to(d).as_posix(): p.read_bytes() for p in (d / 'llm2llm').rglob('*.py')}
        for d in (work, root)
    )
    assert made.keys() == kept.keys()
    assert not [n for n in made if made[n] != kept[n]], 'run `make export`'
    assert made['llm2llm/__init__.py'] == init, 'nbdev-export changed __init__.py'
    assert (work/'pyproject.toml').read_bytes() == (root/'pyproject.toml').read_bytes()


def test_notebooks_are_clean(project, run, root):
    work = project('clean')
    run('nbdev-clean', cwd=work)
    dirty = [
        str(p.relative_to(work))
        for p in (work / 'nbs').rglob('*.ipynb')
        if p.read_bytes() != (root / p.relative_to(work)).read_bytes()
    ]
    assert not dirty, 'run `nbdev-clean`'


def test_library_knows_no_machine(root):
    "No path of the machine that it was written on, and nothing from outside the repository, in what users get to see."
    pages = [
        root / 'README.md',
        root / 'CHANGELOG.md',
        root / 'CONTRIBUTING.md',
        *(
            p
            for p in (root / 'nbs').rglob('*.ipynb')
            if not any(part[0] in '._' for part in p.relative_to(root).parts)
        ),
    ]
    found = {
        p.name: re.findall(r'/work/\S*|/root/\S*|/home/\w\S*|\bshared/\S*', p.read_text(encoding='utf-8'))
        for p in [*(root / 'llm2llm').rglob('*.py'), *pages]
    }
    assert not {name: hits for name, hits in found.items() if hits}


# ---- what is shipped

def test_wheel(wheel, root):
    names = set(wheel.namelist())
    modules = {p.relative_to(root).as_posix() for p in (root/'llm2llm').rglob('*.py')}
    base = {f'llm2llm/mini_base/{p.name}' for p in (root/'llm2llm/mini_base').glob('*')}
    assert {
        'llm2llm/mini_base/config.json',
        'llm2llm/mini_base/model.safetensors',
        'llm2llm/mini_base/tokenizer.json',
    } <= base
    texts = {f'llm2llm/mini/{name}.json' for name in ('gsm', 'intent')}
    pages = {p.relative_to(root).as_posix() for p in (root/'llm2llm/templates').glob('*')}
    assert names == modules | base | texts | pages | {'llm2llm/ledger.html', 'llm2llm/student/gpus.csv'} | {
        n for n in names if '.dist-info/' in n
    }
    assert any(n.endswith('licenses/LICENSE') for n in names)
    assert sum(i.file_size for i in wheel.infolist()) < 8_000_000
    points = wheel.read(next(n for n in names if n.endswith('entry_points.txt'))).decode()
    assert 'llm2llm = llm2llm.cli.main:main' in points and 'llm2llm = llm2llm._modidx:d' in points


def test_top_level_files(root):
    for name in (
        'LICENSE',
        'CHANGELOG.md',
        'CONTRIBUTING.md',
        'Makefile',
        'README.md',
        'constraints.txt',
        'settings.ini',
        'setup.py',
        '_quarto.yml',
        '.gitignore',
        '.ci/run',
    ):
        assert (root / name).is_file(), name
    assert os.access(root/'.ci/run', os.X_OK)
    assert 'Apache License' in (root/'LICENSE').read_text()[:200]


def test_make_refuses_what_cannot_work(tmp_path, root):
    "A Python that is not there is named, with what to do."
    (tmp_path/'Makefile').write_bytes((root/'Makefile').read_bytes())
    for name in ('constraints.txt', 'settings.ini', 'setup.py', 'pyproject.toml'): (tmp_path/name).touch()
    res = subprocess.run(['make', 'demo', 'PYTHON=python0'], cwd=tmp_path, capture_output=True, text=True)
    assert res.returncode and 'needs Python 3.11 or newer' in res.stdout and 'make demo PYTHON=' in res.stdout
