"What a card decides, by tables of capabilities, and memory that runs out: no card is needed."

import os, socket, sys, weakref
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import bitsandbytes  # noqa: F401 (so does its library)
import pytest
import torch
import trl.trainer.sft_trainer  # noqa: F401 (before a card is pretended)

import warm

from llm2llm.core import GPUMemoryError, SettingError
from llm2llm.mini.mini import mini_base
from llm2llm.student.memory import plan
from llm2llm.student.models import read_config
from llm2llm.student.settings import FLASH, find_attention, find_device
from llm2llm.student.student import Student

CARDS = {'V100': ((7, 0), 16), 'T4': ((7, 5), 15), '3060': ((8, 6), 12), '4090': ((8, 9), 24), 'H100': ((9, 0), 80)}
ROWS = [(f'{q}\nIntent:', f' {a}') for q, a in (('play jazz', 'Play'), ('rain today?', 'Weather'))] * 4


@contextmanager
def card(name):
    "A machine with this card, as far as torch is asked; its probe makes a bfloat16 tensor anywhere, by emulation"
    (major, minor), gb = CARDS[name]
    of = SimpleNamespace(name=name, major=major, minor=minor, total_memory=gb*2**30, multi_processor_count=40)
    fakes = dict(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        get_device_properties=lambda d=None: of,
        get_device_capability=lambda d=None: (major, minor),
        mem_get_info=lambda d=None: (gb*2**30, gb*2**30),
        set_device=lambda d: None,
        _check_bf16_tensor_supported=lambda d: True,
    )
    with mock.patch.multiple(torch.cuda, **fakes), mock.patch.object(torch.version, 'cuda', '12.8'): yield


def on(name, **settings):
    "A student on a card, and its training arguments"
    with card(name):
        student = Student(mini_base(), device='cuda', **settings)
        return student, student._arguments(1, 0, '/tmp', 'training')


@pytest.mark.parametrize('way', [dict(quantization='nf4'), dict(lora_r=8), dict(lora_r=0)], ids=['nf4', 'adapter', 'whole'])
@pytest.mark.parametrize('name', CARDS)
def test_a_card_computes_in_what_it_has_in_hardware(name, way):
    student, args = on(name, **way)
    native = CARDS[name][0] >= (8, 0)
    assert (args.bf16, args.fp16) == (native, not native)
    assert student.dtype == ('bfloat16' if native else 'float16')
    assert student.precision.weights == ('float32' if student.lora_r == 0 else student.dtype)
    assert args.optim == ('adamw_8bit' if 'quantization' in way else 'adamw_torch_fused')


@pytest.mark.parametrize('dtype,flags', [('float16', (False, True)), ('bfloat16', (True, False)), ('float32', (False, False))])
@pytest.mark.parametrize('lora_r', [0, 8])
def test_training_computes_in_what_was_asked_for(dtype, flags, lora_r):
    _, args = on('4090', lora_r=lora_r, dtype=dtype)
    assert (args.bf16, args.fp16) == flags


def test_attention_of_newer_cards_is_not_used_on_older_ones():
    with mock.patch('llm2llm.student.settings.find_spec', lambda name: True):
        for name, wanted in (('T4', None), ('3060', FLASH)):
            with card(name): assert find_attention(None, 'cuda', 'float16') == wanted
        with card('T4'), pytest.raises(SettingError, match='from 2020 on'): find_attention(FLASH, 'cuda', 'float16')


def test_planned_in_what_the_card_computes():
    config = read_config(mini_base())
    found = {gpu: plan(config, gpu, max_length=64).settings['dtype'] for gpu in ('T4', 'V100', '3060', '24GB')}
    assert found == {'T4': 'float16', 'V100': 'float16', '3060': 'bfloat16', '24GB': 'bfloat16'}


def test_a_card_that_is_named_and_not_there(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    with pytest.raises(SettingError, match="CUDA_VISIBLE_DEVICES is '0', and torch finds no GPU"): find_device(None)
    assert find_device('cpu') == 'cpu'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    assert find_device(None) == 'cpu'


def full(*args, **kwargs): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')


PLACES = {
    'loading': 'transformers.AutoModelForCausalLM.from_pretrained',
    'the trainer': 'llm2llm.student.sft.StudentTrainer.__init__',
    'a step': 'llm2llm.student.sft.StudentTrainer.training_step',
}


@pytest.mark.parametrize('where', PLACES)
def test_memory_runs_out_in_training(where):
    "Nothing is held when the error is met, as a notebook holds the last error, and the retry works on the same object"
    student = Student(mini_base(), lora_r=8, batch_size=4, max_steps=1)
    if where != 'loading': student.load_base()
    base = student.model and weakref.ref(student.model)
    with mock.patch(PLACES[where], full), pytest.raises(GPUMemoryError, match='memory is too small') as met:
        student.train(ROWS)
    assert student.model is None and (base is None or base() is None)
    assert met.value.__context__ is None and met.value.__cause__ is None
    student.train(ROWS)
    assert student.trained == 1


def test_memory_runs_out_for_one_prompt():
    student = Student(mini_base(), lora_r=8, batch_size=4, max_steps=1)
    student.train(ROWS)
    base = weakref.ref(student.model)
    with mock.patch('llm2llm.student.decoding.Decoder.write', full), pytest.raises(GPUMemoryError, match='one prompt'):
        student.generate(['play jazz\nIntent:'])
    assert student.model is None and base() is None


RANKS = '''
import sys, time, torch
from llm2llm.mini.mini import mini_student, mini_task
from llm2llm.student import distributed as ranks
from llm2llm.student.sft import StudentTrainer

step, n = StudentTrainer.training_step, 0
def full_at_the_second(self, *args, **kwargs):
    global n
    n += 1
    if n == 2 and ranks.rank() == int(sys.argv[1]): raise torch.OutOfMemoryError('CUDA out of memory')
    return step(self, *args, **kwargs)
StudentTrainer.training_step = full_at_the_second
task = mini_task('mini-gsm', n_seed=16, n_test=1)
student = mini_student(max_steps=4)
student.start_workers()
student.train([(task.prompt(r), task.completion(r)) for r in task.seed_rows])
'''


@pytest.mark.parametrize('rank', [0, 1])
def test_memory_of_one_rank_runs_out(tmp_path, rank):
    "All ranks end, and the reason is shown"
    (tmp_path / 'full.py').write_text(RANKS)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        meet = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE='2')
    command = [sys.executable, str(tmp_path / 'full.py'), str(rank)]
    both = [
        warm.Popen(command, env=os.environ | meet | dict(RANK=str(i), LOCAL_RANK=str(i)), stderr=warm.PIPE, text=True)
        for i in range(2)
    ]
    try: errors = [p.communicate(timeout=100)[1] for p in both]
    finally:
        for p in both: p.kill()
    assert all(p.returncode for p in both)
    assert f"rank {rank}: the GPU's memory is too small" in errors[rank]
