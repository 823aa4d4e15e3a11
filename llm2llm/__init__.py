"""Turn a few labelled examples into a better fine-tuned language model"""

__version__ = "0.4.1"

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

# Public name -> the chapter that holds it. A chapter is imported when one of its names is first used,
# so `import llm2llm` itself loads neither torch nor pandas.
_chapters = dict(
    core='Answer DataError Example LLM2LLMError RunError SettingError StudentError TeacherError',
    tasks='TASKS',
    data='Task load_task',  # `data` gives `Task` its `from_files`
    teacher='Candidate PoolTeacher Request Teacher',
    prompts='Prompt prompt_for',
    baselines='EDATeacher',
    llm='APITeacher LocalTeacher ReplayTeacher',
    student='Student',
    report='read_run',
    ledger='LLM2LLM write_ledger',  # `report` and `ledger` give a run methods of these names
    arms='compare plot_compare plot_cost plot_differences recorded sentence',
    estimate='cost',
    cells='read_grid record',
    mini='MiniTeacher mini_base mini_student mini_task')
_home = {name: chapter for chapter, names in _chapters.items() for name in names.split()}
_modules = {*_chapters, 'bases', 'cli', 'client', 'completion', 'decoding', 'dials', 'export', 'filters', 'grid', 'loop', 'memory', 'money', 'pretrain', 'ranks', 'replies', 'sft', 'show', 'share', 'similar', 'stats', 'store', 'tokens'}

__all__ = sorted(_home)

def __getattr__(name):
    if name in _modules: return _import_module(f'{__name__}.{name}')
    if name not in _home: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(_import_module(f'{__name__}.{_home[name]}'), name)
    return value

if _TYPE_CHECKING:  # the same names, for editors
    from .core import Answer, DataError, Example, LLM2LLMError, RunError, SettingError, StudentError, TeacherError
    from .tasks import TASKS
    from .data import Task, load_task
    from .teacher import Candidate, PoolTeacher, Request, Teacher
    from .prompts import Prompt, prompt_for
    from .baselines import EDATeacher
    from .llm import APITeacher, LocalTeacher, ReplayTeacher
    from .student import Student
    from .report import read_run
    from .ledger import LLM2LLM, write_ledger
    from .arms import compare, plot_compare, plot_cost, plot_differences, recorded, sentence
    from .estimate import cost
    from .cells import read_grid, record
    from .mini import MiniTeacher, mini_base, mini_student, mini_task

def __dir__(): return sorted({*globals(), *_home, *_modules})
