"A page in a headless Chromium, driven through the pipe of the Chrome DevTools Protocol; needs nothing beside the browser."

import base64, fcntl, json, os, select, shutil, signal, threading, time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

CHROMIUM = next(
    filter(
        None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))
    ),
    None,
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@contextmanager
def served(folder):
    "The address at which the files of `folder` are served: a browser loads no JavaScript modules from files"
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


class Browser:
    def __init__(self, profile):
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()
        ends = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_read, to_write)
        ]  # out of the way of 3 and 4, which the browser reads and writes
        flags = [
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--no-first-run',
            '--disable-background-networking',
            '--disable-sync',
            '--disable-component-update',
            '--disable-features=IsolateSandboxedIframes',
            '--hide-scrollbars',
            '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
            f'--user-data-dir={profile}',
            '--remote-debugging-pipe',
            'about:blank',
        ]
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
        self.pid = os.posix_spawn(
            CHROMIUM,
            [CHROMIUM, *flags],
            os.environ,
            file_actions=null + [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate(ends, 3)],
        )
        for fd in (to_read, to_write, *ends): os.close(fd)
        self.n, self.buffer, self.events, self.session = 0, b'', [], None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'): self.call(f'{domain}.enable')

    def _message(self, seconds):
        until = time.monotonic() + seconds
        while b'\0' not in self.buffer:
            if not select.select([self.read], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError('the browser does not answer')
            if not (more := os.read(self.read, 1 << 20)): raise RuntimeError('the browser has ended')
            self.buffer += more
        message, self.buffer = self.buffer.split(b'\0', 1)
        return json.loads(message)

    def call(self, method, seconds=30, **params):
        "The result of a command"
        self.n += 1
        os.write(
            self.write,
            json.dumps(
                dict(id=self.n, method=method, params=params)
                | (dict(sessionId=self.session) if self.session else {})
            ).encode()
            + b'\0',
        )
        while True:
            m = self._message(seconds)
            if m.get('id') == self.n:
                if 'error' in m: raise RuntimeError(f"{method}: {m['error']['message']}")
                return m['result']
            self.events.append(m)

    def open(self, url):
        "Go to a page and wait until it has loaded"
        self.events.clear()
        self.call('Page.navigate', url='about:blank')
        self.call('Page.navigate', url=str(url))
        self.until("document.readyState==='complete' && location.href!=='about:blank'")
        return self

    def js(self, code):
        "The JSON-able value of an expression; promises are waited for"
        r = self.call(
            'Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if 'exceptionDetails' in r:
            raise AssertionError(
                r['exceptionDetails'].get('exception', {}).get('description', r['exceptionDetails']['text'])
            )
        return r['result'].get('value')

    def until(self, code, seconds=20):
        "Wait until an expression holds"
        end = time.monotonic() + seconds
        while not self.js(code):
            if time.monotonic() > end: raise AssertionError(f'never true: {code}')
            time.sleep(.03)

    def size(self, width, height, dark=False, scale=1):
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )
        self.call(
            'Emulation.setEmulatedMedia',
            features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')],
        )

    def key(self, key, code='', text=None):
        for kind in ('keyDown', 'keyUp'):
            self.call(
                'Input.dispatchKeyEvent',
                type=kind,
                key=key,
                code=code or key,
                **(dict(text=text) if text and kind == 'keyDown' else {}),
            )

    def picture(self, path):
        with open(path, 'wb') as f:
            f.write(base64.b64decode(self.call('Page.captureScreenshot', format='png')['data']))

    @property
    def requests(self):
        return [
            m['params']['request']['url']
            for m in self.events
            if m.get('method') == 'Network.requestWillBeSent'
        ]

    @property
    def errors(self):
        "What the console says in red"
        self.js('1')
        return [
            m['params']
            for m in self.events
            if m.get('method') == 'Runtime.exceptionThrown'
            or (m.get('method') == 'Log.entryAdded'
            and m['params']['entry']['level'] == 'error')
        ]

    def close(self):
        os.close(self.write)  # which ends it
        for _ in range(200):
            if os.waitpid(self.pid, os.WNOHANG)[0]: break
            time.sleep(.05)
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.read)
