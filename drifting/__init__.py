"""Drifting Models (arXiv 2602.04770): the method as pure functions on arrays.

    step.py      Algorithm 1: one training step
    fields/      Algorithm 2: the drifting field, and others of its family
    loss.py      eq. 6 and the normalisations of A.6
    problems.py  feature sets as independent problems (A.5)
    guidance.py  classifier-free guidance at training time (Sec. 3.5, A.7)
    bank.py      the sample bank (A.8)
    cache.py     features of reals, stored in the bank in the place of images
    measure.py   what tells how training goes
    state.py     what a run carries from step to step, and its named randomness

Nothing here imports anything else of this project.
"""
