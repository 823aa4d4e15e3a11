"""Turn a few labelled examples into a better fine-tuned language model"""

__version__ = "0.1.0"

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

# Public name -> the chapter that holds it. A chapter is imported when one of its names is first used,
# so `import llm2llm` itself loads neither torch nor pandas.
_chapters = dict(
    core='Answer DataError Example LLM2LLMError RunError SettingError StudentError',
    tasks='TASKS',
    data='Task load_task',  # `data` gives `Task` its `from_files`
    teacher='PoolTeacher Request Teacher',
    student='Student',
    loop='LLM2LLM',
    report='compare read_run',
    mini='MiniTeacher mini_base mini_student mini_task')
_home = {name: chapter for chapter, names in _chapters.items() for name in names.split()}
_modules = {*_chapters, 'cli', 'filters', 'store'}

__all__ = sorted(_home)

def __getattr__(name):
    if name in _modules: return _import_module(f'{__name__}.{name}')
    if name not in _home: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(_import_module(f'{__name__}.{_home[name]}'), name)
    return value

if _TYPE_CHECKING:  # the same names, for editors
    from .core import Answer, DataError, Example, LLM2LLMError, RunError, SettingError, StudentError
    from .tasks import TASKS
    from .data import Task, load_task
    from .teacher import PoolTeacher, Request, Teacher
    from .student import Student
    from .loop import LLM2LLM
    from .report import compare, read_run
    from .mini import MiniTeacher, mini_base, mini_student, mini_task

def __dir__(): return sorted({*globals(), *_home, *_modules})
