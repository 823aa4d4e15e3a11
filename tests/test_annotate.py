"A teacher that answers real texts: votes, caps, resuming, replays, what it will cost, and what a run says of it"

import json
from collections import Counter
from dataclasses import replace

import pytest

from llm2llm import LLM2LLM, APITeacher, Task
from llm2llm.core import SettingError
from llm2llm.loop.config import LoopConfig
from llm2llm.mini.mini import MiniTeacher, mini_student, mini_task
from llm2llm.report.cards import dataset_card
from llm2llm.report.estimate import cost
from llm2llm.teachers.replay import ReplayTeacher
from stub_server import Answering
from test_odd_replies import usage, whole

SOME = mini_task('mini-intent', n_seed=8, n_test=8)
MORE = mini_task('mini-intent', n_seed=60, seed=1).seed_rows
TRUE = {r.question: r.answer for r in MORE}
TASK = replace(SOME, unlabelled=tuple(replace(r, answer='') for r in MORE))
STUDENT = dict(num_train_epochs=1)


def asked(body): return body['messages'][-1]['content']
def text_of(body): return next(q for q in TRUE if q in asked(body))
def truth(body, n): return 200, whole(TRUE[text_of(body)], usage=usage(400, 4))


def run_of(folder, url, task=TASK, loop=None, **settings):
    teacher = APITeacher('stub', url, max_retries=1, price=(1., 1.), **settings)
    return LLM2LLM(task, mini_student('mini-intent', **STUDENT), teacher, folder,
                   **dict(select='all', rounds=1) | (loop or {}))


def test_real_texts_join_with_the_answers_of_most_votes(tmp_path):
    with Answering(truth) as s: run = run_of(tmp_path / 'run', s.url).fit(verbose=False)
    new = [r for r in run.rows() if r.round]
    assert new and all(TRUE[r.question] == r.answer and r.parent_id and r.teacher == 'stub' for r in new)
    texts = {r.id: r.question for r in TASK.unlabelled}
    assert all(texts[r.source] == r.question for r in new)
    candidates = run.folder.candidates(0)
    assert len(s.requests) == 3*len(candidates) and set(Counter(map(asked, s.requests)).values()) == {3}
    assert all(line.cost['prompt_tokens'] == 1200 for line in candidates)
    shown = s.requests[0]['messages'][1:-1]
    assert {m['content'] for m in shown[1::2]} <= set(TASK.labels) and len(shown) == 2*len(TASK.seed_rows)
    assert not any(TRUE[text_of(b)] in asked(b) for b in s.requests)   # no answer is given away
    assert 'real texts, with answers by the teacher' in dataset_card(run.folder.path).text


def test_a_text_without_a_majority_is_left_out(tmp_path):
    each = Counter()

    def split(body, n):
        each[asked(body)] += 1
        return 200, whole(TASK.labels[each[asked(body)] % 3], usage=usage(400, 4))

    with Answering(split) as s: run = run_of(tmp_path / 'run', s.url).fit(verbose=False)
    reasons = Counter(run.rounds[0].rejected)
    assert not any(r.round for r in run.rows()) and sum(reasons.values()) == len(run.folder.candidates(0))
    assert all(why.startswith("no answer has most of the teacher's 3 votes") for why in reasons)


def test_a_cap_stops_it_and_more_money_pays_for_no_vote_again(tmp_path):
    with Answering(truth) as s:
        first = run_of(tmp_path / 'run', s.url, max_requests=7, concurrency=1).fit(verbose=False)
        assert any('not asked' in why for why in first.rounds[0].rejected) and len(s.requests) == 7
        resumed = run_of(tmp_path / 'run', s.url, max_requests=1000, concurrency=1).fit(verbose=False)
        once = [json.dumps(b, sort_keys=True) for b in s.requests]
        whole_run = run_of(tmp_path / 'whole', s.url).fit(verbose=False)
    assert set(Counter(once).values()) == {3}   # the three votes on a text are the same body
    assert resumed.rows() == whole_run.rows()


def test_a_recorded_run_is_replayed(tmp_path):
    with Answering(truth) as s: run = run_of(tmp_path / 'run', s.url, votes=2).fit(verbose=False)
    teacher = ReplayTeacher(tmp_path / 'run')
    assert teacher.votes == 2
    again = LLM2LLM(TASK, mini_student('mini-intent', **STUDENT), teacher, tmp_path / 'again', select='all',
                    rounds=1).fit(verbose=False)
    assert again.rows() == run.rows()


def test_what_it_will_cost():
    teacher = APITeacher('stub', 'http://127.0.0.1:9/v1', price=(1., 1.))
    config = LoopConfig(rounds=1, select='all')
    labelled, written = (cost(t, teacher, config, rates=[.5]) for t in (TASK, SOME))
    assert labelled.requests[1] == 3*written.requests[1]
    assert labelled.completion_tokens[1] < written.completion_tokens[1]
    assert any('answers 3 times' in n for n in labelled.notes) and not any('votes' in n for n in written.notes)


@pytest.mark.parametrize('teacher', [MiniTeacher()], ids=lambda t: t.name)
def test_a_teacher_that_cannot_is_refused(teacher, tmp_path):
    with pytest.raises(SettingError, match='cannot answer 60 unlabelled texts'):
        LLM2LLM(TASK, mini_student('mini-intent'), teacher, tmp_path / 'run')


def test_from_files(tmp_path):
    seed, texts = tmp_path / 'seed.jsonl', tmp_path / 'texts.txt'
    seed.write_text(''.join(json.dumps(dict(question=r.question, answer=r.answer)) + '\n' for r in SOME.seed_rows))
    texts.write_text('\n'.join([*TRUE, SOME.seed_rows[0].question, *[*TRUE][:2]]) + '\n')
    task = Task.from_files(seed, unlabelled=texts)
    assert {r.question for r in task.unlabelled} == {*TRUE} - {r.question for r in SOME.seed_rows}
    assert 'unlabelled' in repr(task) and task.unlabelled[0].answer == ''
    assert any('unlabelled row' in n and 'seed' in n for n in task.notes)
