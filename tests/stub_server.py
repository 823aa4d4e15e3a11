"""An OpenAI-compatible server on loopback that answers at once, late, wrongly or not at all, and does so the same way each time.

    python tests/stub_server.py --latency 0.2 --faults 0.3     # prints {"port": N}; ends when its stdin closes
    with Stub(latency=.2, faults=.3) as s: ...                 # the same from Python: s.url, s.stats(), s.reset()

POST /v1/chat/completions and GET /v1/models as the API has them, GET /stats for what happened so far, POST /reset to forget it.
What a request gets depends on its key (its Idempotency-Key, else the digest of its body), and whether it fails on the key and on
how often this server saw it, so a request that is sent again and again succeeds in the end."""

import argparse, asyncio, http.client, json, math, os, re, resource, signal, subprocess, sys, threading, time, traceback
from collections import Counter, deque
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llm2llm.core import digest, rng_for
from llm2llm.mini.mini import FAMILIES, HE, HOLDERS, SHE, THINGS, problem

UNPAID = '429 429-after 429-after-ms 429-after-date 500 503 html cut-head'.split()  # nothing was generated
PAID = 'drip cut-body half-json no-choices'.split()  # generated, but perhaps not received
ODD = 'prose duplicate empty refusal length keys two token'.split()
ALWAYS = {
    400: ('invalid_request_error', 'Invalid request.'),
    401: ('invalid_api_key', 'Incorrect API key provided.'),
    403: ('unsupported_country_region_territory', 'Country, region, or territory not supported.'),
    404: ('model_not_found', 'The model does not exist or you do not have access to it.'),
    429: (
        'insufficient_quota',
        'You exceeded your current quota, please check your plan and billing details.',
    ),
}


def text_of(message):
    content = message.get('content') or ''
    return content if isinstance(content, str) else ' '.join(part.get('text', '') for part in content)


def sentence(r):
    return (
        f"{r.choice(HE + SHE)} {r.choice('took hid sold found lost broke painted counted'.split())} {r.randint(2, 99)} {r.choice(THINGS)} "
        f"{r.choice('near behind under beside'.split())} the {r.choice(list(HOLDERS))} {r.choice('today again early alone'.split())}."
    )


def new_row(messages, r):
    "A question and its answer, for the label task that the messages name, else a word problem"
    found = re.search(r'^Labels:[ \t]*(.+)$', '\n'.join(text_of(m) for m in messages), re.M)
    if not found: return problem(*FAMILIES[r.choice(list(FAMILIES))], r)
    labels = [label.strip() for label in found[1].split(',')]
    asked = [text_of(m) for m in messages if m.get('role') == 'user'][-1:]
    shown = [answer.strip() for text in asked for answer in re.findall(r'^Answer: (.+)$', text, re.M)]
    return sentence(r), next((answer for answer in shown if answer in labels), labels[0])


def written(question, answer, as_json, names=('question', 'answer')):
    pairs = list(zip(names, (question, answer)))
    return (
        json.dumps(dict(pairs))
        if as_json
        else '\n'.join(f'{name.capitalize()}: {text}' for name, text in pairs)
    )


def completion(messages, key, odd, as_json):
    "Content, refusal and finish reason"
    r = rng_for('content', key)
    question, answer = new_row(messages, r)
    text, finish = written(question, answer, as_json), 'stop'
    if odd == 'refusal': return None, "I'm sorry, but I can't help with that.", finish
    if odd == 'prose': text = f'Sure! Here is one:\n\n{text}\n\nLet me know if you would like another.'
    elif odd == 'duplicate': text = written(*new_row(messages, rng_for('duplicate')), as_json)
    elif odd == 'empty': text = ''
    elif odd == 'length': text, finish = text[:len(text)//2], 'length'
    elif odd == 'keys': text = written(question, answer, as_json, ('problem', 'solution'))
    elif odd == 'token': text = written(question, f'{answer}<|im_end|>', as_json)
    elif odd == 'two':
        rows = [(question, answer), new_row(messages, r)]
        if as_json:
            text = written(
                *('\n'.join(f'{i}. {part}' for i, part in enumerate(parts, 1)) for parts in zip(*rows)),
                as_json,
            )
        else: text = '\n\n'.join(f'{i}. {written(*row, as_json)}' for i,row in enumerate(rows, 1))
    return text, None, finish


class Refused(Exception):
    "An error reply in the API's form"
    def __init__(self, status, message, code=None, param=None, **headers):
        kind = {429: 'requests', 500: 'server_error', 503: 'server_error'}.get(
            status, 'invalid_request_error'
        )
        self.status, self.reply = (
            status,
            as_http(status, dict(error=dict(message=message, type=kind, param=param, code=code)), **headers),
        )


def as_http(status, body, kind='application/json', **headers):
    if not isinstance(body, bytes): body = json.dumps(body).encode()
    more = ''.join(f'{name.replace("_", "-")}: {value}\r\n' for name,value in headers.items())
    return (
        f'HTTP/1.1 {status} {http.client.responses[status]}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n'.encode()
        + body
    )


async def next_request(reader):
    "Method, path, headers and body; None where the client has left"
    try:
        line, *lines = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1').split('\r\n')
        headers = {name.lower(): value.strip() for name,_,value in (l.partition(':') for l in lines if l)}
        method, target, _ = line.split(' ')
        return (
            method,
            target.partition('?')[0],
            headers,
            await reader.readexactly(int(headers.get('content-length', 0))),
        )
    except asyncio.IncompleteReadError:
        return None


class Server:
    def __init__(self, settings):
        self.o, self.in_flight = settings, 0
        self.kinds = [settings.only] if settings.only else UNPAID + PAID
        self.reset()

    def reset(self):
        self.n, self.faults, self.statuses, self.odd, self.tokens = (Counter() for _ in range(5))
        self.attempts, self.paid, self.written = Counter(), Counter(), set()
        self.peak, self.first, self.last, self.seen, self.admitted, self.cpu = (
            0,
            None,
            None,
            None,
            deque(),
            time.process_time(),
        )

    def stats(self):
        more = [key for key,times in self.paid.items() if times > 1]
        paid = dict(
            once=len(self.paid) - len(more),
            more=len(more),
            more_keys=more[:1000],
            times=self.paid.total(),
            written=len(self.written),
        )
        names = 'requests ok limited with_key served_again left errors'.split()
        return dict(
            {name: self.n[name] for name in names},
            statuses=self.statuses,
            faults=self.faults,
            odd=self.odd,
            peak=self.peak,
            paid=paid,
            tokens=dict(prompt=self.tokens['prompt'], completion=self.tokens['completion']),
            times=dict(first=self.first, last=self.last),
            cpu=time.process_time() - self.cpu,
            seen=self.seen,
        )

    async def connection(self, reader, writer):
        try:
            while not writer.is_closing() and (request := await next_request(reader)):
                await self.respond(reader, writer, *request)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError): pass  # the client, or the server, ended
        except Exception: self.failed()
        finally: writer.close()

    def failed(self):
        self.n['errors'] += 1
        traceback.print_exc()

    async def respond(self, reader, writer, method, path, headers, data):
        try:
            if path == '/stats': return writer.write(as_http(200, self.stats()))
            if path == '/reset': return writer.write(as_http(200, dict(reset=self.reset() is None)))
            if (method, path) == ('POST', '/v1/chat/completions'):
                return await self.chat(reader, writer, headers, data)
            self.admit(headers)
            if path != '/v1/models': raise Refused(404, f'Invalid URL ({method} {path})')
            writer.write(
                as_http(
                    200,
                    dict(
                        object='list',
                        data=[dict(id=self.o.model, object='model', created=0, owned_by='stub')],
                    ),
                )
            )
        except Refused as e:
            self.statuses[e.status] += 1
            writer.write(e.reply)
        except Exception:
            self.failed()
            writer.write(
                Refused(500, 'The stub server itself failed; its stderr says why.', 'stub_failed').reply
            )

    def admit(self, headers):
        "Refuse whoever has not the key, or everybody"
        if self.o.always: raise Refused(self.o.always, *ALWAYS[self.o.always][::-1])
        if not self.o.key: return
        given = headers.get('authorization', '').removeprefix('Bearer ')
        if not given: raise Refused(401, "You didn't provide an API key.")
        if given != self.o.key:
            raise Refused(401, f'Incorrect API key provided: {given[:5]}***{given[-4:]}.', 'invalid_api_key')

    def check(self, data):
        "The request's body and its token limit, or the refusal that it deserves"
        try: body = json.loads(data)
        except ValueError: raise Refused(400, 'We could not parse the JSON body of your request.') from None
        if not isinstance(body, dict): raise Refused(400, 'The body of a request must be a JSON object.')
        for name in ('model', 'messages'):
            if not body.get(name):
                raise Refused(
                    400, f"Missing required parameter: '{name}'.", 'missing_required_parameter', name
                )
        if body.get('stream'):
            raise Refused(
                400, "Unsupported value: 'stream' is not supported here.", 'unsupported_value', 'stream'
            )
        if self.o.schema == 'no' and 'response_format' in body:
            raise Refused(
                400,
                "Invalid parameter: 'response_format' is not supported with this model.",
                'unsupported_parameter',
                'response_format',
            )
        if self.o.schema == 'broken' and 'response_format' in body: raise Refused(500, 'Internal Server Error')
        limits = {
            name: body[name] for name in ('max_tokens', 'max_completion_tokens') if body.get(name) is not None
        }
        right = self.o.max_tokens_field
        if right and (wrong := next((name for name in limits if name != right), None)):
            what = (
                f"Unsupported parameter: '{wrong}' is not supported with this model. Use '{right}' instead."
            )
            raise Refused(400, what, 'unsupported_parameter', wrong)
        return body, min(limits.values(), default=None)

    def limit_rate(self):
        if not self.o.requests_per_minute: return
        now = time.monotonic()
        while self.admitted and self.admitted[0] <= now - self.o.window: self.admitted.popleft()
        if len(self.admitted) >= self.o.requests_per_minute:
            self.n['limited'] += 1
            wait = self.admitted[0] + self.o.window - now
            raise Refused(
                429,
                f'Rate limit reached: {self.o.requests_per_minute} requests in {self.o.window:g} s. Please try again in {wait:.3f}s.',
                'rate_limit_exceeded',
                retry_after=f'{wait:.3f}',
            )
        self.admitted.append(now)

    async def chat(self, reader, writer, headers, data):
        self.n['requests'] += 1
        self.n['with_key'] += 'idempotency-key' in headers
        self.last = time.time()
        self.first = self.first or self.last
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            self.admit(headers)
            body, limit = self.check(data)
            self.seen = dict(body=body, headers={k: v for k,v in headers.items() if k != 'authorization'})
            n_prompt = max(1, sum(len(text_of(m).split()) for m in body['messages']))
            if self.o.context and n_prompt > self.o.context:
                raise Refused(
                    400,
                    f"This model's maximum context length is {self.o.context} tokens. However, your messages resulted in {n_prompt} tokens. "
                    'Please reduce the length of the messages.',
                    'context_length_exceeded',
                    'messages',
                )
            self.limit_rate()
            key = headers.get('idempotency-key') or digest(body)
            self.attempts[key] += 1
            r = rng_for('transport', self.o.seed, key, self.attempts[key])
            fault = (
                r.choice(self.kinds)
                if self.attempts[key] <= self.o.fault_first or r.random() < self.o.faults
                else None
            )
            if (wait := self.o.latency + self.o.jitter*r.uniform(-1, 1)) > 0: await asyncio.sleep(wait)
            if fault: self.faults[fault] += 1
            if fault in UNPAID: return self.fail(writer, fault, r)
            reply = self.generate(body, n_prompt, limit, key, 'idempotency-key' in headers)
            await self.deliver(reader, writer, fault, reply, key)
        finally: self.in_flight -= 1

    def fail(self, writer, fault, r):
        "A failure before anything was generated"
        if fault == 'cut-head': return writer.close()
        if fault == 'html':
            self.statuses[200] += 1
            return writer.write(
                as_http(
                    200,
                    b'<html><head><title>Gateway</title></head><body>Please wait.</body></html>',
                    'text/html',
                )
            )
        if fault in ('500', '503'):
            raise Refused(int(fault), 'The server had an error while processing your request.')
        wait = r.uniform(.05, .2)
        soon = formatdate(math.ceil(time.time() + 1), usegmt=True)  # a date has whole seconds only
        header = {
            '429': {},
            '429-after': dict(retry_after=f'{wait:.3f}'),
            '429-after-ms': dict(retry_after_ms=f'{wait * 1000:.0f}'),
            '429-after-date': dict(retry_after=soon),
        }[fault]
        raise Refused(429, 'Rate limit reached for requests.', 'rate_limit_exceeded', **header)

    def generate(self, body, n_prompt, limit, key, has_key):
        "The reply, paid unless the API honours the Idempotency-Key of one that it has made before"
        odds = rng_for('odd', key) if self.o.odd or self.o.overrun else None
        odd = (self.o.odd_only or odds.choice(ODD)) if odds and odds.random() < self.o.odd else None
        as_json = self.o.schema == 'yes' and (body.get('response_format') or {}).get('type') in (
            'json_schema',
            'json_object',
        )
        text, refusal, finish = completion(body['messages'], key, odd, as_json)
        n_words = len((text or refusal or '').split())
        if limit and n_words > limit:
            text, finish, n_words = (
                re.match(rf'(?:\s*\S+){{{limit}}}', text or '')[0] if text else text,
                'length',
                limit,
            )
        if limit and odds and odds.random() < self.o.overrun: n_words = limit + odds.randint(1, 50)
        if self.o.idempotent and has_key and self.paid[key]: self.n['served_again'] += 1
        else:
            self.paid[key] += 1
            self.tokens.update(prompt=n_prompt, completion=n_words)
            if odd: self.odd[odd] += 1
        reply = dict(
            id=f'chatcmpl-{digest(key)}-{self.paid[key]}',
            object='chat.completion',
            created=int(time.time()),
            model=body['model'],
            choices=[
                dict(
                    index=0,
                    message=dict(role='assistant', content=text, refusal=refusal),
                    logprobs=None,
                    finish_reason=finish,
                )
            ],
        )
        if not self.o.no_usage:
            reply['usage'] = dict(
                prompt_tokens=n_prompt, completion_tokens=n_words, total_tokens=n_prompt + n_words
            )
        return reply

    async def deliver(self, reader, writer, fault, reply, key):
        "Send what was generated, whole or not"
        self.statuses[200] += 1
        if fault == 'no-choices': del reply['choices']
        body = json.dumps(reply).encode()
        if fault == 'half-json': body = body[:len(body)//2]
        data = as_http(200, body, x_request_id=f'req_{self.n["requests"]}')
        if fault == 'cut-body':
            writer.write(data[:-len(body)//2])
            return writer.close()
        if fault == 'drip':
            for i in range(0, len(data), step := len(data)//10 + 1):
                if writer.is_closing(): break
                writer.write(data[i:i+step])
                await asyncio.sleep(self.o.drip/10)
        # A client that closes later than this counts as served: only it can know whether it has read the reply.
        if reader.at_eof() or writer.is_closing():
            self.n['left'] += 1
            return writer.close()
        if fault != 'drip': writer.write(data)
        if fault in ('half-json', 'no-choices'): return
        self.n['ok'] += 1
        self.written.add(key)


def parser():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = p.add_argument
    add('--port', type=int, default=0, help='0: any free one')
    add('--model', default='stub', help='what /v1/models lists; every name is answered')
    add('--key', help='the API key that a request must have')
    add('--seed', type=int, default=0, help='draws the faults and the jitter')
    add('--latency', type=float, default=0, help='seconds a request takes')
    add('--jitter', type=float, default=0, help='at most so many seconds more or less')
    add('--faults', type=float, default=0, help='share of attempts that fail, 0 to 1')
    add('--fault-first', type=int, default=0, help='so many attempts of every key fail first')
    add('--only', choices=UNPAID + PAID, help='the one kind of fault')
    add('--drip', type=float, default=1, help='seconds that a dripping reply takes')
    add('--requests-per-minute', type=int, help='requests admitted in any --window')
    add('--window', type=float, default=60, help='seconds')
    add('--always', type=int, choices=ALWAYS, help='the status of every reply')
    add(
        '--schema',
        choices=['yes', 'no', 'ignore', 'broken'],
        default='yes',
        help='is response_format obeyed, refused, overlooked or answered by 500?',
    )
    add('--max-tokens-field', choices=['max_tokens', 'max_completion_tokens'], help='the only name allowed')
    add('--context', type=int, help='words a prompt may have')
    add('--odd', type=float, default=0, help='share of replies with odd content, 0 to 1')
    add('--odd-only', choices=ODD, help='the one kind of odd content')
    add(
        '--overrun',
        type=float,
        nargs='?',
        const=0.25,
        default=0,
        help='share of replies with more tokens than the limit; .25 if no number follows',
    )
    add('--no-usage', action='store_true', help='replies do not say how many tokens they cost')
    add(
        '--idempotent', action='store_true', help='a known Idempotency-Key is served again and not paid again'
    )
    return p


async def serve(settings):
    server, ended, loop = Server(settings), asyncio.Event(), asyncio.get_running_loop()
    def watch_stdin():
        while os.read(0, 4096): pass
        loop.call_soon_threadsafe(ended.set)
    # Not `async with`: since Python 3.12 that waits, at its end, for clients to close their idle connections.
    listening = await asyncio.start_server(server.connection, '127.0.0.1', settings.port, backlog=4096)
    for sig in (signal.SIGTERM, signal.SIGINT): loop.add_signal_handler(sig, ended.set)
    threading.Thread(target=watch_stdin, daemon=True).start()
    print(json.dumps(dict(port=listening.sockets[0].getsockname()[1])), flush=True)
    await ended.wait()
    listening.close()


class Answering:
    "A server in a thread: `reply(body, n)` gives the status and the bytes (or JSON) for the n-th request, from 0; `headers[n]` are its headers"

    def __init__(self, reply): self.reply = reply

    def __enter__(self):
        self.requests, self.headers, self.lock = [], [], threading.Lock()
        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = 'HTTP/1.1', True  # else each reply waits 40 ms
            def log_message(self, *_): pass
            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers['content-length'])))
                with self.lock:
                    n = len(self.requests)
                    self.requests.append(body)
                    self.headers.append(handler.headers)
                status, said = self.reply(body, n)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                try:
                    (
                        handler.send_response(status),
                        handler.send_header('content-type', 'application/json'),
                        handler.send_header('content-length', str(len(data))),
                    )
                    handler.end_headers(), handler.wfile.write(data)
                except ConnectionError: handler.close_connection = True   # the client has read enough
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()  # how soon it hears that it ends
        self.url = f'http://127.0.0.1:{self.server.server_port}/v1'
        return self

    def __exit__(self, *_): self.server.shutdown(), self.server.server_close()


class Stub:
    "The server in a process of its own, which neither a client's end nor a Ctrl-C at the client ends"

    def __init__(self, **settings):
        self.settings = settings  # the program's flags: `fault_first=2`, `idempotent=True`

    def __enter__(self):
        given = {
            '--' + name.replace('_', '-'): value
            for name, value in self.settings.items()
            if value is not None and value is not False
        }
        flags = [flag if value is True else f'{flag}={value}' for flag,value in given.items()]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f'the stub server did not start (status {self.process.wait()})')
        self.port = json.loads(line)['port']
        self.url = f'http://127.0.0.1:{self.port}/v1'
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()

    def _ask(self, method, path):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
        try:
            connection.request(method, path)
            return json.loads(connection.getresponse().read())
        finally: connection.close()

    def stats(self): return self._ask('GET', '/stats')
    def reset(self): return self._ask('POST', '/reset')


if __name__ == '__main__':
    settings = parser().parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard, hard)
    )  # a client with a thousand requests in flight has as many sockets
    asyncio.run(serve(settings))
