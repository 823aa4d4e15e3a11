"""How fast a real language model is trained and asked: this package, a bare PEFT loop, an older checkout.

python nbs/results/real_speed.py FOLDER_OF_A_CHAT_MODEL FOLDER_OF_DATA [--teacher FOLDER]
    [--before CHECKOUT] [--repeats 3]

Each measurement is a process of its own; ways take turns. JSON lines go to raw/real_speed.jsonl.
"""
import argparse, json, os, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
RAW = HERE / 'raw' / 'real_speed.jsonl'
STEPS, ANSWERS, WRITTEN = 12, 100, 20


def rows_of(data):
    "60 seed rows of SNIPS as prompts that name the classes and completions, and dev rows"
    from llm2llm.tasks.published import load_task

    task = load_task('snips', data, n_seed=60, n_dev=ANSWERS, seed=0)
    head = f'{task.description}.\nClasses: {", ".join(task.labels)}.\n\n'
    prompt = lambda r: f'{head}{r.question}\nIntent:'
    return task, [(prompt(r), task.completion(r)) for r in task.seed_rows], [prompt(r) for r in task.dev]


def package(base, data, folder, writer):
    "Training, answers among classes, free answers, and rows by a local teacher"
    from llm2llm.student.student import Student
    from llm2llm.teachers.local import LocalTeacher
    from llm2llm.teachers.teacher import Request

    task, rows, asked = rows_of(data)
    student = Student(base)
    student.load_base()
    trained = student.train(rows, max_steps=STEPS)
    student.generate(asked[:2], [tuple(task.options(task.dev[0]))] * 2)
    times, start = dict(training=trained['seconds']), time.perf_counter()
    student.generate(asked, [task.options(r) for r in task.dev])
    times['answers'] = time.perf_counter() - start
    start = time.perf_counter()
    student.generate(asked[:WRITTEN], max_new_tokens=32)
    times['free answers'] = time.perf_counter() - start
    student.free()
    teacher, start = LocalTeacher(writer, temperature=0.8), time.perf_counter()
    teacher.open(Path(folder))
    rows = [Request(r, None, 1) for r in task.seed_rows[:WRITTEN]]
    got = [reply for _, reply, _ in teacher.obtain(task, rows, task.seed_rows, 'rows')]
    times['rows by a local teacher'] = time.perf_counter() - start
    times['tokens written'] = sum(r.completion_tokens for r in got)
    return times | dict(tokens=trained['tokens'], dtype=student.dtype)


def whole(base, data, folder, writer):
    "A run of one round, plain and augmented: all of it, and the seconds of its stages by what they do"
    from llm2llm.loop.loop import Run
    from llm2llm.store.folder import read_jsonl
    from llm2llm.student.student import Student
    from llm2llm.teachers.local import LocalTeacher

    task = replace(rows_of(data)[0], test=())
    student, teacher = Student(base, num_train_epochs=2), LocalTeacher(writer, temperature=0.8)
    student.load_base()
    run = Run(task, student, teacher, folder, rounds=1)
    start = time.perf_counter()
    run.fit(verbose=False)
    total, stages = time.perf_counter() - start, {}
    for event in read_jsonl(Path(folder) / 'log.jsonl'):
        what = (event.get('phase') or '').split()[-1:]
        if what: stages[what[0]] = stages.get(what[0], 0) + event['seconds']
    tokens = sum(m.tokens for m in run.folder.rounds())
    return dict(whole=total, stages=stages, tokens=tokens, dtype=student.dtype)


def padded(batch):
    "Rows as tensors: token ids, labels, and which tokens are read"
    import torch

    width = max(len(r['input_ids']) for r in batch)
    def fill(rows, pad): return torch.tensor([r + [pad] * (width - len(r)) for r in rows])

    ids = [r['input_ids'] for r in batch]
    return fill(ids, 0), fill([r['labels'] for r in batch], -100), fill([[1] * len(r) for r in ids], 0)


def bare(base, data, folder, writer):
    "The same number of steps by transformers and PEFT alone, in the type that the package takes"
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from llm2llm.student.student import Student
    from llm2llm.student.tokens import training_rows

    _, rows, _ = rows_of(data)
    student = Student(base)
    data, _ = training_rows(student.tokenizer, rows, 1024, None, student.turn)
    data = sorted(data, key=lambda r: len(r['input_ids']))   # little padding, as group_by_length
    weights = getattr(torch, student.precision.weights)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=weights)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules='all-linear', task_type='CAUSAL_LM')
    model = get_peft_model(model, lora).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained: p.data = p.data.float()
    optimiser, tokens, start = torch.optim.AdamW(trained, lr=1e-4, fused=True), 0, time.perf_counter()
    for step in range(STEPS):
        at = step * 8 % (len(data) - 7)
        ids, labels, mask = padded(data[at : at + 8])
        first = int(labels.ne(-100).any(0).int().argmax()) - 1
        with student.precision.autocast():
            kept = dict(labels=labels[:, first:], logits_to_keep=labels.shape[1] - first, use_cache=False)
            loss = model(input_ids=ids, attention_mask=mask, **kept).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        tokens += int(mask.sum())
    return dict(training=time.perf_counter() - start, tokens=tokens, dtype=student.dtype)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('base')
    p.add_argument('data')
    p.add_argument('--teacher', help='folder of another chat model, which writes the rows')
    p.add_argument('--before', help='checkout of an older version')
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--one', help=argparse.SUPPRESS)
    p.add_argument('--folder', help=argparse.SUPPRESS)
    a = p.parse_args()
    a.teacher = a.teacher or a.base
    if a.one:
        found = dict(package=package, bare=bare, whole=whole)[a.one](a.base, a.data, a.folder, a.teacher)
        return print('FOUND ' + json.dumps(found))
    import tempfile
    from llm2llm.store.folder import commit, machine, versions

    root = HERE.parents[1]
    ways = dict(now=('package', root), bare=('bare', root), whole=('whole', root))
    if a.before: ways['before'] = 'package', Path(a.before).resolve()
    about = dict(base=Path(a.base).name, teacher=Path(a.teacher).name)
    about |= dict(commit=commit(), machine=machine(), versions=versions())
    for repeat in range(a.repeats):
        for way, (which, checkout) in ways.items():
            env = os.environ | dict(PYTHONPATH=str(checkout), HF_HUB_OFFLINE='1')
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, a.base, a.data, '--one', which]
                command += ['--folder', folder, '--teacher', a.teacher]
                done = subprocess.run(command, capture_output=True, text=True, env=env)
            found = [line for line in done.stdout.splitlines() if line.startswith('FOUND ')]
            if not found: sys.exit(done.stderr[-2000:])
            line = dict(way=way, repeat=repeat) | json.loads(found[-1][6:])
            with RAW.open('a') as f: f.write(json.dumps(line | about) + '\n')
            print(line, flush=True)


if __name__ == '__main__': main()
