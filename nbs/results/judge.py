"""How far a judge's grades of free answers agree with themselves and with grades given by eye.

    python nbs/results/judge.py answer STUDENT TEACHER   # each answers every other question
    python nbs/results/judge.py grade TEACHER            # once at temperature 0, then drawn twice

Questions and references are in `raw/judge_rows.jsonl`; answers and all grades in `raw/judge.jsonl`.
The grades by eye ('eye', 1 to 5) were written there before the judge was asked.
"""
import argparse
from pathlib import Path

from llm2llm import Student, Task
from llm2llm.store.folder import commit, machine, read_jsonl, versions, write_jsonl
from llm2llm.teachers.judging import judge_messages, read_grade

RAW = Path(__file__).with_name('raw')
ROWS, FOUND = RAW / 'judge_rows.jsonl', RAW / 'judge.jsonl'
DRAWN = 2


def made(**more): return more | dict(commit=commit(), machine=machine(), versions=versions())


def load(folder):
    chat = Student(folder)
    chat.max_length = 2048
    return chat


def answer(a):
    "Half of the questions answered by each model, in their chat templates"
    rows = read_jsonl(ROWS)
    for i, folder in enumerate(a.models):
        chat = load(folder)
        asked = [[dict(role='user', content=r['question'])] for r in rows[i::2]]
        got = chat.generate(asked, max_new_tokens=60)
        for r, g in zip(rows[i::2], got):
            r |= dict(by=Path(folder).name, said=g.text.strip(), cut=g.truncated)
        chat.free()
    write_jsonl(FOUND, rows)


def grade(a):
    "Every answer graded by a model, as the package asks for it"
    rows, chat = read_jsonl(FOUND), load(a.models[0])
    about = 'Answer questions of any kind in brief'
    task = Task.from_files(ROWS, dev=False, metric='judge', description=about)
    asked = [judge_messages(task, seed, r['said']) for seed, r in zip(task.seed_rows, rows)]
    for k in range(1 + DRAWN):
        drawn = dict(temperature=1., seeds=[1000*k + i for i in range(len(rows))]) if k else {}
        got = chat.generate(asked, max_new_tokens=12, **drawn)
        for r, g in zip(rows, got):
            r.setdefault('judge', []).append(dict(grade=read_grade(g.text), text=g.text))
        write_jsonl(FOUND, rows)
        print(k, [r['judge'][k]['grade'] for r in rows], flush=True)
    rows[0] |= made(judged_by=Path(a.models[0]).name)
    write_jsonl(FOUND, rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=('answer', 'grade'))
    p.add_argument('models', nargs='+')
    a = p.parse_args()
    dict(answer=answer, grade=grade)[a.what](a)


if __name__ == '__main__': main()
