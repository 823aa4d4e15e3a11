"""Disjoint draws of seed rows from a file of labelled rows, and test rows that no draw has seen.

    python nbs/results/draws.py trec/train.jsonl FOLDER --seed_rows 60 --test_rows 400
    python nbs/results/draws.py banking77/train.jsonl FOLDER --seed_rows 45 --test_rows 405 \\
        --every 5 --classes 15 --seen 20

Writes test.jsonl, draw_0/seed.jsonl, draw_1/seed.jsonl, … and rest.jsonl, the rows in none of them. Which
row goes where follows from a hash of its id. A draw has as many rows of a class as of any other, or one more.
"""
import argparse, json
from collections import defaultdict
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path


def order(row, what): return sha256(f"{what} {row['id']}".encode()).hexdigest()


def in_turn(groups):
    "One row of each class, then the next of each, and so on"
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows), 'utf-8')
    print(f'{path}: {len(rows)} rows')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('rows', type=Path)
    p.add_argument('folder', type=Path)
    p.add_argument('--seed_rows', type=int, default=60)
    p.add_argument('--test_rows', type=int, default=400)
    p.add_argument('--draws', type=int, default=10)
    p.add_argument('--every', type=int, default=1, help='each so manieth class, by name')
    p.add_argument('--classes', type=int, help='no more classes than this')
    p.add_argument('--seen', type=int, default=0, help='rows of each class that `bank.py` has made test rows')
    a = p.parse_args()
    rows = [json.loads(line) for line in a.rows.read_text('utf-8').splitlines()]
    labels = sorted({r['answer'] for r in rows})[::a.every][:a.classes]
    groups = defaultdict(list)
    for r in sorted(rows, key=lambda r: order(r, 'test')): groups[r['answer']].append(r)
    fresh = [r for label in labels for r in groups[label][a.seen:]]
    test = sorted(fresh, key=lambda r: order(r, 'confirm'))
    if a.classes:   # as many of each class
        test = in_turn([[r for r in test if r['answer'] == label] for label in labels])
    test = test[:a.test_rows]
    held_out = {r['question'].lower() for r in test}   # a text that stands twice is a test row alone
    left = sorted((r for r in fresh if r['question'].lower() not in held_out), key=lambda r: order(r, 'draw'))
    left = in_turn([[r for r in left if r['answer'] == label] for label in labels])
    write(a.folder / 'test.jsonl', test)
    for i in range(a.draws): write(a.folder / f'draw_{i}/seed.jsonl', left[i*a.seed_rows:(i + 1)*a.seed_rows])
    write(a.folder / 'rest.jsonl', left[a.draws*a.seed_rows:])


if __name__ == '__main__': main()
