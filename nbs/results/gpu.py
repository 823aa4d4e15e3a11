"""Memory and speed on a GPU: training, answering, a whole round. Each measurement is a process of its own.

    python nbs/results/gpu.py                        # all of it on this machine's GPU: about an hour
    python nbs/results/gpu.py --shapes qwen-1.5b     # one shape
    python nbs/results/gpu.py --shapes tiny --device cpu --out DIR   # does the script itself work? a minute

Models have random weights in the shape of known ones, made here; nothing is downloaded. What is found goes to
raw/gpu/NAME_OF_THE_GPU.json, one entry a measurement; a measurement that is there is not made again.
Needs the package; Unsloth, Liger and FlashAttention are measured where they are installed.
"""
import argparse, itertools, json, os, platform, random, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def sizes(vocabulary, hidden, inner, layers, heads, kv_heads, positions, **more):
    "Fields of a configuration as transformers names them"
    return dict(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=positions,
                **more)


SHAPES = {
    'llama-2-7b': ('llama', sizes(32_000, 4096, 11_008, 32, 32, 32, 4096)),
    'llama-3-8b': ('llama', sizes(128_256, 4096, 14_336, 32, 32, 8, 8192)),
    'qwen-1.5b': ('qwen2', sizes(151_936, 1536, 8960, 28, 12, 2, 4096, tie_word_embeddings=True)),
    'tiny': ('llama', sizes(512, 64, 160, 2, 4, 2, 512))}
WAYS = ('plain', 'ours', 'ours, liger', 'unsloth')
ANSWERS = ('unsorted, 64 at a time', 'ours')


def make_base(shape, folder):
    "A model folder with random weights and a tokenizer that reads bytes, made on the CPU"
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    kind, sizes = SHAPES[shape]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(['<end>', '<pad>', *alphabet])}, merges=[]))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, eos_token='<end>', pad_token='<pad>')
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes, eos_token_id=0, bos_token_id=None)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows_of(n, length, seed=0):
    "`n` rows of exactly `length` tokens, the second half of each the lesson"
    r = random.Random(seed)
    rows = [[r.randrange(2, 258) for _ in range(length-1)]+[0] for _ in range(n)]
    return [dict(input_ids=ids, labels=[-100]*(length//2)+ids[length//2:]) for ids in rows]


class Clock:
    "Seconds from the end of the second step to the end of the last"
    def __init__(self): self.times = []
    def update(self, n):
        sync()
        self.times.append(time.perf_counter())
    def tokens_per_second(self, tokens_a_step):
        return round((len(self.times)-2)*tokens_a_step/(self.times[-1]-self.times[1]), 1)


def sync():
    import torch
    if torch.cuda.is_available(): torch.cuda.synchronize()


def from_here():
    "Count the peak from here on: the base is loaded"
    import torch
    if torch.cuda.is_available(): torch.cuda.reset_peak_memory_stats()


def peak():
    "GB at most, by torch's own count and as the device sees it"
    import torch
    if not torch.cuda.is_available(): return {}
    free, total = torch.cuda.mem_get_info()
    return dict(
        allocated_gb=round(torch.cuda.max_memory_allocated() / 1e9, 3),
        reserved_gb=round(torch.cuda.max_memory_reserved() / 1e9, 3),
        device_gb=round((total - free) / 1e9, 3),
    )


def student(base, device, length, batch, **settings):
    from llm2llm.student.student import Student

    return Student(
        base, quantization='nf4', lora_r=8, batch_size=batch, max_length=length, device=device, **settings
    )


def train_ours(base, device, length, batch, steps, use_liger_kernel=False):
    from llm2llm.student.models import own_rng, quiet
    s = student(base, device, length, batch, use_liger_kernel=use_liger_kernel)
    s.load_base()
    clock = Clock()
    with quiet(), own_rng(0):
        s._fresh_adapter()
        from_here()
        s._fit(rows_of(batch*steps, length), steps, 0, clock)
    return clock, dict(
        attention=s.attn_implementation or 'sdpa', activation_checkpointing=s.activation_checkpointing
    )


def train_liger(*args): return train_ours(*args, use_liger_kernel=True)


def callback(clock):
    from transformers import TrainerCallback
    class Tick(TrainerCallback):
        def on_step_end(self, *args, **kwargs): clock.update(1)
    return Tick()


def train_plain(base, device, length, batch, steps):
    "What one writes first: Trainer, PEFT and bitsandbytes by their documentation"
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    from llm2llm.student.precision import precision

    cuda, numbers = device=='cuda', precision(device)
    dtype = getattr(torch, numbers.dtype)
    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type='nf4',
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=bits, dtype=dtype, device_map={'': 0 if cuda else 'cpu'}
    )
    for m in model.modules():
        if hasattr(m, 'support_avx512bf16_for_cpu'): m.support_avx512bf16_for_cpu = False
    model = get_peft_model(
        prepare_model_for_kbit_training(model),
        LoraConfig(r=8, lora_alpha=16, target_modules='all-linear', task_type='CAUSAL_LM'),
    )
    args = TrainingArguments(
        output_dir=str(Path(base).parent / 'trainer'),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=1e-4,
        use_cpu=not cuda,
        **numbers.flags,
        activation_checkpointing=True,
        report_to='none',
        save_strategy='no',
        logging_steps=steps,
        disable_tqdm=True,
    )
    if cuda: args._n_gpu = 1
    clock = Clock()
    from_here()
    Trainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows_of(batch * steps, length)),
        callbacks=[callback(clock)],
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(base), padding=True),
    ).train()
    return clock, dict(optimiser='adamw_torch_fused')


def train_unsloth(base, device, length, batch, steps):
    from unsloth import FastLanguageModel
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
    import torch
    from llm2llm.student.precision import precision

    numbers = precision(device)
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(base), max_seq_length=length, load_in_4bit=True, dtype=getattr(torch, numbers.dtype)
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=8,
        lora_alpha=16,
        lora_dropout=0,
        bias='none',
        use_gradient_checkpointing='unsloth',
        target_modules=['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
    )
    args = TrainingArguments(
        output_dir=str(Path(base).parent / 'unsloth'),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=1e-4,
        **numbers.flags,
        optim='adamw_8bit',
        report_to='none',
        save_strategy='no',
        logging_steps=steps,
        disable_tqdm=True,
    )
    clock = Clock()
    from_here()
    Trainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows_of(batch * steps, length)),
        callbacks=[callback(clock)],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    ).train()
    return clock, {}


def measure_training(base, device, way, length, batch, steps=12):
    ways = dict(plain=train_plain, unsloth=train_unsloth, ours=train_ours)
    clock, more = ways.get(way, train_liger)(base, device, length, batch, steps)
    return dict(tokens_per_second=clock.tokens_per_second(batch*length), steps=steps, **more, **peak())


def measure_answers(base, device, way, n=256, new=64):
    "Prompts of 20 to 300 tokens; every answer has `new` tokens, since random weights do not learn to stop"
    import torch
    from llm2llm.student.models import own_rng, quiet
    r = random.Random(0)
    prompts = [''.join(r.choice('abcdefgh ') for _ in range(r.randint(20, 300))) for _ in range(n)]
    s = student(base, device, 300+new+8, 1)
    s.load_base()
    with quiet(), own_rng(0): s._fresh_adapter()   # a round answers with one
    s.eos_token_id = [s.tokenizer.convert_tokens_to_ids('<pad>')]
    s.model.generation_config.eos_token_id = s.eos_token_id
    run = lambda: s.generate(prompts, max_new_tokens=new)
    if way.startswith('unsorted'):
        from llm2llm.student.decoding import Decoder
        ids = s.tokenizer(prompts)['input_ids']
        def run():
            d = Decoder(s.model, s.tokenizer, s.eos_token_id)
            with torch.no_grad(), quiet():
                return [a for i in range(0, n, 64) for a in d.write(ids[i : i + 64], new)]

    s.generate(prompts[:8], max_new_tokens=4)
    sync()
    from_here()
    start = time.perf_counter()
    assert len(run()) == n
    sync()
    seconds = time.perf_counter()-start
    return dict(
        answers_per_second=round(n / seconds, 2),
        new_tokens_per_second=round(n * new / seconds, 1),
        answers=n,
        new_tokens=new,
        batch=s._fitting(300 + new),
        **peak(),
    )


def measure_round(base, device, folder, data):
    "Train on 74 rows, answer them, have rows written about the wrong ones, train again, answer"
    from llm2llm.tasks.published import load_task
    from llm2llm import LLM2LLM
    from llm2llm.mini.mini import MiniTeacher, mini_task
    from llm2llm.store.folder import read_jsonl
    from llm2llm.teachers.pool import PoolTeacher
    task = load_task('gsm8k', data, n_seed=74) if data else mini_task('mini-gsm', n_seed=74, n_test=1)
    s = student(base, device, 512 if data else 256, 4, num_train_epochs=3)
    start = time.perf_counter()
    teacher = PoolTeacher() if data else MiniTeacher()
    LLM2LLM(task, s, teacher, folder, rounds=1, select='wrong', decontaminate=False).fit(verbose=False)
    phases = [
        dict(phase=l['phase'], seconds=l['seconds'], **l.get('memory', {}))
        for l in read_jsonl(Path(folder) / 'log.jsonl')
        if 'phase' in l
    ]
    return dict(
        seconds=round(time.perf_counter() - start, 1),
        rows='GSM8K' if data else 'mini-gsm',
        phases=phases,
        **peak(),
    )


def planned(base, length, batch):
    "What the planner says of the same"
    from llm2llm.student.models import read_config
    from llm2llm.student.memory import plan

    return plan(
        read_config(base),
        quantization='nf4',
        lora_r=8,
        per_device_train_batch_size=batch,
        max_length=length,
        batch_size=batch,
    ).as_dict()


def jobs(shapes):
    for shape in shapes:
        small = shape=='tiny'
        for length, batch, way in itertools.product(
            (64,) if small else (512, 1024), (2,) if small else (1, 4), WAYS
        ):
            yield dict(shape=shape, what='training', way=way, length=length, batch=batch)
        for way in ANSWERS: yield dict(shape=shape, what='answers', way=way)
        yield dict(shape=shape, what='round', way='ours')


def one(job, work, device, data):
    "Make one measurement, in this process"
    base = Path(work)/job['shape']
    if job['what']=='training':
        found = measure_training(base, device, job['way'], job['length'], job['batch'])
        if job['way']=='ours': found['planned'] = planned(base, job['length'], job['batch'])
    elif job['what'] == 'answers':
        found = measure_answers(
            base, device, job['way'], **dict(n=24, new=8) if job['shape'] == 'tiny' else {}
        )
    else: found = measure_round(base, device, Path(work)/f"round-{job['shape']}-{time.time():.0f}", data)
    print('FOUND '+json.dumps(found))


def versions():
    from importlib.metadata import PackageNotFoundError, version
    def found(n):
        try: return version(n)
        except PackageNotFoundError: return None

    return {
        n: v
        for n in (
            'torch',
            'transformers',
            'trl',
            'peft',
            'bitsandbytes',
            'liger-kernel',
            'flash-attn',
            'unsloth',
        )
        if (v := found(n))
    }


def possible(job, device, have):
    "Why a measurement cannot be made here; '' if it can"
    if job['way']=='unsloth' and 'unsloth' not in have: return 'unsloth is not installed'
    if job['way']=='ours, liger' and 'liger-kernel' not in have: return 'liger-kernel is not installed'
    return ''


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--shapes', default='qwen-1.5b,llama-2-7b', help='of ' + ', '.join(SHAPES))
    p.add_argument('--device', default='cuda')
    p.add_argument(
        '--data', help='folder with GSM8K, for the whole round; without it generated word problems'
    )
    p.add_argument(
        '--work',
        default='/tmp/llm2llm-gpu',
        help='where the models are made (14 GB for 7 billion parameters)',
    )
    p.add_argument('--out', default=str(HERE/'raw'/'gpu'))
    p.add_argument('--only', help='only these: training, answers or round')
    p.add_argument('--one', help=argparse.SUPPRESS)
    p.add_argument('--make', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.make: return make_base(a.make, Path(a.work)/a.make)
    if a.one: return one(json.loads(a.one), a.work, a.device, a.data)
    import torch
    if a.device=='cuda' and not torch.cuda.is_available():
        sys.exit(
            'gpu.py: torch finds no GPU here; --device cpu --shapes tiny --out DIR tries the script itself'
        )
    name = torch.cuda.get_device_name() if a.device=='cuda' else 'cpu'
    out = Path(a.out)/f"{name.replace(' ', '_')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    found, have = json.loads(out.read_text()) if out.exists() else [], versions()
    commit = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get('PYTHONPATH')])])
    env = os.environ | dict(HF_HUB_OFFLINE='1', PYTHONPATH=path)
    me = [sys.executable, __file__, '--work', a.work, '--device', a.device]
    for shape in a.shapes.split(','):
        if (Path(a.work)/shape/'config.json').exists(): continue
        subprocess.run([*me, '--make', shape], check=True, env=env)   # by a process that leaves the GPU alone
    for job in jobs(a.shapes.split(',')):
        measured = any(all(f.get(k)==v for k, v in job.items()) and 'error' not in f for f in found)
        if measured or (a.only and job['what'] != a.only): continue
        if why := possible(job, a.device, have):
            print(f"{job}: left out, {why}")
            continue
        start = time.perf_counter()
        command = [*me, '--one', json.dumps(job)]
        if a.data: command += ['--data', a.data]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        said = [l for l in done.stdout.split('\n') if l.startswith('FOUND ')]
        entry = job | (
            json.loads(said[-1][6:]) if said else dict(error=done.stderr.strip().split('\n')[-1][:300])
        )
        found = [f for f in found if not all(f.get(k)==v for k, v in job.items())]
        found.append(entry | dict(commit=commit, gpu=name, versions=have, python=platform.python_version()))
        out.write_text('[\n'+',\n'.join(map(json.dumps, found))+'\n]\n')
        print(
            {k: v for k, v in entry.items() if k not in ('planned', 'phases')},
            f'({time.perf_counter() - start:.0f} s)',
            flush=True,
        )


if __name__ == '__main__': main()
