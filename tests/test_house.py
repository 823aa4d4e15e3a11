"The house: packages in the order of the data, each importing only from those above it, imports inside functions included"

import ast, re
from types import FunctionType

import pytest

from conftest import ROOT
from llm2llm.core import SettingError
from llm2llm.loop.rules import find_rule, own_rules, rules
from llm2llm.tasks.kinds import kinds

HOUSE = ROOT/'llm2llm'
ORDER = ['core', 'tables', 'store', 'tasks', 'student', 'teachers', 'loop', 'report', 'grid', 'mini', 'cli']
HEAVY = {'torch', 'transformers', 'trl', 'peft'}
MODULES = {
    '.'.join(p.relative_to(HOUSE).with_suffix('').parts): p
    for p in sorted(HOUSE.rglob('*.py'))
    if p.stem not in ('__init__', '__main__', '_modidx')
}


def imports(name, path, known=MODULES):
    "(line, module) of every import of a module, wherever in it: dotted names, those of this package without its name"
    here = ('llm2llm.' + name).split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): found = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                '.'.join(here[: len(here) + 1 - node.level] if node.level else [])
                + ('.' if node.level and node.module else '')
                + (node.module or '')
            )
            found = [
                f'{base}.{a.name}' if f'{base}.{a.name}'.removeprefix('llm2llm.') in known else base
                for a in node.names
            ]
        else: continue
        for module in dict.fromkeys(found):
            yield node.lineno, module.removeprefix('llm2llm.') if module.startswith('llm2llm.') else module


def package(name): return name.split('.')[0]


@pytest.fixture(scope='module')
def graph():
    "Module to the modules of this package that it imports, with the line"
    return {
        name: {m: line for line, m in imports(name, path) if m in MODULES and m != name}
        for name, path in MODULES.items()
    }


def test_every_module_has_its_place():
    assert {package(m) for m in MODULES} == set(ORDER)
    folders = {
        p.relative_to(ROOT / 'nbs').parts[0]
        for p in (ROOT / 'nbs').rglob('*.ipynb')
        if '#| default_exp' in p.read_text(encoding='utf-8')
    }
    assert [re.sub(r'^\d+[a-z]?_|\.ipynb$', '', f) for f in sorted(folders)] == ORDER, (
        'the folders tell another story than the packages'
    )


def test_a_package_imports_only_from_those_above(graph):
    wrong = [
        f'{a}:{line} imports {b}'
        for a, its in graph.items()
        for b, line in its.items()
        if ORDER.index(package(b)) > ORDER.index(package(a))
    ]
    assert not wrong


def test_no_circles(graph):
    seen, path = set(), []
    def visit(m):
        assert m not in path, ' → '.join([*path[path.index(m):], m])
        if m in seen: return
        seen.add(m)
        path.append(m)
        for other in graph[m]: visit(other)
        path.pop()
    for m in graph: visit(m)


def test_only_the_student_knows_torch():
    wrong = [
        f'{name}:{line} imports {m}'
        for name, path in MODULES.items()
        if package(name) != 'student'
        for line, m in imports(name, path)
        if package(m) in HEAVY
    ]
    assert not wrong


@pytest.mark.parametrize('source,found', {'from ..core import x': 'core', 'from . import client': 'teachers.client', 'def f():\n  from llm2llm.loop.config import D': 'loop.config',
                                           'import torch.nn as nn': 'torch.nn', 'from .client import (A,\n  B)': 'teachers.client', 'from llm2llm.student import distributed as d': 'student.distributed'}.items())
def test_the_reading_of_imports(source, found, tmp_path):
    "A check that cannot fail is none"
    (tmp_path/'m.py').write_text(source)
    assert [m for _,m in imports('teachers.llm', tmp_path/'m.py')] == [found]


def _about_kind(node):
    "Is this a kind's name: `kind`, `task.kind`, `t['kind']`, `t.get('kind', …)`, `task.kind.name`, `str(task.kind)`?"
    if isinstance(node, ast.Call): return bool(node.args) and _about_kind(node.args[0])
    if isinstance(node, ast.Subscript): return _about_kind(node.slice)
    if isinstance(node, ast.Constant): return node.value == 'kind'
    if isinstance(node, ast.Attribute) and node.attr == 'name': return _about_kind(node.value)
    return (getattr(node, 'id', None) or getattr(node, 'attr', None) or '').endswith('kind')


def _names_a_kind(node, names):
    return any(isinstance(n, ast.Constant) and n.value in names for n in getattr(node, 'elts', [node]))


def kind_comparisons(source, names):
    "The comparisons with a kind's name in a module"
    for node in ast.walk(ast.parse(source)):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if any(_about_kind(s) for s in sides) and any(_names_a_kind(s, names) for s in sides):
            yield f'{node.lineno}: {ast.unparse(node)}'


def test_a_kind_of_task_is_asked_not_compared():
    names = {'number', 'label', 'choice', 'json', 'text'}
    assert names <= set(kinds())
    wrong = [
        f'{name}:{found}'
        for name, path in MODULES.items()
        if name != 'tasks.kinds'
        for found in kind_comparisons(path.read_text(encoding='utf-8'), names)
    ]
    assert not wrong, 'give Kind an attribute or a method that says it, in tasks.kinds'


@pytest.mark.parametrize('source,found', {"if task.kind == 'label': pass": 1, "x = kind in ('label', 'choice')": 1, "y = 'text' != t['kind']": 1, "z = about.get('kind', 'text') == 'choice'": 1,
                                           "self.kind not in {'number'}": 1, "task.kind.name == 'text'": 1, "str(task.kind) == 'text'": 1, "their_kind == 'label'": 1,
                                           "kind == 'dataset'": 0, "name == 'label'": 0, "task.kind.stratified": 0, "form == 'text'": 0, "kind = 'label'": 0}.items())
def test_the_reading_of_kinds(source, found):
    assert len(list(kind_comparisons(source, {'number', 'label', 'choice', 'text'}))) == found


RULES = {*own_rules(), 'learnable', 'margin', 'crossfit-label'}


def compared(source):
    "(line, words) of each comparison of what a run selects with the name of a rule, or the beginning of one"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and getattr(node.func, 'attr', '') in ('startswith', 'endswith'):
            sides = [node.func.value, *node.args]
        elif isinstance(node, ast.Match): sides = [node.subject, *(c.pattern for c in node.cases)]
        else: continue
        words = {
            c.value
            for s in sides
            for c in ast.walk(s)
            if isinstance(c, ast.Constant) and isinstance(c.value, str) and c.value
        }
        names = (
            {w for w in words if any(w in n for n in RULES)} if isinstance(node, ast.Call) else words & RULES
        )
        if names and any('select' in ast.unparse(s) for s in sides): yield node.lineno, sorted(names)


def test_no_module_compares_the_name_of_a_rule():
    "What is special about a rule stands in its class"
    assert not [
        (name, *c) for name, path in MODULES.items() for c in compared(path.read_text(encoding='utf-8'))
    ]


@pytest.mark.parametrize('source,found', {"if d.select == 'wrong': pass": ['wrong'], "'all' != self.config.select": ['all'], "d.select in ('crossfit', 'mine', 'margin')": ['crossfit', 'margin'],
                                           "d.select.startswith('crossfit')": ['crossfit'], "s.get('select', 'wrong') != x": ['wrong'], "match d.select:\n  case 'random': pass": ['random'],
                                           "how == 'all'": None, "d.select == 'mine'": None, "d.select in known": None, "select.startswith('round_')": None}.items())
def test_the_reading_of_rules(source, found):
    assert next((names for _,names in compared(source)), None) == found


def test_the_rules_of_installed_packages_are_found(install):
    "By their entry points; one that does not load is left out, and a name of ours stays ours"
    source = (
        "from llm2llm.loop.rules import Rule\nclass Longest(Rule):\n    name, help = 'longest', 'the longest questions first'\n"
        "    def rank(self, row, evidence): return -len(row.question)\nclass Wrong(Longest): name = 'wrong'\n"
    )
    install('mine', source, 'llm2llm.rules', longest='mine:Longest', wrong='mine:Wrong', broken='not_there:Rule')
    with pytest.warns(UserWarning, match='broken'): found = rules()
    assert [*found] == [*own_rules(), 'longest'] and found['wrong'] is own_rules()['wrong']
    with pytest.warns(UserWarning): by_name = find_rule('longest')
    assert by_name.settings() == find_rule('mine:Longest').settings() and by_name.settings()['code']


def test_a_kind_is_defined_in_its_module_and_in_its_notebook():
    "and two classes of other modules that take one name are still refused"
    source = "from llm2llm.tasks.kinds import Label\nclass Colour(Label): name, help = 'colour', 'a colour'\n"
    from llm2llm.tasks.kinds import _known

    try:
        for module in ('some.module', '__main__', 'some.module'): exec(source, dict(__name__=module))
        with pytest.raises(SettingError, match="'colour' is the name of Colour in some.module"):
            exec(source, dict(__name__='another.module'))
    finally: _known.pop('colour', None)


def probes(source):
    "Lines that look for something in a teacher that its class may lack"
    is_teacher = lambda x: (
        (isinstance(x, ast.Name) and x.id in ('t', 'teacher'))
        or (isinstance(x, ast.Attribute) and x.attr == 'teacher')
    )
    calls = [
        n
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ('hasattr', 'getattr')
    ]
    return [n.lineno for n in calls if n.args and is_teacher(n.args[0])]


def test_nobody_probes_a_teacher():
    "What a teacher offers is a method of `Teacher`, with a default"
    wrong = [
        f'{name}:{line}'
        for name, path in MODULES.items()
        if package(name) != 'teachers'
        for line in probes(path.read_text(encoding='utf-8'))
    ]
    assert not wrong


@pytest.mark.parametrize('source,lines', {"hasattr(teacher, 'x')": [1], "a = 1\nb = getattr(self.teacher, 'x', None)": [2], "getattr(getattr(job.teacher, 'client', 0), 'price')": [1],
                                           "getattr(t, 'x')()": [1], "getattr(task, 'x')": [], 'teacher.x': [], "hasattr(student, 'teacher')": []}.items())
def test_the_reading_of_probes(source, lines): assert probes(source) == lines


def added(cls):
    "Methods of a class that another module gave it (`_orig_…` is what `patch` keeps of a base's method)"
    return [
        name
        for name, f in vars(cls).items()
        if isinstance(f, FunctionType) and not name.startswith('_orig_') and f.__module__ != cls.__module__
    ]


def test_every_kind_of_teacher_is_whole():
    "A kind names itself in its own module, and no other module adds to it"
    from importlib import import_module
    from llm2llm.core import classes_in
    from llm2llm.teachers.teacher import Teacher

    modules = [
        import_module(f'llm2llm.{name}')
        for name in MODULES
        if package(name) in ORDER[ORDER.index('teachers') : -1]
    ]
    kinds = [c for m in modules for c in classes_in(m, Teacher) if c.kind]
    assert sorted(c.kind for c in kinds) == ['api', 'eda', 'local', 'mini', 'pool', 'replay'] and all(
        c.help and '\n' not in c.help for c in kinds
    )
    assert not [(c, added(c)) for kind in kinds for c in kind.__mro__[:-1] if added(c)]
    part = type('Part', (kinds[0],), dict(__module__='elsewhere', check=test_no_circles))
    assert added(part) == ['check'], 'a check that cannot fail is none'


def test_entry_points_are_those_of_the_project():
    "pyproject.toml names the teachers of the packages after `teachers`, each by its kind"
    import tomllib
    from importlib.metadata import EntryPoint
    from llm2llm.core import load_plugin
    from llm2llm.teachers.teacher import Teacher

    points = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']['entry-points'][
        'llm2llm.teachers'
    ]
    found = [
        load_plugin(EntryPoint(name, value, 'llm2llm.teachers'), Teacher, 'kind')
        for name, value in points.items()
    ]
    assert [c.kind for c in found] == list(points) == ['mini']


def test_tasks_and_models_by_entry_point():
    "Each is a function: one makes the task of its name, with so many rows; one gives the folder of a model"
    import tomllib
    from importlib.metadata import EntryPoint
    points = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']['entry-points']
    for name,value in points['llm2llm.tasks'].items():
        task = EntryPoint(name, value, 'llm2llm.tasks').load()(n_seed=9, n_dev=3, n_test=4, seed=2)
        assert [task.name, len(task.seed_rows), len(task.dev), len(task.test)] == [name, 9, 3, 4]
    models = {
        name: EntryPoint(name, value, 'llm2llm.models').load()()
        for name, value in points['llm2llm.models'].items()
    }
    assert [*points['llm2llm.tasks']] == ['mini-gsm', 'mini-intent'] and [*models] == ['mini']
    assert all((folder/'config.json').exists() for folder in models.values())


RUN_FILES = re.compile(
    r'\b(run|final|metrics|training|stages)\.json\b|\b(answers|candidates|samples|likelihoods|log)\.jsonl\b'
    r'|replies\.sqlite|\bround_\d|\bround_\*|\bfold_'
)


def test_only_the_store_knows_the_files_of_a_run():
    wrong = []
    for name, path in MODULES.items():
        if package(name) == 'store': continue
        tree = ast.parse(path.read_text(encoding='utf-8'))
        docs = {
            id(n.body[0].value)
            for n in ast.walk(tree)
            if isinstance(n, ast.Module | ast.FunctionDef | ast.ClassDef) and isinstance(n.body[0], ast.Expr)
        }
        strings = [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs
        ]
        wrong += [f'{name}:{n.lineno} {n.value!r:.60}' for n in strings if RUN_FILES.search(n.value)]
    assert not wrong
