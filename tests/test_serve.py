"What nbs/09_cli/02b_serve.ipynb cannot show: a server in a process of its own, asked by the lines that it prints, and its end."

import io, json, re, shlex, shutil, socket, subprocess, time
from contextlib import redirect_stdout

import pytest

import llm2llm.student.server as server
import warm
from llm2llm import LLM2LLM, Student, mini_base, mini_student, mini_task
from llm2llm.cli.main import main
from llm2llm.core import SettingError
from llm2llm.report.export import export, predict
from llm2llm.student.server import ask, request

HOST = '127.0.0.1'
# ends a turn, and would write another day every day
TURNS = "{% for m in messages %}{{ m.content }}\n{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{{ strftime_now('%d %b %Y') }} "


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A finished run of a label task, in a folder whose name transformers would read a revision from"
    task = mini_task('mini-intent', n_seed=14, n_test=8, n_dev=8)
    student = mini_student('mini-intent', lora_r=8, learning_rate=5e-3, num_train_epochs=6, dtype='float32')
    return LLM2LLM(task, student, None, tmp_path_factory.mktemp('me@home') / 'my run').fit(verbose=False)


@pytest.fixture(scope='module')
def served(done):
    "The process of `llm2llm serve`, what it printed when it was ready, and its port"
    words = ['llm2llm', 'serve', done.folder.path, '--port', '0', '--device', 'cpu']
    process = warm.Popen(words, stdout=warm.PIPE, stderr=warm.PIPE, text=True)
    said, until = '', time.time() + 120
    while 'ollama create' not in said:
        assert process.poll() is None and time.time() < until, said + process.stderr.read()
        said += process.stdout.read()
        time.sleep(0.05)
    yield process, said, int(re.search(rf'http://{HOST}:(\d+)/v1', said)[1])
    process.kill()
    process.wait()


def test_the_answers_over_http_are_those_of_an_unconstrained_predict(done, served):
    *_, port = served
    rows = [*done.task.test, *done.task.dev]
    free = predict(done.folder.path, rows, constrained=False)
    limit = done.student.token_limit([done.task.completion(r) for r in done.rows()])
    said = [ask(HOST, port, *request('model', done.task.prompt(r), False, limit)) for r in rows]
    assert [t.strip() for t in said] == [*free['completion']] and len(set(said)) > 3


def test_the_lines_work_as_they_stand(done, served):
    _, said, _ = served
    row = done.task.seed_rows[0]
    [expected] = predict(done.folder.path, [row], constrained=False)['completion']
    curl = next(line for line in said.splitlines() if line.startswith('curl '))
    body = json.loads(shlex.split(curl)[-1])
    assert body['prompt'] == done.task.prompt(row)
    reply = subprocess.run(['bash', '-c', curl + ' --silent --noproxy "*"'], capture_output=True, check=True).stdout
    assert json.loads(reply)['choices'][0]['text'].strip() == expected
    code = said[said.index('from openai') : said.index('\n\nA request')]
    with redirect_stdout(io.StringIO()) as out: exec(code, {})
    assert out.getvalue().strip() == expected


def test_a_port_in_use_is_said_before_anything_is_loaded(done, served, capsys):
    *_, port = served
    assert main(['serve', str(done.folder.path), '--port', str(port)]) == 2
    assert f'port {port} of {HOST} is in use; give another, or 0' in capsys.readouterr().err


def test_a_signal_ends_it(served):
    "The last test that needs the server"
    process, _, port = served
    process.terminate()
    assert process.wait(30) == 143
    with socket.create_server((HOST, port)): pass


@pytest.mark.parametrize('kind', ['number', 'chat'])
def test_checked_over_http(kind, tmp_path, capsys):
    "Worked answers end at a pattern, and chats are asked in a turn"
    name, base = ('mini-intent' if kind == 'chat' else 'mini-gsm'), tmp_path / 'base'
    shutil.copytree(mini_base(), base)
    if kind == 'chat': (base / 'chat_template.jinja').write_text(TURNS)
    student = Student(base, lora_r=4, num_train_epochs=2, dtype='float32', device='cpu')
    assert student.chat == (kind == 'chat')
    task = mini_task(name, n_seed=14, n_test=6, n_dev=0)
    LLM2LLM(task, student, None, tmp_path / 'run').fit(verbose=False)
    about = ['--task', name, '--task.n_seed', '14', '--task.n_test', '6', '--task.n_dev', '0']
    words = ['serve', str(tmp_path / 'run'), '--check', '5', '--port', '0', '--device', 'cpu']
    assert main([*words, *about]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert json.loads((tmp_path / 'run/export/export.json').read_text())['asked']['chat'] == student.chat
    assert '5 test rows over HTTP; answers as by an unconstrained predict: 5 of 5' in said
    if kind == 'number': assert 'predictions other than the constrained ones: 0 of 5' in said
    before = (tmp_path / 'run/export/export.json').stat().st_mtime_ns
    assert main(words) == 0 and '5 seed rows over HTTP' in capsys.readouterr().out
    assert (tmp_path / 'run/export/export.json').stat().st_mtime_ns == before


def fails(capsys, *words):
    "What a call says that a user can mend"
    assert main(['serve', *map(str, words)]) == 2
    return capsys.readouterr().err


def test_what_goes_wrong_is_said(done, tmp_path, capsys, monkeypatch):
    run = done.folder.path
    free = '--port', 0
    assert 'no such folder' in fails(capsys, tmp_path / 'nowhere', *free)
    assert 'check must be a whole number of at least 1, not 0' in fails(capsys, run, '--check', 0, *free)
    assert 'port must be from 0 to 65535, not 70000' in fails(capsys, run, '--port', 70000)
    assert '--check is for a run' in fails(capsys, run / 'export', '--check', 3, *free)
    export(run, tmp_path / 'adapter', merge=False)
    assert 'does not hold a whole model' in fails(capsys, tmp_path / 'adapter', *free)
    other = fails(capsys, run, '--output_dir', tmp_path / 'adapter', *free)
    assert 'choose another folder' in other
    final = run / 'final.json'
    final.rename(tmp_path / 'final.json')
    assert 'the run is not finished; resume it with' in fails(capsys, run, *free)
    (tmp_path / 'final.json').rename(final)
    monkeypatch.setattr(server, 'is_serve_available', lambda: False)
    assert "pip install 'llm2llm[serving]'" in fails(capsys, run, *free)


def test_an_export_of_before_is_told_how_it_is_asked(done, tmp_path, capsys):
    "It lacks the fields that a server's lines are made from; its run adds them"
    made = tmp_path / 'out'
    export(done.folder.path, made, score=False)
    said = json.loads((made / 'export.json').read_text())
    (made / 'export.json').write_text(json.dumps({k: v for k, v in said.items() if k != 'asked'}))
    assert 'how its student is asked' in fails(capsys, made, '--port', 0)
    export(done.folder.path, made, score=False)
    assert json.loads((made / 'export.json').read_text()) == said


def test_unconstrained_answers_have_no_probabilities(done):
    with pytest.raises(SettingError, match='a student that is not constrained has no options'):
        done.predict(['a table for two'], probabilities=True, constrained=False)
