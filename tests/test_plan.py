"What `llm2llm estimate` says of a student, and the script that measures it on a GPU."
import json, re, runpy, subprocess, sys

import pytest
from transformers import LlamaConfig

import warm

from llm2llm.core import SettingError
from llm2llm.student.gpus import GPUS, find_gpu


@pytest.fixture(scope='module')
def shape(tmp_path_factory):
    "The config of a model of 7 billion parameters, without weights or tokenizer"
    folder = tmp_path_factory.mktemp('shape')/'seven'
    LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        architectures=['LlamaForCausalLM'],
    ).save_pretrained(folder)
    return folder


def planned(run, *words):
    return json.loads(run(sys.executable, '-m', 'llm2llm', 'estimate', *words, '--json').stdout)


def test_a_plan_needs_a_config_alone(run, shape):
    found = planned(
        run,
        '--student',
        shape,
        '--gpu',
        '24GB',
        '--student.max_length',
        '1024',
        '--student.batch_size',
        '4',
        '--student.quantization',
        'nf4',
    )
    assert list(found) == ['student']
    p = found['student']
    assert (
        p['fits']
        and p['settings']['per_device_train_batch_size'] == 4
        and 3.5e9 < p['training']['weights'] < 4e9
    )
    assert 5e9 < p['peak']['training'] < 8e9  # LLaMA-Factory's public table has 7 to 9 GB for such a training


def test_settings_that_fit_are_proposed_or_it_says_what_does_not(run, shape):
    found = planned(run, '--student', shape, '--fit', '8GB')['student']
    assert found['fits'] and found['changes'] and found['settings']['quantization'] == 'nf4'
    done = run(sys.executable, '-m', 'llm2llm', 'estimate', '--student', shape, '--fit', '3GB', status=2)
    assert 'does not fit' in done.stderr and 'weights' in done.stderr
    assert (
        "unknown GPU '4091'"
        in run(
            sys.executable, '-m', 'llm2llm', 'estimate', '--student', shape, '--gpu', '4091', status=2
        ).stderr
    )


def test_teacher_and_student_in_one(run, shape):
    found = planned(
        run,
        '--student',
        shape,
        '--gpu',
        '4090',
        '--task',
        'mini-gsm',
        '--teacher',
        'api',
        '--teacher.model',
        'gpt-4.1-mini',
    )
    assert list(found) == ['student', 'teacher', 'whole run'] and found['student']['work']['rows'] == 64
    assert found['student']['seconds']['training'][1] > 1 and found['teacher']['usd']['likely'] > 0
    assert list(
        planned(run, '--task', 'mini-gsm', '--teacher', 'api', '--teacher.model', 'gpt-4.1-mini')
    ) == ['teacher']
    assert 'say what to price' in run(sys.executable, '-m', 'llm2llm', 'estimate', status=2).stderr


def test_the_gpu_script_works(tmp_path, root, monkeypatch, capsys):
    "With a tiny model on the CPU, each measurement a warm process; what a GPU alone can show is left out"
    script = str(root / 'nbs/results/gpu.py')
    words = f'--shapes tiny --device cpu --out {tmp_path}/out --work {tmp_path}/work'.split()
    start = lambda command, **how: (warm.run if command[0] == sys.executable else real)(command, **how)
    real = subprocess.run
    monkeypatch.setattr(subprocess, 'run', start)
    monkeypatch.setattr(sys, 'argv', [script, *words])
    main = runpy.run_path(script)['main']
    main()
    found = json.loads((tmp_path/'out'/'cpu.json').read_text())
    assert not [f for f in found if 'error' in f], found
    assert {(f['what'], f['way']) for f in found} >= {
        ('training', 'plain'),
        ('training', 'ours'),
        ('answers', 'ours'),
        ('round', 'ours'),
    }
    assert (
        all(f['tokens_per_second'] > 0 for f in found if f['what'] == 'training')
        and next(f for f in found if f['way'] == 'ours' and f['what'] == 'training')['planned']
    )
    capsys.readouterr()
    main()
    assert all('left out' in line for line in capsys.readouterr().out.splitlines())  # nothing is measured twice


def test_the_whole_run_has_its_folds(run, tmp_path):
    "Cross-fitting trains once more for each fold; the sum is that of the parts, and the longest row stands for max_length"
    words = ['--student', 'mini', '--gpu', '4090', '--task', 'mini-intent', '--teacher', 'mini']
    plain, crossed, many = (
        planned(run, *words, *more)
        for more in ([], ['--select', 'crossfit'], ['--select', 'crossfit', '--num_folds', '10'])
    )
    assert 'training, folds' not in plain['whole run'] and list(plain) == ['student', 'whole run']
    whole = crossed['whole run']
    assert whole['student, together'][1] == pytest.approx(sum(v[1] for k, v in whole.items() if ', t' not in k))
    assert many['whole run']['training, folds'][1] > 2 * whole['training, folds'][1] > 0
    assert plain['student']['settings']['max_length'] < 100 and plain['student']['work']['tokens'] < 50
    none = planned(run, *words[:6], '--teacher', 'none')['whole run']
    assert none['training, rounds'][1] < plain['whole run']['training, rounds'][1]
    assert none['training, rounds'][1] < planned(run, *words[:6], '--teacher', 'none', '--student.max_steps', '9999')[
        'whole run'
    ]['training, rounds'][1]


def test_a_run_measures_its_own_speed(run, tmp_path):
    words = ['--task', 'mini-intent', '--task.n_test', '20', '--teacher', 'mini', '--rounds', '2']
    run('llm2llm', 'run', *words, '--output_dir', tmp_path / 'run')
    found = planned(run, '--student', 'mini', *words, '--like', tmp_path / 'run')
    trained, answered = found['student']['measured']
    assert trained > 100 and answered > 1
    work = found['student']['work']
    assert found['student']['seconds']['training'][1] == pytest.approx(
        work['rows'] * work['num_train_epochs'] * work['tokens'] / trained
    )
    text = run('llm2llm', 'estimate', '--student', 'mini', *words, '--like', tmp_path / 'run').stdout
    assert 'as measured' in text and 'Assumed' not in text and 'student, together' in text
    assumed = run('llm2llm', 'estimate', '--student', 'mini', '--gpu', 'T4', *words).stdout
    assert '30 % (likely)' in assumed and '65 TFLOP/s (data sheet of 2018)' in assumed


@pytest.mark.parametrize('name,says', [('4091', "did you mean '4090'?"), ('A100 8GB', None), ('H10', "did you mean 'H100'?")])
def test_the_nearest_gpu_is_named(name, says):
    if says is None:
        assert find_gpu(name).gb == 8
        return
    with pytest.raises(SettingError, match=re.escape(says)): find_gpu(name)


def test_the_table_of_gpus():
    assert {'3060', '3090', '4060ti', '4070', '4090', '5090', 't4', 'l4', 'a10g', 'a100', 'a10080gb', 'h100'} <= {*GPUS}
    assert all(g.date.isdigit() and g.tflops > 1 and g.gbs > 50 for g in GPUS.values())
    assert not GPUS['t4'].bfloat16 and GPUS['l4'].bfloat16
    cpu = find_gpu('cpu')
    assert cpu.gb > .5 and cpu.tflops > 0 and cpu.gbs > 0
