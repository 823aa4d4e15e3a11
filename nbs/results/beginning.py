"""What it saves to read once what all rows of a batch begin with: training steps with and without, in turn.

python nbs/results/beginning.py FOLDER_OF_A_CHAT_MODEL NAME=SEED_FILE … [--times 4]
"""
import argparse, json, time
from pathlib import Path
from statistics import median
from unittest import mock

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.sft import BEGINNING
from llm2llm.student.student import Student
from llm2llm.tasks.task import Task

RAW = Path(__file__).with_name('raw') / 'beginning.json'


def step(student, pairs, shortest):
    "Processor seconds of an optimiser step: the third and fourth of a training"
    took = []
    with mock.patch('llm2llm.student.sft.BEGINNING', shortest):
        for n in (2, 4):
            start = time.process_time()
            loss = student.train(pairs, max_steps=n)['loss']
            took.append(time.process_time() - start)
    return (took[1] - took[0]) / 2, loss


def pairs_of(path):
    "A file's task, and its rows as prompts and completions"
    task = Task.from_files(path, dev=False, description='What a person wants')
    return task, [(task.prompt(r), task.completion(r)) for r in task.seed_rows]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base')
    p.add_argument('files', nargs='+')
    p.add_argument('--times', type=int, default=4)
    a = p.parse_args()
    rows, student = [], Student(a.base)
    for name, path in (f.split('=', 1) for f in a.files):
        task, pairs = pairs_of(path)
        took = [(step(student, pairs, BEGINNING), step(student, pairs, 10**6)) for _ in range(a.times)]
        (once, _), (each, _) = zip(*(x[0] for x in took)), zip(*(x[1] for x in took))
        tokens = student.train(pairs, max_steps=4)['tokens'] / 4
        ratio = median(e / o for o, e in zip(once, each))
        row = dict(task=name, labels=len(task.labels), tokens_of_a_step=tokens, once=once, each=each)
        rows.append(row | dict(times_faster=ratio))
        print(rows[-1], flush=True)
    made = dict(commit=commit(), machine=machine(), versions=versions())
    found = dict(base=Path(a.base).name, dtype=student.dtype, rows=rows)
    RAW.write_text(json.dumps(found | made, indent=1) + '\n')


if __name__ == '__main__': main()
