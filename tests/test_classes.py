"What nbs/06_report/02c_classes.ipynb cannot show of classes: scikit-learn's own report, many labels, silence, older folders."

from dataclasses import replace

import pytest
from sklearn.metrics import classification_report, confusion_matrix

from llm2llm import LLM2LLM, MiniTeacher, mini_student, mini_task, read_run
from llm2llm.core import Prediction
from llm2llm.report.classes import class_blocks, class_counts, confusion_table
from llm2llm.report.report import write_report
from llm2llm.store.folder import read_json, write_json, write_jsonl


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    task = mini_task('mini-intent', n_seed=28, n_dev=14, n_test=42)
    student = mini_student('mini-intent', num_train_epochs=4, dtype='float32')
    folder = tmp_path_factory.mktemp('classes') / 'run'
    return LLM2LLM(task, student, MiniTeacher(), folder, rounds=1, test_every_round=True, select_round_by='last').fit(verbose=False)


def test_the_numbers_are_those_of_scikit_learn(run):
    record, task = read_run(run.folder.path), run.task
    for r in (0, 1):
        said = {a.id: a.prediction for a in record.folder.answers(r, 'test')}
        pairs = [task.gold(x) for x in task.test], [said[x.id] for x in task.test]
        theirs = classification_report(*pairs, labels=task.labels, output_dict=True, zero_division=0.0)
        ours = record.per_class(round=r)
        for label in task.labels:
            want = [theirs[label][k] for k in ('support', 'precision', 'recall', 'f1-score')]
            assert [*ours.loc[label]] == pytest.approx(want)
        want = [theirs['macro avg'][k] for k in ('precision', 'recall', 'f1-score')]
        assert [*ours.iloc[-1]][1:] == pytest.approx(want)
        assert (record.confusion(round=r).values == confusion_matrix(*pairs, labels=task.labels)).all()
    assert record.per_class('dev').index.name == f'dev rows, round {record.picked}'


def test_they_stand_in_the_report(run):
    md, page = (p.read_text() for p in write_report(run.folder.path))
    after = read_run(run.folder.path).per_class()
    for text in (md, page): assert 'By class: test rows' in text and 'Right label by what was said' in text
    label = after.index[0]
    line = next(l for l in md.splitlines() if l.startswith(f'| {label} |'))
    assert f'{100 * after.recall.iloc[0]:.1f}' in line
    assert read_run(run.folder.path).picked and 'recall %, round 0' in md and 'recall %, round 1' in md


def test_the_test_rows_themselves_are_not_kept(run):
    kept = read_json(run.folder / 'test_gold.json')
    assert kept == {r.id: run.task.gold(r) for r in run.task.test}
    everything = b''.join(p.read_bytes() for p in run.folder.path.rglob('*.json*'))
    assert not [r for r in run.task.test if r.question.encode() in everything]


def test_silence_and_a_folder_of_before(run):
    "An answer that is no label is in no column but its own; where labels of test rows are not kept, dev rows count"
    record = read_run(run.folder.path)
    folder, said = record.folder, record.folder.answers(record.picked, 'test')
    path, gold = folder.part(record.picked, 'test_answers'), folder / 'test_gold.json'
    before = path.read_bytes(), gold.read_bytes()
    try:
        write_jsonl(path, [replace(a, prediction=None, correct=False) if i < 3 else a for i, a in enumerate(said)])
        counts = read_run(folder.path).confusion()
        assert [*counts][-1] == 'no answer' and counts['no answer'].sum() == 3
        assert read_run(folder.path).per_class()['rows'].iloc[-1] == len(said)
        gold.unlink()
        assert read_run(folder.path).per_class().index.name == f'dev rows, round {record.picked}'
        assert class_blocks(read_run(folder.path))[0] == ('head', 'By class: dev rows')
    finally:
        path.write_bytes(before[0])
        gold.write_bytes(before[1])


def test_long_names_are_numbered():
    counts = class_counts([(f'a rather long name {i}', f'a rather long name {i % 3}') for i in range(5)], [f'a rather long name {i}' for i in range(5)])
    table = confusion_table(counts)[1]
    assert [*table] == ['right', '1', '2', '3', '4', '5'] and table['right'][3] == '4 a rather long name 3'
    assert table.loc[3, '1'] == '1' and counts.loc['a rather long name 3', 'a rather long name 0'] == 1


def test_many_classes_are_a_list_of_confusions(run, tmp_path):
    labels = [f'c{i:02}' for i in range(25)]
    head = read_json(run.folder / 'run.json')
    head['settings']['task'] |= dict(labels=labels, dev=0)
    write_json(tmp_path / 'run.json', head)
    record = read_run(run.folder.path)
    m = record.rounds[0]
    gold = {f't{i}': labels[i % 25] for i in range(100)}
    said = {i: labels[7] if label in labels[:12] else label for i, label in gold.items()}
    write_json(tmp_path / 'test_gold.json', gold)
    write_jsonl(tmp_path / 'round_00' / 'test_answers.jsonl', [Prediction(i, s, s, s == gold[i]) for i, s in said.items()])
    write_json(tmp_path / 'round_00' / 'metrics.json', m.as_dict())
    (_, by_class), (_, table), (_, heading), (_, pairs) = class_blocks(read_run(tmp_path))
    assert by_class == 'By class: test rows' and len(table) == 26
    assert heading == 'The 10 most frequent confusions: test rows, round 0' and len(pairs) == 10
    assert {*pairs['said']} == {'c07'} and {*pairs['rows']} == {'4'}
