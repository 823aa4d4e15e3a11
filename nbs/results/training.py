"""How long and how fast a real student is trained: learning rate, epochs and rows. Resumable; JSON lines.

python nbs/results/training.py FOLDER_OF_A_CHAT_MODEL FOLDER_OF_DATA [--draws 3] [--rows 60] [--epochs 10]
"""
import argparse, json
from itertools import product
from pathlib import Path

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.student import Student
from llm2llm.tasks.published import load_task

RAW = Path(__file__).with_name('raw') / 'training.jsonl'
TASKS = 'snips', 'sst2'
RATES = 0.00022, 0.00044, 0.00087, 0.0017  # the third is what 0.5/width gives
EPOCHS = {20: (10, 20, 40), 60: (3, 10, 20), 200: (1.52, 4, 10)}
FIELDS = 'task', 'rows', 'draw', 'learning_rate', 'epochs'


def cell(base, data, task, rows, draw, learning_rate, epochs, dev):
    "Train once, answer dev rows; what came of it"
    task = load_task(task, data, n_seed=rows, n_dev=dev, seed=draw)
    student = Student(base, learning_rate=learning_rate, num_train_epochs=epochs)
    pairs = [(task.prompt(r), task.completion(r)) for r in task.seed_rows]
    trained = student.train(pairs, seed=draw)
    said = student.generate([task.prompt(r) for r in task.dev], options=[task.options(r) for r in task.dev])
    right = [task.score(r, c.text).correct for r, c in zip(task.dev, said)]
    settings = {k: getattr(student, k) for k in ('lora_r', 'batch_size', 'dtype')}
    return trained | settings | dict(right=sum(right), dev=dev, answers=''.join(str(int(x)) for x in right))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base')
    p.add_argument('data')
    p.add_argument('--draws', type=int, default=3)
    p.add_argument('--dev', type=int, default=200)
    p.add_argument('--rows', type=int, nargs='+', default=(60, 20, 200), choices=EPOCHS)
    p.add_argument('--tasks', nargs='+', default=TASKS, choices=TASKS)
    p.add_argument('--rates', type=float, nargs='+', default=RATES)
    p.add_argument('--epochs', type=float, nargs='+', help='passes over the rows (default: by their number)')
    a = p.parse_args()
    done = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
    done = {tuple(d[k] for k in FIELDS) for d in done}
    made = dict(base=Path(a.base).name, commit=commit(), machine=machine(), versions=versions())
    for rows, draw in product(a.rows, range(a.draws)):
        for epochs, rate, task in product(a.epochs or EPOCHS[rows], a.rates, a.tasks):
            what = dict(zip(FIELDS, (task, rows, draw, rate, epochs)))
            if tuple(what.values()) in done: continue
            got = cell(a.base, a.data, **what, dev=a.dev)
            with RAW.open('a') as f: f.write(json.dumps(what | got | made) + '\n')
            print(what, got['right'], got['loss'], got['seconds'], flush=True)


if __name__ == '__main__': main()
