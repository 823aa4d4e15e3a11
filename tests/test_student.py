"What nbs/03_student/06_student.ipynb cannot show: other processes, broken model folders, memory that runs out."

import json, os, shutil, subprocess, sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import warm
from llm2llm.student.models import base_digest, read_config
from llm2llm.core import DataError, GPUMemoryError, SettingError, StudentError
from llm2llm.student.decoding import Completion, Decoder, sampler
from llm2llm.student.memory import rows_that_fit
from llm2llm.mini.mini import mini_base
from llm2llm.student.settings import default_learning_rate
from llm2llm.student.student import Student
from llm2llm.student.tokens import encode_chats, encode_prompts

ROWS = [
    (f'{q}\nIntent:', f' {a}')
    for q, a in [
        ('play some jazz', 'PlayMusic'),
        ('put on the new record by nina', 'PlayMusic'),
        ('rain tomorrow?', 'GetWeather'),
        ('how cold will it be in oslo on sunday', 'GetWeather'),
        ('a table for two', 'BookRestaurant'),
        ('dinner near the harbour', 'BookRestaurant'),
    ]
]
LABELS = tuple(sorted({c for _,c in ROWS}))


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads only slow a tiny model down, and their number changes bits
    yield
    torch.set_num_threads(before)


def tiny(folder, end='<end>', pad='<pad>', add_end=False):
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = bytes_, decoders.ByteLevel()
    t.train_from_iterator(
        [p + c for p, c in ROWS],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=['<end>', '<pad>', '<unk>'],
            initial_alphabet=bytes_.alphabet(),
            show_progress=False,
        ),
    )
    if add_end:
        t.post_processor = processors.TemplateProcessing(
            single='<end> $A <end>', special_tokens=[('<end>', 0)]
        )
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=t.get_vocab_size(),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=0,
        )
    ).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=t, eos_token=end, pad_token=pad).save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def base(tmp_path_factory): return tiny(tmp_path_factory.mktemp('bases')/'tiny')


@pytest.fixture(scope='session')
def learnt(base):
    s = Student(base, lora_r=0, learning_rate=3e-3, max_steps=80, batch_size=4)
    s.train(ROWS)
    return s


@pytest.fixture
def copy(learnt, base, tmp_path):
    "One that a test may break"
    learnt.save(tmp_path / 'learnt')
    s = Student(base, lora_r=0, learning_rate=3e-3, max_steps=80, batch_size=4)
    s.load(tmp_path / 'learnt')
    return s


SCRIPT = '''
import sys, torch
torch.set_num_threads(1)
from llm2llm.student.student import Student
base, out = sys.argv[1:]
rows = [(f'{q} Intent:', f' {a}') for q,a in (('play some jazz', 'PlayMusic'), ('rain tomorrow', 'GetWeather'), ('a table', 'Book'))]
for name,how in dict(whole=dict(lora_r=0), adapter=dict(lora_r=4), nf4=dict(lora_r=4, quantization='nf4')).items():
    s = Student(base, max_steps=4, batch_size=2, **how)
    s.generate(['before'], max_new_tokens=4)
    s.train(rows, seed=3)
    s.generate([p for p,_ in rows], options=[(' A', ' B')]*3)
    s.save(f'{out}/{name}')
    s.load(f'{out}/{name}')
'''


def test_processes_agree_and_are_silent(base, tmp_path):
    "Two processes, a cold one first, with other hash seeds in other places write the same bytes, say nothing and leave nothing"
    runs = []
    for n, start in (('1', subprocess.run), ('2', warm.run)):
        cwd, tmp, out = (tmp_path/f'{name}{n}' for name in ('cwd', 'tmp', 'out'))
        cwd.mkdir()
        tmp.mkdir()
        env = dict(os.environ, TMPDIR=str(tmp)) | (dict(PYTHONHASHSEED='1') if n == '1' else {})
        done = start(
            [sys.executable, '-c', SCRIPT, str(base), str(out)],
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
        assert not list(cwd.iterdir()) and not list(tmp.iterdir())
        runs.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob('*.*')})
    assert runs[0] == runs[1]
    assert {
        f'{n}/{f}' for n in ('adapter', 'nf4') for f in ('adapter_config.json', 'adapter_model.safetensors')
    } < set(runs[0])


def test_answering_needs_no_training_libraries(base):
    code = (
        "import sys, torch; from llm2llm.student.student import Student; s = Student(sys.argv[1], lora_r=0); s.generate(['x'], max_new_tokens=2);"
        "print([m for m in ('trl','peft','datasets','bitsandbytes') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code, str(base)], capture_output=True, text=True)
    assert done.stdout.strip() == '[]'


def test_folder_without_end_token(tmp_path):
    with pytest.raises(StudentError, match='no end-of-text token.*<end>'):
        Student(tiny(tmp_path / 'm', end=None))


def test_folder_without_pad_token(tmp_path):
    s = Student(tiny(tmp_path/'m', pad=None), lora_r=0)
    assert s.tokenizer.pad_token == '<pad>' and 'padding' in s.notes[0]


def test_end_token_as_padding_is_still_learnt(tmp_path):
    s = Student(tiny(tmp_path/'m', pad='<end>'), lora_r=0, learning_rate=3e-3, max_steps=80, batch_size=4)
    s.train(ROWS)
    assert s.generate([p for p,_ in ROWS], max_new_tokens=12) == [Completion(c) for _,c in ROWS]


def test_tokenizer_that_ends_every_text(tmp_path):
    "The prompt of such a tokenizer would end before the answer begins"
    s = Student(tiny(tmp_path/'m', add_end=True), lora_r=0, learning_rate=3e-3, max_steps=80, batch_size=4)
    s.train(ROWS)
    assert s.generate([p for p,_ in ROWS], max_new_tokens=12) == [Completion(c) for _,c in ROWS]


def test_habits_of_the_base_are_left_behind(base, learnt, tmp_path):
    "Sampling and penalties in a base's generation_config.json do not touch greedy answers"
    learnt.save(tmp_path/'m')
    (tmp_path / 'm' / 'generation_config.json').write_text(
        json.dumps(
            dict(do_sample=True, temperature=5.0, repetition_penalty=9.0, max_length=20, eos_token_id=[0])
        )
    )
    s = Student(tmp_path/'m', lora_r=0)
    assert (
        s.generate([p for p, _ in ROWS], max_new_tokens=12)
        == learnt.generate([p for p, _ in ROWS], max_new_tokens=12)
        == [Completion(c) for _, c in ROWS]
    )


@pytest.mark.parametrize('broken', ['empty', 'no weights', 'cut weights', 'not json', 'no tokenizer', 'other tokenizer'])
def test_broken_folders(base, tmp_path, broken):
    m = tmp_path/'m'
    shutil.copytree(base, m)
    if broken == 'empty': [p.unlink() for p in m.iterdir()]
    if broken == 'no weights': (m/'model.safetensors').unlink()
    if broken == 'cut weights':
        (m / 'model.safetensors').write_bytes((m / 'model.safetensors').read_bytes()[:1000])
    if broken == 'not json': (m/'config.json').write_text('{')
    if broken == 'no tokenizer': [p.unlink() for p in m.glob('tokenizer*')]
    if broken == 'other tokenizer':
        config = json.loads((m/'config.json').read_text())
        (m/'config.json').write_text(json.dumps(config|dict(vocab_size=100)))
    with pytest.raises(StudentError) as e: Student(m).load_base()
    assert len(e.value.args[0].splitlines()) == 1
    if broken in ('empty', 'no tokenizer'):
        assert f"no {dict(empty='config.json').get(broken, 'tokenizer')}" in str(e.value)


@pytest.mark.parametrize('quantization', [None, 'nf4'])
@pytest.mark.parametrize('change,says', [(dict(num_hidden_layers=4), r'model.layers.2.input_layernorm.weight is missing, and so on for 18 weights'),
                                         (dict(intermediate_size=192), r'model.layers.0.mlp.down_proj.weight has shape \[64, 128\], and config.json wants \[64, 192\]'),
                                         (dict(tie_word_embeddings=False), r'lm_head.weight is missing; copy')])
def test_weights_that_would_stay_random(base, tmp_path, quantization, change, says):
    shutil.copytree(base, tmp_path/'m')
    (tmp_path/'m'/'config.json').write_text(json.dumps(json.loads((base/'config.json').read_text())|change))
    with pytest.raises(StudentError, match=says): Student(tmp_path/'m', quantization=quantization).load_base()


@pytest.mark.parametrize('kind', ['bert', 't5', 'vit'])
def test_models_that_do_not_write(base, tmp_path, kind):
    shutil.copytree(base, tmp_path/'m')
    (tmp_path / 'm' / 'config.json').write_text(
        json.dumps(json.loads((base / 'config.json').read_text()) | dict(model_type=kind))
    )
    with pytest.raises(StudentError, match=f"type '{kind}', which does not write"): Student(tmp_path/'m')


def test_loading_an_adapter_first_is_silent(base, tmp_path):
    "A resumed run loads an adapter before it trains, so this is where the training libraries are first imported"
    for how in (dict(), dict(quantization='nf4')):
        s = Student(base, lora_r=4, max_steps=1, **how)
        s.train(ROWS)
        s.save(out := tmp_path/f'a{len(how)}')
        code = f"import sys; from llm2llm.student.student import Student; Student(sys.argv[1], lora_r=4, **{how}).load(sys.argv[2])"
        done = subprocess.run(
            [sys.executable, '-c', code, str(base), str(out)], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_name_that_cannot_be_had(monkeypatch):
    with pytest.raises(StudentError, match='no/such-model'): Student('no/such-model')


def test_memory_runs_out(copy, monkeypatch):
    "Answering halves its batches until they fit; at one prompt it says what to do"
    sizes, real = [], Decoder.choose
    def choose(self, ids, options, *noisy):
        sizes.append(len(ids))
        if len(ids) > 2: raise torch.OutOfMemoryError('CUDA out of memory')
        return real(self, ids, options, *noisy)
    monkeypatch.setattr(Decoder, 'choose', choose)
    monkeypatch.setattr(copy, 'per_device_eval_batch_size', 64)
    assert [a.text for a in copy.generate([p for p,_ in ROWS], [LABELS]*6)] == [c for _,c in ROWS]
    assert sizes == [6, 3, 2, 2, 2] and copy.per_device_eval_batch_size == 2
    sizes.clear()
    monkeypatch.setattr(copy, 'per_device_eval_batch_size', None)
    assert [a.text for a in copy.generate([p for p,_ in ROWS], [LABELS]*6)] == [c for _,c in ROWS]
    assert sizes == [6, 3, 2, 2, 2] and copy.per_device_eval_batch_size is None  # found anew next time
    monkeypatch.setattr(
        Decoder, 'choose', lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory'))
    )
    with pytest.raises(StudentError, match='smaller max_length'): copy.generate([ROWS[0][0]], [LABELS])


def test_kept_keys_and_values_change_no_answer(learnt, monkeypatch):
    "Choices several levels deep, options of different depth in a batch: the same as when the prompt is read again each time"
    deep = tuple(f' {a}{b}{c}' for a in 'AB' for b in 'CD' for c in 'EFG')
    prompts, options = [p for p,_ in ROWS]*3, [deep]*6+[LABELS]*6+[(' A', ' AC', ' ACE')]*6
    kept, forwards, real = learnt.generate(prompts, options), learnt.last['forwards'], Decoder.logits
    again = lambda self, ids, cache=None, seen=None, more=False: (real(self, ids)[0], None, None)
    monkeypatch.setattr(Decoder, 'logits', again)
    assert learnt.generate(prompts, options) == kept
    assert learnt.last['forwards'] == forwards


def test_sliding_windows_are_read_again(base, tmp_path):
    "A cache that forgets cannot have gaps, so such a model reads its prompt again"
    from transformers import MistralConfig, MistralForCausalLM
    shutil.copytree(base, tmp_path/'m')
    torch.manual_seed(1)
    MistralForCausalLM(
        MistralConfig(
            vocab_size=400,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            sliding_window=4,
            eos_token_id=0,
        )
    ).save_pretrained(tmp_path / 'm')
    s = Student(tmp_path/'m', lora_r=0)
    deep = tuple(f' {a}{b}{c}' for a in 'AB' for b in 'CD' for c in 'EFG')
    prompts = [p for p,_ in ROWS]
    assert s.generate(prompts, [deep]*6) == [s.generate([p], [deep])[0] for p in prompts]


def test_micro_batches_make_the_same_steps(base):
    "Split batches give the same weights up to rounding"
    whole, split = (
        Student(
            base,
            lora_r=0,
            learning_rate=1e-3,
            num_train_epochs=3,
            batch_size=4,
            per_device_train_batch_size=m,
        )
        for m in (None, 2)
    )
    a, b = whole.train(ROWS), split.train(ROWS)
    assert a['steps'] == b['steps'] == 6
    assert a['loss'] == pytest.approx(b['loss'], rel=1e-4)
    for p,q in zip(whole.model.parameters(), split.model.parameters()): assert torch.allclose(p, q, atol=1e-4)


def test_loss_that_explodes(base):
    s = Student(base, lora_r=0, learning_rate=1e30, max_steps=6)
    with pytest.raises(StudentError, match='learning_rate below'): s.train(ROWS)
    assert s.trained == 0 and s.weights_digest() == Student(base, lora_r=0).weights_digest()


def test_training_that_is_interrupted(base, monkeypatch):
    "After a Ctrl-C in the middle the student trains as if nothing had been"
    from trl import SFTTrainer
    s = Student(base, lora_r=4, max_steps=4)
    s.train(ROWS)
    first = s.weights_digest()
    with monkeypatch.context() as m:
        m.setattr(SFTTrainer, 'training_step', lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt): s.train(ROWS)
    s.train(ROWS)
    assert s.weights_digest() == first


def test_bad_rows(base):
    s = Student(base)
    for rows in ([], [('a',)], [('a', None)], ['ab'[:1]]):
        with pytest.raises(DataError): s.train(rows)
    with pytest.raises(DataError, match='training row 1.*max_length'): s.train([ROWS[0], ('q', ' word'*400)])
    with pytest.raises(DataError, match=r"training row seed.csv:9 \('q'\).*max_length"):
        s.train([ROWS[0], ('q', ' word' * 400)], names=['seed.csv:3', 'seed.csv:9'])
    with pytest.raises(DataError, match='6 training rows but 1 names'): s.train(ROWS, names=['a'])
    with pytest.raises(SettingError): s.train(ROWS, init_from='fresh')
    with pytest.raises(SettingError): s.train(ROWS, max_steps=0)
    with pytest.raises(SettingError): s.train(ROWS, num_train_epochs=-1)
    assert s.model is None  # none of this loaded the weights


def test_a_very_long_prompt(learnt):
    said = learnt.generate(['x '*50_000 + ROWS[0][0]], options=[LABELS])[0]
    assert said.prompt_truncated and said.text in LABELS


def test_digest_is_of_the_content(base, tmp_path):
    shutil.copytree(base, tmp_path/'copy')
    assert base_digest(tmp_path/'copy') == base_digest(base)
    raw = bytearray((base/'model.safetensors').read_bytes())
    raw[-1] ^= 1
    (tmp_path/'copy'/'model.safetensors').write_bytes(raw)
    assert base_digest(tmp_path/'copy') != base_digest(base)


def test_default_learning_rate():
    assert default_learning_rate(4096, 16) == 1.2e-4 and default_learning_rate(4096, 0) == 3.2e-5


def test_batches_follow_the_memory(learnt, monkeypatch):
    import psutil
    sizes, memory, real = [], type('Memory', (), {}), Decoder.write
    def write(self, ids, *how):
        sizes.append(len(ids))
        return real(self, ids, *how)
    monkeypatch.setattr(psutil, 'virtual_memory', memory)
    monkeypatch.setattr(Decoder, 'write', write)
    for memory.available,most in ((10**12, 64), (200_000, 2), (0, 1)):
        sizes.clear()
        learnt.generate([p for p,_ in ROWS]*12, max_new_tokens=2)
        assert max(sizes) == most and sum(sizes) == 72


def test_batches_of_other_configurations():
    from transformers import AutoConfig
    for kind in ('gpt2', 'gpt_neox', 'bloom', 'opt', 'falcon', 'phi3', 'qwen3', 'gemma2', 'mixtral'):
        sizes = [rows_that_fit(AutoConfig.for_model(kind), 512, n*10**9) for n in (0, 4, 40, 4000)]
        assert sizes[0] == 1 and sizes == sorted(sizes) and sizes[-1] == 256
    bare = type('Config', (), dict(hidden_size=4096, vocab_size=1000, num_key_value_heads=[8]*32))
    assert (
        rows_that_fit(bare, 512, 10**10) == 16
    )  # as if every number of the width had a key and a value, in 32 layers


def test_drawn_answers_do_not_depend_on_the_batch(base):
    "Alone, in threes, all at once and in another order; free and among options; the seed alone makes the difference"
    prompts, seeds = [p for p,_ in ROWS]*4, list(range(24))
    s = Student(base, lora_r=0)
    for options in (None, [LABELS]*24, [LABELS, ()]*12):
        said = []
        for size in (1, 3, 64):
            s.per_device_eval_batch_size = size
            said.append(s.generate(prompts, options, 12, temperature=.9, top_p=.95, seeds=seeds))
        back = s.generate(
            prompts[::-1], options and options[::-1], 12, temperature=0.9, top_p=0.95, seeds=seeds[::-1]
        )
        assert said[0] == said[1] == said[2] == back[::-1]
        other = s.generate(prompts, options, 12, temperature=.9, top_p=.95, seeds=[s+100 for s in seeds])
        assert sum(a != b for a,b in zip(said[0], other)) > 6


def test_drawn_tokens_follow_the_scores(base):
    "The first token of 4000 free answers, against the softmax of the model's scores"
    s = Student(base, lora_r=0)
    with torch.no_grad():
        s.load_base()
        p = s.model(torch.tensor(encode_prompts(s.tokenizer, [ROWS[0][0]]))).logits[0, -1].div(.3).softmax(-1)
        draw = sampler(range(4000), .3)(p.log().mul(.3).expand(4000, -1)).argmax(-1)
    said = s.generate([ROWS[0][0]]*4000, max_new_tokens=1, temperature=.3, seeds=range(4000))
    want = [s.tokenizer.decode([t]) if t not in s.eos_token_id else '' for t in draw]
    assert sum(c.text == w for c,w in zip(said, want)) > 3990  # the same draws up to rounding
    expected, got = p*4000, draw.bincount(minlength=len(p))
    often = expected > 5
    assert ((got-expected)[often]**2/expected[often]).sum() < often.sum()+4*(2*often.sum())**.5  # chi-squared


def test_on_completion_is_called_in_the_callers_thread_and_stops_it(copy, monkeypatch):
    import threading
    monkeypatch.setattr(copy, 'per_device_eval_batch_size', 2)
    told = []
    def tell(i, c):
        told.append((i, c.text, threading.current_thread(), torch.is_grad_enabled()))
        if len(told) == 4:
            raise torch.OutOfMemoryError('not the batch')  # of the caller: no batch is asked again

    with pytest.raises(GPUMemoryError):
        copy.generate([p for p, _ in ROWS], [LABELS] * 6, on_completion=tell)
    assert len(told) == 4 and all(
        t == (i, ROWS[i][1], threading.main_thread(), True) for i, *_ in told for t in told if t[0] == i
    )


@pytest.mark.parametrize('how', [dict(lora_r=16), dict(lora_r=16, quantization='nf4'), dict(lora_r=16, dtype='bfloat16')])
def test_a_student_that_only_writes(base, how):
    "Answers without any training, and again after the memory was given back"
    s = Student(base, **how)
    first = (
        s.generate(['a', 'play some'], max_new_tokens=6, temperature=1.0, seeds=[1, 2]),
        s.generate(['a'], [LABELS]),
    )
    s.free()
    assert s.model is None
    assert first == (
        s.generate(['a', 'play some'], max_new_tokens=6, temperature=1.0, seeds=[1, 2]),
        s.generate(['a'], [LABELS]),
    )
    assert s.model is s._plain and s.trained == 0


def test_special_tokens_in_rows_are_text(base):
    "A row that spells out the end token is learnt and said as it stands"
    s = Student(base, lora_r=0, learning_rate=3e-3, max_steps=60, batch_size=2)
    rows = [('say <end> twice:', ' <end><end> and <pad>'), ('say <unk>:', ' <unk> <end>')]
    s.train(rows)
    assert s.generate([p for p,_ in rows]) == [Completion(c) for _,c in rows]
    assert s.generate([p for p,_ in rows], [tuple(c for _,c in rows)]*2) == [Completion(c) for _,c in rows]


CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA3 = """{% for m in messages %}{% set c = '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + '<|eot|>' %}\
{% if loop.index0 == 0 %}{% set c = bos_token + c %}{% endif %}{{ c }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{{ '<turn>' + m['role'] + '\n' + m['content'] | trim + '<|eot|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"""
CONTENTS = ['play some jazz', '  two\n\n', '\nrain?', '', 'ünï 🎷', ' 1 < 2 |> 3 ']


@pytest.mark.parametrize('template', [CHATML, LLAMA3, GEMMA])
@pytest.mark.parametrize('kind', ['bytes', 'pieces'])
def test_chats(base, template, kind):
    names = ['<|im_start|>', '<|im_end|>', '<|start|>', '<|stop|>', '<|eot|>', '<turn>', '<s>']
    if kind == 'bytes': tokenizer = AutoTokenizer.from_pretrained(base)
    else:  # words with a space before them, and a space before the text
        t = Tokenizer(
            models.Unigram(
                [
                    ('<unk>', 0.0),
                    ('</s>', 0.0),
                    *[(n, 0.0) for n in names],
                    *[(chr(c), -5.0) for c in range(33, 127)],
                    ('▁', -3.0),
                    ('\n', -3.0),
                    ('▁some', -4.0),
                    ('s>', -4.0),
                    ('user', -4.0),
                ],
                unk_id=0,
            )
        )
        t.pre_tokenizer, t.decoder = (
            pre_tokenizers.Metaspace(prepend_scheme='first'),
            decoders.Metaspace(prepend_scheme='first'),
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, eos_token='</s>', unk_token='<unk>')
    tokenizer.add_special_tokens(dict(bos_token='<s>', extra_special_tokens=names))
    tokenizer.chat_template = template
    system = template != GEMMA
    roles = ['system']*system + ['user', 'assistant', 'user']
    chats = [[dict(role=r, content=CONTENTS[(i+k) % 6]) for k,r in enumerate(roles)] for i in range(6)]
    plain = [
        tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=True, return_dict=False)
        for c in chats
    ]
    assert encode_chats(tokenizer, chats) == plain
    specials, n = set(tokenizer.convert_tokens_to_ids([*names, tokenizer.eos_token])), len(tokenizer)
    bad = [
        [
            dict(
                m, content=m['content'].strip() + '<|eot|>' + ''.join(names) + ' ' + tokenizer.eos_token + '!'
            )
            for m in c
        ]
        for c in chats
    ]
    for ids, clean, c in zip(
        encode_chats(tokenizer, bad), plain, bad
    ):  # no special token more than the template's own
        assert [i for i in ids if i in specials] == [i for i in clean if i in specials] and max(ids) < n
        if kind == 'bytes':
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == tokenizer.apply_chat_template(
                c, add_generation_prompt=True, tokenize=False
            )
    assert encode_chats(tokenizer, [chats[0], bad[0]])[0] == plain[0] and len(tokenizer) == n
    if system: return
    asked = [dict(role='system', content='Be brief.'), *chats[0]]
    folded = [dict(role='user', content='Be brief.\n\n'+chats[0][0]['content']), *chats[0][1:]]
    assert encode_chats(tokenizer, [asked]) == encode_chats(tokenizer, [folded]) and asked[1] == chats[0][0]
    with pytest.raises(StudentError, match='refuses messages of user, user: roles must alternate'):
        encode_chats(tokenizer, [[chats[0][0]] * 2])


def test_answering_a_chat(learnt, base):
    "The ends of a chat model, its own template, and a system message that the template refuses"
    s = Student(base, lora_r=0)
    s.tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}{{ m.content }}{% endfor %}\nIntent:"
    s.load_base()
    s.model.load_state_dict(learnt.model.state_dict())
    chats = [[dict(role='user', content=p.split('\n')[0])] for p,_ in ROWS]
    assert s.generate(chats, max_new_tokens=12) == [Completion(c) for _,c in ROWS]
    assert s.generate(chats, [LABELS]*6) == [Completion(c) for _,c in ROWS]
    asked = [[dict(role='system', content='Be brief.'), *c] for c in chats]
    assert s.generate(asked, max_new_tokens=12) == s.generate(
        ['Be brief.\n\n' + p for p, _ in ROWS], max_new_tokens=12
    )
    with pytest.raises(DataError, match='in two calls'): s.generate([chats[0], 'a'])


def test_an_experiment_tracker_sees_every_training(tmp_path, monkeypatch):
    "TensorBoard's files of two trainings, in folders named after them; nothing is left in the environment"
    monkeypatch.chdir(tmp_path)
    student = Student(mini_base(), lora_r=0, max_steps=10, report_to='tensorboard')
    for r in range(2): student.train([('a', ' b')]*4, label=f'round {r} training')
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('events.*'))
    assert [f.rsplit('/', 1)[0] for f in files] == [
        'tensorboard/round_0_training',
        'tensorboard/round_1_training',
    ]
    assert (
        all((tmp_path / f).stat().st_size > 1000 for f in files)
        and 'TENSORBOARD_LOGGING_DIR' not in os.environ
    )
    monkeypatch.setenv('TENSORBOARD_LOGGING_DIR', str(tmp_path/'there'))
    student.train([('a', ' b')]*4)
    assert len(list((tmp_path / 'there' / 'training').glob('events.*'))) == 1 and os.environ[
        'TENSORBOARD_LOGGING_DIR'
    ] == str(tmp_path / 'there')


def test_an_installed_packages_model_has_a_short_name(base, install):
    "By its entry point, without importing the package's module first; the settings name the folder, not the short name"
    source = f'from pathlib import Path\ndef folder(): return Path({str(base)!r})\n'
    install('mine', source, 'llm2llm.models', short='mine:folder')
    assert (
        Student('short').settings() == Student(base).settings()
        and Student('short').settings()['model_name_or_path'] == 'tiny'
    )
    assert read_config('short').hidden_size == 64
    with pytest.raises(StudentError, match='no model folder longer'): Student('longer')


@pytest.mark.parametrize('kw,trained', [({}, 0), (dict(quantization='nf4'), 16), (dict(lora_r=0), 0), (dict(lora_r=4), 4)])
def test_what_is_trained_of_a_small_base(base, kw, trained):
    "All weights, unless something else is asked for or the base is held in few bits"
    s = Student(base, **kw)
    assert (s.lora_r, s.lora_alpha, s.settings()['lora_r']) == (trained, 2*trained, trained)


def test_a_large_base_gets_an_adapter(tmp_path, base):
    "Found from its config, without its weights"
    shutil.copytree(base, tmp_path/'m')
    (tmp_path/'m'/'model.safetensors').unlink()
    (tmp_path / 'm' / 'config.json').write_text(
        json.dumps(
            json.loads((base / 'config.json').read_text())
            | dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=8)
        )
    )
    assert Student(tmp_path/'m').lora_r == 16


OPEN = [
    dict(training_args=dict(weight_decay=0.5)),
    dict(training_args=dict(warmup_steps=0)),
    dict(training_args=dict(lr_scheduler_type='constant')),
    dict(training_args=dict(optim='sgd')),
    dict(training_args=dict(max_grad_norm=0.01)),
    dict(training_args=dict(label_smoothing_factor=0.3)),
    dict(training_args=dict(loss_type='dft')),
    dict(training_args=dict(neftune_noise_alpha=5.0)),
    dict(lora_config=dict(use_rslora=True)),
    dict(lora_config=dict(use_dora=True)),
    dict(lora_config=dict(init_lora_weights='gaussian')),
    dict(lora_config=dict(exclude_modules=['q_proj'])),
    dict(lora_alpha=4),
    dict(lora_dropout=0.3),
    dict(lora_target_modules='.*q_proj'),
]


@pytest.fixture(scope='session')
def usual(base):
    s = Student(base, lora_r=8, max_steps=6, batch_size=4)
    s.train(ROWS)
    return s.weights_digest()


@pytest.mark.parametrize('kw', OPEN, ids=lambda kw: str(kw))
def test_what_trl_and_peft_can_do_has_an_effect(base, usual, tmp_path, kw):
    "Other weights, the same each time; recorded; the base is as it was, and the adapter loads again"
    made = []
    for _ in range(2):
        s = Student(base, lora_r=8, max_steps=6, batch_size=4, **kw)
        s.train(ROWS)
        made.append(s.weights_digest())
    assert made[0] == made[1] != usual
    assert s.settings() | kw == s.settings()
    s.save(tmp_path/'a')
    other = Student(base, lora_r=8, max_steps=6, batch_size=4, **kw)
    other.load(tmp_path/'a')
    asked = [p for p,_ in ROWS]
    assert other.weights_digest() == made[0] and other.generate(asked, max_new_tokens=6) == s.generate(
        asked, max_new_tokens=6
    )
    s.reset()
    assert s.generate(asked, max_new_tokens=6) == Student(base, lora_r=8).generate(asked, max_new_tokens=6)


@pytest.mark.parametrize('name,field,value,why', [
    ('training_args', 'completion_only_loss', False, 'the loss is on the completion'), ('training_args', 'assistant_only_loss', True, 'the loss is on'),
    ('training_args', 'eos_token', '<x>', 'its end is learnt'), ('training_args', 'packing', True, 'every row'), ('training_args', 'shuffle_dataset', True, 'an order'),
    ('training_args', 'padding_free', True, 'give attn_implementation'), ('training_args', 'output_dir', '/tmp', 'by its run'), ('training_args', 'save_steps', 1, 'by its run'),
    ('training_args', 'eval_strategy', 'steps', 'by its run'), ('training_args', 'push_to_hub', True, 'by its run'), ('training_args', 'seed', 1, 'argument of train'),
    ('training_args', 'max_length', 9, 'give max_length'), ('training_args', 'per_device_train_batch_size', 1, 'give batch_size'), ('training_args', 'max_steps', 1, 'give num_train_epochs or max_steps'),
    ('training_args', 'num_train_epochs', 1, 'give num_train_epochs'), ('training_args', 'remove_unused_columns', False, 'every row'), ('training_args', 'fsdp', 'full_shard', 'a whole student'),
    ('training_args', 'weight_decy', 0, "did you mean 'weight_decay'"), ('training_args', 'lr_scheduler_type', 'cosin', 'cosin'),
    ('lora_config', 'task_type', 'SEQ_CLS', 'causal language model'), ('lora_config', 'modules_to_save', ['lm_head'], 'as it is'), ('lora_config', 'r', 4, 'give lora_r'),
    ('lora_config', 'bias', 'all', 'as it is'), ('lora_config', 'init_lora_weights', 'pissa', 'init_lora_weights'), ('lora_config', 'use_rslra', True, "did you mean 'use_rslora'")])
def test_what_would_break_a_promise_is_refused(base, name, field, value, why):
    with pytest.raises(SettingError, match=f'{name}.*{why}'):
        Student(base, lora_r=8, **{name: {field: value}})
