"""Turn a few labelled examples into a better fine-tuned language model"""

__version__ = "0.5.0"

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

# Public name -> the chapter that holds it. A chapter is imported when one of its names is first used,
# so `import llm2llm` itself loads neither torch nor pandas.
_chapters = {
    'core': 'DataError Example LLM2LLMError Prediction RunError SettingError StudentError TeacherError',
    'tasks.kinds': 'Kind',
    'tasks.task': 'TASKS Task',
    'tasks.published': 'load_task',
    'teachers.teacher': 'Candidate Request Teacher',
    'teachers.prompts': 'Prompt prompt_for',
    'loop.rules': 'Rule',
    'teachers.api': 'APITeacher',
    'teachers.local': 'LocalTeacher',
    'teachers.replay': 'ReplayTeacher',
    'teachers.pool': 'PoolTeacher',
    'teachers.eda': 'EDATeacher',
    'student.student': 'Student',
    'report.compare': 'compare plot_compare plot_differences load_grid sentence',
    'report.estimate': 'cost',
    'grid.cells': 'read_grid record',
    'grid.compare': 'Compare',
    'grid.run': 'LLM2LLM read_run write_ledger',  # with it a record shows itself, too
    'mini.mini': 'MiniTeacher mini_base mini_student mini_task',
}
_home = {name: chapter for chapter, names in _chapters.items() for name in names.split()}
_packages = set('core tables store tasks student teachers loop report grid mini cli'.split())

__all__ = sorted(_home)

def __getattr__(name):
    if name in _packages: return _import_module(f'{__name__}.{name}')
    if name not in _home: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(_import_module(f'{__name__}.{_home[name]}'), name)
    return value

if _TYPE_CHECKING:  # the same names, for editors
    from .core import DataError, Example, LLM2LLMError, Prediction
    from .core import RunError, SettingError, StudentError, TeacherError
    from .tasks.kinds import Kind
    from .tasks.task import TASKS, Task
    from .tasks.published import load_task
    from .teachers.teacher import Candidate, Request, Teacher
    from .teachers.prompts import Prompt, prompt_for
    from .loop.rules import Rule
    from .teachers.api import APITeacher
    from .teachers.local import LocalTeacher
    from .teachers.replay import ReplayTeacher
    from .teachers.pool import PoolTeacher
    from .teachers.eda import EDATeacher
    from .student.student import Student
    from .report.compare import compare, plot_compare, plot_differences, load_grid, sentence
    from .report.estimate import cost
    from .grid.cells import read_grid, record
    from .grid.compare import Compare
    from .grid.run import LLM2LLM, read_run, write_ledger
    from .mini.mini import MiniTeacher, mini_base, mini_student, mini_task

def __dir__(): return sorted({*globals(), *_home, *_packages})
