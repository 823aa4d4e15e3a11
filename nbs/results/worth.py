"""What a row that a language model wrote is worth beside a real one: bank messages, draw by draw.

    python nbs/results/worth.py rows DRAWS TEACHER [--draws 0 1 2]   # written and labelled once
    python nbs/results/worth.py check DRAWS TEACHER [--draws 0 1 2]  # it answers what it wrote
    python nbs/results/worth.py tune DRAWS STUDENT                   # rate and steps, on draws 7 to 9
    python nbs/results/worth.py cells DRAWS STUDENT --rate R --steps N [--draws 0 1 2] [--arms …]
    python nbs/results/worth.py bars DRAWS EMBEDDINGS [--draws 0 1 2]   # without a language model

DRAWS is what `draws.py` made. All five are resumable and add JSON lines to `raw/worth`.
"""
import argparse, json
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

from llm2llm.core import Example, rng_for
from llm2llm.loop.config import deal
from llm2llm.store.folder import commit, machine, versions
from llm2llm.student.student import Student
from llm2llm.student.yardsticks import yardsticks
from llm2llm.tasks.filters import Filter
from llm2llm.tasks.task import Task
from llm2llm.teachers.local import LocalTeacher
from llm2llm.teachers.near import hand_out
from llm2llm.teachers.solving import read_solution
from llm2llm.teachers.teacher import Request

RAW = Path(__file__).with_name('raw') / 'worth'
DEPTH, TEXTS, FOLDS, SIZES = 4, 3, 5, (45, 135)
ALONE = dict(demos=0, earlier=0, error=False)  # the row in question, the labels and the description
RATES, STEPS, TUNED_ON = (0.00087, 0.0017), (60, 120), (7, 8, 9)


def task_of(draws, draw):
    "The task of a draw, with its test rows and the rows that are in no draw"
    files = dict(test=draws / 'test.jsonl', pool=draws / 'rest.jsonl', dev=False)
    about = dict(kind='label', name='bank', description='What a customer of a bank wants')
    return Task.from_files(draws / f'draw_{draw}/seed.jsonl', **files, **about)


def made(**more): return more | dict(commit=commit(), machine=machine(), versions=versions())


def read(name):
    path = RAW / f'{name}.jsonl'
    return [json.loads(line) for line in path.read_text('utf-8').splitlines()] if path.exists() else []


def add(name, rows):
    RAW.mkdir(parents=True, exist_ok=True)
    with (RAW / f'{name}.jsonl').open('a', encoding='utf-8') as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + '\n' for r in rows)


def requests(task, draw, depth):
    return [Request(r, None, 1, k, draw) for k in range(depth) for r in task.seed_rows]


def keep(draw, q, candidates, how, **more):
    "What came of a request, as a line"
    c = candidates[0] if candidates else None
    row = c and c.row
    return dict(draw=draw, how=how, parent=q.row.id, k=q.draw, question=row.question if row else '',
                answer=row.answer if row else '', source=row.source if row else '',
                reason=c.reason if c else 'nothing', cost=c.cost if c else {}) | more


def rows(a):
    "Have the teacher write about each seed row, and label real texts near it"
    teacher, done = LocalTeacher(a.model, prompt=ALONE), {(r['draw'], r['how']) for r in read('rows')}
    about = made(teacher=teacher.settings())
    for how, draw in product(a.how, a.draws):
        if (draw, how) in done: continue
        task = task_of(a.draws_at, draw)
        bare = replace(task, pool=(), unlabelled=[replace(r, answer='') for r in task.pool])
        its, depth = (replace(task, pool=()), DEPTH) if how == 'written' else (bare, TEXTS)
        asked = requests(task, draw, depth)
        texts = dict(hand_out(asked, task.pool, task.seed_rows)) if how == 'labelled' else {}
        with teacher.open(a.draws_at / f'draw_{draw}'):
            got = dict(teacher.write(its, asked, task.seed_rows))
        lines = [keep(draw, q, got[q], how) for q in asked]
        truth = {r.id: r.answer for r in task.pool}
        for line, q in zip(lines, asked):
            if how == 'labelled': line |= dict(text=texts[q].question, true=truth[texts[q].id])
        add('rows', lines)
        add('teachers', [about | dict(draw=draw, how=how)])
        print(draw, how, Counter(bool(line['answer']) for line in lines), flush=True)


def ask_again(teacher, task, row, parent, way):
    "What asks the teacher its own question: alone, after seed rows like it, or after those but the parent"
    others = replace(task, seed_rows=[r for r in task.seed_rows if r.id != parent])
    if way == 'alone': return teacher.solve_call(task, row, 0)
    return teacher.label_call(task if way == 'shown' else others, row, 0)


def check(a):
    "Have the teacher answer the questions that it wrote, once, drawn as it draws when it verifies"
    teacher, done = LocalTeacher(a.model, prompt=ALONE), {(r['draw'], r['way']) for r in read('checks')}
    for draw, way in product(a.draws, a.ways):
        if (draw, way) in done: continue
        task = task_of(a.draws_at, draw)
        asked = [r for r in read('rows') if (r['draw'], r['how']) == (draw, 'written') and r['answer']]
        rows = [Example(f"{r['parent']}.{r['k']}", r['question'], r['answer']) for r in asked]
        calls = [ask_again(teacher, task, row, r['parent'], way) for r, row in zip(asked, rows)]
        with teacher.open(a.draws_at / f'draw_{draw}'): replies = teacher.solve(calls, 'its own questions')
        said = [read_solution(task, row, reply.text) or '' for row, reply in zip(rows, replies)]
        about = dict(draw=draw, way=way) | made()
        found = [dict(parent=r['parent'], k=r['k'], answer=r['answer'], said=s) for r, s in zip(asked, said)]
        add('checks', [about | line for line in found])
        print(draw, way, sum(x['answer'] == x['said'] for x in found), len(found), flush=True)


def student(a, rate, steps): return Student(a.model, learning_rate=rate, max_steps=steps)


def answers(its, task, train, asked, seed):
    "Train once on rows and answer others: '1' for a right answer"
    took = its.train([(task.prompt(r), task.completion(r)) for r in train], seed=seed)
    said = its.generate([task.prompt(r) for r in asked], options=[task.options(r) for r in asked])
    return took, ''.join('01'[task.score(r, c.text).correct] for r, c in zip(asked, said))


def tune(a):
    "Plain fine-tuning at each rate and length; scored on rows that are in no draw"
    done = {(r['draw'], r['rate'], r['steps']) for r in read('tune')}
    for draw, rate, steps in product(TUNED_ON, RATES, STEPS):
        if (draw, rate, steps) in done: continue
        task = task_of(a.draws_at, draw)
        took, right = answers(student(a, rate, steps), task, task.seed_rows, task.pool[:300], draw)
        add('tune', [made(draw=draw, rate=rate, steps=steps, right=right, seconds=took['seconds'])])
        print(draw, rate, steps, right.count('1'), took['seconds'], flush=True)


def bank(task, draw):
    "Rows written about each seed row, in order, those that pass the filters"
    out, judge = {r.id: [] for r in task.seed_rows}, Filter(task)
    by_id = {r.id: r for r in task.seed_rows}
    for line in read('rows'):
        if (line['draw'], line['how']) != (draw, 'written') or not line['answer']: continue
        parent = by_id[line['parent']]
        row = Example(f"{parent.id}.{line['k']}", line['question'], line['answer'])
        if judge(row, parent) == 'kept': out[parent.id].append(row)
    return out


def agreed(bank, draw):
    "Of the rows written about each seed row, those that the teacher, asked alone, answers as it wrote them"
    its = [r for r in read('checks') if (r['draw'], r['way']) == (draw, 'alone')]
    if not its: raise SystemExit(f'draw {draw}: what the teacher wrote is not checked; run check first')
    same = {f"{r['parent']}.{r['k']}" for r in its if r['said'] == r['answer']}
    return {parent: [row for row in rows if row.id in same] for parent, rows in bank.items()}


def spread(bank, ids, n):
    "The first row about each of `ids`, then the second of each, up to n"
    return [row for k in range(DEPTH) for i in ids for row in bank[i][k:k + 1]][:n]


def mistakes(a, its, task, draw):
    "Ids of the seed rows that a student trained on the other folds gets wrong"
    fold, wrong = deal(task, FOLDS, draw), []
    for f in range(FOLDS):
        asked = [r for r in task.seed_rows if fold[r.id] == f]
        _, right = answers(its, task, [r for r in task.seed_rows if fold[r.id] != f], asked, draw)
        wrong += [r.id for r, x in zip(asked, right) if x == '0']
    return wrong


def texts(draw, n, true):
    "Real texts, n of them asked for, with the teacher's label or with the true one"
    lines = [line for line in read('rows') if (line['draw'], line['how']) == (draw, 'labelled')][:n]
    if true: return [Example(str(i), x['text'], x['true']) for i, x in enumerate(lines)]
    return [Example(str(i), x['question'], x['answer']) for i, x in enumerate(lines) if x['answer']]


def arms(a, its, task, draw):
    "Name and added rows of each arm; those about mistakes last, since finding them takes five trainings"
    written, ids = bank(task, draw), [r.id for r in task.seed_rows]
    mixed = rng_for('worth', draw).sample(ids, len(ids))
    yield 'plain', lambda: ([], {})
    yield 'agreed 45', lambda: (spread(agreed(written, draw), mixed, 45), {})
    for n in SIZES:
        yield f'written {n}', lambda n=n: (spread(written, mixed, n), {})
        yield f'labelled {n}', lambda n=n: (texts(draw, n, False), {})
        yield f'true {n}', lambda n=n: (texts(draw, n, True), {})

    def aimed():
        wrong = mistakes(a, its, task, draw)
        return spread(written, [i for i in mixed if i in wrong], SIZES[0]), dict(wrong=wrong)

    def random():
        drawn = Counter(rng_for('random', draw).choices(ids, k=SIZES[0]))
        return [row for i, k in drawn.items() for row in written[i][:k]], {}

    yield 'about mistakes', aimed
    yield 'random', random


def cells(a):
    "Every arm of a draw"
    done = {(r['draw'], r['arm']) for r in read('cells')}
    for draw in a.draws:
        task, its = task_of(a.draws_at, draw), student(a, a.rate, a.steps)
        for arm, added in arms(a, its, task, draw):
            if (draw, arm) in done or (a.arms and arm not in a.arms): continue
            new, more = added()
            took, right = answers(its, task, [*task.seed_rows, *new], task.test, draw)
            add('cells', [made(draw=draw, arm=arm, added=len(new), rate=a.rate, steps=a.steps, right=right,
                               seconds=took['seconds'], loss=took['loss']) | more])
            print(draw, arm, len(new), right.count('1'), took['seconds'], flush=True)


def bars(a):
    "The yardsticks on the seed rows, and with the texts that the teacher labelled or their true labels"
    done = {(r['draw'], r['arm'], r['yardstick']) for r in read('bars')}
    for draw in a.draws:
        task, added = task_of(a.draws_at, draw), {'plain': []}
        for n in SIZES: added |= {f'labelled {n}': texts(draw, n, False), f'true {n}': texts(draw, n, True)}
        for y, (arm, new) in product(yardsticks(task, a.model)[0], added.items()):
            if (draw, arm, y.name) in done: continue
            scored = y.answers(task, [*task.seed_rows, *new], task.test)
            line = dict(draw=draw, arm=arm, added=len(new), yardstick=y.name)
            add('bars', [made(**line, right=''.join('01'[x.correct] for x in scored))])
            print(line, sum(x.correct for x in scored), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=('rows', 'check', 'tune', 'cells', 'bars'))
    p.add_argument('draws_at', type=Path, metavar='DRAWS')
    p.add_argument('model')
    p.add_argument('--draws', type=int, nargs='+', default=range(7))
    p.add_argument('--rate', type=float)
    p.add_argument('--steps', type=int)
    p.add_argument('--how', nargs='+', default=('written', 'labelled'), help='of rows: which of them')
    p.add_argument('--ways', nargs='+', default=('alone', 'shown', 'others'), help='of check: how')
    p.add_argument('--arms', nargs='+', help='of cells: no others than these')
    a = p.parse_args()
    dict(rows=rows, check=check, tune=tune, cells=cells, bars=bars)[a.what](a)


if __name__ == '__main__': main()
