"""What a notebook cannot show of teachers that are language models: sockets that break, caps, kill -9, other processes, a real server."""

import asyncio, contextlib, hashlib, json, logging, multiprocessing, os, random, shutil, signal, sqlite3, subprocess, sys, threading, time, traceback
import urllib.request
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

import warm

from llm2llm.teachers import client as client_module, failures
from llm2llm.core import SettingError, TeacherError, rng_for
from llm2llm.tasks.filters import Filter
from llm2llm.teachers.api import APITeacher
from llm2llm.teachers.local import LocalTeacher
from llm2llm.teachers.replay import ReplayTeacher
from llm2llm import LLM2LLM
from llm2llm.mini.mini import mini_chat, mini_student, mini_task
from llm2llm.teachers.pricing import prompt_bound
from llm2llm.teachers.prompts import messages
from llm2llm.teachers.replies import Replies
from llm2llm.store.folder import read_jsonl
from llm2llm.teachers.teacher import Request
from stub_server import ALWAYS, ODD, PAID, UNPAID, Answering, Stub, completion, new_row, text_of

SHORT = dict(role='You write examples.', rules=(), demos=0, earlier=0)
TASK = mini_task('mini-gsm', n_seed=24, n_test=8)
DIFFERS = {'log.jsonl', 'report.md', 'report.html', 'report.svg', '.lock'}  # seconds are in these


def asked(n, task=TASK):
    return [
        Request(task.seed_rows[i % len(task.seed_rows)], None, 1, i // len(task.seed_rows)) for i in range(n)
    ]


def api(url, **settings):
    return APITeacher('stub', url, **dict(prompt=SHORT, response_format='json') | settings)


def write(folder, url, n=24, task=TASK, **settings):
    "Request to candidate, and what was spent"
    folder.mkdir(exist_ok=True)
    with api(url, **settings).open(folder) as teacher:
        found = {q: c for q,[c] in teacher.write(task, asked(n, task), [])}
        assert list(map(str, found)) and len(found) == n
        return {q: found[q] for q in asked(n, task)}, teacher.spent()


def attempts(folder):
    with sqlite3.connect(folder/'replies.sqlite') as db:
        db.row_factory = sqlite3.Row
        found = [dict(r) for r in db.execute('select * from attempts order by id')]
    for a in found: a.setdefault('worst_tokens', a.get('worst_prompt', 0) + a.get('worst_completion', 0))
    return found


def form_of(folder):
    "The form that was found out"
    with sqlite3.connect(folder / 'replies.sqlite') as db:
        [found] = db.execute("select value from notes where name like 'form%'")
    return json.loads(found[0])


def kept_replies(folder):
    "Key to what was sent and what came"
    with sqlite3.connect(folder/'replies.sqlite') as db:
        return {
            k: (json.loads(request), json.loads(reply))
            for k, request, reply in db.execute('select key, request, reply from replies order by rowid')
        }


def faultless(key, sent):
    "Question and answer that a faultless server writes for a request"
    return new_row(sent['messages'], rng_for('content', key))


def content(folder):
    "File name to digest of its bytes, for every result of a run"
    files = [
        p
        for p in sorted(folder.rglob('*'))
        if p.is_file() and p.name not in DIFFERS and not p.name.startswith('replies.sqlite')
    ]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def quick(monkeypatch):
    "Waits between attempts that a server does not set are ten times as short"
    real = client_module.backoff
    monkeypatch.setattr(client_module, 'backoff', lambda attempt: real(attempt)/10)


# Transport

@pytest.mark.parametrize('kind', UNPAID + PAID)
def test_every_transport_fault(kind, tmp_path, quick):
    # A 200 with HTML and a connection that ends before the first byte may have been paid: only a status says that nothing was generated.
    outcome = 'lost' if kind in ('html', 'cut-head', *PAID) else 'refused'
    with Stub(fault_first=2, only=kind, drip=4) as s:
        found, spent = write(tmp_path/'r', s.url, 6, price=(2, 8), timeout=.7 if kind == 'drip' else 20)
        stats = s.stats()
    assert stats['faults'] == {kind: 12} and stats['requests'] == 18 and stats['errors'] == 0
    tried, kept = attempts(tmp_path/'r'), kept_replies(tmp_path/'r')
    for key in kept: assert [a['outcome'] for a in tried if a['key'] == key] == [outcome, outcome, 'reply']
    for c in found.values():
        key = c.row.source.removeprefix('reply ')
        assert (c.row.question, c.row.answer) == faultless(key, kept[key][0])
    worst = {
        k: (prompt_bound(sent['messages'], sent['schema']), sent['params']['max_tokens'])
        for k, (sent, _) in kept.items()
    }
    if kind == 'no-choices':
        worst = {
            k: (n_words(sent['messages']), len(reply['text'].split())) for k, (sent, reply) in kept.items()
        }  # it says what it took
    lost = 2*(outcome == 'lost')
    assert spent.lost_tokens == lost*sum(p+c for p,c in worst.values())
    assert spent.lost_usd == pytest.approx(lost*sum(2*p + 8*c for p,c in worst.values())/1e6)
    assert (spent.requests, spent.replies, spent.unpriced) == (18, 6, 0)
    assert stats['paid']['times'] == (18 if kind in PAID else 6)
    assert stats['tokens']['prompt'] + stats['tokens']['completion'] <= spent.tokens


@pytest.mark.parametrize('kind,low,high', [('429-after', None, None), ('429-after-ms', None, None), ('429-after-date', 1., 2.6), ('429', 3., 5.), ('503', 3., 5.)])
def test_the_server_says_how_long_to_wait(kind, low, high, tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, 'backoff', lambda attempt: 3.)
    with Stub(fault_first=1, only=kind) as s:
        write(tmp_path/'r', s.url, 1)
        times = s.stats()['times']
    if low is None:
        draw = rng_for('transport', 0, *kept_replies(tmp_path/'r'), 1)  # as the server draws it
        draw.choice([kind]), draw.uniform(-1, 1)
        low, high = (lambda wait: (wait, wait + 2.4))(draw.uniform(.05, .2))   # a busy machine may be late
        assert high < 3
    assert low - .002 <= times['last'] - times['first'] <= high + .25*(low >= 1)


def test_nobody_answers(tmp_path, quick):
    with Stub() as s: url = s.url
    with pytest.raises(TeacherError, match='no connection .Connection refused.; start the server'):
        write(tmp_path / 'r', url, 3)
    assert not attempts(tmp_path/'r')


def test_nobody_answers_any_more(tmp_path, quick):
    with Stub() as s:
        write(tmp_path/'r', s.url, 3)
        url, asked_before = s.url, len(attempts(tmp_path/'r'))
    write(tmp_path/'r', url, 3)  # all replies are kept
    with pytest.raises(
        TeacherError, match='gives no reply after 3 attempts, the last: no connection .Connection refused.'
    ):
        write(tmp_path / 'r', url, 6, price=(2, 8), max_usd=1.0)
    assert {a['outcome'] for a in attempts(tmp_path/'r')[asked_before:] if a['ended']} == {'refused'}


# Errors that end a run

def said(text, finish='stop'):
    return 200, dict(
        id='x',
        object='chat.completion',
        created=1,
        model='stub',
        usage=dict(prompt_tokens=9, completion_tokens=9, total_tokens=18),
        choices=[dict(index=0, message=dict(role='assistant', content=text), finish_reason=finish)],
    )


@pytest.mark.parametrize('form', ['auto', 'text'])
@pytest.mark.parametrize('status', ALWAYS)
def test_an_error_that_ends_the_run_at_once(status, form, tmp_path):
    with Stub(always=status) as s:
        with pytest.raises(TeacherError) as e:
            write(tmp_path / 'r', s.url, 200, response_format=form, concurrency=8)
        n = s.stats()['requests']
    assert ALWAYS[status][1] in str(e.value) and str(status) in str(e.value)
    keys = Counter(a['key'] for a in attempts(tmp_path/'r'))
    met_before = status in (401, 403)   # by the list of models
    assert max(keys.values(), default=0) == (not met_before), 'asked again'
    assert n <= (3 if form == 'auto' else 16), (
        'a slot that a refusal frees may send another before the run hears of it'
    )


def test_nothing_is_sent_after_a_fatal_error(tmp_path):
    with Stub(always=404, latency=.02) as s, api(s.url, concurrency=8).open(tmp_path) as teacher:
        with contextlib.suppress(TeacherError):
            for q in asked(100): teacher.prefetch(TASK, q, [])
        time.sleep(.8)  # the student answers
        n = s.stats()['requests']
    assert n <= 8


def chained(error):
    "The text of an exception and of all that it was made from, shown or not"
    todo, seen = [error], []
    while todo:
        e = todo.pop()
        if e is None or e in seen: continue
        seen.append(e)
        todo += [e.__cause__, e.__context__]
    return '\n'.join(
        [*map(repr, seen), *map(str, seen), *(''.join(traceback.format_exception(e)) for e in seen)]
    )


@pytest.mark.parametrize('how', ['environment', 'argument', 'function', 'header'])
@pytest.mark.parametrize('status', [400, 401, 404])
def test_a_secret_appears_nowhere(status, how, tmp_path, monkeypatch, capfd, caplog, request):
    "Not even where the endpoint repeats the headers that it was sent"
    caplog.set_level(logging.DEBUG)
    secret, given = 'Zq7-very-secret-8431xyz', {}
    if how == 'environment':
        monkeypatch.setenv('MY_KEY', secret)
        given = dict(key_env='MY_KEY')
    if how == 'argument': given = dict(api_key=secret)
    if how == 'function': given = dict(api_key=lambda: secret)
    if how == 'header': given = dict(default_headers={'X-Team': secret})
    def refuse(body, n):
        headers = s.headers[n]
        return status, dict(
            error=dict(
                message=f'Refused: {headers["authorization"]} {headers["x-team"]}.',
                type='invalid_request_error',
                code=None,
            )
        )

    with Answering(refuse) as s:
        run = make_run(tmp_path/'run', s.url, response_format='auto', **given)
        with pytest.raises(TeacherError) as e: run.fit()
        n = len(s.requests)
    assert n and all(secret in str(h) for h in s.headers) and n <= 8
    assert 'Refused' in str(e.value) and '***' in str(e.value)
    assert secret not in chained(e.value)
    printed = capfd.readouterr()
    assert secret not in printed.out + printed.err + repr(run) + repr(run.teacher) + repr(run.teacher.client)
    files = [p for p in (tmp_path/'run').rglob('*') if p.is_file()]
    assert any(p.name == 'replies.sqlite' for p in files) and any(p.name == 'log.jsonl' for p in files)
    for p in files: assert secret.encode() not in p.read_bytes(), p
    ours = '\n'.join(r.getMessage() for r in caplog.records if not r.name.startswith('openai'))
    assert secret not in ours


def test_a_secret_at_the_end_of_a_long_message(tmp_path):
    secret = 'Zq7-very-secret-8431xyz'
    refuse = lambda body, n: (
        401,
        dict(
            error=dict(
                message='x' * 480 + ' ' + s.headers[n]['authorization'].removeprefix('Bearer '), code=None
            )
        ),
    )
    with Answering(refuse) as s, pytest.raises(TeacherError) as e:
        write(tmp_path / 'r', s.url, 1, api_key=secret)
    assert secret[:8] not in str(e.value)


def test_what_was_not_sent_is_not_lost(tmp_path, monkeypatch):
    real = Replies._commit
    def slow(self, statements): real(self, statements), time.sleep(.05)
    monkeypatch.setattr(Replies, '_commit', slow)
    with Stub(always=401) as s:
        with pytest.raises(TeacherError): write(tmp_path/'r', s.url, 20, response_format='auto')
        n = s.stats()['requests']
    tried = attempts(tmp_path/'r')
    assert [a['outcome'] for a in tried] == ['refused']*n


def test_nothing_is_left_behind(tmp_path):
    with Stub(always=404) as s:
        teacher = api(s.url, response_format='auto').open(tmp_path)
        loop = teacher._loop
        others = asyncio.all_tasks(loop)
        with pytest.raises(TeacherError): list(teacher.write(TASK, asked(100), []))
        teacher.close()
        time.sleep(.1)
    assert asyncio.all_tasks(loop) <= others


# What endpoints can do

def n_words(chat): return sum(len(text_of(m).split()) for m in chat)


@pytest.mark.parametrize('share', [.25, .75])
def test_too_long(share, tmp_path):
    "Fewer demonstrations are sent until the prompt fits; rows whose shortest prompt does not fit are said to be too long"
    prompt = SHORT | dict(demos=4)
    with api('http://127.0.0.1:9/v1', prompt=prompt) as t: parts = t.prompt_of(TASK)
    sizes = {q: {n: n_words(messages(TASK, q, [], parts, 'json', n)) for n in (4, 2, 0)} for q in asked(24)}
    limit = sorted(x for by in sizes.values() for x in by.values())[int(share*72)]
    wanted = {q: next((n for n in (4, 2, 0) if by[n] <= limit), None) for q,by in sizes.items()}
    assert len(set(wanted.values())) >= 2
    with Stub(context=limit) as s:
        found, spent = write(tmp_path/'r', s.url, prompt=prompt)
        kept, n = kept_replies(tmp_path/'r'), s.stats()['requests']
        assert n == sum(1 + (4, 2, 0, None).index(w) - (w is None) for w in wanted.values())
        paid_for = s.stats()['paid']['times']
        again, _ = write(tmp_path/'r', s.url, prompt=prompt)
        assert (
            s.stats()['paid']['times'] == paid_for == sum(w is not None for w in wanted.values())
            and again == found
        )
    for q,c in found.items():
        if wanted[q] is None:
            assert (c.row, c.reason, c.cost) == (None, 'too long for the teacher', {})
        else:
            assert kept[c.row.source.removeprefix('reply ')][0]['messages'] == messages(
                TASK, q, [], parts, 'json', wanted[q]
            )
    assert spent.lost_tokens == 0


def test_too_long_in_a_run(tmp_path):
    parts = api('http://127.0.0.1:9/v1').prompt_of(TASK)
    sizes = sorted(n_words(messages(TASK, Request(r, None, 1), [], parts, 'json')) for r in TASK.seed_rows)
    too_long = sum(x > sizes[16] for x in sizes)
    with Stub(context=sizes[16]) as s:
        run = make_run(tmp_path / 'run', s.url, select='all', rounds=1, prompt=SHORT | dict(error=False)).fit(
            verbose=False
        )
    assert 0 < too_long < 24 and run.rounds[0].rejected['too long for the teacher'] == too_long
    assert run.final.stopped == 'rounds done' and run.rounds[0].kept > 0


@pytest.mark.parametrize('schema,form,more', [('yes', 'json', 0), ('no', 'text', 1), ('ignore', 'text', 1)])
def test_structured_replies_are_found_out_once(schema, form, more, tmp_path):
    with Stub(schema=schema, jitter=.01) as s:
        found, _ = write(tmp_path/'r', s.url, response_format='auto')
        stats = s.stats()
        assert stats['requests'] == 24 + more and stats['statuses'].get('400', 0) == (schema == 'no')
        assert all(c.row for c in found.values())
        assert form_of(tmp_path/'r') == form
        again, _ = write(tmp_path/'r', s.url, response_format='auto')
        assert again == found and s.stats()['requests'] == 24 + more
        write(tmp_path/'r', s.url, 30, response_format='auto')  # six new ones: the form is known
        assert s.stats()['requests'] == 30 + more
        assert ('response_format' in s.stats()['seen']['body']) == (form == 'json')


def test_a_server_that_breaks_on_a_schema(tmp_path):
    with Stub(schema='broken') as s:
        found, spent = write(tmp_path/'r', s.url, response_format='auto')
        stats = s.stats()
        assert (stats['statuses'], len(found)) == ({'500': 2, '200': 24}, 24), 'no reply is asked for twice'
        assert all(c.row for c in found.values()) and form_of(tmp_path/'r') == 'text'
        assert (spent.requests, spent.replies, spent.lost_tokens) == (26, 24, 0)
        assert spent.prompt_tokens + spent.completion_tokens == sum(stats['tokens'].values())
        with api(s.url, response_format='auto').open(tmp_path/'r') as teacher:
            assert "by '500: Internal Server Error', and replies to those without" in teacher.notes()[0]


def test_a_server_that_is_broken(tmp_path):
    broken = lambda body, n: (500, dict(error=dict(message='Internal Server Error')))
    with Answering(broken) as s, pytest.raises(TeacherError, match='no reply after 4 attempts, the last: 500'):
        write(tmp_path / 'r', s.url, response_format='auto', max_retries=3)
    assert ['response_format' in body for body in s.requests] == [True, True, False, True, True]
    assert {a['outcome'] for a in attempts(tmp_path/'r')} == {'refused'}


def test_a_schema_that_was_asked_for_and_is_refused(tmp_path):
    with (
        Stub(schema='no') as s,
        pytest.raises(SettingError, match="with a JSON schema.*give response_format='text'"),
    ):
        write(tmp_path / 'r', s.url, response_format='json')


def test_an_empty_first_reply_says_nothing_of_the_form(tmp_path):
    with Stub(odd=1, odd_only='empty') as s:
        write(tmp_path/'r', s.url, 3, response_format='auto')
        assert s.stats()['requests'] == 3 and 'response_format' in s.stats()['seen']['body']


@pytest.mark.parametrize('form,concurrency', [('auto', 16), ('text', 1),
    ('text', 16),
    ('json', 16)])
def test_the_name_of_max_tokens_is_found_out(form, concurrency, tmp_path):
    with Stub(max_tokens_field='max_completion_tokens', latency=.02) as s:
        found, spent = write(tmp_path/'r', s.url, response_format=form, concurrency=concurrency)
        n, seen = s.stats()['requests'], s.stats()['seen']['body']
        assert 24 < n <= 24 + concurrency and (n == 25 or form != 'auto')
        assert 'max_completion_tokens' in seen and 'max_tokens' not in seen
        write(tmp_path/'r', s.url, 30, response_format=form, concurrency=concurrency)
        assert s.stats()['requests'] == n + 6
    assert all(c.row for c in found.values()) and spent.lost_tokens == 0


# Odd replies

REASONS = dict(
    empty='empty reply',
    refusal='refused',
    length='cut off at the token limit',
    two='several examples in one reply',
)


@pytest.mark.parametrize('form', ['json', 'text'])
@pytest.mark.parametrize('odd', ODD)
def test_each_odd_content(odd, form, tmp_path, request):
    share = .4 if odd in ('empty', 'length') else 1   # a run that gets nothing else stops
    with Stub(odd=share, odd_only=odd) as s: found, _ = write(tmp_path/'r', s.url, response_format=form)
    kept = kept_replies(tmp_path/'r')
    reason = REASONS.get(odd) or (
        odd == 'keys' and ('wrong fields' if form == 'json' else 'no example in the reply')
    )
    if reason:
        lost = [c for c in found.values() if not c.row]
        assert {c.reason.partition(':')[0] for c in lost} == {reason} and (share < 1 or len(lost) == len(found))
    accepts = Filter(TASK)
    for c in found.values():
        assert c.cost['prompt_tokens'] > 0
        if not c.row:
            assert c.text == kept_text(kept, c)
            continue
        key = c.row.source.removeprefix('reply ')
        question, answer = (
            new_row(kept[key][0]['messages'], rng_for('duplicate'))
            if odd == 'duplicate'
            else faultless(key, kept[key][0])
        )
        ends = '<|im_end|>' if (odd, form) == ('token', 'json') else ''
        assert (c.row.question, c.row.answer) == (question, answer + ends)
        if ends: assert accepts(c.row) == 'chat template tokens: <|im_end|>'


def kept_text(kept, candidate):
    return next((r['text'] for _, r in kept.values() if r['text'] == candidate.text), None)


@pytest.mark.parametrize('form', ['json', 'text'])
def test_a_run_with_odd_replies(form, tmp_path):
    "Half of the replies are odd: every candidate is the row that was sent, or has a documented reason, and no training row is odd"
    task = mini_task('mini-gsm', n_seed=200, n_test=4)
    with Stub(odd=.5) as s:
        run = make_run(
            tmp_path / 'run', s.url, task, response_format=form, select='all', rounds=1, concurrency=32
        ).fit(verbose=False)
        odd = s.stats()['odd']
    kept, lines = kept_replies(tmp_path/'run'), read_jsonl(tmp_path/'run'/'round_00'/'candidates.jsonl')
    assert len(lines) == 200 == len(kept) and set(odd) == set(ODD) and run.final.stopped == 'rounds done'
    verdicts = Counter(c['verdict'].partition(':')[0] for c in lines)
    unread = 'wrong fields' if form == 'json' else 'no example in the reply'
    two = 'several examples in one reply'
    assert {k: verdicts[k] for k in ('empty reply', 'refused', 'cut off at the token limit', unread)} == {
        'empty reply': odd['empty'],
        'refused': odd['refusal'],
        'cut off at the token limit': odd['length'],
        unread: odd['keys'],
    }
    assert verdicts['chat template tokens'] == (odd['token'] if form == 'json' else 0)
    known = {faultless(k, sent)[0] for k, (sent, _) in kept.items()} | {
        new_row(next(iter(kept.values()))[0]['messages'], rng_for('duplicate'))[0]
    }
    if form == 'text': assert verdicts[two] == odd['two']
    for row in run.rows():
        assert '<|' not in row.question + row.answer
        assert (
            row.round == 0 or row.question in known or (form == 'json' and row.question.startswith('1. '))
        )  # see test_each_odd_content


ROW = json.dumps(
    dict(question='Ann has 3 pens and buys 4 more. How many pens are there now?', answer='3 + 4 = 7\n#### 7')
)


@pytest.mark.parametrize('parts', [[dict(type='text', text=ROW)], [dict(type='thinking', thinking='…'), dict(type='text', text=ROW)], 5])
def test_content_that_is_not_text(parts, tmp_path):
    with Answering(lambda body, n: said(parts)) as s: found, _ = write(tmp_path/'r', s.url, 1, max_retries=0)
    [c] = found.values()
    assert c.row if isinstance(parts, list) else c.reason


@pytest.mark.parametrize('count', ['9', -500, None])
def test_a_count_of_tokens_that_is_none(count, tmp_path):
    "It counts as the worst case"
    def reply(body, n):
        status, r = said(ROW)
        r['usage'] = dict(prompt_tokens=count, completion_tokens=99)
        return status, r
    with Answering(reply) as s, api(s.url, price=PRICE).open(tmp_path) as t:
        [(_, [c])] = t.write(TASK, asked(1), [])
        assert (
            c.row
            and t.client.budget.tokens
            == attempts(tmp_path)[0]['worst_tokens']
            - kept_replies(tmp_path).popitem()[1][0]['params']['max_tokens']
            + 99
        )


def test_a_bound_that_does_not_hold_is_raised_once(tmp_path):
    "by all that was counted: an endpoint's own words are that much at most"
    counted = lambda body: (
        prompt_bound(body['messages'], body['response_format']['json_schema']['schema']) + 100
    )

    def reply(body, n):
        time.sleep(.2)
        status, r = said(ROW)
        r['usage']['prompt_tokens'] = counted(body)
        return status, r
    with Answering(reply) as s, api(s.url, price=PRICE).open(tmp_path) as t:
        list(t.write(TASK, asked(12), []))
        assert t.client.noted('excess') == max(map(counted, s.requests))


def test_a_retry_after_that_is_none(): assert failures.retry_after({'retry-after-ms': '1.2.3'}) is None


def test_half_a_surrogate_pair(tmp_path):
    names = iter(f'N{i}' for i in range(10_000))
    def reply(body, n):
        return said(
            json.dumps(
                dict(
                    question=f'{next(names)} has 3 pens \ud83d and buys 4 more. How many pens are there now?',
                    answer='3 + 4 = 7\n#### 7',
                )
            )
        )

    with Answering(reply) as s:
        run = make_run(tmp_path / 'run', s.url, rounds=1, select='all').fit(verbose=False)
    assert run.final.stopped in ('nothing kept', 'rounds done')


# Caps

CAPS = dict(max_requests=25, max_usd=.012, max_tokens=5000)
PRICE = (2., 8.)
SERVERS = dict(
    plain={},
    faults=dict(faults=0.3),
    uncounted=dict(no_usage=True),
    slow=dict(latency=0.05, jitter=0.05),
    broken=dict(faults=0.5, only='cut-body'),
)


def paid(stats):
    return dict(
        max_requests=stats['requests'],
        max_tokens=sum(stats['tokens'].values()),
        max_usd=(PRICE[0] * stats['tokens']['prompt'] + PRICE[1] * stats['tokens']['completion']) / 1e6,
    )


@pytest.mark.parametrize('cap', CAPS)
@pytest.mark.parametrize('server', SERVERS)
def test_a_cap_is_never_passed(server, cap, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(failures, 'retry_after', lambda headers: .02)
    how = dict(concurrency=32, price=PRICE, max_retries=30, timeout=10)
    with Stub(**SERVERS[server] | dict(drip=.1)) as s:
        found, spent = write(tmp_path/'r', s.url, 60, **how, **{cap: CAPS[cap]})
        stats = s.stats()
        assert 0 < paid(stats)[cap] <= CAPS[cap]
        mine = dict(max_requests=spent.requests, max_tokens=spent.tokens, max_usd=spent.usd + spent.lost_usd)
        if (server, cap) != ('uncounted', 'max_tokens'):
            assert paid(stats)[cap] <= mine[cap] + 1e-12 <= CAPS[cap] + 2e-12
        left = [c for c in found.values() if c.reason.startswith('not asked')]
        assert {c.reason for c in left} == {f'not asked: {cap} {CAPS[cap]:g} reached'} and 0 < len(
            left
        ) < 60 + (server == 'broken')  # there, the cap may be lost before anything comes
        if (server, cap) != ('uncounted', 'max_tokens'):  # see test_uncounted_tokens
            write(tmp_path/'r', s.url, 60, **how, **{cap: CAPS[cap]})
            assert s.stats()['requests'] == stats['requests'], 'the same cap allows nothing more'
        higher, _ = write(tmp_path/'r', s.url, 60, **how, **{cap: 100*CAPS[cap]})
        kept, tried, stats = kept_replies(tmp_path/'r'), attempts(tmp_path/'r'), s.stats()
        assert all(c.row for c in higher.values()) and len(kept) == 60
        assert {q: c for q,c in found.items() if c.row} == {q: higher[q] for q,c in found.items() if c.row}
        assert Counter(a['key'] for a in tried if a['outcome'] == 'reply') == Counter(dict.fromkeys(kept, 1))
        lost = {a['key'] for a in tried if a['outcome'] != 'reply'}
        assert set(stats['paid']['more_keys']) <= lost and stats['requests'] == len(tried)
        if server in ('plain', 'slow', 'uncounted'): assert stats['requests'] == 60


def test_uncounted_tokens(tmp_path):
    with Stub(no_usage=True) as s:
        for _ in range(12): write(tmp_path/'r', s.url, 90, price=PRICE, max_tokens=9000)
        assert sum(s.stats()['tokens'].values()) <= 9000


def test_lost_before_the_price_was_known(tmp_path, quick):
    with Stub(fault_first=3, only='cut-body') as s:
        with pytest.raises(TeacherError, match='no reply after 3'):
            write(tmp_path / 'r', s.url, 3, max_retries=2)
        with api(s.url, price=PRICE).open(tmp_path/'r') as t: spent, held = t.spent(), t.client.budget.usd
    assert (
        spent.lost_tokens > 0
        and spent.lost_usd >= spent.lost_tokens * min(PRICE) / 1e6
        and held == spent.lost_usd
    )


def test_more_tokens_than_allowed(tmp_path):
    "An endpoint that writes more than the limit is left at once; what it was paid stays within the cap"
    with Stub(overrun=.5, latency=.03, jitter=.03) as s:
        for _ in range(3):
            with pytest.raises(
                TeacherError, match=r'wrote \d+ tokens.*cap.* cannot be kept|so no cap can be kept'
            ):
                write(tmp_path / 'r', s.url, 60, price=PRICE, max_usd=0.1, max_tokens=60_000)
        stats, n = s.stats(), len(attempts(tmp_path/'r'))
    assert (
        stats['requests'] <= n < 60 and paid(stats)['max_tokens'] <= 60_000 and paid(stats)['max_usd'] <= 0.1
    )


def test_max_seconds(tmp_path):
    with Stub(latency=.2) as s:
        found, spent = write(tmp_path/'r', s.url, 60, concurrency=2, max_seconds=1.)
        assert {c.reason for c in found.values() if not c.row} == {'not asked: max_seconds 1 reached'}
        assert spent.seconds > .2 and 0 < sum(c.row is not None for c in found.values()) < 60
        n = s.stats()['requests']
        write(tmp_path/'r', s.url, 60, concurrency=2, max_seconds=.99*spent.seconds)
        assert s.stats()['requests'] == n, 'the seconds of an earlier process count'


def test_rate_limits(tmp_path, monkeypatch):
    "A server that admits 20 requests in 0.6 s: told by its 429, and with the client's own limit not even once"
    with Stub(requests_per_minute=20, window=.6) as s:
        found, spent = write(tmp_path/'r', s.url, 60, max_retries=30, concurrency=32)
        stats = s.stats()
    assert (
        all(c.row for c in found.values())
        and stats['limited'] > 0
        and stats['paid'] == stats['paid'] | dict(once=60, more=0)
    )
    assert stats['times']['last'] - stats['times']['first'] >= 1.2 and spent.lost_tokens == 0
    class Quick(client_module.RateLimiter):
        def __init__(self, most): super().__init__(most, 1.8)
    monkeypatch.setattr(client_module, 'RateLimiter', Quick)
    with Stub(requests_per_minute=20, window=.6) as s:
        write(tmp_path/'s', s.url, 60, requests_per_minute=20, concurrency=32)
        stats = s.stats()
    assert (
        stats['limited'] == 0
        and stats['requests'] == 60
        and 3.4 <= stats['times']['last'] - stats['times']['first'] <= 9
    )


def test_a_rate_limit_after_a_wait(tmp_path, monkeypatch):
    class Quick(client_module.RateLimiter):
        def __init__(self, most): super().__init__(most, 1.8)   # a busy machine may be a second late
    monkeypatch.setattr(client_module, 'RateLimiter', Quick)
    with Stub(requests_per_minute=20, window=.6, faults=.03, only='429-after-date') as s:
        write(tmp_path/'s', s.url, 80, requests_per_minute=20, concurrency=64, max_retries=30)
        assert s.stats()['faults']['429-after-date'] > 0
        assert s.stats()['limited'] == 0


def test_a_price_that_is_not_known(tmp_path):
    with Stub() as s:
        with pytest.raises(SettingError, match=r'--teacher.price IN,OUT'):
            make_run(tmp_path / 'run', s.url, max_usd=1.0)
        assert s.stats()['requests'] == 0 and not (tmp_path/'run').exists()
        write(tmp_path/'r', s.url, 3)  # three replies without a price
        with pytest.raises(SettingError, match='--teacher.price IN,OUT'):
            write(tmp_path / 'r', s.url, 3, max_usd=1.0)


def test_a_price_that_is_not_known_without_the_loop(tmp_path):
    with Stub() as s:
        with pytest.raises(SettingError): write(tmp_path/'r', s.url, 30, max_usd=1e-9)
        assert s.stats()['requests'] == 0


def test_a_run_that_reaches_its_cap_and_resumes(tmp_path):
    with Stub(latency=.01, jitter=.01) as s:
        make_run(tmp_path/'whole', s.url).fit(verbose=False)
        n = s.stats()['requests']
        s.reset()
        run = make_run(tmp_path/'run', s.url, max_requests=10).fit(verbose=False)
        assert s.stats()['requests'] == 10 and run.final.stopped == 'cap on the teacher reached'
        assert 'A cap on the teacher (max_requests=10) left' in run.final.notes[0]
        for cap in (30, 1000): run = make_run(tmp_path/'run', s.url, max_requests=cap).fit(verbose=False)
        # Round 1 is asked about other students after 10, 30 and all requests, so some requests are made that the whole run needs not
        assert s.stats()['paid']['more'] == 0 and n <= s.stats()['requests'] <= 2*n
    more = {
        'stages.json',
        'round_01/test_answers.jsonl',
    }  # the cap is in the key of a stage; round 1 was the last one and had been tested
    assert {k: v for k, v in content(tmp_path / 'run').items() if k not in more} == {
        k: v for k, v in content(tmp_path / 'whole').items() if k not in more
    }


def test_verification_that_reaches_its_cap_and_resumes(tmp_path):
    with Stub() as s:
        for cap in (30, 45, 45, 500):
            make_run(
                tmp_path / 'run',
                s.url,
                rounds=1,
                select='all',
                response_format='text',
                max_requests=cap,
                loop=dict(num_verifications=2),
            ).fit(verbose=False)
            verdicts = Counter(
                c['verdict'].partition(':')[0]
                for c in read_jsonl(tmp_path / 'run' / 'round_00' / 'candidates.jsonl')
            )
            assert s.stats()['requests'] <= cap and sum(verdicts.values()) == 24
            assert (cap < 500) == (verdicts['not asked'] > 0)
            if cap < 500: assert s.stats()['requests'] == cap
        n = s.stats()
    new = verdicts['kept'] + verdicts["the teacher's own solutions differ"]
    assert n['requests'] == 24 + 2*new and n['paid']['more'] == 0 and new > 20


# The loop

STUDENT = dict(num_train_epochs=1)


class Late(APITeacher):
    "Asks only when the student has answered everything"
    writing = False
    def prefetch(self, task, q, have): return super().prefetch(task, q, have) if self.writing else None
    def write(self, task, requests, have):
        self.writing = True
        try: yield from super().write(task, requests, have)
        finally: self.writing = False


def make_run(folder, url, task=TASK, kind=APITeacher, rounds=2, select='wrong', loop=None, **settings):
    teacher = kind('stub', url, **dict(prompt=SHORT, response_format='json') | settings)
    return LLM2LLM(
        task, mini_student(**STUDENT), teacher, folder, rounds=rounds, select=select, **(loop or {})
    )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A function: the folder of the run with these settings against a faultless server, and what the server saw"
    made = {}
    def _whole(form, select='wrong'):
        if (form, select) not in made:
            out = tmp_path_factory.mktemp('whole')/'run'
            with Stub(schema='yes' if form == 'json' else 'ignore') as s:
                run = make_run(
                    out,
                    s.url,
                    response_format=form,
                    select=select,
                    loop=dict(num_folds=3) if select == 'crossfit' else {},
                ).fit(verbose=False)
                made[form, select] = out, s.stats()
            assert run.final.stopped == 'rounds done' and all(m.kept > 5 for m in run.rounds[:2])
        return made[form, select]
    return _whole


@pytest.mark.parametrize('form', ['json', 'text'])
def test_the_same_results_however_it_is_asked(form, whole, tmp_path, quick, monkeypatch):
    out, stats = whole(form)
    monkeypatch.setattr(failures, 'retry_after', lambda headers: .02)
    want, schema = content(out), 'yes' if form == 'json' else 'ignore'
    assert any(k.endswith('candidates.jsonl') for k in want) and 'final.json' in want
    with Stub(schema=schema, jitter=.02) as s:
        make_run(tmp_path/'one', s.url, response_format=form, concurrency=1).fit(verbose=False)
        make_run(tmp_path/'many', s.url, response_format=form, concurrency=32).fit(verbose=False)
        s.reset()
        make_run(tmp_path/'late', s.url, response_format=form, kind=Late).fit(verbose=False)
        assert s.stats()['requests'] == stats['requests']
    with Stub(schema=schema, faults=.3, drip=.1) as s:
        make_run(tmp_path/'faults', s.url, response_format=form, max_retries=30).fit(verbose=False)
        assert len(s.stats()['faults']) >= 6
    for name in ('one', 'many', 'late', 'faults'): assert content(tmp_path/name) == want, name


def test_streaming_starts_before_the_student_has_answered(tmp_path, monkeypatch):
    "Requests arrive while the seed rows are still asked, in small batches"
    seen = []
    with Stub() as s:
        run = make_run(tmp_path/'run', s.url, rounds=1)
        run.student.per_device_eval_batch_size = 4
        real = LLM2LLM._ask
        def ask(self, *args, **kwargs):
            found = real(self, *args, **kwargs)
            time.sleep(.3)
            seen.append(s.stats()['requests'])
            return found
        monkeypatch.setattr(LLM2LLM, '_ask', ask)
        run.fit(verbose=False)
        assert seen[0] == s.stats()['requests'] == run.rounds[0].wrong > 5


@pytest.mark.parametrize('select', ['crossfit', 'random', 'all'])
def test_other_rules(select, whole, tmp_path):
    out, stats = whole('json', select)
    with Stub(jitter=.02) as s:
        make_run(
            tmp_path / 'run',
            s.url,
            select=select,
            concurrency=1,
            kind=Late if select == 'crossfit' else APITeacher,
            loop=dict(num_folds=3) if select == 'crossfit' else {},
        ).fit(verbose=False)
        assert s.stats()['requests'] == stats['requests'] and s.stats()['paid']['more'] == 0
    assert content(tmp_path/'run') == content(out)


@pytest.fixture(scope='session')
def other():
    "Starts a function of this module in another process that has torch in memory already"
    warm._start_server()
    ctx = multiprocessing.get_context('forkserver')

    def _start(f, *args):
        p = ctx.Process(target=f, args=args)
        p.start()
        return p
    return _start


def _quiet():
    from tqdm import tqdm
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, which a killed process leaves behind


def _fit(folder, url, form):
    _quiet()
    make_run(folder, url, response_format=form, max_retries=30).fit(verbose=False)


def kill_after(start, folder, marks, seed, slack=.15):
    "Start, wait for a file, kill -9 a random moment later, for each file; then let it end. The number of kills that met it alive"
    moments, kills = random.Random(seed), 0
    for mark in marks:
        p = start()
        while p.is_alive() and not (folder/mark).exists(): time.sleep(.003)
        time.sleep(moments.uniform(0, slack))
        p.kill()
        p.join()
        kills += p.exitcode == -signal.SIGKILL
    p = start()
    p.join()
    assert p.exitcode == 0
    return kills


@pytest.mark.parametrize('form', ['json', 'text'])
def test_killed_again_and_again(form, whole, tmp_path, other):
    out, stats = whole(form)
    marks = [
        'run.json',
        'replies.sqlite',
        'round_00/student',
        'round_00/answers.jsonl',
        'round_00/candidates.jsonl',
        'round_01/student',
        'round_01/answers.jsonl',
    ]
    with Stub(schema='yes' if form == 'json' else 'ignore', latency=.1, jitter=.1) as s:
        kills = kill_after(lambda: other(_fit, tmp_path/'run', s.url, form), tmp_path/'run', marks, form)
        after = s.stats()
    assert kills >= 5, f'only {kills} of {len(marks)} runs were interrupted'
    assert content(tmp_path/'run') == content(out)
    open_ = {a['key'] for a in attempts(tmp_path/'run') if a['outcome'] != 'reply'}
    assert set(after['paid']['more_keys']) <= open_ and after['requests'] - stats['requests'] <= len(open_)


# Thousands of requests

CLIENT = '''
    import sys
    sys.path.insert(0, 'tests')
    from test_teacher import *
    real, asks = client_module.backoff, failures.retry_after
    client_module.backoff = lambda attempt: real(attempt)/20
    failures.retry_after = lambda headers: (asks(headers) or 0)/20
    client_module.AdaptiveSemaphore.slower = lambda self: None  # a tenth of all attempts is a 429 here, which would leave a few requests in flight
    if __name__ == '__main__':
        folder, url, n, concurrency = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        found, _ = write(folder, url, n, response_format='json', concurrency=concurrency, max_retries=40, timeout=float(os.environ.get('CLIENT_TIMEOUT', 1.5)), price=PRICE)
        with open(folder/'rows.jsonl', 'w') as f:
            for q,c in found.items(): f.write(json.dumps([q.row.id, q.draw, c.row and c.row.question, c.row and c.row.answer, c.row and c.row.source, c.reason]) + '\\n')
'''


def client_process(folder, url, n, concurrency=64, **kwargs):
    return warm.Popen(
        [sys.executable, '-c', dedent(CLIENT), str(folder), url, str(n), str(concurrency)],
        cwd=Path(__file__).parent.parent,
        **kwargs,
    )


def test_thousands_of_requests_thirty_percent_faults_ten_kills(tmp_path):
    "REQUESTS=10000 asks ten thousand times; every kill meets a few hundred more of them"
    n, folder, moments, kills = int(os.environ.get('REQUESTS', 2000)), tmp_path/'r', random.Random(8), 0
    with Stub(faults=.3, latency=.02, jitter=.02, drip=3) as s:
        for _ in range(10):
            before, p = s.stats()['requests'], client_process(folder, s.url, n)
            while p.poll() is None and s.stats()['requests'] - before < 64: time.sleep(.05)
            time.sleep(moments.uniform(0, n*1.2e-4))
            p.kill()
            kills += p.wait() == -signal.SIGKILL
        on_the_way = len(kept_replies(folder))
        assert client_process(folder, s.url, n).wait() == 0
        stats = s.stats()
    assert kills == 10 and n/20 < on_the_way < n, (kills, on_the_way)
    rows, kept, tried = read_list(folder/'rows.jsonl'), kept_replies(folder), attempts(folder)
    assert [(r[0], r[1]) for r in rows] == [
        (q.row.id, q.draw) for q in asked(n)
    ]  # none is lost, none is doubled, all in order
    # the server's words are drawn from the key alone: what a faultless one sends for these requests
    teacher = api(s.url)
    for q,(_,_,question,answer,source,reason) in zip(asked(n), rows):
        call = next(teacher.calls(TASK, q, [], 'json'))
        key = call.key
        text, _, _ = completion(call.messages, key, None, True)
        assert (json.loads(text), f'reply {key}', '') == (
            dict(question=question, answer=answer),
            source,
            reason,
        )
    assert len(kept) == n and Counter(a['outcome'] for a in tried)['reply'] == n
    # paid more than once is only what may have been lost on the way, and that is in the bill
    open_ = [a for a in tried if a['outcome'] not in ('reply', 'refused')]
    open_keys, twice = {a['key'] for a in open_}, stats['paid']['more']
    assert twice > n/100 and stats['paid']['times'] - n <= len(open_)
    assert set(stats['paid']['more_keys']) <= open_keys and len(stats['paid']['more_keys']) == min(
        1000, twice
    )
    replies = Replies(folder/'replies.sqlite')
    spent = replies.spent()
    replies.close()
    took = lambda a, name: (
        a[f'worst_{name}'] if a[f'{name}_tokens'] is None else a[f'{name}_tokens']
    )  # what came without a reply may say it
    assert (
        spent.lost_tokens
        == sum(took(a, 'prompt') + took(a, 'completion') for a in open_)
        <= sum(a['worst_tokens'] for a in open_)
    )
    assert spent.lost_usd == pytest.approx(
        sum(a['worst_usd'] if a['usd'] is None else a['usd'] for a in open_)
    )
    assert sum(stats['tokens'].values()) <= spent.tokens and stats['requests'] <= spent.requests == len(tried)
    never_ended = sum(a['outcome'] is None for a in open_)
    assert stats['errors'] == 0 and never_ended >= 10
    print(
        f"\n{n} requests: {stats['requests']} arrived, {sum(stats['faults'].values())} faults {dict(stats['faults'])}, {kills} kills after which {never_ended} attempts "
        f"had no end; {twice} keys paid {stats['paid']['times'] - n} times more than once, {len(open_keys)} keys with a lost attempt, worst case {spent.lost_usd:.4f} USD of {spent.usd + spent.lost_usd:.4f}"
    )


def read_list(path): return [json.loads(line) for line in path.read_text().splitlines()]


def test_thousands_equal_a_faultless_server(tmp_path):
    "The words that the test above expects are those that come through a socket, for the first five hundred"
    with Stub() as s: found, spent = write(tmp_path/'r', s.url, 500, concurrency=64)
    kept = kept_replies(tmp_path/'r')
    for c in found.values():
        key = c.row.source.removeprefix('reply ')
        assert kept[key][1]['text'] == completion(kept[key][0]['messages'], key, None, True)[0]
    assert spent.requests == 500


# Ctrl-C, a running loop

@pytest.mark.parametrize('latency', [.3, .8])
def test_ctrl_c_keeps_what_is_under_way(latency, tmp_path):
    folder, moments = tmp_path/'r', random.Random(latency)
    with Stub(latency=latency, jitter=.1) as s:
        p = client_process(
            folder,
            s.url,
            2000,
            16,
            stderr=warm.PIPE,
            env=os.environ | dict(CLIENT_TIMEOUT='60'),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while s.stats()['requests'] < 40:
            assert p.poll() is None, p.stderr.read()
            time.sleep(.02)
        time.sleep(moments.uniform(0, .3))
        before = s.stats()
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=30)[1].decode()
        time.sleep(.1)
        stats = s.stats()
    assert p.returncode in (130, -signal.SIGINT, 1) and 'KeyboardInterrupt' in err
    assert stats['requests'] <= before['requests'] + 16, 'new requests were sent'
    assert len(kept_replies(folder)) == stats['paid']['written'] == stats['requests']


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    "For replies that would take ten minutes; what was under way counts as lost"
    with Stub(latency=600) as s:
        p = client_process(
            tmp_path / 'r',
            s.url,
            40,
            4,
            stderr=warm.PIPE,
            env=os.environ | dict(CLIENT_TIMEOUT='900'),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while s.stats()['requests'] < 4:
            assert p.poll() is None, p.stderr.read()
            time.sleep(.05)
        p.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired): p.wait(timeout=3)   # the first one waits
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=60)[1].decode()
    assert p.returncode in (130, -signal.SIGINT, 1) and 'KeyboardInterrupt' in err
    assert [a['outcome'] for a in attempts(tmp_path/'r')] == ['lost']*4


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize('latency, outcome, n', [(.5, 'reply', 40), (600, 'lost', 1)])   # the first request goes alone
def test_a_signal_ends_the_command_like_ctrl_c(latency, outcome, n, number, tmp_path):
    "What is under way is waited for and kept; replies that would take ten minutes are given up after four seconds"
    flags = dict(task='mini-gsm', student='mini', teacher='api', select='all', output_dir=tmp_path / 'run')
    flags |= {'task.n_seed': 40, 'task.n_test': 8, 'student.num_train_epochs': 1, 'teacher.model': 'stub'}
    with Stub(latency=latency) as s:
        flags |= {'teacher.base_url': s.url, 'teacher.concurrency': 40, 'teacher.timeout': 900}
        words = [str(w) for name, value in flags.items() for w in (f'--{name}', value)]
        p = warm.Popen(
            [sys.executable, '-m', 'llm2llm', 'run', *words],
            env=os.environ | dict(OPENAI_API_KEY='key'),
            stderr=warm.PIPE,
            text=True,
        )
        while s.stats()['requests'] < n:
            assert p.poll() is None, p.stderr.read()
            time.sleep(.05)
        p.send_signal(number)
        err = p.communicate(timeout=60)[1]
    assert p.returncode == 128 + number and 'Resume with: llm2llm run' in err and 'Traceback' not in err
    assert Counter(a['outcome'] for a in attempts(tmp_path / 'run')) == {outcome: n}


def test_one_file_has_all_that_was_paid(tmp_path):
    "Copied alone out of the folder of a process that was killed"
    with Stub(latency=.05, jitter=.05) as s:
        p = client_process(tmp_path / 'r', s.url, 500, 16)
        while s.stats()['requests'] < 200: time.sleep(.02)
        p.kill()
        p.wait()
        sent = s.stats()['requests']
    (tmp_path / 'copy').mkdir()
    shutil.copy(tmp_path / 'r' / 'replies.sqlite', tmp_path / 'copy')
    kept = len(kept_replies(tmp_path / 'copy'))
    assert len(attempts(tmp_path / 'copy')) >= sent - 16 and kept >= sent - 32
    for folder in ('copy', 'r'):
        with contextlib.closing(Replies(tmp_path / folder / 'replies.sqlite')) as replies: spent = replies.spent()
        # the kill may have met a commit, of which a copy without the journal beside it has a part
        assert spent.usd > 0 and abs(spent.replies - kept) <= 16


async def _within(run): return run.fit(verbose=False)


def test_inside_a_running_event_loop(whole, tmp_path):
    with Stub() as s: asyncio.run(_within(make_run(tmp_path/'run', s.url)))
    assert content(tmp_path/'run') == content(whole('json')[0])


# Recorded and local teachers

def dataset(folder):
    return [
        {k: v for k, v in d.items() if k != 'source'}
        for d in read_jsonl(sorted(folder.glob('round_*/train.jsonl'))[-1])
    ]


@pytest.mark.parametrize('form', ['json', 'text'])
def test_replayed_without_a_server(form, whole, tmp_path):
    out, _ = whole(form)
    shutil.copytree(out, tmp_path/'copy')
    before = {p.name: p.read_bytes() for p in (tmp_path/'copy').glob('replies.sqlite')}
    run = LLM2LLM(
        TASK, mini_student(**STUDENT), ReplayTeacher(tmp_path / 'copy'), tmp_path / 'again', rounds=2
    ).fit(verbose=False)
    assert [d.read_bytes() for d in sorted((tmp_path / 'again').glob('round_*/train.jsonl'))] == [
        d.read_bytes() for d in sorted(out.glob('round_*/train.jsonl'))
    ]
    assert (
        run.rounds[-1].as_dict()['scores']
        == json.loads((out / 'round_02' / 'metrics.json').read_text())['scores']
        and len(dataset(out)) > 40
    )
    assert {p.name: p.read_bytes() for p in (tmp_path/'copy').glob('replies.sqlite')} == before


INTENT = mini_task('mini-intent', n_seed=14, n_test=8)
WORDS = dict(demos=0, earlier=0, error=False, shown='A request:', ask='Another one:')


@pytest.fixture(scope='session')
def chat(tmp_path_factory): return mini_chat(tmp_path_factory.mktemp('chat')/'mini_chat')


class Watched(LocalTeacher):
    alone, once, gone = (), (), ()

    def write(self, task, requests, have):
        self.alone += (self.student.model is None,)
        yield from super().write(task, requests, have)

    def verify(self, *args):
        self.once += (self.chat.model is not None,)   # loaded by `write`, and not again
        return super().verify(*args)

    def free(self):
        super().free()
        self.gone += (self.chat.model is None,)


def local_run(folder, chat):
    student = mini_student('mini-intent', **STUDENT)
    teacher = Watched(chat, prompt=WORDS, temperature=.7, max_completion_tokens=48, per_device_eval_batch_size=4)
    teacher.student = student
    return LLM2LLM(
        INTENT,
        student,
        teacher,
        folder,
        rounds=2,
        select='random',
        num_verifications=1,
        only_wrong=True,
        near_duplicate_threshold=None,
    )


def _fit_local(folder, chat):
    _quiet()
    local_run(folder, chat).fit(verbose=False)


def test_a_local_teacher(chat, tmp_path, other):
    run = local_run(tmp_path/'run', chat).fit(verbose=False)
    teacher, rounds = run.teacher, sum(m.requested > 0 for m in run.rounds)
    assert rounds and teacher.alone == teacher.once == (True,) * rounds and all(teacher.gone)
    verdicts = Counter(
        c['verdict'].partition(':')[0]
        for f in (tmp_path / 'run').glob('round_*/candidates.jsonl')
        for c in read_jsonl(f)
    )
    assert verdicts['kept'] > 0 and len(verdicts) >= 2, verdicts
    want = content(tmp_path/'run')
    local_run(tmp_path/'again', chat).fit(verbose=False)
    assert content(tmp_path/'again') == want
    marks = [
        'replies.sqlite',
        'round_00/student',
        'round_00/answers.jsonl',
        'round_00/candidates.jsonl',
        'round_01/answers.jsonl',
    ]
    kills = kill_after(lambda: other(_fit_local, tmp_path/'killed', chat), tmp_path/'killed', marks, 11, .3)
    assert kills >= 3 and content(tmp_path/'killed') == want
    assert len(kept_replies(tmp_path/'killed')) == len(kept_replies(tmp_path/'run'))


# A real server

def free_port():
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='session')
def served(chat, tmp_path_factory):
    "The address of `transformers serve` with the tiny chat model"
    port = free_port()
    log = open(tmp_path_factory.mktemp('serve')/'log', 'w+')   # noqa: SIM115 (closed with the server)
    program = Path(sys.executable).parent/'transformers'
    p = subprocess.Popen(
        [program, 'serve', str(chat), '--host', '127.0.0.1', '--port', str(port), '--device', 'cpu'],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    def up():
        try: return urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=2).status == 200
        except OSError: return False
    try:
        for _ in range(600):
            if p.poll() is not None: break
            if up(): break
            time.sleep(.2)
        else: pytest.fail(f'no server after 120 s: {Path(log.name).read_text()[-2000:]}')
        assert p.poll() is None, Path(log.name).read_text()[-2000:]
        yield f'http://127.0.0.1:{port}/v1'
    finally:
        p.terminate()
        try: p.wait(20)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        log.close()
        log.close()


def test_a_real_server(served, chat, tmp_path):
    from llm2llm.report.report import write_report

    teacher = APITeacher(
        str(chat), served, prompt=WORDS, temperature=0.7, max_completion_tokens=48, concurrency=4
    )
    run = LLM2LLM(
        INTENT,
        mini_student('mini-intent', **STUDENT),
        teacher,
        tmp_path / 'run',
        rounds=1,
        select='all',
        near_duplicate_threshold=None,
    ).fit(verbose=False)
    lines = read_jsonl(tmp_path/'run'/'round_00'/'candidates.jsonl')
    assert run.final.stopped == 'rounds done' and len(lines) == 14
    assert run.rounds[0].kept > 3, Counter(c['verdict'] for c in lines)
    assert run.rounds[0].prompt_tokens > 0 and run.rounds[0].completion_tokens > 0
    assert form_of(tmp_path/'run') == 'text'
    assert {r.parent_id for r in run.rows() if r.round} <= {r.id for r in INTENT.seed_rows} and all(
        r.answer in INTENT.labels for r in run.rows()
    )
    path = write_report(tmp_path/'run')
    text = '\n'.join(p.read_text() for p in (tmp_path/'run').glob('report.*'))
    assert 'mini-intent' in text and path


# What is met before the first training

def before_training(tmp_path, url, model='stub', error=TeacherError, **settings):
    "What a run says that ends before it trains"
    out = tmp_path / f'run{len([*tmp_path.iterdir()])}'
    teacher = APITeacher(model, url, **settings)
    run = LLM2LLM(mini_task('mini-intent', n_seed=8, n_test=8), mini_student('mini-intent'), teacher, out, rounds=1)
    with pytest.raises(error) as e: run.fit(verbose=False)
    assert not [*out.glob('round_*')], 'it has trained'
    return str(e.value)


@pytest.mark.parametrize('settings,model,says', [
    (dict(key='right'), 'stub', 'it answers 401: Incorrect API key provided'),
    (dict(always=403), 'stub', 'it answers 403'),
    (dict(model='small-model'), 'smal-model', "unknown model 'smal-model'; did you mean 'small-model'?"),
])
def test_a_key_or_a_model_that_is_refused_is_met_before_the_training(settings, model, says, tmp_path, monkeypatch):
    "By the list of models, which costs nothing"
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-wrong-key-1234')
    with Stub(**settings) as s:
        text = before_training(tmp_path, s.url, model)
        assert says in text and 'sk-wrong' not in text and s.stats()['requests'] == 0, text


def test_a_server_that_nobody_started_is_met_before_the_training(tmp_path):
    with Stub() as s: url = s.url
    assert 'no connection (Connection refused); start the server' in before_training(tmp_path, url)


@pytest.mark.parametrize('cap', [dict(max_usd=0), dict(max_usd=1e-6), dict(max_requests=0), dict(max_tokens=10), dict(max_seconds=0)])
def test_a_cap_that_allows_nothing_is_met_before_the_training(cap, tmp_path):
    with Stub() as s:
        text = before_training(tmp_path, s.url, error=SettingError, price=(1, 2), **cap)
        [(name, value)] = cap.items()
        assert f'{name} = {value:g} allows no request' in text and s.stats()['requests'] == 0


@pytest.mark.parametrize('listed', ['stub:latest', 'stub', 'st*'])
def test_a_listed_model_is_asked_under_a_cap_of_no_money(listed, tmp_path):
    "By its name, without its version, or by a pattern; a server of one's own costs nothing"
    with Stub(model=listed) as s:
        teacher = APITeacher('stub', s.url, price=(0, 0), max_usd=0)
        task = mini_task('mini-intent', n_seed=8, n_test=8)
        LLM2LLM(task, mini_student('mini-intent'), teacher, tmp_path / 'run', rounds=1).fit(verbose=False)
        assert s.stats()['requests'] > 0


def test_an_endpoint_without_a_list_of_models_is_asked(tmp_path):
    with Answering(lambda body, n: (200, dict(choices=[dict(message=dict(content='x'), finish_reason='stop')]))) as s:
        with APITeacher('any', s.url).open(tmp_path): pass
        assert not s.requests
