"Structured answers: schemas given and found, rows that break them, scores by field, what a teacher is told, a run with it"

import json, sys
from collections import Counter
from dataclasses import replace

import pytest

from llm2llm import LLM2LLM, DataError, Example, PoolTeacher, Request, SettingError, Task, read_run
from llm2llm.grid.compare import Compare, read_verdict
from llm2llm.loop.config import _check_match
from llm2llm.mini.mini import mini_student
from llm2llm.report.cards import recorded_words
from llm2llm.report.fields import field_scores
from llm2llm.report.ledger import page_data
from llm2llm.report.record import notes
from llm2llm.report.report import write_report
from llm2llm.tasks.filters import Filter, reason
from llm2llm.tasks.kind_json import Json
from llm2llm.tasks.schema import found_schema, strict_schema
from llm2llm.teachers.prompts import messages, prompt_for, read_reply, reply_schema
from stub_server import Answering
from test_odd_replies import usage, whole

DAYS = 'Monday', 'Tuesday', 'Friday', 'Sunday'
SPAN = {'type': 'string', 'x-span': True}
NAMES = dict(type='array', items=dict(type='string', enum=['book', 'cancel', 'ask', 'new']), uniqueItems=True)
SLOTS = dict(type='object', properties=dict(day=SPAN, people=dict(type='integer')), additionalProperties=False)
SCHEMA = dict(type='object', properties=dict(intents=NAMES, slots=SLOTS), required=['intents', 'slots'],
              additionalProperties=False)


def row(i):
    "A row as JSON Lines have it, with an object as its answer"
    intents, day = (['book', 'new'], ['cancel'], ['new', 'ask'])[i % 3], DAYS[i % 4]
    question = (f'A new table for {i} on {day}', f'Cancel {day}, number {i}', f'Is {day} free, the new one of {i}?')[i % 3]
    return dict(question=question, answer=dict(intents=intents, slots=dict(day=day) | (dict(people=i) if i % 3==0 else {})))


ROWS = [row(i) for i in range(60)]


def jsonl(path, rows):
    path.write_text(''.join(json.dumps(r) + '\n' for r in rows))
    return path


def task(**settings):
    given = dict(dev=ROWS[24:30], test=ROWS[30:42], pool=ROWS[42:], name='visits') | settings
    return Task.from_files(ROWS[:24], **given)


def said(intents, **slots): return json.dumps(dict(intents=intents, slots=slots))


def test_an_answer_is_compared_as_a_whole_whatever_its_order():
    t = task(schema=SCHEMA)
    r = t.seed_rows[0]
    assert t.kind == 'json' and json.loads(t.gold(r)) == ROWS[0]['answer'] and t.kind.schema == SCHEMA
    assert t.score(r, ' {"slots": {"people": 0.0, "day": "Monday "}, "intents": ["new", "book", "new"]}\n').correct
    assert t.score(r, f'```json\n{said(["book", "new"], day="Monday", people=0)}\n```').correct
    for wrong in (said(['book'], day='Monday', people=0), said(['book', 'new'], day='monday', people=0)):
        assert not t.score(r, wrong).correct and t.score(r, wrong).prediction
    for none in ('', 'Monday', '[]', said(['fly'], day='Monday'), said(['book'], day=3), '{"intents": ["book"]}',
                 said(['book'], day='x')[:-1], '{"intents": [], "intents": [], "slots": {}}'):
        assert t.score(r, none).prediction is None, none
    whole = said(['book', 'new'], day='Monday', people=0)
    assert t.score(r, whole, truncated=True).correct and t.score(r, whole[:-1], truncated=True).prediction is None
    ordered = Json(dict(type='object', properties=dict(steps=dict(type='array'))))
    assert ordered.parse('{"steps": [2, 1]}', r, ()) != ordered.parse('{"steps": [1, 2]}', r, ())


def test_a_schema_is_found_in_the_seed_rows_and_shown():
    t = task()
    found = t.kind.schema
    assert found['properties']['intents'] == NAMES | dict(items=dict(type='string', enum=['ask', 'book', 'cancel', 'new']))
    assert found['properties']['slots'] == SLOTS | dict(required=['day'])
    assert found['required'] == ['intents', 'slots']
    assert 'found the kind of task: json' in t.notes and any(n.startswith('found the fields: {"intents": [') for n in t.notes)
    assert '"slots": {"day": words of the text, "people"?: whole number}' in t.prompt(t.seed_rows[0])
    # a few values that stand in the question may be chance, texts that never come again are free text
    assert found_schema([(w, w) for w in 'abcd'] ) == dict(type='string')
    assert found_schema([('a', 'b'), (1, ''), (None, '')]) == dict(type=['integer', 'null', 'string'])
    assert 'uniqueItems' not in found_schema([(['a', 'a'], ''), (['b', 'b'], '')])
    assert 'uniqueItems' in found_schema([(['a'], '')]*30 + [(['a', 'a'], '')])   # a slip of a person
    assert found_schema([({}, ''), (dict(a=1.5), ''), (dict(a=2), '')])['properties'] == dict(a=dict(type='number'))


def test_rows_that_break_the_schema_are_named(tmp_path):
    seed, schema = jsonl(tmp_path/'seed.jsonl', ROWS[:24]), tmp_path/'schema.json'
    schema.write_text(json.dumps(SCHEMA))
    for answer, why in [(said(['fly'], day='Friday'), r'''not of the schema: intents.0: '"fly"' is none of'''),
                        (said(['book'], day='Friday', people='two'), 'not of the schema: slots.people: '),
                        (said(['book'], days='Friday'), 'not of the schema: slots: '),
                        (said(['book'], day='Saturday'), 'not in the text: slots.day "Saturday"'),
                        ('book', 'no JSON object: Expecting value')]:
        bad = jsonl(tmp_path/'test.jsonl', [row(50), dict(question='A table on Friday', answer=answer)])
        for how in (dict(schema=schema), {}):
            with pytest.raises(DataError, match=rf'test.jsonl:2: (?s:.)*{why}(?s:.)*--task.schema FILE'):
                Task.from_files(seed, test=bad, **how)
    with pytest.raises(DataError, match='answer is no JSON'): Task.from_files([dict(question='a', answer=dict(a={1}))])
    with pytest.raises(DataError, match='no answer is a JSON object'): Task.from_files(
        [dict(question='a', answer='b')], kind='json')


@pytest.mark.parametrize('schema,why', [(dict(type='objekt'), 'is not valid'), (dict(type='array'), 'an answer is an object'),
                                        ('none.json', 'none.json: no JSON schema in a file'), (3, 'no JSON schema')])
def test_a_schema_that_is_none(schema, why):
    with pytest.raises(SettingError, match=f'schema .--task.schema.*{why}'): task(schema=schema)


def test_a_schema_is_for_this_kind():
    labels = [dict(question=f'q {i}', answer='ab'[i % 2]) for i in range(9)]
    with pytest.raises(SettingError, match="schema .--task.schema. is for a task of kind 'json', and this one is of kind 'label'"):
        Task.from_files(labels, schema=SCHEMA)
    with pytest.raises(SettingError, match="labels .--task.labels. are for a task of kind 'label'"): task(labels=['a', 'b'], kind='json')


def test_what_a_teacher_writes_is_held_against_the_schema():
    t = task(schema=SCHEMA)
    judge = Filter(t)
    def new(question, answer): return Example('n', question, answer)
    verdicts = [judge(new(*x)) for x in [
        ('Please put me down for Wednesday', said(['book'], day='Wednesday')), ('We shall come on Saturday', said(['book'], day='Friday')),
        ('Are there seats left tonight?', said(['sit'])), ('How late are you open?', 'ask')]]
    assert Counter(map(reason, verdicts)) == Counter(['kept', 'not in the text', 'not of the schema', 'no JSON object'])


def test_a_teacher_is_told_the_fields_that_are_wrong():
    t = task(schema=SCHEMA)
    r = t.seed_rows[0]
    def ask(completion, kind_of_task=t):
        asked = Request(r, kind_of_task.score(r, completion), 1, 0, 0)
        return messages(kind_of_task, asked, [], prompt_for(kind_of_task), 'json')
    system, user = ask(said(['book', 'ask'], time='9')), ask(said(['book', 'ask'], day='Tuesday', extra=1))[-1]['content']
    assert json.dumps(SCHEMA) in system[0]['content'] and 'with x-span' in system[0]['content']
    assert 'has the text field "question" and the object "answer"' in system[0]['content']
    for line in ('- intents lacks "new" and has "ask" too much', '- slots.day is "Tuesday"; right is "Monday"',
                 '- slots.people is missing; right is 0', '- slots.extra should not be there; it is 1'): assert line in user
    assert 'That is no JSON object: ' in ask('on Monday')[-1]['content']
    plain = task(kind='text')   # of which nothing more is said
    assert 'The fields' not in ask('on Monday', plain)[-1]['content'] and 'the text fields "question", "answer"' in ask(
        'on Monday', plain)[0]['content']


def test_a_reply_holds_the_object():
    t = task(schema=SCHEMA)
    r = t.seed_rows[0]
    strict = reply_schema(t, r)['properties']['answer']
    assert strict['required'] == ['intents', 'slots'] and strict['properties']['slots']['required'] == ['day', 'people']
    assert 'x-span' not in json.dumps(strict) and 'uniqueItems' not in json.dumps(strict)
    assert strict['properties']['slots']['properties']['people'] == dict(anyOf=[dict(type='integer'), dict(type='null')])
    want = said(['ask'], day='Saturday')
    with_null = dict(intents=['ask'], slots=dict(day='Saturday', people=None))
    for answer in (with_null, json.loads(want), want, json.dumps(with_null, indent=1)):
        got = read_reply(t, r, json.dumps(dict(question='Free on Saturday?', answer=answer))).row
        assert got.answer == want and not t.check(got)
    got = read_reply(t, r, f'Question: Free on Saturday?\nAnswer: {json.dumps(with_null, indent=1)}\n\nHope it helps').row
    assert got.answer == want
    assert strict_schema(dict(type='object')) == dict(type='object')
    text = task(kind='text')
    assert read_reply(text, r, json.dumps(dict(question='q', answer={}))).reason == 'wrong fields: answer is not text'


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('json')/'run'
    run = LLM2LLM(task(schema=SCHEMA), mini_student(num_train_epochs=8), PoolTeacher(), folder, rounds=1, test_every_round=True)
    return run.fit(verbose=False)


def test_a_run_keeps_its_schema(done):
    record = read_run(done.folder.path)
    assert record.task['schema'] == SCHEMA and json.loads(recorded_words(done.folder.settings())['task.schema']) == SCHEMA
    from llm2llm.report.use import task_of
    assert task_of(record).kind.schema == SCHEMA and done.folder.gold() == {r.id: done.task.gold(r) for r in done.task.test}
    _check_match(done.folder, done.task)
    other = replace(done.task, kind=Json(SCHEMA | dict(required=['intents'])))
    with pytest.raises(Exception, match='its schema is'): _check_match(done.folder, other)
    again = LLM2LLM(other, done.student, PoolTeacher(), done.folder.path, rounds=1, test_every_round=True)
    with pytest.raises(Exception, match='task.schema'): again.fit(verbose=False)


def test_other_tasks_are_written_as_before():
    labels = [dict(question=f'q {i}', answer='ab'[i % 2]) for i in range(9)]
    t = Task.from_files(labels, dev=False)
    assert t.kind.settings() == {} and 'schema' not in LLM2LLM(t, mini_student(), output_dir='x').settings()['task']


def test_from_a_shell(run, tmp_path):
    seed, schema = jsonl(tmp_path/'seed.jsonl', ROWS[:24]), tmp_path/'schema.json'
    schema.write_text(json.dumps(SCHEMA))
    shown = run('llm2llm', 'run', '--task', str(seed), '--task.schema', str(schema), '--student', 'mini', '--teacher', 'none', '--dry_run').stdout
    assert '"task.schema"' in shown or '"schema"' in shown
    bad = jsonl(tmp_path/'bad.jsonl', [*ROWS[:24], dict(question='A table', answer=said(['fly']))])
    found = run('llm2llm', 'check', str(bad), '--schema', str(schema))
    assert 'not of the schema: intents.0' in found.stdout and '1 are inconsistent' in found.stdout


# ---- answers held to the schema

def test_an_untrained_student_can_say_nothing_else(done):
    t, student = done.task, mini_student()
    asked = [t.prompt(r) for r in t.test]
    free = student.generate(asked, max_new_tokens=160)
    held = student.generate(asked, max_new_tokens=160, json_schema=SCHEMA)
    assert not any(t.parse(c.text, r) for c, r in zip(free, t.test))
    complete = [(c, r) for c, r in zip(held, t.test) if not c.truncated]
    assert complete and all(t.parse(c.text, r) for c, r in complete)
    drawn = dict(temperature=1., top_p=.9, max_new_tokens=160, json_schema=SCHEMA)
    several = student.generate(asked, seeds=range(len(asked)), **drawn)
    assert student.generate(asked[3:4], seeds=[3], **drawn)[0] == several[3]
    assert all(t.parse(c.text, r) for c, r in zip(several, t.test) if not c.truncated)


def test_what_a_student_learns_is_what_the_grammar_allows(done):
    "The grammar has the spelling of completions: every right answer can be said"
    from llm2llm.student.grammar import Held
    student = mini_student()
    student.load_base()
    schema = dict(type='object', additionalProperties=False, properties={'ä"': dict(type='string'), 'n': dict(type='number'), 'deep': dict(
        type='array', items=dict(type='object', properties=dict(x=dict(type=['null', 'boolean']))))})
    kind = Json(schema)
    for value in (dict(n=1.5), {'ä"': 'a "b" \\ ü\n€ 😀', 'n': -2e-7, 'deep': []}, dict(deep=[{}, dict(x=None), dict(x=True)]), {}):
        said = ' ' + kind.parse(json.dumps(value), None, ())
        ids = student.tokenizer(said, add_special_tokens=False)['input_ids']
        held = Held(schema, student.tokenizer, [student.tokenizer.eos_token_id], [''])
        held.begin(len(student.tokenizer))
        assert held.places[0].try_consume_tokens(ids) == len(ids) and held.places[0].is_accepting(), said


def test_a_run_is_held_and_counted_by_field(done):
    record = read_run(done.folder.path)
    answers = record.folder.answers(1, 'test')
    assert all(a.prediction or a.truncated for a in answers) and any(a.prediction for a in answers)
    counts = record.per_field()
    assert counts.index.name == f'test rows, round {record.picked}' and {'intents', 'slots.day'} < {*counts.index}
    assert counts.loc['slots.day', ['right', 'missing', 'wrong']].sum() == len(done.task.test) == counts.loc['slots.day', 'rows']
    md, page = (p.read_text() for p in write_report(record.folder.path))
    assert 'By field: test rows' in md and 'By field: test rows' in page and 'slots.day' in page
    assert any(n.startswith('found the schema: {"intents": [') for n in notes(record)) and page_data(record)['classes'][0]['head'].startswith('By field')
    assert as_written(record, done.task)


def as_written(record, t):
    "The README of an export has the schema"
    from llm2llm.report.use import _asked
    said = '\n'.join(_asked(t, mini_student(), 20))
    return 'held to this JSON schema' in said and '"uniqueItems": true' in said


def test_fields_are_counted_apart():
    gold = json.dumps(dict(a=['x', 'y'], b=dict(c=1, d='z')))
    for answer, want in [(gold, (3, 0, 0, 0, 1., 1.)), ('no answer', (0, 3, 0, 0, 0., 0.)),
                         (json.dumps(dict(a=['x'], b=dict(c=1, e=2))), (1, 1, 1, 1, 2/3, 2/4)),
                         (json.dumps(dict(a=['x', 'y'], b=dict(c=2))), (1, 1, 0, 1, 2/3, 2/4))]:
        counts = field_scores([(gold, answer)]).loc['all fields']
        assert tuple(counts[['right', 'missing', 'extra', 'wrong', 'precision', 'recall']]) == pytest.approx(want)


def test_a_comparison_counts_by_field(tmp_path):
    t = task(schema=SCHEMA, dev=False)
    how = dict(arms=['plain', 'LLM2LLM'], seeds=1, tune=False, rounds=1, embeddings=None)
    found = Compare(t, mini_student(num_train_epochs=2), PoolTeacher(), tmp_path/'both', **how).fit(verbose=False)
    (_, head), (_, table) = found.class_blocks()
    assert head.startswith('By field: test rows of all splits') and [*table][2:4] == ['F1 %, plain', 'F1 %, LLM2LLM']
    assert 'By field' in (tmp_path/'both'/'compare.html').read_text()
    assert read_verdict(tmp_path/'both').class_blocks()[1][1].equals(table)


def test_the_study_on_a_handful_of_rows(run, tmp_path):
    "Against an endpoint that writes a row for each mistake, and answers every question alike"
    names = 'affirm', 'pin', 'card', 'new'
    texts = [f'{w} please, number {i * 7} of {w} today' for i, w in enumerate('ada bob cyd dan eve fay gus hal ida jim'.split())]
    own = [dict(question=q, answer=json.dumps(dict(intents=[names[i % 4]], slots=dict(name=q[:3])))) for i, q in enumerate(texts)]
    rows = jsonl(tmp_path/'rows.jsonl', own)

    def reply(body, n):
        answer = dict(intents=['pin'], slots=dict(name='kim'))
        writes = 'response_format' in body or 'Write one new example' in body['messages'][-1]['content']
        new = dict(question=f'What did kim {n} say about number {n * n + 7} on {n} June?', answer=answer)
        return 200, whole(json.dumps(new if writes else answer), usage=usage(300, 40))

    with Answering(reply) as s:
        run(sys.executable, 'nbs/results/nlupp.py', rows, 'mini', tmp_path/'runs', '--api', 'stub', '--base_url', s.url, '--seed_rows', '6',
            '--test_rows', '4', '--seeds', '1', '--rounds', '1', '--epochs', '1', '--raw', tmp_path/'raw.jsonl', '--max_usd', '1',
            '--price', '1,1', OPENAI_API_KEY='none')
    lines = [json.loads(line) for line in (tmp_path/'raw.jsonl').read_text().splitlines()]
    assert [line['arm'] for line in lines] == ['few-shot', 'plain', 'LLM2LLM', 'plain, step-matched', 'teacher']
    assert all(len(line['pairs']) == 4 for line in lines) and next(l for l in lines if l['arm']=='LLM2LLM')['written']
    assert {said for _, said in lines[-1]['pairs']} == {'{"intents": ["pin"], "slots": {"name": "kim"}}'}
