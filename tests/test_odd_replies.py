"Endpoints that lie about what a request took, and replies of every shape: caps hold, the run continues, and what was paid is counted"

import contextlib, json, re, shutil, socket, ssl, subprocess, threading, time

import pytest

from llm2llm.teachers import client as client_module, failures
from llm2llm.teachers.completion import least_tokens, room
from llm2llm import Task
from llm2llm.core import Example, RunError, SettingError, TeacherError
from llm2llm.loop import messages
from llm2llm.teachers.pricing import prompt_bound
from llm2llm.tasks.task import TASKS
from llm2llm.teachers.prompts import read_reply
from llm2llm.teachers.replies import PROBLEMS
from llm2llm.report.estimate import cost
from llm2llm.store.folder import read_jsonl
from stub_server import Answering
from test_teacher import PRICE, SHORT, TASK, api, asked, attempts, kept_replies, make_run

IN_FLIGHT = 16


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    real = client_module.backoff
    monkeypatch.setattr(client_module, 'backoff', lambda attempt: real(attempt)/20)


def row(n):
    return json.dumps(
        dict(
            question=f'Ann {n} has {n} pens and buys 4 more. How many pens are there in all now?',
            answer=f'{n} + 4 = {n + 4}\n#### {n + 4}',
        )
    )


def words(body): return '\n'.join(m['content'] for m in body['messages'])
def bound(body):
    return prompt_bound(
        body['messages'], body.get('response_format', {}).get('json_schema', {}).get('schema')
    )


def whole(text, finish='stop', **more):
    return dict(choices=[dict(message=dict(role='assistant', content=text), finish_reason=finish)]) | more


def usage(prompt, completion):
    return dict(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def write(folder, url, n=24, **settings):
    "What came for each request, or the error; what was spent; what the folder says was spent"
    folder.mkdir(exist_ok=True)
    with api(url, **settings).open(folder) as teacher:
        try:
            got = [
                c
                for _, [c] in sorted(
                    teacher.write(TASK, asked(n), []), key=lambda x: (x[0].draw, x[0].row.id)
                )
            ]
        except TeacherError as e:
            got = e
        teacher._halt()
        budget, spent = teacher.client.budget, teacher.spent()
    assert budget.tokens == spent.tokens and budget.usd == pytest.approx(spent.usd + spent.lost_usd), (
        'the folder says what the run believes'
    )
    return got, spent


# Endpoints that lie

# what each says of a request whose text can have `b` prompt tokens, at the n-th request, with `c` completion tokens written
LIARS = dict(
    honest=lambda b, c, n: usage(b, c),
    zeros=lambda b, c, n: usage(0, 0),
    none=lambda b, c, n: None,
    growing=lambda b, c, n: usage(b // 4 + b * n // 40, c),
    jumping=lambda b, c, n: usage(b // 4 if n < 40 else 50 * b, c),
    tenfold=lambda b, c, n: usage(10 * b, 10 * c if 10 * c < 300 else c),
)
CAPS = dict(max_usd=.12, max_tokens=48_000)


@pytest.mark.parametrize('cap', CAPS)
@pytest.mark.parametrize('liar', LIARS)
def test_a_cap_and_a_provider_that_lies(liar, cap, tmp_path):
    "What is reported (or, where that is nothing, what the texts can have at least) is at most the cap and one request, or is left at once"
    said = []
    def reply(body, n):
        text, said_at = row(n), time.monotonic()
        time.sleep(.02)
        counts = LIARS[liar](bound(body), least_tokens(text), n)
        said.append((n, counts, bound(body), least_tokens(words(body)), least_tokens(text), said_at))
        return 200, whole(text, usage=counts)
    cost = lambda p, c: (PRICE[0]*p + PRICE[1]*c)/1e6 if cap == 'max_usd' else p + c
    with Answering(reply) as s:
        got, spent = write(
            tmp_path / 'r', s.url, 400, price=PRICE, concurrency=IN_FLIGHT, timeout=20, **{cap: CAPS[cap]}
        )
    costs = [
        cost(c['prompt_tokens'], c['completion_tokens']) if c and c['prompt_tokens'] else cost(p, least)
        for _, c, _, p, least, _ in said
    ]
    booked = spent.usd + spent.lost_usd if cap == 'max_usd' else spent.tokens
    assert sum(costs) <= booked + 1e-9
    over = sorted(n for n,c,b,*_ in said if c and c['prompt_tokens'] > b)
    if not over:
        assert liar in ('honest', 'zeros', 'none') and booked <= CAPS[cap] + 1e-9
        reasons = {c.reason for c in got if not c.row}
        assert (
            reasons == {f'not asked: {cap} {CAPS[cap]:g} reached'}
            and 10 < sum(c.row is not None for c in got) < 400
        )
        return
    assert liar in ('growing', 'jumping', 'tenfold')
    assert (
        isinstance(got, TeacherError)
        and 'prompt tokens where the text can have at most' in str(got)
        and 'spent so far' in str(got)
    )
    assert len(said) <= over[0] + IN_FLIGHT + 1, 'nothing is sent after the first count that cannot be'
    assert booked <= CAPS[cap] + sum(x for (n, *_), x in zip(said, costs) if n in over), (
        'only what was under way passes the cap'
    )
    if liar == 'tenfold': assert len(said) == 1, 'the first request of an endpoint goes alone'


def test_the_same_command_after_a_count_above_the_bound(tmp_path):
    "resumes with as much reserved as the endpoint counts, and then the cap holds"
    reply = lambda body, n: (200, whole(row(n), usage=usage(10*bound(body), 20)))
    with Answering(reply) as s:
        got, first = write(tmp_path/'r', s.url, 60, price=PRICE, max_usd=.5)
        assert isinstance(got, TeacherError) and len(s.requests) == 1
        got, spent = write(tmp_path/'r', s.url, 60, price=PRICE, max_usd=.5)
    assert not isinstance(got, TeacherError), got
    assert first.usd < spent.usd <= .5 and 0 < sum(c.row is not None for c in got) < 60


def test_without_a_cap_nothing_is_stopped(tmp_path):
    "what is reported is booked"
    with Answering(lambda body, n: (200, whole(row(n), usage=usage(10 * bound(body), 20)))) as s:
        got, spent = write(tmp_path / 'r', s.url, 12, price=PRICE)
    assert all(c.row for c in got) and spent.prompt_tokens == sum(10*bound(b) for b in s.requests)


def test_hidden_thoughts_are_paid(tmp_path):
    "An endpoint that counts thoughts in the total alone"
    thoughts = dict(prompt_tokens=100, completion_tokens=20, total_tokens=400)
    with Answering(lambda body, n: (200, whole(row(n), usage=thoughts))) as s:
        _, spent = write(tmp_path / 'r', s.url, 3, price=PRICE)
    assert spent.completion_tokens == 3*300


@pytest.mark.parametrize('finish', ['eos', 'eos_token', 'STOP', 'end_turn', 'banana', None, 7, ['stop'], {}])
def test_a_reply_ends_by_any_name(finish, tmp_path):
    with Answering(lambda body, n: (200, whole(row(n), finish, usage=usage(90, 40)))) as s:
        got, spent = write(tmp_path/'r', s.url, 3, price=(1000, 1000), max_usd=50)
        assert all(c.row for c in got) and len(s.requests) == 3
    assert spent.replies == 3 and spent.usd == pytest.approx(
        sum(1000 * (max(90, least_tokens(words(b))) + 40) / 1e6 for b in s.requests)
    )


@pytest.mark.parametrize('finish', ['max_tokens', 'MAX_TOKENS', 'model_length'])
def test_a_reply_that_was_cut_by_any_name(finish, tmp_path):
    with Answering(lambda body, n: (200, whole(row(n)[:40], finish))) as s:
        got, _ = write(tmp_path / 'r', s.url, 2)
    assert {c.reason for c in got} == {'cut off at the token limit'}


@pytest.mark.parametrize('key', ['sk-secret\nsk-second', 'sk-\x00secret', 'sk-schlüssel'])
@pytest.mark.parametrize('how', ['argument', 'function', 'environment'])
def test_a_key_that_cannot_be_sent(key, how, tmp_path, monkeypatch):
    "is no lost money, and is not shown"
    given = (
        dict(api_key=key)
        if how == 'argument'
        else dict(api_key=lambda: key)
        if how == 'function'
        else dict(key_env='MY_KEY')
    )
    if '\x00' in key and how == 'environment': pytest.skip('no environment holds it')
    monkeypatch.setenv('MY_KEY', key.replace('\x00', ''))
    with Answering(lambda body, n: (200, whole(row(n)))) as s:
        with (
            pytest.raises(SettingError, match='no HTTP header can carry') as e,
            api(s.url, price=PRICE, **given).open(tmp_path) as teacher,
        ):
            list(teacher.write(TASK, asked(3), []))
        assert (
            not s.requests
            and not attempts(tmp_path)
            and 'secret' not in str(e.value)
            and 'schl' not in str(e.value)
        )


def test_a_key_with_a_line_end_around_it(tmp_path):
    "as it comes from a file"
    with Answering(lambda body, n: (200, whole(row(n)))) as s:
        got, _ = write(tmp_path / 'r', s.url, 2, api_key=lambda: ' sk-secret-key \n')
    assert all(c.row for c in got)


def test_what_never_left_is_not_paid(tmp_path, monkeypatch):
    "Whatever goes wrong before a request is sent ends the run and costs nothing"
    def broken(self, *args, **kwargs): raise ValueError('broken before it was sent')

    with (
        Answering(lambda body, n: (200, whole(row(n)))) as s,
        api(s.url, price=PRICE).open(tmp_path) as teacher,
    ):
        monkeypatch.setattr(type(teacher.client.api), '_build_request', broken)
        with pytest.raises(TeacherError, match='could not be sent .ValueError: broken'):
            list(teacher.write(TASK, asked(3), []))
        assert not s.requests and teacher.spent().lost_tokens == 0 and teacher.client.budget.usd == 0


def test_a_machine_too_busy_to_send(tmp_path, monkeypatch):
    "is no fault of anybody: nothing is paid, and it is asked again"
    with Answering(lambda body, n: (200, whole(row(n)))) as s, api(s.url, price=PRICE).open(tmp_path) as teacher:
        real, late = teacher.client.api._build_request, []
        def build(*args, **kwargs):
            if len(late) < 2:
                late.append(1)
                raise TimeoutError
            return real(*args, **kwargs)
        monkeypatch.setattr(teacher.client.api, '_build_request', build)
        got = [c for _,[c] in teacher.write(TASK, asked(3), [])]
        assert all(c.row for c in got) and teacher.spent().lost_tokens == 0 and len(s.requests) == 3


# Replies of every shape

NEST,DEEP = 100_000,10_000  # the second fits into the size of a reply
MESSAGE = dict(role='assistant', content=row(0))
def choices(x, **more): return dict(choices=x) | more
def content(x): return choices([dict(message=dict(content=x), finish_reason='stop')])
def message(x): return choices([dict(message=x, finish_reason='stop')])
def used(x): return whole(row(0), usage=x)

SHAPES = {
    'nothing': b'',
    'blank': b' \n',
    'null': None,
    'true': True,
    'a number': 7,
    'text': 'hello',
    'a list': [],
    'a list of replies': [whole(row(0))],
    'an empty object': {},
    'html': b'<!doctype html><html>Sign in</html>',
    'half a reply': json.dumps(whole(row(0))).encode()[:60],
    'not UTF-8': json.dumps(whole('caf\xe9'), ensure_ascii=False).encode('latin-1'),
    'a stream': b'data: {"choices": []}\n\ndata: [DONE]\n\n',
    'brackets': b'[' * NEST,
    'fewer brackets': b'[' * DEEP,
    'braces': b'{"a":' * NEST,
    'nested choices': b'{"choices":' + b'[' * DEEP + b']' * DEEP + b'}',
    'an infinite number': b'{"choices": [], "usage": {"prompt_tokens": 1e999}}',
    'a number of 5,000 digits': b'{"usage": {"prompt_tokens": ' + b'9' * 5000 + b'}}',
    'no choices': choices([]),
    'choices null': choices(None),
    'choices an object': choices({'0': {}}),
    'choices text': choices('stop'),
    'choices a number': choices(3),
    'choices [null]': choices([None]),
    'choices of text': choices(['hello']),
    'choices of lists': choices([[]]),
    'an empty choice': choices([{}]),
    'message null': message(None),
    'message text': message(row(0)),
    'message a list': message([MESSAGE]),
    'message a number': message(5),
    'message empty': message({}),
    'content null': content(None),
    'content a number': content(5),
    'content an object': content(dict(text='a')),
    'content of numbers': content([1, 2]),
    'a part that is no text': content(
        [dict(type='text', text=5), dict(type='text', text=None), dict(type='image')]
    ),
    'parts': content([dict(type='text', text=row(0))]),
    'usage text': used('many'),
    'usage a list': used([9, 9]),
    'usage of 10^30': used(usage(10**30, 10**30)),
    'usage negative': used(usage(-5, -5)),
    'usage of lists': used(dict(prompt_tokens=[9], completion_tokens={})),
    'cached tokens a list': used(usage(90, 9) | dict(prompt_tokens_details=dict(cached_tokens=[1]))),
    'details text': used(usage(90, 9) | dict(prompt_tokens_details='none')),
    'cached more than all': used(usage(90, 9) | dict(prompt_tokens_details=dict(cached_tokens=10**30))),
    'an error': dict(error=dict(message='upstream', code=502)),
    'an error in words': dict(error='upstream'),
    'an error with an odd code': dict(error=dict(message=['x'], code='²³')),
    'an error that is a list': dict(error=[1]),
    'an error by its object': dict(object='error', message='no', code=40303),
    'finish an object': whole(row(0), {}),
    'the older form': choices([dict(text=row(0), finish_reason='stop')]),
    'refusal a number': choices([dict(message=dict(content=row(0), refusal=5))]),
}
COUNTED = {PROBLEMS['odd'], PROBLEMS['none'], PROBLEMS['large'], 'empty reply'}


def test_how_many_shapes(): assert len(SHAPES) >= 48


@pytest.mark.parametrize('shape', SHAPES)
def test_one_row_with_a_reply_of_this_shape(shape, tmp_path):
    "A row, or a counted reason; the other rows are there, and what each attempt took is in the bill"
    odd = asked(1)[0].row.question
    def reply(body, n):
        if odd in words(body): return 200, SHAPES[shape]
        time.sleep(.005)
        return 200, whole(row(n+1), usage=usage(90, 40))

    with Answering(reply) as s:
        got, spent = write(tmp_path / 'r', s.url, 24, price=PRICE, max_retries=3, concurrency=4)
    assert not isinstance(got, TeacherError), got
    rejected = [c for c in got if not c.row]
    assert len(rejected) <= 1 and {c.reason for c in rejected} <= COUNTED
    tried = attempts(tmp_path/'r')
    assert (
        all(a['outcome'] in ('reply', 'refused', 'lost') for a in tried)
        and spent.requests == len(tried) == len(s.requests) <= 24 + 3
    )
    assert spent.unpriced == 0


@pytest.mark.parametrize('shape', SHAPES)
def test_nothing_but_replies_of_this_shape(shape, tmp_path):
    "The run ends with a sentence, or with a reason for each row; never with the error of another layer"
    with Answering(lambda body, n: (200, SHAPES[shape])) as s:
        got, _ = write(
            tmp_path / 'r', s.url, 6, price=PRICE, max_usd=5.0, max_retries=3, response_format='json'
        )
    if isinstance(got, TeacherError):
        assert (
            'gives no reply after' in str(got)
            or 'prompt tokens where' in str(got)
            or 'tokens where' in str(got)
            or 'answers' in str(got)
            or 'hold no example' in str(got)
        )
        assert len(str(got)) < 1500
    else: assert all(c.row or c.reason in COUNTED for c in got)


@pytest.mark.parametrize('shape', ['choices an object', 'message a list', 'fewer brackets', 'brackets', 'html'])
def test_a_run_goes_on_after_one_odd_reply(shape, tmp_path):
    odd = asked(1)[0].row.question
    reply = lambda body, n: (
        200,
        SHAPES[shape] if odd in words(body) else whole(row(n + 1), usage=usage(90, 40)),
    )
    with Answering(reply) as s:
        run = make_run(tmp_path / 'run', s.url, select='all', rounds=1, max_retries=3, concurrency=4).fit(
            verbose=False
        )
    assert run.final.stopped == 'rounds done'
    assert sum(run.rounds[0].rejected.get(PROBLEMS[p], 0) for p in ('odd', 'none', 'large')) == 1


def test_the_last_request_without_a_reply_ends_no_run(tmp_path):
    "All others have been answered when it fails for the first time: no later reply can show that the endpoint works"
    odd,others = asked(1)[0].row.question,threading.Semaphore(0)

    def reply(body, n):
        if odd not in words(body):
            others.release()
            return 200, whole(row(n))
        for _ in range(5): assert others.acquire(timeout=20)
        others.release(5)
        return 200, SHAPES['html']

    with Answering(reply) as s: got, _ = write(tmp_path/'r', s.url, 6, max_retries=2, concurrency=6)
    assert [c.reason for c in got if not c.row] == [PROBLEMS['none']]


def test_what_a_reply_without_a_reply_reports_is_counted(tmp_path):
    "Twice no choices, then a row: all three are paid as reported, not at their worst case"
    reply = lambda body, n: (
        200,
        choices([], usage=usage(600, 7)) if n < 2 else whole(row(n), usage=usage(600, 40)),
    )
    with Answering(reply) as s: got, spent = write(tmp_path/'r', s.url, 1, price=PRICE)
    assert got[0].row and (spent.lost_tokens, spent.prompt_tokens, spent.completion_tokens) == (
        2 * 607,
        600,
        40,
    )
    assert spent.lost_usd == pytest.approx(2*(600*PRICE[0] + 7*PRICE[1])/1e6)


# Not even HTTP

class Raw:
    "A socket that says some bytes and nothing else"
    def __init__(self, reply): self.reply = reply
    def __enter__(self):
        self.socket = socket.create_server(('127.0.0.1', 0))
        def serve():
            while True:
                try: c, _ = self.socket.accept()
                except OSError: return
                with c, contextlib.suppress(OSError):
                    c.recv(65536)
                    c.sendall(self.reply)
        threading.Thread(target=serve, daemon=True).start()
        self.url = f'http://127.0.0.1:{self.socket.getsockname()[1]}/v1'
        return self
    def __exit__(self, *_): self.socket.close()

@pytest.mark.parametrize('said', [b'SSH-2.0-OpenSSH_9.6\r\n', b'HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n', b'HTTP/1.1 Cannot connect\r\n\r\n', b'\x00\xff'*50,
    b'HTTP/1.1 503 Busy\r\nretry-after: Fri, 31 Dec 99999999999999999999 23:59:59 GMT\r\ncontent-length: 0\r\n\r\n',
    b'HTTP/1.1 500 No\r\ncontent-type: text/plain; charset=hex\r\ncontent-length: 2\r\n\r\nzz'])
def test_what_speaks_no_http(said, tmp_path):
    with Raw(said) as s: got, _ = write(tmp_path/'r', s.url, 2, max_retries=2, price=PRICE)
    assert isinstance(got, TeacherError) and 'gives no reply after 3 attempts' in str(got)


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    "A self-signed certificate for 127.0.0.1 and its key"
    place = tmp_path_factory.mktemp('tls')
    files = place/'key.pem', place/'cert.pem'
    names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1']
    ask = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', files[0], '-out', files[1]]
    subprocess.run([*ask, '-days', '2', *names], check=True, capture_output=True)
    return files


def error_of(folder, url, **settings):
    "What a run says that gets no reply"
    got, spent = write(folder, url, 2, max_retries=0, price=PRICE, **settings)
    assert isinstance(got, TeacherError), got
    assert '\n' not in str(got) and len(str(got)) < 600
    return str(got), spent


@pytest.mark.skipif(not shutil.which('openssl'), reason='needs openssl')
def test_a_certificate_that_is_not_valid(certificate, tmp_path, monkeypatch):
    "is named, with a way that works"
    with Answering(lambda body, n: (200, whole(row(n)))) as s:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[1], certificate[0])
        s.server.socket = context.wrap_socket(s.server.socket, server_side=True)
        url = s.url.replace('http:', 'https:')
        said, spent = error_of(tmp_path/'r', url)
        assert 'certificate there is not valid: self-signed certificate' in said and 'SSL_CERT_FILE' in said
        assert spent.lost_tokens == 0
        monkeypatch.setenv('SSL_CERT_FILE', str(certificate[1]))
        got, _ = write(tmp_path/'r', url, 2)
        assert all(c.row for c in got)


def test_tls_where_there_is_none(tmp_path):
    with Answering(lambda body, n: (200, whole(row(n)))) as s:
        said, spent = error_of(tmp_path/'r', s.url.replace('http:', 'https:'))
    assert 'an address without TLS begins with http://' in said and spent.lost_tokens == 0


@pytest.mark.parametrize('body', [dict(detail='Not Found'), b'<html><head><title>404 Not Found</title></head></html>'])
def test_an_address_that_is_wrong(body, tmp_path):
    with Answering(lambda body_, n: (404, body)) as s: said, _ = error_of(tmp_path/'r', s.url)
    assert f'{s.url}: it answers 404' in said and 'Not Found' in said and '--teacher.base_url' in said
    assert '<' not in said


@pytest.mark.parametrize('name', ['http_proxy', 'ALL_PROXY'])
def test_a_proxy_is_named(name, tmp_path, monkeypatch):
    "by its variable and its address, and nothing is shown of its user and password"
    monkeypatch.setenv(name, 'http://me:proxy-password@127.0.0.1:9')
    with Answering(lambda body, n: (200, whole(row(n)))) as s:
        said, _ = error_of(tmp_path/'r', s.url)
        assert f'{s.url} by the proxy 127.0.0.1:9 (environment variable {name})' in said
        assert 'Connection refused' in said and 'password' not in said and 'me:' not in said
        monkeypatch.setenv('no_proxy', '127.0.0.1')
        assert all(c.row for c in write(tmp_path/'r', s.url, 2)[0])


def test_a_proxy_that_lets_nobody_through(tmp_path, monkeypatch):
    "Nothing was sent to the endpoint, so nothing is paid"
    with Raw(b'HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n') as s:
        monkeypatch.setenv('https_proxy', s.url.removesuffix('/v1'))
        said, spent = error_of(tmp_path/'r', 'https://teacher.invalid/v1', api_key='sk-not-shown')
    assert 'the proxy answers 407' in said and spent.lost_tokens == 0 and 'not-shown' not in said


def test_a_server_that_hangs_up(tmp_path):
    with Raw(b'') as s: said, spent = error_of(tmp_path/'r', s.url)
    assert 'the server ended the connection before its reply was whole' in said
    assert spent.lost_tokens > 0, 'it may have been paid'


def test_a_server_that_is_too_slow(tmp_path):
    with Answering(lambda body, n: time.sleep(1.5) or (200, whole(row(n)))) as s:
        said, _ = error_of(tmp_path/'r', s.url, timeout=.5)
    assert 'no reply within 0.5 seconds (timeout, --teacher.timeout)' in said


@pytest.mark.parametrize('status', [400, 402, 422, 429, 500, 503])
def test_what_an_error_reports_is_counted(status, tmp_path):
    "once for each attempt, whatever its status; zeros are nothing"
    def reply(body, n):
        used = usage(0, 0) if n == 1 else usage(600, 7)
        return status, dict(error=dict(message='no', type='insufficient_quota'), usage=used)
    with Answering(reply) as s:
        for _ in range(2):
            _, spent = write(tmp_path/'r', s.url, 1, price=PRICE, max_retries=0, response_format='text')
    assert spent.lost_tokens == 607 and len(s.requests) == 2
    assert spent.lost_usd == pytest.approx((600*PRICE[0] + 7*PRICE[1])/1e6)


def test_a_redirect_is_not_followed(tmp_path):
    "A key is not sent where nobody said it should be, and the new address is named"
    with Answering(lambda body, n: (200, whole(row(n)))) as other:
        with Raw(
            f'HTTP/1.1 307 Moved\r\nlocation: {other.url}/chat/completions\r\ncontent-length: 0\r\n\r\n'.encode()
        ) as s:
            got, _ = write(tmp_path / 'r', s.url, 2, default_headers={'api-key': 'secret-secret'})
        assert (
            isinstance(got, TeacherError)
            and f'it has moved to {other.url}' in str(got)
            and not other.requests
        )


def test_a_wait_of_no_time(tmp_path):
    "A 429 that asks for 0 seconds is not asked again at once"
    with (
        Raw(b'HTTP/1.1 429 Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n') as s,
        api(s.url).open(tmp_path) as teacher,
    ):
        teacher.prefetch(TASK, asked(1)[0], [])
        time.sleep(2)
        n = len(attempts(tmp_path))
    assert 2 <= n <= 12


def test_the_books_agree_on_an_error_with_usage(tmp_path):
    error = dict(error=dict(code=400, message='content filter \ud800: no'), usage=usage(600, 7))
    with Answering(lambda body, n: (200, error if n % 2 else whole(row(n), usage=usage(600, 40)))) as s:
        got, spent = write(tmp_path / 'r', s.url, 6, price=PRICE, concurrency=1)
    assert spent.lost_tokens == 3*607 and sum(c.reason.startswith('refused') for c in got) == 3
    for c in got: c.reason.encode()


def test_an_endpoint_with_a_prompt_of_its_own(tmp_path):
    "honestly counted: one stop, then as much is reserved, and the cap holds; the first of every process that knows nothing goes alone"
    reply = lambda body, n: (200, whole(row(n), usage=usage(5000 + len(words(body))//4, 40)))
    with Answering(lambda body, n: (200, b'<html>busy</html>')) as s:
        write(tmp_path / 'r', s.url, 3, price=PRICE, max_usd=0.3, max_retries=0)
    with Answering(reply) as s:
        got, _ = write(tmp_path/'r', s.url, 48, price=PRICE, max_usd=.3, concurrency=64)
        assert isinstance(got, TeacherError) and len(s.requests) == 1
        got, spent = write(tmp_path/'r', s.url, 48, price=PRICE, max_usd=.3, concurrency=64)
    assert not isinstance(got, TeacherError), got
    assert spent.usd + spent.lost_usd <= .3 and sum(c.row is not None for c in got) > 10


def test_a_text_longer_than_its_limit(tmp_path):
    "whatever is reported: left at once"
    with Answering(lambda body, n: (200, whole(row(n) + 'a ' * 3000 * (n == 3), usage=usage(90, 20)))) as s:
        got, _ = write(tmp_path / 'r', s.url, 48, price=PRICE, max_tokens=10**6, concurrency=1)
    assert isinstance(got, TeacherError) and 'tokens where' in str(got) and len(s.requests) == 4


@pytest.mark.parametrize('message', [dict(refusal='no '*8000), dict(reasoning_content='hm '*500), dict(tool_calls=[dict(function=dict(arguments='x '*500))])])
def test_words_beside_the_content_are_not_free(message, tmp_path):
    with Answering(
        lambda body, n: (
            200,
            choices([dict(message=dict(content=None) | message, finish_reason='stop')], usage=usage(90, 0)),
        )
    ) as s:
        got, spent = write(tmp_path / 'r', s.url, 1, price=PRICE)
    assert spent.completion_tokens == s.requests[0]['max_tokens'] and not got[0].row


# Thoughts

def thinker(need, answer=lambda n: row(n)):
    "A model that spends `need` tokens on thoughts before it answers"
    def reply(body, n):
        limit = body.get('max_completion_tokens', body.get('max_tokens'))
        if limit < need:
            thought = dict(content='', reasoning_content='Let me think. '*(limit//4))
            return 200, choices([dict(message=thought, finish_reason='length')], usage=usage(90, limit))
        return 200, whole(answer(n), usage=usage(90, need))
    return reply


@pytest.mark.parametrize('form', ['auto', 'json', 'text'])
def test_a_model_that_thinks_needs_room(form, tmp_path):
    "The run stops after a few replies, its advice is followed in the same folder, and the estimate bounds it"
    make = lambda url, **more: make_run(
        tmp_path/'r', url, select='all', rounds=1, response_format=form, concurrency=4, price=PRICE, **more
    )
    with Answering(thinker(3000)) as s:
        with pytest.raises(TeacherError, match='hold no example, since they were cut off at') as e:
            make(s.url).fit(verbose=False)
        cut = len(s.requests)
        assert 4 <= cut <= 7 and all('<think>Let me think.' in r['text'] for r in replies(tmp_path/'r'))
        with pytest.raises(TeacherError, match='hold no example'): make(s.url).fit(verbose=False)
        assert len(s.requests) == cut, 'the same command again pays nothing'
        room = int(re.search(r'--teacher.max_completion_tokens (\d+)\)', str(e.value))[1])
        run = make(s.url, max_completion_tokens=room).fit(verbose=False)
        paid = len(s.requests)
        assert run.final.stopped == 'rounds done' and run.rounds[0].candidates == 24 == paid - cut
        # what is good stays good under another limit, in a third process too
        make(s.url, max_completion_tokens=2*room).fit(verbose=False)
        make(s.url).fit(verbose=False)
        assert len(s.requests) == paid
    found = cost(TASK, api(s.url, price=PRICE, max_completion_tokens=room), run.config)
    assert found.completion_tokens[2] >= 24*3000 and any('thinks first' in n for n in found.notes)


def replies(folder):
    return [reply for _, reply in kept_replies(folder).values()]


def test_an_answer_among_the_thoughts(tmp_path):
    "is not taken for one; the run stops, and what to do is said"
    thought = lambda body, n: (200, message(dict(content=None, reasoning_content=row(n))))
    with Answering(thought) as s: got, _ = write(tmp_path/'r', s.url, 24, concurrency=1)
    assert isinstance(got, TeacherError) and len(s.requests) == 4
    assert 'thoughts alone' in str(got) and 'put the answer into content' in str(got)


def test_a_few_lost_replies_do_not_stop_a_run(tmp_path):
    "They are counted, a note says how to have them written, and that works"
    lost = thinker(3000)
    reply = lambda body, n: lost(body, n) if n%3==0 else (200, whole(row(n), usage=usage(90, 40)))
    with Answering(reply) as s:
        make = lambda **more: make_run(tmp_path/'r', s.url, select='all', rounds=1, concurrency=1, **more)
        run = make().fit(verbose=False)
        assert run.rounds[0].rejected['cut off at the token limit'] == 8 and len(s.requests) == 24
        assert any("8 of the teacher's replies were cut off" in n for n in run.final.notes)
        again = make(max_completion_tokens=4096).fit(verbose=False)
        assert len(s.requests) == 24 + 8 and 'cut off at the token limit' not in again.rounds[0].rejected
    changed = [x['teacher'] for x in read_jsonl(tmp_path/'r'/'log.jsonl') if 'teacher' in x]
    assert [x['max_completion_tokens'] for x in changed] == [4096], 'the log says what is no longer so'


def test_a_solution_that_is_cut_off(tmp_path):
    "is missing, not wrong; with more room it is asked for again, and whole ones are not"
    with Answering(lambda body, n: thinker(3000)(body, n) if n else (200, whole('#### 7'))) as s:
        with api(s.url, concurrency=1).open(tmp_path) as t: first = t.verify(TASK, TASK.seed_rows[:2], 1)
        with api(s.url, max_completion_tokens=4096).open(tmp_path) as t:
            t.verify(TASK, TASK.seed_rows[:2], 1)
    assert [votes for votes,_ in first.values()][1] == 'cut off at the token limit' and len(s.requests) == 3


def test_an_endpoint_that_reads_only_a_part(tmp_path, capsys):
    "Its count says so: a note in the round's output and at the end names its setting"
    rows = [dict(question=f'row {i} ' + ' '.join(f'word{j*i}' for j in range(800)), answer='yes no'.split()[i%2])
            for i in range(6)]
    task = Task.from_files(rows, kind='label')
    text = lambda n: json.dumps(dict(question=f'a short question of number {n}', answer='yes'))
    for name, count in dict(part=lambda body: 2048, whole=bound, none=lambda body: 0).items():
        with Answering(lambda body, n: (200, whole(text(n), usage=usage(count(body), 9)))) as s:  # noqa: B023 (used here)
            run = make_run(tmp_path/name, s.url, task, select='all', rounds=1, prompt=dict(demos=3)).fit()
            most = max(least_tokens(words(b)) for b in s.requests)
        note = f'{s.url} counts 2,048 tokens for a prompt that has at least {most:,}'
        said = capsys.readouterr().out
        found = [x for x in run.final.notes if 'OLLAMA_CONTEXT_LENGTH' in x]
        assert (len(found), said.count(note), said.count('--ctx-size')) == (1, 2, 2) if name == 'part' else not found
        if found: assert found[0].startswith(note) and said.index(note) < said.index('round 1:')


# Another form of a request

def refuses(what, status, message):
    "An endpoint that refuses requests of which `what(body, n)` is true"
    def reply(body, n):
        if what(body, n): return status, dict(error=dict(message=message, type='invalid_request_error'))
        return 200, whole(text_row(n) if 'response_format' not in body else row(n), usage=usage(90, 40))
    return reply


def text_row(n): return '\n'.join(f'{k.capitalize()}: {v}' for k, v in json.loads(row(n)).items())
def with_schema(body, n): return 'response_format' in body
def with_system(body, n): return body['messages'][0]['role'] == 'system'


NO_SCHEMA = [
    (400, 'This response_format type is unavailable now'),
    (404, 'No endpoints found that can handle the requested parameters.'),
    (500, 'failed to parse grammar'),
    (501, 'not implemented'),
]


@pytest.mark.parametrize('status,message', NO_SCHEMA)
def test_a_schema_is_refused_with_any_status(status, message, tmp_path):
    "One request finds it out, and the others are asked in text form"
    with Answering(refuses(with_schema, status, message)) as s:
        got, _ = write(tmp_path/'r', s.url, 12, response_format='auto')
    assert all(c.row for c in got) and len(s.requests) == 13


@pytest.mark.parametrize('status,message', NO_SCHEMA)
def test_what_is_said_of_a_schema_works_in_the_same_folder(status, message, tmp_path):
    with Answering(refuses(with_schema, status, message)) as s:
        make = lambda form: make_run(
            tmp_path/'r', s.url, select='all', rounds=1, response_format=form, max_retries=1
        )
        with pytest.raises(SettingError, match='--teacher.response_format text.; the same command resumes'):
            make('json').fit(verbose=False)
        assert make('text').fit(verbose=False).final.stopped == 'rounds done'


@pytest.mark.parametrize('form', ['auto', 'json'])
def test_one_reply_that_fails_its_schema(form, tmp_path):
    "is asked for in text form, the others with their schema, and nothing is paid again"
    message = "Failed to validate JSON. Please adjust your prompt. See 'failed_generation' for more details."
    reply = refuses(lambda body, n: with_schema(body, n) and n%5 == 0, 400, message)
    with Answering(reply) as s:
        got, _ = write(tmp_path/'r', s.url, 24, response_format=form, concurrency=1)
        n, text = len(s.requests), sum('response_format' not in b for b in s.requests)
        assert all(c.row for c in got) and n == 24 + text and 3 < text < 9
        assert write(tmp_path/'r', s.url, 24, response_format=form)[0] == got and len(s.requests) == n


@pytest.mark.parametrize('form', ['auto', 'json', 'text'])
def test_a_refused_temperature_is_no_matter_of_the_schema(form, tmp_path):
    message = "Unsupported value: 'temperature' does not support 0.7 with this model."
    with Answering(refuses(lambda body, n: 'temperature' in body, 400, message)) as s:
        got = []
        try: got, _ = write(tmp_path/'r', s.url, 3, response_format=form, temperature=.7, concurrency=1)
        except SettingError as e: got = e
    assert isinstance(got, TeacherError) and 'schema' not in str(got) and len(s.requests) == 1
    assert 'Leave temperature out (--teacher.temperature), in another output_dir' in str(got)


@pytest.mark.parametrize('status,message', [(400, 'System role not supported'), (500, "Unexpected role 'system'"),
    (400, 'Developer instruction is not enabled for this model')])
def test_a_model_without_a_system_message(status, message, tmp_path):
    "hears its words in the user's turn, for solutions too; it is found out once"
    with Answering(refuses(with_system, status, message)) as s:
        got, _ = write(tmp_path/'r', s.url, 12, concurrency=1)
        assert all(c.row for c in got) and [with_system(b, 0) for b in s.requests] == [True] + [False]*12
        assert {words(b).replace('\n\n', '\n') for b in s.requests[:1]} == {
            words(b).replace('\n\n', '\n') for b in s.requests[1:2]
        }
        with api(s.url).open(tmp_path/'r') as t: t.verify(TASK, TASK.seed_rows[:1], 1)
        assert not with_system(s.requests[-1], 0) and len(s.requests) == 14
        assert write(tmp_path/'r', s.url, 12)[0] == got and len(s.requests) == 14


def test_a_token_limit_that_is_too_high(tmp_path):
    "What is said of it works in the same folder"
    most = 'max_tokens is too large: {}. This model supports at most 300 completion tokens.'
    def reply(body, n):
        limit = body['max_tokens']
        if limit > 300: return 400, dict(error=dict(message=most.format(limit)))
        return 200, whole(row(n), usage=usage(90, 40))
    with Answering(reply) as s:
        make = lambda most: make_run(
            tmp_path/'r', s.url, select='all', rounds=1, response_format='auto', max_completion_tokens=most
        )
        with pytest.raises(TeacherError, match='Give a smaller max_completion_tokens'): make(9000).fit(verbose=False)
        assert make(300).fit(verbose=False).final.stopped == 'rounds done'


def test_a_limit_that_is_reached_may_be_an_error(tmp_path):
    "Some models answer 400 when thoughts take the whole limit: it is a reply that was cut off"
    said = 'Could not finish the message because max_tokens or model output limit was reached.'
    with Answering(lambda body, n: (400, dict(error=dict(message=said)))) as s:
        got, spent = write(tmp_path/'r', s.url, 24, concurrency=1, price=PRICE)
    assert isinstance(got, TeacherError) and 'cut off' in str(got) and len(s.requests) == 4
    assert spent.lost_tokens > 0


def test_what_an_advice_names_is_taken_or_needs_another_folder(tmp_path):
    "A note or an error names a setting that the folder then takes, or says `another output_dir`"
    with Answering(lambda body, n: (200, whole(row(n), usage=usage(90, 40)))) as s:
        make = lambda **more: make_run(tmp_path/'r', s.url, select='all', rounds=1, **more)
        make().fit(verbose=False)
        for name, value in dict(max_completion_tokens=4096, response_format='auto', max_usd=9., timeout=60).items():
            make(price=PRICE, **{name: value}).fit(verbose=False)
        for name, value in dict(temperature=.5, prompt=SHORT | dict(demos=1)).items():
            with pytest.raises(RunError, match='choose another output_dir'): make(**{name: value}).fit(verbose=False)
        assert len(s.requests) == 24, 'every reply is found, whatever its limit and form'
    told = [v for k, v in vars(messages).items() if k.isupper() and isinstance(v, str)]
    told += [failures._mend(400, f"'{name}' is not supported") for name in ('temperature', 'top_p')]
    told.append(failures._mend(404, 'no'))
    refused = re.compile(r'select=|max_length|--teacher\.temperature|--teacher\.top_p|name of the model')
    assert len(told) == 10 and all('another output_dir' in x for x in told if refused.search(x))
    assert sum(bool(refused.search(x)) for x in told) == 6


# Size

def test_a_reply_has_a_size(tmp_path):
    "An endpoint that does not stop is not read to its end"
    odd, most = asked(1)[0].row.question, []
    def reply(body, n):
        most.append(body['max_tokens'])
        return 200, b'{"a": "' + b'x' * (20 * room(body['max_tokens'])) if odd in words(body) else whole(
            row(n + 1), usage=usage(90, 40)
        )

    with Answering(reply) as s:
        got, spent = write(tmp_path/'r', s.url, 24, price=PRICE)
        assert len(s.requests) == 24
    [c] = [c for c in got if not c.row]
    assert c.reason == PROBLEMS['large'] and f'{room(most[0]):,} bytes' in c.text
    assert spent.replies == 23 and spent.lost_tokens > 0


def test_a_long_error_is_cut(tmp_path):
    with Answering(lambda body, n: (400, b'no ' * 10_000_000)) as s:
        got, _ = write(tmp_path / 'r', s.url, 2, response_format='text')
    assert isinstance(got, TeacherError) and 'answers 400: no no' in str(got) and len(str(got)) < 1000


def test_a_question_that_does_not_end(tmp_path):
    "More than four times the longest seed row"
    longest = max(len(r.question) + len(r.answer) for r in TASK.seed_rows)
    long = json.dumps(dict(question='Ann has 3 pens. '*(4*longest//16 + 1) + 'How many?', answer='#### 3'))
    with Answering(lambda body, n: (200, whole(long if n else row(n)))) as s:
        run = make_run(tmp_path / 'run', s.url, select='all', rounds=1).fit(verbose=False)
    assert run.rounds[0].rejected['the question is too long'] >= 1


# what a reply may repeat: what stands before it, what and how often, and what stands behind
ENDLESS = [
    ('', '{"a":', 200, ''), ('', '{"question":', 200, ''), ('', '{"a":[', 100, ''), ('', '{"question', 8000, ''),
    ('', '{"question":"q","answer":"1",', 5000, ''), ('', "{'a':", 10_000, ''), ('{"question":', '/* ', 5000, ''),
    ('', '</s>', 5000, 'x'), ('', ' <|x|>', 5000, 'x'),
]

@pytest.mark.parametrize('before,again,n,behind', ENDLESS)
def test_reading_takes_time_in_proportion(before, again, n, behind):
    row = Example('s', 'What is 1?', '1\n#### 1')
    def seconds(n):
        text = before + again*n + behind
        def once():
            start = time.process_time()
            assert read_reply(TASKS['gsm8k'], row, text).row is None
            return time.process_time()-start
        return min(once() for _ in range(5))
    assert seconds(4*n) < 8*max(seconds(n), .0005)


def test_a_row_within_a_broken_object_is_found():
    row = Example('s', 'What is 1?', '1\n#### 1')
    new = '{"question": "What is 2?", "answer": "2\\n#### 2"}'
    for text in (f'{{"a": {{"b": {new}', '{"a":'*100_000 + new, '{x' + ' '*9000 + f'{{"x": {{"y" {new}}}'):
        found = read_reply(TASKS['gsm8k'], row, text)
        assert (found.row and found.row.question) == ('What is 2?' if len(text) < 10_000 else None)
    broken = read_reply(TASKS['gsm8k'], row, '{x' + '\n'*9000 + '{"question" 1')
    assert broken.reason == "not JSON: Expecting ':' delimiter: line 9001 column 13 (char 9014)", broken.reason
