"""What `faster_steps` saves in bfloat16 on a processor: training steps with and without, in turn.

python nbs/results/steps.py FOLDER_OF_A_CHAT_MODEL NAME=SEED_FILE … [--times 4]
"""
import argparse, json, time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

from beginning import pairs_of

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.student import Student

RAW = Path(__file__).with_name('raw') / 'steps.json'


def step(student, pairs, without):
    "Processor seconds of an optimiser step: the third to the eighth of a training"
    took, plain = [], mock.patch('llm2llm.student.sft.faster_steps', lambda *_: nullcontext())
    for n in (2, 8):
        start = time.process_time()
        with plain if without else nullcontext(): student.train(pairs, max_steps=n)
        took.append(time.process_time() - start)
    return (took[1] - took[0]) / 6


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base')
    p.add_argument('files', nargs='+')
    p.add_argument('--times', type=int, default=4)
    a = p.parse_args()
    rows, student = [], Student(a.base, dtype='bfloat16')
    for name, path in (f.split('=', 1) for f in a.files):
        _, pairs = pairs_of(path)
        took = [(step(student, pairs, False), step(student, pairs, True)) for _ in range(a.times)]
        with_it, without = zip(*took)
        tokens = student.train(pairs, max_steps=4)['tokens'] / 4
        ratio = median(b / n for n, b in took)
        rows.append(dict(task=name, tokens_of_a_step=tokens, now=with_it, before=without, times_faster=ratio))
        print(rows[-1], flush=True)
    made = dict(commit=commit(), machine=machine(), versions=versions())
    RAW.write_text(json.dumps(dict(base=Path(a.base).name, rows=rows) | made, indent=1) + '\n')


if __name__ == '__main__': main()
