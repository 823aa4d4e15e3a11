"What nbs/06_report/06_export.ipynb cannot show: that programs which know nothing of llm2llm give the student's answers."

import json, shutil, sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm2llm.core import Example, RunError, StudentError
from llm2llm.report.export import export
from llm2llm.report.record import read_run
from llm2llm.report.share import share
from llm2llm import LLM2LLM
from llm2llm.mini.mini import MiniTeacher, mini_base, mini_student, mini_task
from llm2llm.student.models import place, read_config
from llm2llm.student.student import Student
from llm2llm.student.tokens import read_prompts
from llm2llm.tasks.task import Task


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def task(): return mini_task(n_seed=32, n_test=40)


@pytest.fixture(scope='module')
def exported(task, tmp_path_factory):
    "An exported run, twenty prompts and the run's student's free answers to them"
    at = tmp_path_factory.mktemp('export')
    student = mini_student(lora_r=8, learning_rate=5e-3, dtype='float32')
    run = LLM2LLM(task, student, MiniTeacher(), at/'run', rounds=1).fit(verbose=False)
    found = export(at/'run', at/'out', base=mini_base(), task=task)
    student.load(at/'run'/'round_01'/'student')
    prompts = [task.prompt(r) for r in task.test[:20]]
    limit = student.token_limit([task.completion(r) for r in run.rows()])
    said = [c.text for c in student.generate(prompts, max_new_tokens=limit)]
    student.reset()
    untrained = [c.text for c in student.generate(prompts, max_new_tokens=limit)]
    assert (
        len(set(said)) > 10 and sum(a != b for a, b in zip(said, untrained)) > 10
    )  # an adapter that is not there would be seen
    return at/'out', prompts, limit, said, found


PLAIN = '''
import json, sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
folders, prompts, limit = json.loads(sys.argv[1])

def answers(kind, folder):
    how = AutoPeftModelForCausalLM if kind == 'adapter' else AutoModelForCausalLM
    model, tok = how.from_pretrained(folder, dtype='float32'), AutoTokenizer.from_pretrained(folder)
    how = GenerationConfig.from_pretrained(folder)
    assert how.max_new_tokens == limit
    for p in prompts:
        x = tok(p, return_tensors='pt')
        out = model.generate(**x, generation_config=how)[0, x.input_ids.shape[1]:]
        yield tok.decode(out, skip_special_tokens=True)

found = {kind: [*answers(kind, folder)] for kind, folder in folders.items()}
assert 'llm2llm' not in sys.modules
print(json.dumps(found))
'''

LM_EVAL = '''
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
folders, prompts, limit, base = json.loads(sys.argv[1])
how = dict(until=[], max_gen_toks=limit, do_sample=False)
asked = [Instance('generate_until', {}, (p, how), i) for i, p in enumerate(prompts)]

def answers(kind, folder):
    which = dict(pretrained=base, peft=folder, tokenizer=folder) if kind == 'adapter' else dict(pretrained=folder)
    model = HFLM(**which, dtype='float32', device='cpu', batch_size=8)
    return model.generate_until(asked, disable_tqdm=True)

found = {kind: answers(kind, folder) for kind, folder in folders.items()}
assert 'llm2llm' not in sys.modules
print(json.dumps(found))
'''


KINDS = 'adapter', 'model'


def elsewhere(run, script, out, *args):
    "What a process that does not know llm2llm, so a cold one, prints last"
    words = json.dumps([{kind: str(out/kind) for kind in KINDS}, *args])
    return json.loads(run(sys.executable, '-c', script, words, cold=True).stdout.splitlines()[-1])


def test_plain_libraries_give_the_same_answers(exported, run):
    out, prompts, limit, said, _ = exported
    assert elsewhere(run, PLAIN, out, prompts, limit) == dict.fromkeys(KINDS, said)


def test_lm_eval_gives_the_same_answers(exported, run):
    out, prompts, limit, said, _ = exported
    assert elsewhere(run, LM_EVAL, out, prompts, limit, str(mini_base())) == dict.fromkeys(KINDS, said)


def test_the_score_again_is_the_runs(exported):
    *_, found = exported
    assert {s: c.run.n for s,c in found.scores.items()} == dict(seed=32, test=40)
    assert all(c.differ <= 1 for c in found.scores.values())  # the sum is exact up to float32's last bit


def test_a_4_bit_student_is_exported_as_it_was_trained_or_onto_its_base(task, tmp_path):
    LLM2LLM(
        task,
        mini_student(lora_r=8, learning_rate=5e-3, quantization='nf4', dtype='float32'),
        output_dir=tmp_path / 'run',
    ).fit(verbose=False)
    as_trained = export(tmp_path/'run', tmp_path/'trained', base=mini_base(), task=task)
    assert (
        sum(c.differ for c in as_trained.scores.values()) <= 2 and 'BitsAndBytesConfig' in as_trained.notes[0]
    )
    assert 'quantization_config' not in (tmp_path/'trained'/'model'/'config.json').read_text()
    found = export(tmp_path/'run', tmp_path/'out', base=mini_base(), task=task, onto='base')
    config = json.loads((tmp_path/'out'/'model'/'config.json').read_text())
    assert 'quantization_config' not in config and config['dtype'] == 'float32'
    assert str(tmp_path) not in json.dumps(config) and str(mini_base()) not in json.dumps(config)
    base, merged, adapter = (
        load_file(p)
        for p in (
            mini_base() / 'model.safetensors',
            tmp_path / 'out' / 'model' / 'model.safetensors',
            tmp_path / 'out' / 'adapter' / 'adapter_model.safetensors',
        )
    )
    how, layers = json.loads((tmp_path/'out'/'adapter'/'adapter_config.json').read_text()), 0
    assert merged.keys() == base.keys()
    for name, w in merged.items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        change = (
            how['lora_alpha'] / how['r'] * (adapter[f'{key}B.weight'] @ adapter[f'{key}A.weight'])
            if f'{key}A.weight' in adapter
            else torch.zeros_like(w)
        )
        layers += bool(change.abs().max() > 1e-3)
        torch.testing.assert_close(w, base[name].float()+change, rtol=1e-6, atol=1e-6)
    assert layers == 21
    assert (
        sum(c.differ for c in found.scores.values()) > 10 and 'in nf4' in found.notes[1]
    )  # this base loses much in 4 bits, so the answers must change


def test_nothing_is_left_of_an_export_that_fails(exported, tmp_path, monkeypatch):
    run = exported[0].parent/'run'
    monkeypatch.setattr(Student, 'generate', lambda *a, **k: (_ for _ in ()).throw(StudentError('no memory')))
    with pytest.raises(StudentError, match='cannot be scored: no memory; give device='):
        export(run, tmp_path / 'out', base=mini_base())
    assert not list(tmp_path.iterdir())
    found = export(run, tmp_path/'out', base=mini_base(), score=False)  # which does not need it
    assert found.scores == {} and 'not scored again' in found.notes[0]
    files = sorted(p for p in (tmp_path/'out'/'model').iterdir())
    assert len({p.stat().st_mode for p in files}) == 1, 'some files are private to their owner'


HUB = '''
import sys
from pathlib import Path
from llm2llm.report.export import export
from llm2llm import LLM2LLM
from llm2llm.mini.mini import mini_task
from llm2llm.student.student import Student
at = Path(sys.argv[1])
if not (at/'run').exists(): LLM2LLM(mini_task(n_seed=8, n_test=4), Student('some/mini', lora_r=4, max_steps=2, dtype='float32'), output_dir=at/'run').fit(verbose=False)
print(export(at/'run', at/sys.argv[2]))
'''


def test_a_base_on_the_hub(tmp_path, run):
    "It is found by its name at the run's commit, after the name has moved on to another; padding and chat template go along"
    hub = tmp_path/'hub'/'models--some--mini'
    commits = ['a'*40, 'b'*40]
    shutil.copytree(mini_base(), hub/'snapshots'/commits[0])
    tokenizer = hub/'snapshots'/commits[0]/'tokenizer_config.json'
    tokenizer.write_text(
        json.dumps(
            {k: v for k, v in json.loads(tokenizer.read_text()).items() if k != 'pad_token'}
            | dict(chat_template='{{ messages[0].content }}')
        )
    )
    (hub/'refs').mkdir()
    (hub/'refs'/'main').write_text(commits[0])
    env = dict(HF_HUB_CACHE=str(tmp_path/'hub'))
    run(sys.executable, '-c', HUB, tmp_path, 'first', **env)
    other = Student(mini_base(), lora_r=0, max_steps=1)
    other.train([('a', ' b')])
    other.save(hub/'snapshots'/commits[1])
    (hub/'refs'/'main').write_text(commits[1])
    shown = run(sys.executable, '-c', HUB, tmp_path, 'second', **env).stdout
    assert 'all 8 answers as in the run' in shown and 'Not scored on the test rows' in shown
    for part in ('adapter', 'model'):
        a, b = (
            {p.name: p.read_bytes() for p in (tmp_path / out / part).iterdir()} for out in ('first', 'second')
        )
        assert a == b
        assert (
            json.loads(a['tokenizer_config.json'])['pad_token']
            and a['chat_template.jinja'] == b'{{ messages[0].content }}'
        )
    config = json.loads((tmp_path/'first'/'adapter'/'adapter_config.json').read_text())
    assert (config['base_model_name_or_path'], config['revision']) == ('some/mini', commits[0])
    plain = run(
        sys.executable,
        '-c',
        "import sys; from peft import AutoPeftModelForCausalLM as A; print(A.from_pretrained(sys.argv[1]).peft_config['default'].r)",
        tmp_path / 'first' / 'adapter',
        **env,
    )
    assert plain.stdout.split()[-1] == '4'


TURNS = "{% for m in messages %}{{ m.content }}\n{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{{ strftime_now('%d %b %Y') }} "


@pytest.fixture(scope='module')
def chat_base(tmp_path_factory):
    "The mini base as a chat model, whose template writes the day"
    folder = tmp_path_factory.mktemp('chat') / 'base'
    shutil.copytree(mini_base(), folder)
    student = Student(folder, lora_r=0)
    student.tokenizer.chat_template = TURNS
    student.tokenizer.save_pretrained(folder)
    return folder


def choices_task():
    rows = [Example(f'r{i}', f'Which is {i}?', str(i), (str(i), str(i + 1))) for i in range(2, 6)]
    return Task('own', 'choice', '{question}\n{choices}\nAnswer:', seed_rows=tuple(rows), instructions="It's {a}.")


READERS = dict(
    number=(lambda: mini_task(n_seed=8, n_test=4), False, {}),
    chat=(lambda: mini_task(n_seed=8, n_test=4), True, {}),
    label_in_chat=(lambda: mini_task('mini-intent', n_seed=14, n_test=7), True, {}),
    choice_of_all_weights=(choices_task, False, dict(lora_r=0)),
    in_4_bits=(lambda: mini_task(n_seed=8, n_test=4), True, dict(quantization='nf4')),
)

# bitsandbytes packs 4 bits for some processors in a way that fails for a base as narrow as this one
NO_PACKING = 'import bitsandbytes.nn.modules as b; b.has_avx512bf16 = lambda: False\n'


@pytest.mark.parametrize('who', READERS)
def test_the_code_of_the_readme_gives_the_same_completion(who, chat_base, tmp_path, run):
    "Taken from the page as it stands, run where llm2llm is not known; what the page says is what the run did"
    make, chat, more = READERS[who]
    task, base = make(), chat_base if chat else mini_base()
    settings = dict(lora_r=4, learning_rate=5e-3, num_train_epochs=4, dtype='float32') | more
    student = Student(base, **settings)
    LLM2LLM(task, student, None, tmp_path / 'run').fit(verbose=False)
    export(tmp_path / 'run', tmp_path / 'out')
    student.load(tmp_path / 'run' / 'round_00' / 'student')
    row = task.seed_rows[0]
    limit = student.token_limit([task.completion(r) for r in task.seed_rows])
    stop = dict(max_new_tokens=limit, stop_regex=task.stop_regex)
    said = student.generate([task.prompt(row)], **stop)[0].text
    page = (tmp_path / 'out' / 'README.md').read_text()
    codes = [part.split('\n```')[0] for part in page.split('```python\n')[1:]]
    assert len(codes) == 1 + (settings['lora_r'] > 0) and student.chat == chat
    for code in codes:
        assert len(code.splitlines()) <= 12 and 'llm2llm' not in code
        if who == 'in_4_bits': code = NO_PACKING + code
        got = run(sys.executable, '-c', code, cold=who == 'number' and code is codes[0], cwd=tmp_path / 'out').stdout
        if who != 'in_4_bits' or 'peft' in code: assert got == said + '\n'   # merged, it is rounded otherwise
    ids, = read_prompts(student.tokenizer, [task.prompt(row)], student.turn)
    assert ('26 Jul 2024' in page) == chat and all(label in page for label in task.labels)
    shown = student.tokenizer.decode(ids) if chat else task.prompt(row)
    assert f'```\n{shown}\n```' in page and f'at most {limit} new tokens' in page and task.kind.reads in page
    assert f'```\n{task.completion(row).strip()}\n```' in page and ('one turn of a chat' in page) == chat


def test_a_readme_of_somebody_else_stays(exported, tmp_path):
    "Ours is written again when there is a new score; one that was changed is not; an export of before gets one"
    run, out = exported[0].parent / 'run', tmp_path / 'out'
    export(run, out, base=mini_base(), score=False)
    first = (out / 'README.md').read_text()
    assert 'asked again' not in first and 'in the run' in first
    export(run, out, base=mini_base())
    second = (out / 'README.md').read_text()
    assert 'seed, asked again' in second
    mine = second + '\nMind the gap.\n'
    (out / 'README.md').write_text(mine)
    found = export(run, out, base=mini_base(), task=mini_task(n_seed=32, n_test=40))
    assert 'test' in found.scores and (out / 'README.md').read_text() == mine
    assert 'README.md is yours' in found.notes[-1]
    (out / 'README.md').unlink()
    said = json.loads((out / 'export.json').read_text())
    (out / 'export.json').write_text(json.dumps({k: v for k, v in said.items() if k != 'readme'}))
    again = export(run, out, base=mini_base())
    assert 'seed, asked again' in (out / 'README.md').read_text() and not again.notes


@pytest.fixture(scope='module')
def gguf_run(tmp_path_factory):
    "A run on the tiny base with GPT-2's splitting, which llama.cpp has too, exported with GGUF files"
    at = tmp_path_factory.mktemp('gguf')
    base = Path(shutil.copytree(mini_base(), at/'base'))
    its = json.loads((base/'tokenizer.json').read_text())
    its['pre_tokenizer'] = dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=True)
    (base/'tokenizer.json').write_text(json.dumps(its))
    task = mini_task('mini-intent', n_seed=14, n_dev=0, n_test=20)
    student = Student(base, lora_r=8, learning_rate=5e-3, dtype='float32', num_train_epochs=15, device='cpu')
    LLM2LLM(task, student, output_dir=at/'run').fit(verbose=False)
    found = export(at/'run', at/'run'/'export', base=base, task=task)
    weights = (at/'run'/'export'/'model'/'model.safetensors').stat().st_mtime_ns
    found = export(at/'run', at/'run'/'export', base=base, task=task, gguf=True)
    assert (at/'run'/'export'/'model'/'model.safetensors').stat().st_mtime_ns == weights
    return at, found, task


def test_gguf_is_the_student_again(gguf_run, tmp_path, monkeypatch):
    "written beside model/, read as a base, and the same answers"
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    at, found, task = gguf_run
    out = at/'run'/'export'
    assert found.parts == ('adapter', 'model', 'gguf')
    files = sorted(p.name for p in (out/'gguf').iterdir())
    assert files == ['Modelfile', 'mini-intent-f16.gguf', 'mini-intent-q8_0.gguf']
    prompts = [task.prompt(r) for r in task.test]
    said = [
        [c.text for c in Student(p, lora_r=0, dtype='float32', device='cpu').generate(prompts, max_new_tokens=12)]
        for p in (out/'model', out/'gguf'/files[1])
    ]
    assert said[0] == said[1] and len(set(said[0])) > 5
    settings = Student(out/'gguf'/files[1], device='cpu').settings()
    assert settings['model_name_or_path'] == files[1] and len(settings['base_digest']) == 16
    assert f'gguf/{files[1]}' in (out/'README.md').read_text()
    assert 'TEMPLATE """{{ .Prompt }}"""' in (out/'gguf'/'Modelfile').read_text()


def test_an_export_with_gguf_is_whole_and_shared_as_before(gguf_run):
    at, found, task = gguf_run
    out = at/'run'/'export'
    again = export(at/'run', out, base=at/'base', task=task)
    assert repr(again) == repr(found)
    names = [name for name, *_ in share(at/'run', 'me/intents', 'model').files]
    assert 'model.safetensors' in names and not [n for n in names if 'gguf' in n]
    (out/'gguf'/'Modelfile').write_text('FROM elsewhere')
    with pytest.raises(RunError, match='was changed after the export'): export(at/'run', out, base=at/'base', task=task)


def test_what_a_killed_unpacking_left_is_no_base(gguf_run, tmp_path, monkeypatch):
    "nothing half-written is taken for a base, and the next use makes it whole"
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    file = next((gguf_run[0]/'run'/'export'/'gguf').glob('*-f16.gguf'))

    def killed(model, tokenizer, folder):
        tokenizer.save_pretrained(folder)
        raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr('llm2llm.student.models.write_model', killed)
        place(file)
    def full(*_): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m, pytest.raises(RunError, match='the disk is full'):
        m.setattr('llm2llm.student.models.write_model', full)
        place(file)
    assert not [p for p in tmp_path.rglob('*') if p.is_dir() and p.name == file.name]
    folder = place(file)
    assert read_config(folder).vocab_size == 1664 and place(file) == folder


def test_a_gguf_file_on_the_command_line(gguf_run, tmp_path, run):
    "as a student, by a path beginning with ~, in a run that is then asked"
    file = next((gguf_run[0]/'run'/'export'/'gguf').glob('*-q8_0.gguf'))
    env = dict(HF_HUB_CACHE=str(tmp_path/'hub'), HOME=str(file.parent))
    words = ['--task', 'mini-intent', '--task.n_seed', 7, '--task.n_test', 2, '--student', f'~/{file.name}']
    run('llm2llm', 'run', *words, '--student.max_steps', 1, '--student.device', 'cpu', '--output_dir', tmp_path/'run', **env)
    assert read_run(tmp_path/'run').student['model_name_or_path'] == file.name
    made = list((tmp_path/'llm2llm-gguf').glob(f'*/{file.name}/config.json'))
    assert len(made) == 1
    assert run('llm2llm', 'predict', tmp_path/'run', '--ask', 'a table for two', **env).stdout
