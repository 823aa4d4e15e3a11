"""A long training of a real student on a processor: lines of any length, and of a multiple of some tokens.

python nbs/results/long.py FOLDER_OF_A_CHAT_MODEL FOLDER_OF_DATA [--steps 125]
"""
import argparse, json, resource, subprocess, sys, time
from pathlib import Path
from unittest import mock

from trl import SFTTrainer

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.sft import ROUND
from llm2llm.student.student import Student
from llm2llm.tasks.published import load_task

RAW = Path(__file__).with_name('raw') / 'long.json'
PART = 20  # steps


def train(base, data, steps, multiple):
    "Processor seconds of a step, the mean of each twenty, and the memory of a training in this process"
    task = load_task('snips', data, n_seed=200, n_dev=1, seed=0)
    pairs = [(task.prompt(r), task.completion(r)) for r in task.seed_rows]
    at, real = [], SFTTrainer.training_step

    def step(*args, **how):
        at.append(time.process_time())
        return real(*args, **how)

    student = Student(base, max_steps=steps)
    rounded = mock.patch('llm2llm.student.sft.ROUND', multiple)
    with mock.patch.object(SFTTrainer, 'training_step', step), rounded:
        done = student.train(pairs, seed=0)
    seconds = [(b - a) / PART for a, b in zip(at[::PART], at[PART::PART])]
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    kept = {k: done[k] for k in ('loss', 'tokens')}
    return dict(multiple=multiple, seconds=seconds, megabytes=megabytes) | kept


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('base', 'data'): p.add_argument(name)
    p.add_argument('--steps', type=int, default=125)
    p.add_argument('--multiple', type=int, help='of this alone, in this process, to the standard output')
    a = p.parse_args()
    if a.multiple: return print(json.dumps(train(a.base, a.data, a.steps, a.multiple)))
    found = []
    for multiple in (1, ROUND, 1, ROUND):
        words = a.base, a.data, '--steps', str(a.steps), '--multiple', str(multiple)
        command = [sys.executable, __file__, *words]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(json.loads(out.splitlines()[-1]))
        print(found[-1], flush=True)
    made = dict(base=Path(a.base).name, commit=commit(), machine=machine(), versions=versions())
    RAW.write_text(json.dumps(dict(rows=found, steps=a.steps) | made, indent=1) + '\n')


if __name__ == '__main__': main()
