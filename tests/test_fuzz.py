"""What is read may be anything: a result comes of it, or an error that says what is wrong, never another.

LLM2LLM_FUZZ=5000 tries more examples of each; 40 by default.
"""

import json, os, shutil

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llm2llm import LLM2LLM
from llm2llm.cli.settings import read_yaml
from llm2llm.core import Example, LLM2LLMError
from llm2llm.mini.mini import MiniTeacher, mini_student, mini_task
from llm2llm.report.record import read_run
from llm2llm.tasks.files import read_rows
from llm2llm.tasks.task import TASKS, Task
from llm2llm.teachers.completion import Received, read_completion
from llm2llm.teachers.prompts import Candidate, read_reply

fuzz = settings(
    max_examples=int(os.environ.get('LLM2LLM_FUZZ', 40)),
    deadline=None,
    derandomize='LLM2LLM_FUZZ' not in os.environ,   # the same examples in each plain run
    suppress_health_check=[*HealthCheck],
)
ODD = ['\x00', '\ufeff', '"', '{', '}', '[', ']', ',', '\n', '\r', '\\', '\ud800', ' ', '|', '#', ':', '1e999', 'null', 'NaN', '-1']


@st.composite
def damaged(draw, text):
    "A text with a few places cut out, doubled or replaced"
    for _ in range(draw(st.integers(1, 4))):
        a, b = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        b = min(b, a + draw(st.sampled_from([0, 1, 5, 400])))
        text = text[:a] + draw(st.sampled_from(['', text[a:b] * 2, *ODD]) | st.text(max_size=5)) + text[b:]
    return text


def as_file(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode('utf-8', 'surrogatepass'))
    return path


JSONL = ''.join(json.dumps(dict(id=str(i), question=f'wörd {i}?', answer='yes')) + '\n' for i in range(4))
CSV = 'id,question,answer\n1,"a, ""b""",yes\n2,c,no\n3,"d\ne",yes\n'
TSV = CSV.replace(',', '\t')


@fuzz
@given(
    st.sampled_from(['.jsonl', '.csv', '.tsv', '.parquet']).flatmap(
        lambda suffix: st.tuples(
            st.just(suffix),
            damaged({'.jsonl': JSONL, '.tsv': TSV}.get(suffix, CSV)) | st.text(max_size=80) | st.binary(max_size=80),
        )
    )
)
def test_rows(tmp_path_factory, what):
    suffix, text = what
    path = as_file(tmp_path_factory.getbasetemp(), f'rows{suffix}', text)
    try: rows = read_rows(path)
    except LLM2LLMError as e: assert 'rows' + suffix in str(e)
    else: assert all(r.question.strip() and r.answer.strip() for r in rows)


@fuzz
@given(st.text(alphabet='ab:1-{}[],"\n #&*!|>?%@`\'\t~', max_size=40) | damaged('task: {name: snips, n_seed: 10}\nrounds: 2\n'))
def test_settings(tmp_path_factory, text):
    path = as_file(tmp_path_factory.getbasetemp(), 'settings.yaml', text)
    try: assert isinstance(read_yaml(path), dict)
    except LLM2LLMError as e: assert str(path) in str(e)


BODY = json.dumps(
    dict(
        choices=[dict(message=dict(content='x', role='assistant'), finish_reason='stop')],
        usage=dict(prompt_tokens=3, completion_tokens=4),
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['choices', 'message', 'content', 'usage', 'error', 'x']), inner),
)


@fuzz
@given(damaged(BODY).map(lambda t: t.encode('utf-8', 'replace')) | st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()))
def test_bodies(body): assert isinstance(read_completion(body), Received)


ROW = Example('1', 'Which one?', 'yes', ('yes', 'no', 'perhaps'))
KINDS = [TASKS['gsm8k'], TASKS['casehold'], TASKS['snips'], Task('t', 'text', '{question}')]
REPLY = '<think>a "b"</think>\n```json\n{"question": "Which \\\\frac{1}{2}?", "answer": "1+1=2\\n#### 2", "wrong_1": "no"}\n```'
FORM = 'Question: How many?\nAnswer: two\n#### 2\n'


@fuzz
@given(st.sampled_from(KINDS), damaged(REPLY) | damaged(FORM) | st.text(max_size=60), st.sampled_from(['stop', 'length', 'content_filter']))
def test_replies(task, text, finish):
    found = read_reply(task, ROW, text, finish)
    assert isinstance(found, Candidate) and (found.row is not None or found.reason)
    if found.row: task.check(found.row)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('fuzz') / 'run'
    task, student = mini_task('mini-gsm', n_seed=6, n_test=4), mini_student(max_steps=4)
    LLM2LLM(task, student, MiniTeacher(), folder, rounds=1).fit(verbose=False)
    return folder


@fuzz
@given(data=st.data())
def test_run_folders(finished, data):
    "A damaged file of a finished run: what is shown of the run, or an error that names the file"
    copy = finished.parent / 'copy'
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(finished, copy)
    names = [p for p in sorted(copy.rglob('*')) if p.suffix in ('.json', '.jsonl') and 'student' not in p.parts]
    path = data.draw(st.sampled_from(names))
    path.write_bytes(data.draw(damaged(path.read_text()).map(lambda t: t.encode('utf-8', 'surrogatepass'))))
    try:
        record = read_run(copy)
        str(record), record.ledger()
    except LLM2LLMError as e: assert str(copy) in str(e)
