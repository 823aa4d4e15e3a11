"""What makes a training step of a real student faster on a processor: each thing left out in turn.

python nbs/results/steps.py FOLDER_OF_A_CHAT_MODEL NAME=SEED_FILE … [--times 4]
"""
import argparse, json, time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.sft import LINE
from llm2llm.student.student import Student
from llm2llm.tasks.task import Task

RAW = Path(__file__).with_name('raw') / 'steps.json'
WITHOUT = {  # the way and what stands in for it
    'as it is': dict(LINE=LINE),
    'rows side by side': dict(LINE=0),
    'fused attention': dict(SHORT=0),
    "copies of an adapter's input": dict(disable_input_dtype_casting=lambda model: nullcontext()),
}


def step(student, pairs, instead):
    "Processor seconds of an optimiser step: the third to the eighth of a training"
    took = []
    for n in (2, 8):
        start = time.process_time()
        with mock.patch.multiple('llm2llm.student.sft', **instead): student.train(pairs, max_steps=n)
        took.append(time.process_time() - start)
    return (took[1] - took[0]) / 6


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base')
    p.add_argument('files', nargs='+')
    p.add_argument('--times', type=int, default=4)
    a = p.parse_args()
    rows, student = [], Student(a.base)
    for name, path in (f.split('=', 1) for f in a.files):
        task = Task.from_files(path, dev=False, description='What a person wants')
        pairs = [(task.prompt(r), task.completion(r)) for r in task.seed_rows]
        took = [[step(student, pairs, instead) for instead in WITHOUT.values()] for _ in range(a.times)]
        tokens = student.train(pairs, max_steps=8)['tokens'] / 8
        for way, seconds in zip(WITHOUT, zip(*took)):
            times = median(x / now for x, (now, *_) in zip(seconds, took))
            rows.append(dict(task=name, tokens_of_a_step=tokens, way=way, seconds=seconds, times=times))
            print(rows[-1], flush=True)
    made = dict(commit=commit(), machine=machine(), versions=versions())
    found = dict(base=Path(a.base).name, dtype=student.dtype, rows=rows)
    RAW.write_text(json.dumps(found | made, indent=1) + '\n')


if __name__ == '__main__': main()
