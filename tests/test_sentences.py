"""The sentences of a comparison on committed results: each stands where its numbers say so, and nowhere else.

What no recorded study shows (a base that beats fine-tuning, half of the rows that are enough) is tried on made-up answers
in nbs/07_grid/04_verdict.ipynb.
"""
import pandas as pd
import pytest

from conftest import ROOT
from llm2llm.grid.arms import FewShot, Half, Matched, Method, Plain, Random, Result
from llm2llm.grid.compare import read_verdict
from llm2llm.grid.verdict import Verdict

RAW = ROOT / 'nbs' / 'results' / 'raw'


def recorded(study, arms, **where):
    "Results of a recorded grid: name of an arm to its method there"
    cells = pd.read_csv(RAW / study / 'cells.csv')
    cells = cells.merge(pd.read_csv(RAW / study / 'answers.csv', dtype=dict(right=str)), on='cell')
    for column, value in where.items(): cells = cells[cells[column] == value]
    for arm, method in arms.items():
        for c in cells[cells['method'] == method].itertuples():
            new = int(c.train_rows - c.n_seed)
            right = {f't{i}': x == '1' for i, x in enumerate(c.right)}
            its = dict(train_rows=int(c.train_rows), written=new, mistakes=new, steps=int(c.steps))
            yield Result(arm=arm, split=int(c.seed), right=right, **its, usd=float(c.usd or 0))


ARMS = {a.name: a.name for a in (FewShot, Plain, Matched, Method, Random)}
UNSEEN = ARMS | {Method.name: 'crossfit'}   # rows about what students not trained on them got wrong
HALF, BOTH = {Half.name: 'plain'}, {Plain.name: 'plain'}


def verdicts():
    out = {f'{task}, paper': recorded('real', ARMS, task=task) for task in ('snips', 'trec', 'sst2')}
    out |= {task: recorded('real', UNSEEN, task=task) for task in ('snips', 'trec', 'sst2')}
    out |= dict(intents=recorded('mini_intent', ARMS), problems=recorded('mini_gsm', ARMS))
    out |= {'problems, unseen': recorded('mini_gsm', UNSEEN)}
    out['32 of 64'] = [*recorded('seed_sizes', HALF, n_seed=32), *recorded('seed_sizes', BOTH, n_seed=64)]
    return {name: Verdict(results) for name, results in out.items()} | dict(bank=read_verdict(RAW / 'bank'))


@pytest.fixture(scope='module')
def said():
    "Name of a recorded result to its sentences"
    return {name: '\n'.join(v.sentences()) for name, v in verdicts().items()}


PAPER = {'snips, paper', 'trec, paper', 'sst2, paper'}
STANDS = {   # words to the results in which they stand
    'Use embeddings (': {'bank'},
    'beats LLM2LLM by': {'bank'},
    'is ahead of the teacher itself': {'bank'},
    'Use plain (': {'snips, paper', 'trec', 'trec, paper', '32 of 64'},
    'Use plain, step-matched (': {'sst2', 'sst2, paper', 'intents'},
    'Use LLM2LLM (': {'snips', 'problems, unseen'},
    'Use random (': {'problems'},
    'Fine-tuning brings': {'snips', 'trec', 'snips, paper', 'trec, paper', 'intents', 'problems', 'problems, unseen', 'bank'},
    'Fine-tuning minus the base': {'sst2', 'sst2, paper'},
    'train longer': {'intents', 'problems', 'problems, unseen'},
    'The teacher was asked for no rows': PAPER,
    'new rows bring': {'snips', 'problems', 'problems, unseen'},
    'new rows over longer training': {'trec', 'sst2', 'intents', 'bank'},
    'a training collapsed': {'trec', 'intents'},
    'seeds would see a difference of 2 points': {'snips', 'trec', 'sst2', 'problems, unseen', 'bank'},
    'with any number of seeds these test rows leave': {'sst2', 'sst2, paper', 'intents'},
    "LLM2LLM's rows are behind": {'problems'},
    "LLM2LLM's rows minus": {'snips', 'trec', 'sst2', 'intents', 'problems, unseen', 'bank'},
    'more labelled rows are likely to help': {'32 of 64', 'bank'},
}


@pytest.mark.parametrize('words', STANDS)
def test_it_stands_where_it_is_true(words, said):
    assert {name for name, text in said.items() if words in text} == STANDS[words]
