"What nbs/06_report/06_export.ipynb cannot show: that programs which know nothing of llm2llm give the student's answers."

import json, shutil, sys

import pytest
import torch
from safetensors.torch import load_file

from llm2llm.core import StudentError
from llm2llm.report.export import export
from llm2llm import LLM2LLM
from llm2llm.mini.mini import MiniTeacher, mini_base, mini_student, mini_task
from llm2llm.student.student import Student


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
    student = mini_student(lora_r=8, learning_rate=5e-3)
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
kind, folder, prompts, limit = json.loads(sys.argv[1])
model = (AutoPeftModelForCausalLM if kind == 'adapter' else AutoModelForCausalLM).from_pretrained(folder, dtype='float32')
tok, how, said = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder), []
assert how.max_new_tokens == limit
for p in prompts:
    x = tok(p, return_tensors='pt')
    said.append(tok.decode(model.generate(**x, generation_config=how)[0, x.input_ids.shape[1]:], skip_special_tokens=True))
assert 'llm2llm' not in sys.modules
print(json.dumps(said))
'''

LM_EVAL = '''
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
base, kind, folder, prompts, limit = json.loads(sys.argv[1])
which = dict(pretrained=base, peft=folder, tokenizer=folder) if kind == 'adapter' else dict(pretrained=folder)
model = HFLM(**which, dtype='float32', device='cpu', batch_size=8)
asked = [Instance('generate_until', {}, (p, dict(until=[], max_gen_toks=limit, do_sample=False)), i) for i,p in enumerate(prompts)]
said = model.generate_until(asked, disable_tqdm=True)
assert 'llm2llm' not in sys.modules
print(json.dumps(said))
'''


def elsewhere(run, script, *args):
    "What a process that does not know llm2llm prints last"
    return json.loads(run(sys.executable, '-c', script, json.dumps(args), cold=True).stdout.splitlines()[-1])


@pytest.mark.parametrize('kind', ['adapter', 'model'])
def test_plain_libraries_give_the_same_answers(exported, run, kind):
    out, prompts, limit, said, _ = exported
    assert elsewhere(run, PLAIN, kind, str(out/kind), prompts, limit) == said


@pytest.mark.parametrize('kind', ['adapter', 'model'])
def test_lm_eval_gives_the_same_answers(exported, run, kind):
    out, prompts, limit, said, _ = exported
    assert elsewhere(run, LM_EVAL, str(mini_base()), kind, str(out/kind), prompts, limit) == said


def test_the_score_again_is_the_runs(exported):
    *_, found = exported
    assert {s: c.run.n for s,c in found.scores.items()} == dict(seed=32, test=40)
    assert all(c.differ <= 1 for c in found.scores.values())  # the sum is exact up to float32's last bit


def test_a_4_bit_student_is_exported_as_it_was_trained_or_onto_its_base(task, tmp_path):
    LLM2LLM(
        task, mini_student(lora_r=8, learning_rate=5e-3, quantization='nf4'), output_dir=tmp_path / 'run'
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
if not (at/'run').exists(): LLM2LLM(mini_task(n_seed=8, n_test=4), Student('some/mini', lora_r=4, max_steps=2), output_dir=at/'run').fit(verbose=False)
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
