"""Draws loop.svg, the picture of the loop on the home page: `python nbs/images/loop.py`.

Pages show it as an image, so it brings its own colours for light and dark: boxes have a ground of their own, and what lies
on the ground of the page is a grey that is readable on both.
"""

from html import escape
from pathlib import Path

W, H, ACROSS, DOWN, EDGE = 200, 76, 52, 40, 10  # a box, the gaps between boxes, the margin
ALT = (
    'The loop: seed rows go into the training set; a student is trained on it from its base and answers the seed rows; the wrong '
    'answers go to a teacher, who writes new examples; a filter keeps some of them, which go into the training set for the next round.'
)
# (column, row, kind, name, what it is)
BOXES = dict(
    seed=(0, 0, 'data', 'seed rows', 'the 20 to 2,000 examples', 'that you have'),
    train=(1, 0, 'data', 'training set', 'the seed rows and every', 'example kept so far'),
    student=(1, 1, 'model', 'student', 'fine-tuned from its base', 'again in each round'),
    answers=(1, 2, 'data', 'answers', 'to the seed rows:', 'right, or wrong'),
    wrong=(1, 3, 'data', 'wrong answers', 'each with the row it is', 'an answer to'),
    teacher=(0, 3, 'model', 'teacher', 'an API, a local model,', 'recorded replies'),
    new=(0, 2, 'data', 'new examples', 'of just what went wrong', ''),
    filter=(0, 1, 'model', 'filter', 'rejects near copies, test rows,', 'wrong answers; counts why'))
ARROWS = [
    ('seed', 'train'),
    ('train', 'student'),
    ('student', 'answers'),
    ('answers', 'wrong'),
    ('wrong', 'teacher'),
    ('teacher', 'new'),
    ('new', 'filter'),
]
STYLE = '''
text { font: 12.5px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; text-anchor: middle; fill: #3d4754 }
text.name { font-size: 16px; font-weight: 600; fill: #17202a }
rect { stroke-width: 1.2 } .data rect { fill: #eef1f5; stroke: #9aa5b1 } .model rect { fill: #d9ecf8; stroke: #0072b2 }
path { fill: none; stroke: #7d8590; stroke-width: 2 } marker path { fill: #7d8590; stroke: none } text.page { fill: #757c85 }
@media (prefers-color-scheme: dark) {
text { fill: #b9c3ce } text.name { fill: #f0f4f8 } text.page { fill: #9aa3ad }
.data rect { fill: #242c36; stroke: #5c6875 } .model rect { fill: #12384f; stroke: #4aa3d8 } }'''


def corner(name): # the upper left corner of a box
    column, row, *_ = BOXES[name]
    return EDGE+column*(W+ACROSS), EDGE+row*(H+DOWN)

def box(name):
    x, y = corner(name)
    kind, title, *lines = BOXES[name][2:]
    lines = [line for line in lines if line]
    top = y+H/2+6-8.5*len(lines)
    said = ''.join(
        f'<text x="{x + W / 2}" y="{top + 19 + 16 * i}">{escape(line)}</text>' for i, line in enumerate(lines)
    )
    return (f'<g class="{kind}"><rect x="{x}" y="{y}" width="{W}" height="{H}" rx="9"/>'
            f'<text class="name" x="{x+W/2}" y="{top}">{escape(title)}</text>{said}</g>')

def arrow(a, b): # from the edge of one box to the edge of the next
    (x, y), (u, v) = corner(a), corner(b)
    side, up = (u > x)-(u < x), (v > y)-(v < y)
    return f'<path d="M{x + W / 2 + side * W / 2} {y + H / 2 + up * H / 2}L{u + W / 2 - side * (W / 2 + 9)} {v + H / 2 - up * (H / 2 + 9)}" marker-end="url(#tip)"/>'


def draw():
    "The picture as the text of an SVG file"
    (x, y), (u, v) = corner('filter'), corner('train')
    mid, end = x+W+ACROSS/2, v+.78*H
    back = f'<path d="M{x + W} {y + H / 2}H{mid - 10}q10 0 10 -10V{end + 10}q0 -10 10 -10H{u - 9}" marker-end="url(#tip)"/>'
    words = f'<text class="page" x="{mid - 9}" y="{y - DOWN / 2 + 4}" style="text-anchor:end">kept examples: the next round</text>'
    wide, high = 2*EDGE+2*W+ACROSS, 2*EDGE+4*H+3*DOWN
    tip = ('<defs><marker id="tip" viewBox="0 0 10 10" refX="1" refY="5" markerWidth="11" markerHeight="11" '
           'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L10 5L0 10z"/></marker></defs>')
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" role="img" aria-label="{escape(ALT)}">',
        f'<title>The loop</title><style>{STYLE}\n</style>',
        tip,
        *(arrow(*a) for a in ARROWS),
        back,
        words,
        *map(box, BOXES),
        '</svg>',
    ]
    return '\n'.join(parts)+'\n'


if __name__ == '__main__': Path(__file__).with_name('loop.svg').write_text(draw(), encoding='utf-8')
