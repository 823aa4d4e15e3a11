"""Rules that were never better than random rows (mini.ipynb, real.ipynb), so the package has none of them.

A plan names one by file and class (`select: nbs/results/rules.py:Margin`); each is an example of your own."""

from collections import Counter

from llm2llm.loop.rules import Coverage, Random, Rule


class Learnable(Rule):
    "Rows that some of the drawn answers get right and some wrong, the most undecided first"
    name, help = 'learnable', 'now right, now wrong over samples'
    words = 'that the student got right in some samples and wrong in others'
    nothing = 'nothing undecided'
    num_return_sequences = 2

    def rank(self, row, evidence):
        "How far the share of wrong answers is from a half"
        drawn = evidence.drawn[row.id]
        return abs(sum(not a.correct for a in drawn)/len(drawn) - .5)

    def rows(self, evidence): return [r for r in evidence.task.seed_rows if self.rank(r, evidence) < .5]


class Margin(Random):
    "The rows whose right label is least ahead of the likeliest other, as many as are wrong"
    name, help = 'margin', 'the right label least ahead'
    words = 'whose right label was least ahead'
    kinds, num_return_sequences, likelihoods = ('label',), None, True

    def rank(self, row, evidence):
        "How far the right label is ahead, in nats; below 0 where it is behind"
        task, likely = evidence.task, list(evidence.likelihoods[row.id])
        right = likely.pop(task.options(row).index(task.completion(row)))
        return round(right - max(likely), 5)


class CrossfitLabel(Coverage):
    "As many new rows of each label as a student gets wrong which has not seen the row, the rows in turn"
    name, help = 'crossfit-label', 'as many of each label as crossfit finds wrong'
    words = 'with the labels of those that a student trained without them got wrong'
    kinds, crossfit = ('label',), True

    def quotas(self, evidence, n):
        wrong = Counter(evidence.task.gold(r) for r in evidence.wrong)
        return shares(n, wrong) if wrong else None


def shares(
    n:int,             # how many there are to share out
    weights:dict,      # name to weight, >= 0, one above 0
)->dict[str,int]:      # name to its whole number; they sum to n
    "`n` shared out in proportion to weights, the largest remainders rounded up"
    total = sum(weights.values())
    whole = {k: n*w//total for k,w in sorted(weights.items())}
    rest = sorted(whole, key=lambda k: -(n*weights[k] % total))
    for k in rest[:n-sum(whole.values())]: whole[k] += 1
    return whole
