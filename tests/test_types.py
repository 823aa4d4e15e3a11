"No signature between packages has an argument without a type, or a bare `dict`, `list` or `tuple`; an override has its base's types"

import inspect
from importlib import import_module

from conftest import ROOT

HOUSE = ROOT/'llm2llm'
MODULES = [
    '.'.join(p.relative_to(ROOT).with_suffix('').parts)
    for p in sorted(HOUSE.rglob('*.py'))
    if p.stem not in ('__init__', '__main__', '_modidx')
]


def signatures(module):
    "(name, function) of what a module exports: functions, constructors and methods of its own classes"
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value): yield name, value
        if not inspect.isclass(value) or value.__module__ != module.__name__: continue
        bases = {k for c in value.__mro__[1:] if c is not object for k in vars(c)}
        for k, method in vars(value).items():
            if isinstance(method, classmethod): method = method.__func__
            if (
                inspect.isfunction(method)
                and (k == '__init__' or not k.startswith('_'))
                and (k == '__init__' or k not in bases)
            ):
                yield f'{name}.{k}', method


def untyped(function):
    "The parameters of a function that say too little"
    for p in inspect.signature(function, follow_wrapped=True).parameters.values():
        if p.name in ('self', 'cls') or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL): continue
        if p.annotation is inspect.Parameter.empty or p.annotation in (dict, list): yield p.name


def test_the_test():
    def f(a, b:dict, c:dict[str, int], d:str='x'): pass
    assert [*untyped(f)] == ['a', 'b']


def test_every_argument_has_a_type():
    wrong = [
        f'{m}.{name}({", ".join(its)})'
        for m in MODULES
        for name, f in signatures(import_module(m))
        if (its := [*untyped(f)])
    ]
    assert not wrong
