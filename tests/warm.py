"""Processes that start warm: Python commands, forked from one process that has loaded the heavy libraries and this package.

A cold process that trains spends six seconds on imports; a warm one has them. It is a process of its own, with its own
signals, and ends as a cold one does. What is about a cold start itself (silence, imports, hash seeds) uses `subprocess`.
"""
import atexit, gc, multiprocessing.forkserver, multiprocessing.resource_tracker, os, runpy, signal, subprocess, sys
import tempfile, threading, traceback, types
from pathlib import Path
from unittest import mock

import cloudpickle
from huggingface_hub import constants

PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
# Trainings make many objects and little garbage; to look for it as often as Python does takes about a sixth of their time here.
# It holds for the processes of pytest and, through tests/heavy.py, for warm ones.
gc.set_threshold(100_000, 50, 1000)
_server = multiprocessing.get_context('forkserver')
_server.set_forkserver_preload(['heavy'])


def _start_server():
    "Once: a process that has loaded tests/heavy.py"
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try: multiprocessing.forkserver.ensure_running()
    finally:
        if before is None: del os.environ['PYTHONPATH']
        else: os.environ['PYTHONPATH'] = before


def _in_a_fork(path, args, fds):
    "What `multiprocessing.util.spawnv_passfds` starts, in a fork of this process; its id"
    pid = os.fork()
    if pid: return pid
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in map(int, os.listdir('/dev/fd')):   # kept, so that no number is given again to what does not know of it
        if fd > 2 and fd not in (*fds, nowhere): os.dup2(nowhere, fd)
    try: exec(args[-1], {})   # it ends with SystemExit, when nobody is left to serve
    except SystemExit: os._exit(0)
    except BaseException: traceback.print_exc()
    os._exit(1)


def fork_server():
    """The server as a fork of this process, where that has most of it in memory: no second load of it. Before the first test,
    for neither threads nor what autograd keeps live on in a fork."""
    import heavy  # noqa: F401
    multiprocessing.resource_tracker.ensure_running()
    with mock.patch('multiprocessing.util.spawnv_passfds', _in_a_fork): _start_server()


def _run(words):
    "What `python WORDS` does"
    flag, *rest = words
    if flag == '-m':
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    elif flag == '-c':
        sys.argv = ['-c', *rest[1:]]
        sys.path.insert(0, '')
        main = sys.modules['__main__'] = types.ModuleType('__main__')
        exec(compile(rest[0], '<string>', 'exec'), main.__dict__)
    else:
        sys.argv = words
        runpy.run_path(flag, run_name='__main__')


def _status(words):
    "Run it; its exit status, as the interpreter gives it"
    try: _run(words)
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int): return e.code or 0
        print(e.code, file=sys.stderr)
        return 1
    except BaseException as e:
        traceback.print_exc()
        return -signal.SIGINT if isinstance(e, KeyboardInterrupt) else 1
    return 0


def _forget_another(places):
    "Unload this package where the process is to find another copy of it"
    found = next((p for place in places if (p := Path(place, 'llm2llm', '__init__.py').resolve()).is_file()), None)
    loaded = sys.modules.get('llm2llm')
    if found and loaded and found != Path(loaded.__file__).resolve():
        for name in [n for n in sys.modules if n.partition('.')[0] == 'llm2llm']: del sys.modules[name]


def _become(words, cwd, env, out, err, first):
    "In the new process: be the command, to its end"
    for fd, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), fd)
    for name, fd in (('stdout', 1), ('stderr', 2)):
        file = open(fd, 'w', 1 if name == 'stderr' else -1, encoding='utf-8', closefd=False)  # noqa: SIM115 (to the end)
        setattr(sys, name, file)
        setattr(sys, f'__{name}__', file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    given = [p for p in env.get('PYTHONPATH', '').split(os.pathsep) if p]
    sys.path[:0] = given
    constants.HF_HUB_CACHE = env.get('HF_HUB_CACHE', constants.HF_HUB_CACHE)
    tempfile.tempdir = None   # it is asked for again in the new environment
    _forget_another([cwd, *given])
    if first: cloudpickle.loads(first)()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = _status(words)
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        status = status or 120
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 255)


class Popen:
    "A warm process, with what the tests use of `subprocess.Popen`"

    def __init__(self, args, cwd='.', env=None, stdout=None, stderr=None, text=False, preexec_fn=None):
        self.args, self.text = [str(a) for a in args], text
        self._folder = tempfile.TemporaryDirectory(prefix='warm')
        places = [(Path(self._folder.name) / name, how) for name, how in (('out', stdout), ('err', stderr))]
        out, err = (path if how == PIPE else os.devnull for path, how in places)
        for path, _ in places: path.touch()
        first = preexec_fn and cloudpickle.dumps(preexec_fn)
        words = self.args[1:] if self.args[0] == sys.executable else ['-m', *self.args]
        what = words, os.path.abspath(cwd), dict(os.environ if env is None else env), out, err, first
        _start_server()
        self._process = _server.Process(target=_become, args=what)
        self._process.start()
        self.pid = self._process.pid
        mode = dict(mode='r', encoding='utf-8') if text else dict(mode='rb')
        self.stdout, self.stderr = (path.open(**mode) if how == PIPE else None for path, how in places)

    @property
    def returncode(self): return self._process.exitcode

    def poll(self): return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None: raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        return tuple(f and f.read() for f in (self.stdout, self.stderr))

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)

    def terminate(self): self.send_signal(signal.SIGTERM)


def run(args, check=False, capture_output=False, timeout=None, **kwargs):
    "`subprocess.run` of a warm process"
    if capture_output: kwargs |= dict(stdout=PIPE, stderr=PIPE)
    process = Popen(args, **kwargs)
    try: out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        process.wait()
        raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check: done.check_returncode()
    return done


def is_warm(args, env):
    "Can it start warm? Libraries read some of the environment when they are imported"
    first = str(args[0])
    early = lambda k: k.startswith(('HF_', 'OMP_', 'TOKENIZERS_')) and k != 'HF_HUB_CACHE'   # `_become` sets that
    read_early = lambda e: {k: v for k, v in e.items() if early(k)}
    return (first == sys.executable or Path(first).name == 'llm2llm') and read_early(env) == read_early(os.environ)
