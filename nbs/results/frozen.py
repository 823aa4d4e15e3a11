"""The frozen wording on tasks that it was not chosen on: zero-shot, few-shot and fine-tuned. Resumable.

    python nbs/results/frozen.py STUDENT DATA WORK [--draws 1] [--tasks trec bank gsm8k]

DATA holds `trec`, `banking77` and `gsm8k`; WORK is for run folders. Adds JSON lines to `raw/frozen.jsonl`.
"""
import argparse, json, subprocess, sys
from dataclasses import replace
from itertools import product
from pathlib import Path

from llm2llm import LLM2LLM, Student, Task
from llm2llm.store.folder import commit, machine, versions
from llm2llm.tasks.published import load_task

HERE = Path(__file__).parent
RAW = HERE / 'raw/frozen.jsonl'
HOW = {'zero-shot': dict(num_fewshot=0), 'few-shot': dict(num_fewshot=8), 'fine-tuned': {}}
SAID = {'named': None, 'row and cue': False}  # `instructions` of the task


def bank(data, work, draw, instructions):
    "Bank messages of 15 classes, as `draws.py` deals them"
    if not (work / 'bank/test.jsonl').exists():
        deal = [sys.executable, HERE / 'draws.py', data / 'banking77/train.jsonl', work / 'bank']
        dealt = '--seed_rows 45 --test_rows 405 --every 5 --classes 15 --seen 20'
        subprocess.run([*deal, *dealt.split()], check=True)
    return Task.from_files(work / f'bank/draw_{draw}/seed.jsonl', test=work / 'bank/rest.jsonl', dev=False,
                           description='What a customer of a bank wants', instructions=instructions)


def task_of(name, data, work, draw, instructions):
    if name == 'bank': return bank(data, work, draw, instructions)
    n_seed = dict(trec=60, gsm8k=74)[name]
    return load_task(name, data, n_seed=n_seed, seed=draw, instructions=instructions)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('student', 'data', 'work'): p.add_argument(name, type=Path)
    p.add_argument('--draws', type=int, default=1)
    p.add_argument('--tasks', nargs='+', default=('trec', 'bank', 'gsm8k'))
    p.add_argument('--epochs', type=float, default=10)
    a = p.parse_args()
    done = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
    done = {tuple(d[k] for k in ('draw', 'task', 'how', 'said')) for d in done}
    made = dict(base=a.student.name, commit=commit(), machine=machine(), versions=versions())
    for cell in product(range(a.draws), a.tasks, HOW, SAID):
        if cell in done: continue
        draw, name, how, said = cell
        task = task_of(name, a.data, a.work, draw, SAID[said])
        task = replace(task, test=task.test[:200])
        out = a.work / f"{name}_{how}_{said.replace(' ', '_')}_{draw}"
        run = LLM2LLM(task, Student(a.student, num_train_epochs=a.epochs), None, out, seed=draw, **HOW[how])
        score = run.fit(verbose=False).final.scores['test']
        answers = run.folder.answers(0, 'test')
        found = dict(right=sum(x.correct for x in answers), none=sum(x.prediction is None for x in answers),
                     n=score.n, epochs=a.epochs)
        with RAW.open('a') as f:
            f.write(json.dumps(dict(draw=draw, task=name, how=how, said=said) | found | made) + '\n')
        print(*cell, found, flush=True)


if __name__ == '__main__': main()
