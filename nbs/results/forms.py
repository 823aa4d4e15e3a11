"""A local teacher's replies about structured answers, in text form and held to the schema.

    python nbs/results/forms.py nlupp/banking.jsonl TEACHER FOLDER [--rows 32]

Writes `raw/forms.jsonl`, a line a reply; the same command resumes in FOLDER.
"""
import argparse, json
from pathlib import Path

from nlupp import task_of

from llm2llm.store.folder import commit, machine, versions
from llm2llm.tasks.filters import Filter
from llm2llm.teachers.local import LocalTeacher
from llm2llm.teachers.teacher import Request

RAW = Path(__file__).with_name('raw') / 'forms.jsonl'


def written(task, teacher, folder, n):
    "What came of a request about each of n seed rows"
    judge = Filter(task)
    asked = [Request(row, None, 1) for row in task.seed_rows[:n]]
    folder.mkdir(parents=True, exist_ok=True)
    with teacher.open(folder):
        for q, (c,) in teacher.write(task, asked, task.seed_rows):
            new = dict(question=c.row.question, answer=c.row.answer) if c.row else {}
            yield dict(parent=q.row.question, outcome=c.reason or judge(c.row, q.row)) | new


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('data', 'model'): p.add_argument(name)
    p.add_argument('folder', type=Path)
    p.add_argument('--rows', type=int, default=32)
    a = p.parse_args()
    task, lines = task_of(a.data, 200, 300), []
    about = dict(teacher=Path(a.model).name, commit=commit(), machine=machine(), versions=versions())
    for form in ('text', 'json'):
        teacher = LocalTeacher(a.model, response_format=form)
        lines += [dict(form=form) | w | about for w in written(task, teacher, a.folder / form, a.rows)]
        teacher.free()
    RAW.write_text(''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines), 'utf-8')


if __name__ == '__main__': main()
