"""What costs nothing, on the rows of training.py: logistic regression on words and letters, or on embeddings.

python nbs/results/yardsticks.py FOLDER_OF_EMBEDDINGS FOLDER_OF_DATA [--draws 3] [--rows 60]
"""
import argparse, json
from pathlib import Path

from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.yardsticks import yardsticks
from llm2llm.tasks.published import load_task
from training import TASKS

RAW = Path(__file__).with_name('raw') / 'yardsticks.jsonl'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('embeddings')
    p.add_argument('data')
    p.add_argument('--draws', type=int, default=3)
    p.add_argument('--dev', type=int, default=200)
    p.add_argument('--rows', type=int, default=60)
    a = p.parse_args()
    made = dict(embeddings=Path(a.embeddings).name, commit=commit(), machine=machine(), versions=versions())
    lines = []
    for name in TASKS:
        for draw in range(a.draws):
            task = load_task(name, a.data, n_seed=a.rows, n_dev=a.dev, seed=draw)
            for y in yardsticks(task, a.embeddings)[0]:
                right = sum(x.correct for x in y.answers(task, task.seed_rows, task.dev))
                what = dict(task=name, rows=a.rows, draw=draw, yardstick=y.name, right=right, dev=a.dev)
                lines.append(json.dumps(what | made))
                print(what, flush=True)
    RAW.write_text('\n'.join(lines) + '\n')


if __name__ == '__main__': main()
