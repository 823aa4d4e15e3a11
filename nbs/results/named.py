"""What it brings and costs to name the classes, by how many there are: 5 to 77 classes of bank messages.

    python nbs/results/named.py STUDENT DATA WORK [--draws 1] [--classes 5 15 30 77]

DATA holds `banking77`; WORK is for the rows that `draws.py` deals, three of each class. Rows that the study
tests on are left out. Resumable; adds JSON lines to `raw/named.jsonl`.
"""
import argparse, json, subprocess, sys, time
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest import mock

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.student import Student
from llm2llm.tasks.task import Task

HERE = Path(__file__).parent
RAW = HERE / 'raw/named.jsonl'
HOW = ('zero-shot', 'fine-tuned')


def dealt(data, work, n):
    "The folder of the rows of n classes"
    folder = work / f'classes_{n}'
    if not (folder / 'rest.jsonl').exists():
        deal = [sys.executable, HERE / 'draws.py', data / 'banking77/train.jsonl', folder]
        words = f'--seed_rows {3*n} --test_rows {27*n} --every {77//n} --classes {n} --seen 20 --draws 3'
        subprocess.run([*deal, *words.split()], check=True)
    return folder


def answered(student, task, how, draw):
    "Processor seconds of a step, loading included, and '1' for each test row that is answered rightly"
    seconds = None
    if how == 'fine-tuned':
        start = time.process_time()
        took = student.train([(task.prompt(r), task.completion(r)) for r in task.seed_rows], seed=draw)
        seconds = (time.process_time() - start) / took['steps']
    said = student.generate([task.prompt(r) for r in task.test], options=[task.options(r) for r in task.test])
    return seconds, ''.join('01'[task.score(r, c.text).correct] for r, c in zip(task.test, said))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('student', 'data', 'work'): p.add_argument(name, type=Path)
    p.add_argument('--draws', type=int, default=1)
    p.add_argument('--classes', type=int, nargs='+', default=(5, 15, 30, 77))
    a = p.parse_args()
    done = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
    done = {tuple(d[k] for k in ('draw', 'classes', 'how', 'named')) for d in done}
    made = dict(base=a.student.name, commit=commit(), machine=machine(), versions=versions())
    for draw, n, how, named in product(range(a.draws), a.classes, HOW, (True, False)):
        if (draw, n, how, named) in done: continue
        folder = dealt(a.data, a.work, n)
        with mock.patch('llm2llm.tasks.kinds.MOST_NAMED', 100 if named else 0):
            task = Task.from_files(folder / f'draw_{draw}/seed.jsonl', test=folder / 'rest.jsonl', dev=False,
                                   description='What a customer of a bank wants')
            task = replace(task, test=task.test[:200])
            seconds, right = answered(Student(a.student), task, how, draw)
        found = dict(draw=draw, classes=n, labels=len(task.labels), how=how, named=named)
        found |= dict(seconds=seconds, right=right)
        with RAW.open('a') as f: f.write(json.dumps(found | made) + '\n')
        print(draw, n, how, named, right.count('1'), seconds, flush=True)


if __name__ == '__main__': main()
