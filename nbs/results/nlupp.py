"""Intents and slots of 500 rows of NLU++ (banking): few-shot, plain, LLM2LLM and the teacher itself.

python nbs/results/nlupp.py nlupp/banking.jsonl STUDENT FOLDER --local TEACHER
python nbs/results/nlupp.py nlupp/banking.jsonl STUDENT FOLDER --api MODEL [--base_url URL] [--max_usd 5]
    [--seed_rows 200] [--test_rows 300] [--seeds 3] [--rounds 3] [--epochs 8] [--learning_rate 1e-3]

The same command resumes in FOLDER. What is done goes to nbs/results/raw/nlupp.jsonl, a line an arm and seed.
"""
import argparse, json
from pathlib import Path

from llm2llm import APITeacher, Compare, Student, Task
from llm2llm.core import rng_for
from llm2llm.mini.mini import mini_student
from llm2llm.store.folder import commit, machine, versions
from llm2llm.tasks.schema import found_schema
from llm2llm.teachers.local import LocalTeacher

RAW = Path(__file__).with_name('raw') / 'nlupp.jsonl'
ARMS = ['few-shot', 'plain', 'step-matched', 'LLM2LLM', 'teacher']
ASKED = "What a bank's customer says: its intents, and the values of its slots as they stand in the text"


def task_of(file, n_seed, n_test):
    "The task; its schema is of all rows, as the ontology of the data set would give it"
    rows = [json.loads(line) for line in Path(file).read_text('utf-8').splitlines()]
    schema = found_schema([(json.loads(r['answer']), r['question']) for r in rows])
    drawn = rng_for('nlupp').sample(rows, n_seed + n_test)
    how = dict(kind='json', schema=schema, name='nlupp-banking', description=ASKED)
    return Task.from_files(drawn[:n_seed], dev=False, test=drawn[n_seed:], **how)


def teacher_of(a):
    if a.local: return LocalTeacher(a.local, response_format='json')
    price = a.price and tuple(map(float, a.price.split(',')))
    return APITeacher(a.api, a.base_url, max_usd=a.max_usd, price=price)


def kept(raw, new, how):
    "The lines of the raw file that were made with the same settings and that this run does not replace"
    lines = raw.read_text('utf-8').splitlines(keepends=True) if raw.exists() else []
    found = [(json.loads(line), line) for line in lines]
    return [line for x, line in found if (x['arm'], x['seed']) not in new and how.items() <= x.items()]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('rows', 'student', 'folder'): p.add_argument(name)
    which = p.add_mutually_exclusive_group(required=True)
    for name in ('--local', '--api'): which.add_argument(name)
    p.add_argument('--base_url')
    p.add_argument('--price', help='USD per million tokens of prompts and completions: 0.4,1.6')
    p.add_argument('--arms', nargs='+', default=ARMS)
    p.add_argument('--raw', type=Path, default=RAW)
    sizes = dict(seed_rows=200, test_rows=300, seeds=3, rounds=3, epochs=8, learning_rate=1e-3, max_usd=5.0)
    for name, value in sizes.items():
        p.add_argument(f'--{name}', type=type(value), default=value)
    a = p.parse_args()
    task = task_of(a.rows, a.seed_rows, a.test_rows)
    how = dict(num_train_epochs=a.epochs, learning_rate=a.learning_rate)
    student = mini_student(**how) if a.student == 'mini' else Student(a.student, **how)
    kwargs = dict(arms=a.arms, seeds=a.seeds, rounds=a.rounds, tune=False)
    verdict = Compare(task, student, teacher_of(a), a.folder, **kwargs).fit()
    about = dict(student=Path(a.student).name, teacher=Path(a.local or a.api).name, seed_rows=a.seed_rows)
    about |= how | dict(rounds=a.rounds)
    new = {(arm, seed) for arm, splits in verdict.results.items() for seed in splits}
    lines = kept(a.raw, new, about)
    about |= dict(commit=commit(), machine=machine(), versions=versions())
    for arm, splits in verdict.results.items():
        for r in splits.values():
            pairs = [[verdict.gold[i], said] for i, said in r.said.items()]
            line = dict(arm=arm, seed=r.split, pairs=pairs) | about
            line |= {k: getattr(r, k) for k in ('train_rows', 'written', 'steps', 'seconds', 'usd')}
            lines.append(json.dumps(line, ensure_ascii=False) + '\n')
    a.raw.write_text(''.join(lines), 'utf-8')
    print(verdict)


if __name__ == '__main__': main()
