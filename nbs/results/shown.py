"""How many of the nearest seed rows a teacher should see before a text that it labels. JSON lines.

    python nbs/results/shown.py TEACHER DATA [--task snips] [--dev 60]
"""
import argparse, json, time
from pathlib import Path

from llm2llm import Student
from llm2llm.store.folder import commit, machine, versions
from llm2llm.tasks.published import load_task
from llm2llm.teachers import solving

RAW = Path(__file__).with_name('raw') / 'shown.jsonl'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('teacher')
    p.add_argument('data')
    p.add_argument('--task', default='snips')
    p.add_argument('--dev', type=int, default=60)
    a = p.parse_args()
    chat = Student(a.teacher)
    chat.max_length = 4096
    task = load_task(a.task, a.data, n_seed=60, n_dev=a.dev, seed=0)
    made = dict(teacher=Path(a.teacher).name, commit=commit(), machine=machine(), versions=versions())
    for shown in (0, 3, 8, 16):
        solving.SHOWN = shown
        ask = solving.label_messages if shown else solving.solve_messages
        start = time.time()
        got = chat.generate([ask(task, r) for r in task.dev], max_new_tokens=24)
        said = [solving.read_solution(task, r, g.text) for r, g in zip(task.dev, got)]
        found = dict(task=a.task, shown=shown, right=sum(s == task.gold(r) for r, s in zip(task.dev, said)),
                     none=said.count(None), dev=a.dev, seconds=round(time.time()-start))
        with RAW.open('a') as f: f.write(json.dumps(found | made) + '\n')
        print(found, flush=True)


if __name__ == '__main__': main()
