"""Answers that are JSON objects, free and held to a schema: the base with examples, and a trained student.

    python nbs/results/held.py nlupp/banking.jsonl STUDENT

Writes `raw/held.json`.
"""
import json, sys, time
from pathlib import Path

from llm2llm import Student, Task
from llm2llm.core import rng_for
from llm2llm.loop.stages import prompts
from llm2llm.report.fields import field_scores
from llm2llm.store.folder import commit, machine, versions
from llm2llm.tasks.schema import found_schema

RAW = Path(__file__).with_name('raw') / 'held.json'
SEEDS, TEST, SHOTS = 100, 50, 8


def ask(task, student, schema, shots):
    "Answers to the test rows: how many are objects, how many right, and what they took"
    asked = prompts(task, task.test, shots, 0, student.chat)
    stop = task.kind.stop_regex_untrained if shots else None
    texts, start = [r.question for r in task.test], time.perf_counter()
    said = student.generate(asked, max_new_tokens=100, stop_regex=stop, json_schema=schema, texts=texts)
    took = time.perf_counter()-start
    scored = [task.score(r, c.text, c.truncated) for r, c in zip(task.test, said)]
    pairs = [(task.gold(r), p.prediction or 'no answer') for r, p in zip(task.test, scored)]
    f1 = 100*float(field_scores(pairs).loc['all fields', 'F1'])
    tokens = sum(len(student.tokenizer(c.text)['input_ids']) for c in said)
    objects = sum(p.prediction is not None for p in scored)
    return {'objects of the schema': objects, 'F1, %': round(f1, 1),
            'right as a whole': sum(p.correct for p in scored), 'new tokens': tokens,
            'seconds': round(took, 1)}


def main():
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text('utf-8').splitlines()]
    rows = rng_for('held').sample(rows, len(rows))
    schema = found_schema([(json.loads(r['answer']), r['question']) for r in rows])
    about = dict(dev=False, schema=schema, name='nlupp')
    task = Task.from_files(rows[:SEEDS], test=rows[SEEDS:SEEDS + TEST], **about)
    student = Student(sys.argv[2], learning_rate=1e-3, num_train_epochs=3, max_length=1024)
    found = {}
    for who, shots in (('few-shot', SHOTS), ('trained', 0)):
        if not shots: student.train([(task.prompt(r), task.completion(r)) for r in task.seed_rows])
        for how, its in (('free', None), ('held', schema)):
            found[f'{who}, {how}'] = ask(task, student, its, shots)
            print(who, how, found[f'{who}, {how}'], flush=True)
    about = dict(student=Path(sys.argv[2]).name, seed_rows=SEEDS, test_rows=TEST, shots=SHOTS, epochs=3)
    about |= dict(found=found, commit=commit(), machine=machine(), versions=versions())
    RAW.write_text(json.dumps(about, indent=1) + '\n')


if __name__ == '__main__': main()
