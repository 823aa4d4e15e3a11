"Free answers: metrics with grades, and a judge: what is asked, what is kept, caps, resuming, arms without a teacher"

import re
from collections import Counter
from dataclasses import replace

import pytest

from llm2llm import LLM2LLM, APITeacher, PoolTeacher, Task, read_run
from llm2llm.core import SettingError, TeacherError
from llm2llm.grid.compare import Compare
from llm2llm.loop.config import LoopConfig
from llm2llm.mini.mini import mini_student
from llm2llm.report.estimate import cost
from llm2llm.report.export import export, predict
from llm2llm.report.report import html, still_wrong
from llm2llm.tasks.kind_text import Text
from stub_server import Answering
from test_odd_replies import usage, whole

ROWS = [dict(question=f'who sits at place {i}?', answer=f'row {i % 5} has person {i * 7 % 40}') for i in range(30)]


def task_of(metric='judge', **more):
    return Task.from_files(ROWS[:12], dev=False, test=ROWS[12:18], metric=metric, name='seats', **more)


def graded(body): return body['messages'][-1]['content'].rpartition('Answer to be graded: ')[2]
def is_grading(body): return 'You grade answers' in body['messages'][0]['content']


def judging(body, n):
    "A judge that likes answers with an even last digit; asked for a row, it writes one"
    if not is_grading(body): return 200, whole(f'Question: who is number {n}?\nAnswer: row {n % 5} has person {n}')
    last = re.findall(r'\d', graded(body)) or ['1']
    return 200, whole(f'So so.\nGrade: {5 if int(last[-1]) % 2 == 0 else 2}', usage=usage(100, 10))


def student(**more): return mini_student(**dict(num_train_epochs=4) | more)


def run_of(folder, url, task, teacher=True, **settings):
    loop = {k: settings.pop(k) for k in ('rounds', 'select', 'num_verifications') if k in settings}
    judge = APITeacher('stub', url, max_retries=0, price=(1., 1.), response_format='text', **settings)
    asked = (judge,) if teacher else (None,)
    return LLM2LLM(task, student(), *asked, folder, judge=None if teacher else judge, **loop)


def test_a_metric_grades_and_a_threshold_decides(tmp_path):
    task = Task.from_files(ROWS[:12], dev=False, test=ROWS[12:18], pool=ROWS[18:], metric='rouge_l', threshold=.9)
    run = LLM2LLM(task, student(), PoolTeacher(), tmp_path / 'run', rounds=1).fit(verbose=False)
    record = read_run(tmp_path / 'run')
    answers = record.folder.answers(0)
    right = {r.id: r.answer for r in task.seed_rows}
    assert all(a.grade == task.kind.grade(a.prediction, right[a.id].lower()) for a in answers)
    assert all(a.correct == (a.grade >= .9) for a in answers) and not all(a.correct for a in answers)
    assert record.rounds[0].scores['seed'].grade == pytest.approx(sum(a.grade for a in answers) / 12, abs=1e-6)
    assert 'mean grade' in str(record) and 'rouge_l' in html(record)
    assert all(re.search(r'grade 0\.\d\d\]', text) for text in still_wrong(record)["student's answer"])
    assert run.settings()['task']['threshold'] == .9


def test_another_threshold_is_another_run(tmp_path):
    LLM2LLM(task_of('token_f1', threshold=.6), mini_student(max_steps=1), output_dir=tmp_path / 'run').fit(verbose=False)
    with pytest.raises(Exception, match='threshold'):
        LLM2LLM(task_of('token_f1', threshold=.7), mini_student(max_steps=1), output_dir=tmp_path / 'run').fit(verbose=False)


def test_the_teacher_grades_what_differs_and_nothing_else(tmp_path):
    task = task_of()
    with Answering(judging) as s:
        run = run_of(tmp_path / 'run', s.url, task, rounds=1).fit(verbose=False)
        asked = len(s.requests)
        run_of(tmp_path / 'run', s.url, task, rounds=1).fit(verbose=False)   # all is there
        assert len(s.requests) == asked
    grades = [b for b in s.requests if is_grading(b)]
    assert set(Counter(b['messages'][-1]['content'] for b in grades).values()) == {1}
    assert all(b['temperature'] == 0 and task.kind.rubric in b['messages'][0]['content'] for b in grades)
    record = read_run(tmp_path / 'run')
    rows = {r.id: r for r in task.seed_rows}
    for a in record.folder.answers(0):
        same = a.prediction == task.gold(rows[a.id])
        said = any(f"Question: {rows[a.id].question}\n" in b['messages'][-1]['content'] for b in grades)
        assert a.correct == (a.grade >= .75) and said == (not same)
    assert any(line.row.answer for line in record.folder.candidates(0))   # it wrote rows too
    assert record.spent.replies == asked and run.settings()['task']['metric'] == 'judge'


def test_plain_fine_tuning_has_a_judge_of_its_own(tmp_path):
    with Answering(judging) as s: run = run_of(tmp_path / 'run', s.url, task_of(), teacher=False).fit(verbose=False)
    assert s.requests and all(map(is_grading, s.requests)) and (tmp_path / 'run' / 'judge').is_dir()
    assert run.settings()['judge']['name'] == 'stub' and not run.folder.replies.exists()
    found = predict(tmp_path / 'run', ['who sits at place 3?'], base=run.student.model_name_or_path)
    assert len(found) == 1   # asks nobody
    out = export(tmp_path / 'run', tmp_path / 'out', base=run.student.model_name_or_path)
    assert not out.scores and any('not scored again' in n for n in out.notes)


def test_a_cap_stops_the_run_and_more_money_pays_for_no_grade_again(tmp_path):
    with Answering(judging) as s:
        with pytest.raises(TeacherError, match=r'answers were graded; grades are kept, and the same command'):
            run_of(tmp_path / 'run', s.url, task_of(), False, max_requests=4, concurrency=1).fit(verbose=False)
        assert len(s.requests) == 4
        run_of(tmp_path / 'run', s.url, task_of(), False, max_requests=99, concurrency=1).fit(verbose=False)
    assert set(Counter(b['messages'][-1]['content'] for b in s.requests).values()) == {1}


def test_what_reads_as_no_grade_is_asked_again_and_never_guessed(tmp_path):
    with Answering(lambda body, n: (200, whole('Quite good.'))) as s:
        run_of(tmp_path / 'run', s.url, task_of(), False).fit(verbose=False)
    answers = read_run(tmp_path / 'run').folder.answers(0)
    odd = [a for a in answers if a.grade is None]
    assert odd and not any(a.correct for a in odd)
    said = str(read_run(tmp_path / 'run'))
    assert 'answers have no grade that can be read, and count as wrong' in said.replace('\n  ', ' ')
    assert f'The judge: {len(s.requests)} replies to {len(s.requests)} requests' in said.replace('\n  ', ' ')
    assert set(Counter(b['messages'][-1]['content'] for b in s.requests).values()) == {3}


def test_arms_share_a_judge(tmp_path):
    task = replace(task_of(), test=task_of().test)
    with Answering(judging) as s:
        teacher = APITeacher('stub', s.url, max_retries=0, price=(1., 1.), response_format='text')
        verdict = Compare(task, student(), teacher, tmp_path / 'c', ['plain', 'LLM2LLM', 'teacher'], seeds=1,
                          rounds=1).fit(verbose=False)
    assert {'plain', 'LLM2LLM', 'teacher'} <= {*verdict.results}
    assert all('grade' in verdict.table() and r.grade is not None for its in verdict.results.values() for r in its.values())


def test_what_it_will_cost(tmp_path):
    loop, teacher = LoopConfig(rounds=1), APITeacher('gpt-4.1-mini')
    with_judge, without = cost(task_of(), teacher, loop), cost(task_of('rouge_l'), teacher, loop)
    graded_most = 12 + 12 + 6 + 6   # seed rows of two rounds, test rows of the first and of the last
    assert with_judge.requests[1] - without.requests[1] == graded_most and with_judge.usd > without.usd
    assert any(f'{graded_most} answers' in n for n in with_judge.notes)


@pytest.mark.parametrize('make, why', [
    (lambda t: LLM2LLM(task_of(), student(), None, t).fit(), "needs a language model that grades"),
    (lambda t: LLM2LLM(replace(task_of(), pool=task_of().test), student(), PoolTeacher(), t), "'pool' is none"),
    (lambda t: run_of(t, 'http://127.0.0.1:9/v1', task_of(), num_verifications=2), 'num_verifications compares'),
    (lambda t: run_of(t, 'http://127.0.0.1:9/v1', task_of('rouge_l'), teacher=False), "judge is for a task with metric='judge'"),
    (lambda t: Task.from_files(ROWS, metric='blue'), 'metric'),
    (lambda t: Task.from_files(ROWS, metric='judge', kind='label'), "metric .* is for a task of kind 'text'"),
    (lambda t: Task.from_files(ROWS, threshold=.5), 'threshold .* is for a metric that has grades'),
    (lambda t: Text('judge', threshold=2), 'threshold'),
])
def test_what_cannot_be(tmp_path, make, why):
    with pytest.raises(SettingError, match=why): make(tmp_path / 'x')
    assert not (tmp_path / 'x').exists()
