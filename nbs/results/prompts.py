"""How a task is said to a student: wordings, asked of dev rows of SNIPS and SST-2. Resumable; JSON lines.

python nbs/results/prompts.py FOLDER_OF_A_CHAT_MODEL FOLDER_OF_DATA [--draws 3] [--rows 60] [--epochs 6]
    [--tasks snips] [--wordings question] [--dtype float32]
"""
import argparse, json, time
from itertools import product
from pathlib import Path

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.precision import DTYPES
from llm2llm.student.student import Student
from llm2llm.tasks.published import load_task

RAW = Path(__file__).with_name('raw') / 'prompts.jsonl'
TASKS = 'snips', 'sst2'


def classes(task): return ', '.join(task.labels)


def chat(user, system): return [dict(role='system', content=system), dict(role='user', content=user)]


def cue(task): return task.template.format(question='').strip()  # 'Intent:'


# Each is a function of a task and a question; text is a user's turn, unless `plain` is in the name.
WORDINGS = {
    'question': lambda t, q: f'{q}\n{cue(t)}',
    'classes first': lambda t, q: f'{t.description}.\nClasses: {classes(t)}.\n\n{q}\n{cue(t)}',
    'classes last': lambda t, q: f'{q}\n\n{t.description}. Answer with one of: {classes(t)}.',
    'system': lambda t, q: chat(q, f'{t.description}. Answer with one of: {classes(t)}.'),
    'system, cue': lambda t, q: chat(f'{q}\n{cue(t)}', f'{t.description}. Answer with one of: {classes(t)}.'),
    'plain, classes first': lambda t, q: f'{t.description}.\nClasses: {classes(t)}.\n\n{q}\n{cue(t)}',
}


def cell(student, data, name, wording, draw, n, dev):
    "Train on `n` seed rows in one wording and answer dev rows; what came of it"
    task = load_task(name, data, n_seed=n, n_dev=dev, seed=draw)
    say = WORDINGS[wording]
    trained = student.train([(say(task, r.question), task.completion(r)) for r in task.seed_rows], seed=draw)
    start = time.perf_counter()
    asked = [say(task, r.question) for r in task.dev]
    said = student.generate(asked, options=[task.options(r) for r in task.dev])
    right = [task.score(r, c.text).correct for r, c in zip(task.dev, said)]
    return dict(right=sum(right), dev=len(right), answers=''.join(str(int(x)) for x in right),
                steps=trained['steps'], tokens=trained['tokens'], loss=trained['loss'],
                train_seconds=trained['seconds'], answer_seconds=round(time.perf_counter() - start, 1),
                learning_rate=student.learning_rate, lora_r=student.lora_r)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base')
    p.add_argument('data')
    for name, value in dict(draws=3, rows=60, epochs=6, dev=200).items():
        p.add_argument(f'--{name}', type=int, default=value)
    p.add_argument('--tasks', nargs='+', default=TASKS, choices=TASKS)
    p.add_argument('--wordings', nargs='+', default=[*WORDINGS], choices=WORDINGS)
    p.add_argument('--dtype', choices=DTYPES)
    a = p.parse_args()
    fields = 'task', 'wording', 'draw', 'rows', 'epochs'
    key = lambda d: (*(d[k] for k in fields), d.get('dtype', 'float32 under bfloat16'))
    done = {key(json.loads(line)) for line in RAW.read_text().splitlines()} if RAW.exists() else set()
    for draw, name, wording in product(range(a.draws), a.tasks, a.wordings):
        chat = not wording.startswith('plain')
        student = Student(a.base, chat=chat, num_train_epochs=a.epochs, dtype=a.dtype)
        what = dict(task=name, wording=wording, draw=draw, rows=a.rows, epochs=a.epochs, dtype=student.dtype)
        if key(what) in done: continue
        got = cell(student, a.data, name, wording, draw, a.rows, a.dev)
        more = dict(base=Path(a.base).name, commit=commit(), machine=machine(), versions=versions())
        with RAW.open('a') as f: f.write(json.dumps(what | got | more) + '\n')
        print(what, got['right'], got['train_seconds'], got['answer_seconds'], flush=True)


if __name__ == '__main__': main()
