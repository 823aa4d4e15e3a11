"""Bank messages of 15 classes, from BANKING77: seed rows and test rows, both drawn from its training rows.

python nbs/results/bank.py banking77/train.jsonl FOLDER [--seed_rows 3] [--test_rows 20] [--draw 0]
"""
import argparse, json
from collections import defaultdict
from hashlib import sha256
from pathlib import Path


def order(row, what): return sha256(f"{what} {row['id']}".encode()).hexdigest()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('rows')
    p.add_argument('folder', type=Path)
    for name, value in dict(seed_rows=3, test_rows=20, draw=0).items():
        p.add_argument(f'--{name}', type=int, default=value)
    a = p.parse_args()
    by_label = defaultdict(list)
    for line in Path(a.rows).read_text('utf-8').splitlines():
        row = json.loads(line)
        by_label[row['answer']].append(row)
    out = dict(seed=[], test=[])
    for label in sorted(by_label)[::5][:15]:
        rows = sorted(by_label[label], key=lambda r: order(r, 'test'))   # the same test rows in every draw
        out['test'] += rows[:a.test_rows]
        out['seed'] += sorted(rows[a.test_rows:], key=lambda r: order(r, a.draw))[:a.seed_rows]
    a.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in out.items():
        text = ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows)
        (a.folder / f'{name}.jsonl').write_text(text, 'utf-8')
        print(f'{name}.jsonl: {len(rows)} rows')


if __name__ == '__main__': main()
