"A run in a notebook: the bars of its cell, and the cell interrupted and run again; in a kernel of Jupyter."
import json, re, time
from queue import Empty

import pytest
from jupyter_client.manager import start_new_kernel

from stub_server import Stub

# Room for fewer rows than there are seed rows: no request goes out before all of these are answered.
SETUP = """
from llm2llm import APITeacher, LLM2LLM, mini_student, mini_task
task,student = mini_task('mini-gsm', n_seed=24, n_test=64, n_dev=12),mini_student(num_train_epochs=4, per_device_eval_batch_size=2)
teacher = APITeacher('stub', {url!r}, prompt=dict(demos=0), response_format='json', concurrency=1)
def fit(out): return LLM2LLM(task, student, teacher, out, rounds=1, select_round_by='last', max_synthetic_rows=23).fit()
"""


class Kernel:
    def __init__(self, folder):
        self.manager, self.client = start_new_kernel(cwd=str(folder), extra_arguments=['--colors=NoColor'])

    def run(self, code, interrupt=''):
        "What a cell shows: a list of (kind, text); interrupted as soon as a bar of this name has moved"
        self.client.execute(code)
        shown, until = [], time.monotonic() + 300
        while time.monotonic() < until:
            try: m = self.client.get_iopub_msg(timeout=60)
            except Empty: raise AssertionError(f'nothing for a minute after {shown[-3:]}') from None
            kind, c = m['msg_type'], m['content']
            if kind == 'status' and c['execution_state'] == 'idle': return shown
            if kind == 'stream': shown.append((c['name'], c['text']))
            elif kind == 'error': shown.append(('error', '\n'.join(c['traceback'])))
            elif kind in ('execute_result', 'display_data'): shown.append(('result', c['data']['text/plain']))
            if interrupt and kind == 'stream' and re.search(rf'\r{interrupt}: +[1-9]\d*%', c['text']):
                self.manager.interrupt_kernel()
                interrupt = ''
        raise AssertionError('the cell does not end')

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path):
    k = Kernel(tmp_path)
    yield k
    k.close()


def files(run):
    "What a run folder says, by file; without clocks and prices of lost requests"
    keep = lambda p: (
        p.suffix in ('.json', '.jsonl') and p.name not in ('log.jsonl', 'stages.json', 'run.json')
    )
    return {str(p.relative_to(run)): p.read_text() for p in sorted(run.rglob('*')) if p.is_file() and keep(p)}


def test_bars_and_interrupted_cells(kernel, tmp_path):
    with Stub(latency=.3) as s:
        kernel.run(SETUP.format(url=s.url))
        whole = kernel.run("fit('whole'); None")
        assert not [x for x in whole if x[0] in ('stderr', 'error')], whole
        said = ''.join(text for _,text in whole)
        bars = [b for b in re.split(r'[\r\n]', said) if '|' in b]
        for name in (
            'round 0 training',
            'round 0 seed answers',
            'round 0 teacher',
            'round 1 training',
            'round 1 test answers',
        ):
            mine = [b for b in bars if b.startswith(name + ':')]
            assert mine and all(
                re.search(r'\d+/\d+ \[\d\d:\d\d<(\?|\d\d:\d\d), +(\?|[\d.]+) ?(step|row|request|s)', b)
                and len(b) <= 90
                for b in mine
            ), (name, bars)
        # What is left to see: no bar, a line a round
        lines = [re.sub('.*\r', '', l).rstrip() for l in said.split('\n')]
        assert [re.match(r'round \d|stopped|$', l)[0] for l in lines] == [
            'round 0',
            'round 1',
            'stopped',
            '',
        ], lines
        paid = s.stats()['requests']
        for phase in (
            'round 0 training',
            'round 0 seed answers',
            'round 0 teacher',
            'round 1 training',
            'round 1 test answers',
        ):
            shown = kernel.run("fit('cut'); None", interrupt=phase)
            assert shown[-1][0] == 'error', (phase, shown)
            tail = shown[-1][1]
            assert (
                'KeyboardInterrupt: in round ' + phase[6] in tail
                and 'the same cell or command resumes there' in tail
                and tail.count('\n') < 40
            ), tail
        assert not [x for x in kernel.run("fit('cut'); None") if x[0] != 'stdout']
        assert (
            s.stats()['requests'] - paid <= paid + 3
        )  # at most those that an interrupt caught on their way are sent again
    assert files(tmp_path/'cut') == files(tmp_path/'whole')
    assert json.loads((tmp_path/'cut'/'final.json').read_text())['stopped'] == 'rounds done'
