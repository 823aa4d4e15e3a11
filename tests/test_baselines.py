"What nbs/05_loop/05_baselines.ipynb cannot show: rephrasing over a socket, a base that is a chat model, folders that are used again."

import json, re, shutil, sqlite3
from dataclasses import replace

import pytest

from llm2llm.report.compare import compare, compare_table
from llm2llm.grid.cells import _counts
from llm2llm.core import Example, RunError, SettingError
from llm2llm.loop.config import prompts
from llm2llm.report.export import export
from llm2llm.teachers.api import APITeacher
from llm2llm.teachers.replay import ReplayTeacher
from llm2llm import LLM2LLM
from llm2llm.mini.mini import MiniTeacher, mini_base, mini_student, mini_task
from llm2llm.report.record import method, read_run, table
from llm2llm.report.report import still_wrong, write_report
from llm2llm.store.folder import content_digest, read_jsonl
from llm2llm.student.student import Student
from llm2llm.tasks.task import Task
from stub_server import Stub

TASK = mini_task('mini-intent', n_seed=14, n_test=8)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def sent(folder):
    "The requests of a run, as they were sent"
    with sqlite3.connect(folder / 'replies.sqlite') as db:
        return [json.loads(r) for (r,) in db.execute('select request from replies')]


@pytest.mark.parametrize('form', ['json', 'text'])
def test_rephrasing_takes_over_the_answer(form, tmp_path):
    "The stub answers with a label of its own for each question; the row's is kept, and none was shown"
    student = mini_student('mini-intent', num_train_epochs=1)
    with Stub() as s:
        teacher = APITeacher('stub', s.url, prompt=dict(rephrase=True), response_format=form)
        run = LLM2LLM(TASK, student, teacher, tmp_path/'run', rounds=1, select='all').fit(verbose=False)
    new, answers = [r for r in run.rows() if r.round], {r.id: r.answer for r in TASK.seed_rows}
    assert (
        len(new) > 10
        and all(r.answer == answers[r.parent_id] for r in new)
        and len({r.answer for r in new}) > 4
    )
    asked = sent(tmp_path/'run')
    assert len(asked) == 14 and not [a for a in map(json.dumps, asked) if 'Labels:' in a or 'Answer:' in a]
    assert [list(a['schema']['properties']) if a['schema'] else None for a in asked] == [
        ['question'] if form == 'json' else None
    ] * 14
    assert method(read_run(tmp_path/'run')) == 'AugGPT'
    again = LLM2LLM(
        TASK, student, ReplayTeacher(tmp_path / 'run'), tmp_path / 'again', rounds=1, select='all'
    ).fit(verbose=False)
    assert [(r.question, r.answer) for r in again.rows()] == [(r.question, r.answer) for r in run.rows()]


@pytest.fixture(scope='module')
def chat_base(tmp_path_factory):
    "The mini base as a chat model"
    folder = tmp_path_factory.mktemp('chat')/'base'
    shutil.copytree(mini_base(), folder)
    student = Student(folder, lora_r=0)
    student.tokenizer.chat_template = TEMPLATE
    student.tokenizer.save_pretrained(folder)
    return folder


def test_a_chat_model_gets_the_rows_as_turns(chat_base, tmp_path, monkeypatch):
    student, heard = Student(chat_base, lora_r=0), []
    assert student.chat
    plain = student.generate
    monkeypatch.setattr(
        student, 'generate', lambda asked, *a, **k: heard.extend(asked) or plain(asked, *a, **k)
    )
    run = LLM2LLM(TASK, student, None, tmp_path/'run', num_fewshot=2).fit(verbose=False)
    assert len(heard) == 14 + 8 and all(
        [m['role'] for m in c] == ['user', 'assistant'] * 2 + ['user'] for c in heard
    )
    shown = [[m['content'] for m in c[:-1]] for c in heard[14:]]
    assert all(s == shown[0] for s in shown) and shown[0] == [
        t for r in run.rows() for t in (TASK.prompt(r), r.answer)
    ]
    assert run.final.scores['test'].n == 8 and student.trained == 0


def test_a_seed_row_is_never_in_front_of_itself():
    for chat in (False, True):
        for row, said in zip(TASK.seed_rows, prompts(TASK, TASK.seed_rows, k=13, chat=chat)):
            before = str(said[:-1]) if chat else said[:-len(TASK.prompt(row))]
            assert row.question not in before and sum(x.question in before for x in TASK.seed_rows) == 13


def test_the_base_is_asked_whatever_the_student_learnt_before(tmp_path):
    student = mini_student('mini-intent')
    first = LLM2LLM(TASK, student, None, tmp_path/'first', num_fewshot=0).fit(verbose=False)
    trained = LLM2LLM(TASK, student, None, tmp_path/'plain').fit(verbose=False)
    second = LLM2LLM(TASK, student, None, tmp_path/'second', num_fewshot=0).fit(verbose=False)
    said = lambda run: (run.folder/'round_00/test_answers.jsonl').read_bytes()
    assert said(first) == said(second) != said(trained)


def test_a_run_without_training_resumes_and_is_reported(tmp_path):
    out = tmp_path/'run'
    make = lambda: LLM2LLM(TASK, mini_student('mini-intent'), None, out, num_fewshot=2).fit(verbose=False)
    make()
    whole = content_digest(out/'round_00')
    (out/'final.json').unlink()
    (out/'round_00/test_answers.jsonl').unlink()
    run = make()
    assert content_digest(out/'round_00') == whole and len(read_jsonl(out/'round_00/train.jsonl')) == 2
    wrong = still_wrong(read_run(out))
    assert len(wrong) == sum(not a['correct'] for a in read_jsonl(out/'round_00/answers.jsonl')) > 0
    assert wrong['question'].all() and wrong['right answer'].all()   # also of rows that were not shown
    html = write_report(out)[1].read_text(encoding='utf-8')
    assert 'few-shot' in html and run.rounds[0].train_rows == 2 and run.rounds[0].synthetic == 0
    with pytest.raises(SettingError, match='nor a student of its own'):
        export(out, tmp_path / 'out', base=mini_base())
    with pytest.raises(RunError, match='num_fewshot = 2, and this one has num_fewshot = 3'):
        LLM2LLM(TASK, mini_student('mini-intent'), None, out, num_fewshot=3).fit(verbose=False)


def test_where_a_free_text_ends(tmp_path, monkeypatch, chat_base):
    "Nobody has taught the base to end: an empty line does. A trained student and a chat model have their end tokens."
    task = Task(
        'own',
        'text',
        '{question}\nAnswer:',
        seed_rows=tuple(Example(f's{i}', f'How much is {i} and 2?', f'It is {i + 2}.') for i in range(4)),
    )
    found = {}
    students = dict(
        base=(mini_student(), dict(num_fewshot=2)),
        chat=(Student(chat_base, lora_r=0), dict(num_fewshot=2)),
        plain=(mini_student(num_train_epochs=1), {}),
    )
    for name, (student, settings) in students.items():
        def generate(*args, plain=student.generate, name=name, **how):
            found[name] = how['stop_regex']
            return plain(*args, **how)
        monkeypatch.setattr(student, 'generate', generate)
        LLM2LLM(task, student, None, tmp_path/name, **settings).fit(verbose=False)
    assert found['chat'] is None and found['plain'] is None
    cut = lambda text: text[:m.end()] if (m := re.search(found['base'], text)) else text
    assert [cut(t) for t in (' It is 5.\n\nHow', '\n\n It is\n5. \n\n\nHow', ' It is 5.\nHow')] == [
        ' It is 5.',
        '\n\n It is\n5.',
        ' It is 5.\nHow',
    ]


@pytest.mark.parametrize('init_from', ['base', 'previous'])
def test_the_control_has_the_steps_of_the_round_it_is_compared_with(init_from, tmp_path):
    "Of the picked round, not of the last; where each starts from the one before, of all of them up to it"
    task, student, out = (
        mini_task('mini-intent', n_seed=14, n_dev=8, n_test=8),
        mini_student('mini-intent', num_train_epochs=4),
        tmp_path / 'LLM2LLM',
    )
    run = LLM2LLM(task, student, MiniTeacher(), out, rounds=2, select='all', init_from=init_from).fit(
        verbose=False
    )
    plain = LLM2LLM(task, student, None, tmp_path/'plain').fit(verbose=False)
    by_round, controls = [m.steps for m in run.rounds], []
    assert len({*by_round}) == 3
    for picked in range(3):
        run.folder.write_final(replace(run.final, picked_round=picked))
        controls.append(
            LLM2LLM(task, student, None, tmp_path / f'control_{picked}', match_run=out).fit(verbose=False)
        )
        folders = {'LLM2LLM': out, 'plain, step-matched': controls[-1].folder.path}
        steps = [by_round[picked] if init_from == 'base' else sum(by_round[:picked+1])]*2
        assert [int(table(read_run(folders['plain, step-matched'])).loc[0, 'steps'])] == steps[:1]
        assert [
            *compare_table(compare({arm: [f] for arm, f in folders.items()})).loc[[*folders], 'steps']
        ] == steps
        assert [_counts(read_run(f))['steps'] for f in folders.values()] == steps  # in the tables of a grid
    assert (controls[0].folder / 'round_00/student/model.safetensors').read_bytes() == (
        plain.folder / 'round_00/student/model.safetensors'
    ).read_bytes()
    assert (
        controls[0].budget.rows == controls[2].budget.rows
    )  # the controls with a teacher have the rows of the whole run
