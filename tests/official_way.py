"""One round as the paper's code does it, written anew, and the same round without its causes of slowness.

    python tests/official_way.py FOLDER train|answer|select|write|join   # a step of the paper's scripts
    python tests/official_way.py FOLDER one 3       # all steps in one process, 3 times
    python tests/official_way.py FOLDER package 3   # the round of this package

FOLDER/settings.json (see `prepare`) says what is done how. Each call prints one line of JSON: the seconds
from the start of Python to the end of the imports, of loading, and of each phase. Both ways have the same
student, rows, epochs, prompts and teacher."""

import json, sys, threading, time
from collections import Counter
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from types import SimpleNamespace

import psutil

OFFICIAL = dict(
    rows='all', batches='unsorted', limit=100, teacher='threads', rouge='pool', pool=64, threads=10
)


def prepare(folder, url='', n_seed=64, per_seed=2, num_train_epochs=3, **switches):
    "A folder with the settings and rows of a round; `switches` change `OFFICIAL`"
    from llm2llm.mini.mini import MiniTeacher, mini_task
    from llm2llm.store.folder import write_json, write_jsonl
    from llm2llm.teachers.teacher import Request
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    task,rows = mini_task(n_seed=n_seed, n_test=0),[]
    for q, (c,) in MiniTeacher().write(
        task, [Request(r, None, 1, i, 0) for i in range(per_seed) for r in task.seed_rows], []
    ):
        rows.append(replace(c.row, id=f'{q.row.id}.r1.{q.draw}', parent_id=q.row.id, round=1, teacher='mini'))
    write_jsonl(folder/'rows.jsonl', [*task.seed_rows, *rows])
    write_json(
        folder / 'settings.json',
        OFFICIAL | dict(url=url, n_seed=n_seed, num_train_epochs=num_train_epochs) | switches,
    )
    return folder


class Round:
    "The settings, rows and task of a folder, and the seconds of what was done"
    def __init__(self, folder):
        from llm2llm.core import example
        from llm2llm.mini.mini import mini_task
        self.folder,self.seconds = Path(folder),Counter()
        self.o = SimpleNamespace(**json.loads((self.folder/'settings.json').read_text()))
        self.task = mini_task(n_seed=self.o.n_seed, n_test=0)
        self.rows = [example(d) for d in self.read('rows')]

    def read(self, name):
        return [json.loads(line) for line in (self.folder / f'{name}.jsonl').read_text().splitlines()]

    def write(self, name, dicts):
        (self.folder / f'{name}.jsonl').write_text(''.join(json.dumps(d) + '\n' for d in dicts))

    def timed(self, phase, do, *args):
        start = time.perf_counter()
        out = do(*args)
        self.seconds[phase] += time.perf_counter()-start
        return out

    def student(self, base=None):
        from llm2llm.mini.mini import mini_student
        from llm2llm.student.student import Student
        import torch
        torch.set_num_threads(1)
        s = (
            mini_student(num_train_epochs=self.o.num_train_epochs, per_device_eval_batch_size=64)
            if base is None
            else Student(base, lora_r=0, per_device_eval_batch_size=64)
        )
        self.timed('load', s.load_base)
        return s


def train(r, student):
    from llm2llm.core import digest

    return student.train(
        [(r.task.prompt(x), r.task.completion(x)) for x in r.rows], seed=int(digest('train', 0, 0)[:7], 16)
    )  # as the loop's round 0


def answer(r, student, heard=None):
    "The student's answers to the rows that are to be answered, each with its row"
    asked = r.rows if r.o.rows=='all' else list(r.task.seed_rows)
    prompts = [r.task.prompt(x) for x in asked]
    score = lambda x,c: r.task.score(x, c.text, c.truncated)
    if r.o.batches=='sorted':
        limit = student.token_limit([r.task.completion(x) for x in r.rows])
        said = student.generate(
            prompts,
            max_new_tokens=limit,
            on_completion=heard and (lambda i, c: heard(asked[i], score(asked[i], c))),
        )
    else:
        said = []
        for i in range(0, len(prompts), 64):
            said += student.generate(prompts[i : i + 64], max_new_tokens=r.o.limit)
    return [(x, score(x, c)) for x,c in zip(asked, said)]


def select(said): return [(x, a) for x,a in said if not x.round and not a.correct]


class Duplicates:
    "Is a question too similar to the wrong seed rows and what was written for them?"
    def __init__(self, o, wrong):
        self.o,self.lock = o,threading.Lock()
        if o.rouge=='index':
            from llm2llm.tasks.similar import NearDuplicateIndex
            self.known = NearDuplicateIndex()
        else:
            from rouge_score import rouge_scorer

            self.lcs, self.words, self.known = (
                rouge_scorer._score_lcs,
                rouge_scorer.RougeScorer(['rougeL'])._tokenizer.tokenize,
                [],
            )
        for x,_ in wrong: self.add(x.question)

    def add(self, question):
        with self.lock:
            self.known.add(question, question) if self.o.rouge == 'index' else self.known.append(
                self.words(question)
            )

    def __call__(self, question):
        if self.o.rouge=='index':
            with self.lock: found = self.known.most_similar(question) is not None
        else:  # each thread has a pool of its own, and a copy, since other threads add meanwhile
            with Pool(self.o.pool) as pool:
                found = (
                    max(
                        s.fmeasure
                        for s in pool.map(partial(self.lcs, self.words(question)), list(self.known))
                    )
                    > 0.95
                )
        if not found: self.add(question)
        return found


def asks(r, wrong):
    from llm2llm.teachers.teacher import Request
    return [Request(x, a, 2, 0, 0) for x,a in wrong]


def write_threads(r, wrong):
    "Ten threads, each of which asks and then compares"
    from concurrent.futures import ThreadPoolExecutor
    from openai import OpenAI
    from llm2llm.teachers.llm import LLMTeacher
    from llm2llm.teachers.replies import Reply
    api,teacher,new = OpenAI(base_url=r.o.url, api_key='none', max_retries=0),LLMTeacher('stub'),[]
    duplicate = Duplicates(r.o, wrong)
    def one(q):
        chat,_,sampling = teacher.request(r.task, q, r.rows, 'text')
        got = api.chat.completions.create(model='stub', messages=chat, **sampling).choices[0]
        c = teacher.read(r.task, q, Reply(got.message.content, got.finish_reason))
        if c.row and not duplicate(c.row.question): new.append(c.row)
    with ThreadPoolExecutor(r.o.threads) as threads: list(threads.map(one, asks(r, wrong)))
    return new


def write_client(r, teacher, wrong):
    "This package's client, which has asked since the first answers came"
    duplicate,new = Duplicates(r.o, wrong),[]
    for _,(c,) in teacher.write(r.task, asks(r, wrong), r.rows):
        if c.row and not duplicate(c.row.question): new.append(c.row)
    return new


def one_process(r, student, folder):
    "All steps with a student that is loaded"
    r.timed('train', train, r, student)
    if r.o.teacher=='threads':
        wrong = select(r.timed('answer', answer, r, student))
        return r.timed('write', write_threads, r, wrong), wrong
    from llm2llm.teachers.api import APITeacher
    from llm2llm.teachers.teacher import Request
    folder.mkdir()
    with APITeacher('stub', r.o.url, api_key='none', price=(1, 1)).open(folder) as teacher:
        heard = lambda x,a: a.correct or teacher.prefetch(r.task, Request(x, a, 2, 0, 0), r.rows)
        wrong = select(r.timed('answer', answer, r, student, heard))
        return r.timed('write', write_client, r, teacher, wrong), wrong


def package(r, student, folder):
    "The same round by the loop of this package, which also keeps everything and checks more"
    from llm2llm.teachers.api import APITeacher
    from llm2llm import LLM2LLM
    from llm2llm.store.folder import read_jsonl, versions

    run = LLM2LLM(
        r.task, student, APITeacher('stub', r.o.url, api_key='none', price=(1, 1)), folder, rounds=1, select='wrong'
    )
    with run.folder.open():
        run.folder.claim(run.settings(), versions())
        with run._teaching(): m,new,_ = run._round(0, r.rows, Counter())
    for l in read_jsonl(folder/'log.jsonl'):
        if 'phase' in l:
            r.seconds[dict(train='train', teacher='write').get(l['phase'], 'answer')] += l['seconds']
    return new, list(range(m['wrong']))


def step(r, name):
    "One step of the paper's scripts: read files, work, write files"
    from llm2llm.core import answer as read_answer, to_dict
    if name=='train':
        import trl  # noqa: F401 its import belongs to the start
        student = r.student()
        r.timed('train', train, r, student)
        student.save(r.folder/'model')
    elif name=='answer':
        said = r.timed('answer', answer, r, r.student(r.folder/'model'))
        r.write('answers', [to_dict(a) for _,a in said])
    elif name=='select':
        rows = {x.id: x for x in r.rows}
        said = [read_answer(d) for d in r.read('answers')]
        r.write('wrong', [to_dict(a) for _,a in select([(rows[a.id], a) for a in said])])
    elif name=='write':
        rows = {x.id: x for x in r.rows}
        wrong = [(rows[d['id']], read_answer(d)) for d in r.read('wrong')]
        r.write('new', [to_dict(x) for x in r.timed('write', write_threads, r, wrong)])
    elif name=='join': r.write('next', [*map(to_dict, r.rows), *r.read('new')])


def repeat(r, do, times):
    "Rounds of one process, the first with the imports that are still missing; their seconds and counts"
    student = r.student()
    out = dict(load=r.seconds['load'], rounds=[])
    for i in range(times):
        r.seconds,start = Counter(),time.perf_counter()
        new,wrong = do(r, student, r.folder/f'run{i}')
        out['rounds'].append(
            dict(seconds=time.perf_counter() - start, phases=dict(r.seconds), wrong=len(wrong), new=len(new))
        )
    return out


def main(folder, name, times=1):
    r,begun = Round(folder),psutil.Process().create_time()
    if name in ('one', 'package'): said = repeat(r, one_process if name=='one' else package, int(times))
    else:
        step(r, name)
        said = dict(phases=dict(r.seconds))
    print(json.dumps(dict(step=name, alive=time.time()-begun, **said)))


if __name__ == '__main__': main(*sys.argv[1:])
