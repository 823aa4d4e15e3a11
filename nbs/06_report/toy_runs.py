"Run folders with made-up numbers, for the lessons and the hidden checks of the reports."
from collections import Counter
from pathlib import Path

from llm2llm.core import Prediction, Example, rng_for
from llm2llm.store.folder import write_json, write_jsonl
from llm2llm.store.records import Final, Line, Round, RunFolder, Score, answers_part, write_lines
from llm2llm.teachers.replies import Replies

NAMES = ['Ana','Ben','Chen','Dara','Emil','Fay','Gita','Hugo']
THINGS = ['pens','eggs','coins','shells','cards','nuts']


def toy_row(i, kind='s', n=0, **lineage):
    r = rng_for('toy', kind, i, n)
    a, b = r.randint(2, 60), r.randint(2, 39)
    name, thing = r.choice(NAMES), r.choice(THINGS)
    question = f'{name} has {a} {thing} and buys {b} more {thing}. How many {thing} does {name} have now?'
    id = f'{kind}-{i:03d}' + (f'-{n}' if n else '')
    return Example(id, question, f'{a} + {b} = {a+b}\n#### {a+b}', **lineage)


def toy_answer(row, right, i=0, strange=None):
    gold = row.answer.split('#### ')[1]
    if right: return Prediction(row.id, ' '+row.answer, gold, True)
    if strange is not None: return Prediction(row.id, strange, None, False, False)
    start = row.answer.split('=')[0]
    if i%11 == 10: return Prediction(row.id, f' {start}= = =', None, False, True)
    wrong = str(int(gold)+1+i%9)
    return Prediction(row.id, f' {start}= {wrong}\n#### {wrong}', wrong, False)


def toy_line(i, row, answer, round, teacher, cost):
    new = toy_row(int(row.id[2:]), 'new', round, parent_id=row.id, round=round, teacher=teacher,
                  wrong_completion=answer.completion)
    verdict = 'wrong sum: 3 + 4 is not 8' if i%17 == 9 else 'kept'
    if i%13 == 5: verdict = 'duplicate of a train question'
    return Line(row=new, verdict=verdict, cost=cost)


def toy_replies(path):
    path.unlink(missing_ok=True)
    record = Replies(path)
    insert = 'insert into attempts values(?,?,?,?,?,?,?,?,?,?,?)'
    cost = (600, 100, .0004, 3000, 1000, .002)
    record._commit([(insert, (i, str(i), i, i+1, 'reply' if i else 'lost', *cost)) for i in range(211)])
    record.close()


def toy_settings(curve, select, seed, match, teacher):
    "What made a toy run"
    return dict(rounds=len(curve)-1, select=select, max_per_seed_row=None, init_from='base', seed=seed,
                match_run=match, teacher=teacher and dict(name=teacher, noise=0.0),
                student=dict(model_name_or_path='mini', lora_r=0, learning_rate=1e-3, num_train_epochs=4,
                             batch_size=8))


def toy_task(n_seed, n_dev, n_test):
    return dict(name='numbers (made up)', kind='number', seed=n_seed, dev=n_dev, test=n_test, pool=0,
                labels=[], digest='0'*16, notes=['2 training rows left out: their question is also in test'])


def toy_lines(wrong, round, teacher, paid):
    "What a teacher wrote about the wrong rows"
    lines = [toy_line(i, s, a, round, teacher, paid) for i, (s, a) in enumerate(wrong)]
    unread = Example('unread', '', '', parent_id='s-000', round=round, teacher=teacher)
    text = 'I cannot <b>write</b> that.'
    if paid: lines.append(Line(row=unread, text=text, verdict='no example in the reply', cost=paid))
    return lines


def toy_run(path, curve=(26,28,27,33,36,41), seed=0, select='wrong', steps=32, n_seed=64, n_test=320,
            n_dev=0, finish=True, teacher='mini rules', match=None, every=True, stopped='rounds done',
            learnt=(.30,.09),
            strange=None, said=(), silent=0, paid=None, **kw):
    "A run folder whose test accuracy follows `curve`, in percent"
    folder, r, paid = RunFolder(path), rng_for('toy run', str(seed), select, list(curve)), paid or {}
    seeds = [toy_row(i) for i in range(n_seed)]
    task = toy_task(n_seed, n_dev, n_test)
    settings = toy_settings(curve, select, seed, match, teacher) | kw | dict(task=task)
    write_json(folder/'run.json', dict(versions={'llm2llm':'0.5.0', 'torch':'2.13.0'}, settings=settings))
    folder.write_split('seed', seeds)
    train, log = list(seeds), []
    for k, accuracy in enumerate(curve):
        hard, last = learnt[0]+learnt[1]*k, k == len(curve)-1
        said_of = [(s, r.random() < hard and (i%8 != 3 or hard > 1)) for i, s in enumerate(seeds)]
        answers = dict(seed=[toy_answer(s, right, i, strange if i == 3 else None)
                             for i, (s, right) in enumerate(said_of)])
        answers['test'] = [toy_answer(toy_row(i, 't'), r.random()*100 < accuracy, i) for i in range(n_test)]
        answers['dev'] = [toy_answer(toy_row(i, 'd'), r.random()*100 < accuracy+1, i) for i in range(n_dev)]
        if not (every or last): del answers['test']
        answers = {split: answers[split] for split in ('seed', 'dev', 'test') if answers.get(split)}
        for split, its in answers.items(): write_jsonl(folder.part(k, answers_part(split)), its)
        folder.write_train(k, train)
        wrong, lines = [(s, a) for s, a in zip(seeds, answers['seed']) if not a.correct], []
        if teacher and not last:
            lines = toy_lines(wrong, k+1, teacher, paid)
            write_lines(folder.part(k, 'candidates'), lines)
        kept = [x.row for x in lines if x.verdict == 'kept']
        rejected = Counter(x.verdict.split(':')[0] for x in lines if x.verdict != 'kept')
        if silent and lines: rejected['nothing written'] = silent
        scores = {split: Score.of(its) for split, its in answers.items()}
        folder.write_round(Round(
            round=k, train_rows=len(train), synthetic=len(train)-n_seed, steps=max(steps, len(train)//2),
            epochs=4., loss=.9-.1*k, tokens=2900+40*k, padding=.08, select=select, wrong=len(wrong),
            requested=len(lines)+(silent if lines else 0), candidates=len(lines), kept=len(kept),
            rejected=dict(rejected), scores=scores, **{name: v*len(lines) for name, v in paid.items()}))
        log += [dict(round=k, stage='train', seconds=2.+len(train)/50),
                dict(round=k, stage='answers', seconds=1.25)]
        train += kept
    if paid: toy_replies(folder.replies)
    write_jsonl(folder/'log.jsonl', log)
    pick = 'dev' if n_dev else 'last'
    final = Final(picked_round=len(curve)-1, pick=pick, stopped=stopped, scores=scores, notes=tuple(said))
    if finish: folder.write_final(final)
    return Path(path)
